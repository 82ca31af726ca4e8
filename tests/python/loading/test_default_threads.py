"""The default of ``threads``: as many as the model's size is worth, and no more than there are cores."""

from __future__ import annotations

import pytest

from gpt2fast import GPT2
from gpt2fast._native import core
from gpt2fast.config import ModelConfig
from gpt2fast.loading.default_threads import default_threads


def sizes(n_layer: int, n_embd: int, vocab_size: int) -> ModelConfig:
    return ModelConfig(
        n_layer=n_layer,
        n_head=n_embd // 64,
        n_embd=n_embd,
        n_positions=1024,
        vocab_size=vocab_size,
        n_inner=4 * n_embd,
    )


@pytest.mark.parametrize(
    ("config", "cores", "threads"),
    [
        (sizes(12, 768, 50257), 1, 1),
        (sizes(12, 768, 50257), 2, 2),
        (sizes(12, 768, 50257), 128, 128),
        (sizes(12, 768, 50257), 1024, 235),
        (sizes(6, 256, 4096), 2, 2),
        (sizes(6, 256, 4096), 64, 11),
        (sizes(4, 128, 2048), 64, 2),
        (sizes(2, 64, 1000), 64, 1),
    ],
)
def test_threads_grow_with_the_weights_up_to_the_cores(config: ModelConfig, cores: int, threads: int) -> None:
    assert default_threads(config, cores) == threads


def test_a_small_model_leaves_cores_alone_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(core, "usable_cores", lambda: 64)
    default, told = GPT2.from_pretrained(), GPT2.from_pretrained(threads=20)
    assert (default.threads, told.threads) == (11, 20)
    prompt = [50, 60, 70]
    texts = [model.generate(prompt, max_new_tokens=5).token_ids for model in (default, told)]
    assert texts[0] == texts[1]
