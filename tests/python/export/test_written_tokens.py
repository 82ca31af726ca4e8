"""The model's own tokens: drawn from its scores, the same everywhere, for any model."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gpt2fast.checkpoints import open_checkpoint, reference
from gpt2fast.checkpoints.base import Checkpoint, LazyTensor
from gpt2fast.export.written_tokens import written_tokens
from gpt2fast.text.tokenizer import Tokenizer
from support.checkpoint_samples import random_tensors, small_config
from support.rounding_errors import rounding_errors

_STORIES = Path(__file__).resolve().parents[2] / "goldens" / "stories.txt"


def small_checkpoint(scale: float = 1.0, **changes: object) -> Checkpoint:
    """``scale`` multiplies the scores: ln_f's gain and bias, which nothing else reads."""
    config = small_config(**changes)
    values = random_tensors(config)
    for name in ("ln_f.weight", "ln_f.bias"):
        values[name] = values[name] * np.float32(scale)
    tensors = {name: LazyTensor.from_array(value) for name, value in values.items()}
    return Checkpoint.checked(config, tensors, source="a test", fingerprint="")


def passes(tokens: np.ndarray) -> np.ndarray:
    return tokens.reshape(8, -1, tokens.shape[1])


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (8 * 21, 24)),
        ({"n_positions": 1}, (8 * 512, 1)),
        ({"vocab_size": 1}, (8 * 21, 24)),
        ({"n_positions": 300}, (8 * 4, 128)),
        ({"tie_word_embeddings": False, "vocab_size": 9000}, (8 * 21, 24)),
    ],
)
def test_they_fit_the_model(changes: dict[str, object], shape: tuple[int, int]) -> None:
    tokens = written_tokens(small_checkpoint(**changes))
    assert tokens.shape == shape
    assert tokens.dtype == np.int64
    vocab_size = changes.get("vocab_size", 101)
    assert 0 <= tokens.min() <= tokens.max() < vocab_size
    np.testing.assert_array_equal(tokens[:, 0], np.tile(passes(tokens)[0, :, 0], 8))
    np.testing.assert_array_equal(written_tokens(small_checkpoint(**changes)), tokens)


@pytest.mark.parametrize("changes", [{}, {"vocab_size": 9000, "tie_word_embeddings": False}])
def test_a_model_that_is_sure_writes_its_likeliest_tokens(changes: dict[str, object]) -> None:
    checkpoint = small_checkpoint(1e6, **changes)
    rounds = passes(written_tokens(checkpoint))
    for before, after in pairwise(rounds):
        hidden, _ = reference.forward(checkpoint, before)
        wanted = reference.logits(checkpoint, hidden).argmax(-1)
        np.testing.assert_array_equal(after[:, 1:], wanted[:, :-1])
    # After k passes, k tokens beside the first are what the model writes.
    np.testing.assert_array_equal(rounds[6][:, :8], rounds[7][:, :8])


def test_draws_are_as_frequent_as_the_model_says() -> None:
    checkpoint = small_checkpoint(0.0, vocab_size=3, tie_word_embeddings=False)
    bias = np.float32([1.0, *[0.0] * 63])
    head = np.zeros((3, 64), np.float32)
    head[:, 0] = np.log([0.6, 0.3, 0.1])
    tensors = {**checkpoint.tensors}
    tensors["ln_f.bias"], tensors["lm_head.weight"] = map(LazyTensor.from_array, (bias, head))
    checkpoint = Checkpoint.checked(checkpoint.config, tensors, source="a test", fingerprint="")
    drawn = written_tokens(checkpoint)[:, 1:]
    shares = np.bincount(drawn.reshape(-1), minlength=3) / drawn.size
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1], atol=4 * 0.5 / np.sqrt(drawn.size))


def test_scores_that_are_not_finite_draw_the_first_token() -> None:
    tokens = written_tokens(small_checkpoint(np.inf))
    assert not tokens[:, 1:].any()


def test_last_bits_of_scores_change_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = small_checkpoint()
    tokens = written_tokens(checkpoint)

    def nearly(checkpoint: Checkpoint, ids: np.ndarray) -> np.ndarray:
        hidden = reference.hidden_states(checkpoint, ids)
        return hidden * (1 + 1e-12 * np.cos(np.arange(hidden.size).reshape(hidden.shape)))

    monkeypatch.setattr("gpt2fast.export.written_tokens.hidden_states", nearly)
    np.testing.assert_array_equal(written_tokens(checkpoint), tokens)


def test_the_ids_of_a_model_stay() -> None:
    tokens = written_tokens(small_checkpoint())
    assert sha256(tokens.astype("<i8").tobytes()).hexdigest()[:16] == "71cfb352307b4546"


def test_layers_come_closer_than_by_tokens_at_random(embedded_dir: Path) -> None:
    checkpoint = open_checkpoint(embedded_dir)
    tokenizer = Tokenizer((embedded_dir / "tokenizer.json").read_text("utf-8"))
    stories = tokenizer.encode(_STORIES.read_text("utf-8"))[:384]
    written = written_tokens(checkpoint)
    random = np.random.RandomState(0).randint(0, checkpoint.config.vocab_size, written.shape)
    for name, errors in rounding_errors(checkpoint, stories, (random, written), layers=4):
        assert errors[1] < 0.95 * errors[0], (name, errors)
