"""An assistant model changes the speed, never the text: greedy, sampled, batches, streams, context ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt2fast import GPT2
from support.random_models import SIZES, random_ids, write_random_checkpoint

OPTIONS: list[dict[str, Any]] = [
    {},
    {"seed": 11, "temperature": 0.8},
    {"seed": 5, "top_k": 0, "temperature": 1.5},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
    {"seed": 2, "top_p": 0.8, "repetition_penalty": 1.1, "logprobs": 2},
]
PROMPTS = ["Once upon a time", "The King said", "", "A wolf and a fox went into the wood, where"]


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(precision="int8")


@pytest.fixture(scope="module", params=["same weights", "random"])
def assistant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GPT2:
    """An assistant that is nearly always right, and a smaller one that is nearly always wrong."""
    if request.param == "same weights":
        return GPT2.from_pretrained(precision="int4")
    sizes = SIZES["tiny"] | {"vocab_size": 4096, "n_positions": 64}
    return GPT2.from_pretrained(write_random_checkpoint(tmp_path_factory.mktemp("small") / "model", sizes))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("num_assistant_tokens", [1, 3, 20])
def test_the_text_is_the_same(
    model: GPT2, assistant: GPT2, options: dict[str, Any], num_assistant_tokens: int
) -> None:
    plain = model.generate(PROMPTS, max_new_tokens=32, use_prefix_cache=False, **options)
    helped = model.generate(
        PROMPTS,
        max_new_tokens=32,
        use_prefix_cache=False,
        assistant_model=assistant,
        num_assistant_tokens=num_assistant_tokens,
        **options,
    )
    assert [one.token_ids for one in helped] == [one.token_ids for one in plain]
    assert [one.finish_reason for one in helped] == [one.finish_reason for one in plain]
    if "logprobs" in options:
        for one, other in zip(helped, plain, strict=True):
            assert one.logprobs is not None
            assert other.logprobs is not None
            assert one.logprobs.chosen.tolist() == other.logprobs.chosen.tolist()


@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_streams(model: GPT2, assistant: GPT2, options: dict[str, Any]) -> None:
    options = {"max_new_tokens": 24, "stop_strings": [" and"], **options}
    plain = model.generate(PROMPTS, **options)
    texts = [""] * len(PROMPTS)
    for chunk in model.stream(PROMPTS, assistant_model=assistant, **options):
        texts[chunk.index] += chunk.text
    assert texts == [one.text for one in plain]


@pytest.mark.parametrize("overflow", ["error", "slide"])
def test_near_the_end_of_either_context(model: GPT2, assistant: GPT2, overflow: str) -> None:
    """The small assistant's 64 positions end in the first text, the model's 512 in the second."""
    beyond = 40 if overflow == "slide" else 0
    for tokens, count in ((50, 30), (490, 22 + beyond)):
        prompt = random_ids(model, tokens, seed=tokens)
        options: dict[str, Any] = {"max_new_tokens": count, "overflow": overflow, "eos_token_id": []}
        plain = model.generate(prompt, use_prefix_cache=False, **options)
        helped = model.generate(prompt, assistant_model=assistant, **options)
        assert len(helped.token_ids) == count
        assert helped.token_ids == plain.token_ids


def test_a_model_may_assist_itself_without_free_slots() -> None:
    model = GPT2.from_pretrained(max_sequences=2)
    plain = model.generate(PROMPTS, max_new_tokens=20)
    assert model.generate(PROMPTS, max_new_tokens=20, assistant_model=model) == plain


def test_another_vocabulary_is_refused(model: GPT2, tmp_path: Path) -> None:
    other = GPT2.from_pretrained(write_random_checkpoint(tmp_path / "other", SIZES["tiny"]))
    with pytest.raises(
        ValueError, match="assistant_model must have the model's vocabulary of 4096 tokens, it has 301"
    ):
        model.generate("Once", assistant_model=other)
    with pytest.raises(ValueError, match="prompt_lookup_num_tokens contradicts assistant_model"):
        model.generate("Once", assistant_model=model, prompt_lookup_num_tokens=3)
