"""Prompts and options of a call: the forms that prompts take, what fits the model, an error for the rest."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(precision="fp32")


IDS = [50, 60, 70]
GREEDY: dict[str, Any] = {"max_new_tokens": 4}


@pytest.mark.parametrize(
    "prompt", [IDS, tuple(IDS), np.array(IDS), np.array(IDS, dtype=np.uint16), [np.int64(one) for one in IDS]]
)
def test_one_prompt_of_ids(model: GPT2, prompt: Any) -> None:
    result = model.generate(prompt, **GREEDY)
    assert result.prompt_token_ids == IDS
    assert len(result.token_ids) == 4


def test_a_new_seed_can_be_read_as_a_double(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: b"\xff" * count)
    results = model.generate(IDS, do_sample=True, num_return_sequences=2, **GREEDY)
    assert [result.seed for result in results] == [2**52 - 1, 2**52]


@pytest.mark.parametrize("prompts", [[IDS, IDS], np.array([IDS, IDS]), [np.array(IDS), tuple(IDS)]])
def test_several_prompts_of_ids(model: GPT2, prompts: Any) -> None:
    results = model.generate(prompts, **GREEDY)
    assert [result.prompt_token_ids for result in results] == [IDS, IDS]
    assert results[0].token_ids == results[1].token_ids


def test_texts_and_ids_side_by_side(model: GPT2) -> None:
    results = model.generate(["Once", IDS, "The King said that"], **GREEDY)
    assert [result.prompt_token_ids for result in results] == [
        model.tokenizer.encode("Once"),
        IDS,
        model.tokenizer.encode("The King said that"),
    ]


@pytest.mark.parametrize("prompt", ["", np.array([], dtype=np.int32)])
def test_an_empty_prompt_starts_from_end_of_text(model: GPT2, prompt: Any) -> None:
    assert model.generate(prompt, **GREEDY).prompt_token_ids == [0]


def test_no_prompts_give_no_results(model: GPT2) -> None:
    assert model.generate([], **GREEDY) == []
    assert list(model.stream([], **GREEDY)) == []


def test_copies_of_a_prompt_stay_together(model: GPT2) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "top_k": 40}
    results = model.generate(["Once", "The King"], num_return_sequences=3, seed=10, **options)
    singles = [
        model.generate(text, seed=10 + i, **options) for text in ("Once", "The King") for i in range(3)
    ]
    assert [result.token_ids for result in results] == [result.token_ids for result in singles]
    assert [result.seed for result in results] == [10, 11, 12] * 2
    assert len(model.generate("Once", num_return_sequences=1, **GREEDY)) == 1


def test_without_a_seed_texts_differ_and_report_theirs(model: GPT2) -> None:
    first, second = model.generate(["Once", "Once"], max_new_tokens=20, temperature=2.0)
    assert first.seed != second.seed
    assert model.generate("Once", max_new_tokens=20, temperature=2.0, seed=first.seed).text == first.text


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([50, 4096], ValueError, r"prompt\[1\]: token id 4096 is outside the vocabulary \(0 to 4095\)"),
        ([[50], [60, -1]], ValueError, r"prompts\[1\]\[1\]: token id -1 is outside"),
        (np.array([2**40]), ValueError, "token id 1099511627776 is outside"),
        ([1.5], TypeError, r"prompt must hold integers, got 1\.5 \(float\)"),
        (np.array([1.5]), TypeError, "prompt must hold integers, got float64"),
        ([True, False], TypeError, r"prompt must hold integers, got True \(bool\)"),
        ([1, True], TypeError, r"prompt must hold integers, got True \(bool\)"),
        ([1, "a"], TypeError, r"prompt must hold integers, got 'a' \(str\)"),
        ([1, 2**70], ValueError, "prompt holds integers of more than 64 bits"),
        ([["a"]], TypeError, r"prompts\[0\] must hold integers, got 'a' \(str\)"),
        (["a", None], TypeError, r"prompts\[1\] must hold integers, got None \(NoneType\)"),
        (["a", 1], ValueError, r"prompts\[1\] must be text or a 1-D array of token ids, got 1 \(int\)"),
        (
            ["a", [[1]]],
            ValueError,
            r"prompts\[1\] must be text or a 1-D array of token ids, got shape \(1, 1\)",
        ),
        (np.zeros((1, 1, 1), dtype=np.int64), ValueError, r"prompts\[0\] must be text or a 1-D array"),
        (b"abc", TypeError, "got bytes; Tokenizer.encode_bytes"),
        (bytearray(b"abc"), TypeError, "got bytearray; Tokenizer.encode_bytes"),
        (memoryview(b"abc"), TypeError, "got memoryview; Tokenizer.encode_bytes"),
        (5, TypeError, "got int"),
        (None, TypeError, "got NoneType"),
        ({"a": 1}, TypeError, "got dict"),
        (["ok", "a\udc80"], ValueError, r"prompts\[1\]: text holds the lone surrogate U\+DC80 at position 1"),
        (["a"] * 70000, ValueError, r"at most 65536 \(MAX_PROMPTS\) in one call, got 70000"),
    ],
)
def test_prompts_that_are_refused(model: GPT2, prompt: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model.generate(prompt, **GREEDY)


def test_prompt_and_output_beyond_the_positions(model: GPT2) -> None:
    prompt = list(range(1, 511))
    with pytest.raises(
        ValueError,
        match=r"prompt \(510 tokens\) \+ max_new_tokens \(4\) = 514 exceeds the model's n_positions \(512\) "
        r"by more than the last token, .* give max_new_tokens <= 3, or overflow='truncate'",
    ):
        model.generate(prompt, max_new_tokens=4)


@pytest.mark.parametrize(
    ("tokens", "wanted"), [(512, 1), (511, 2), (500, 13), (512, 0)], ids=["one", "two", "several", "none"]
)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 4}, {"echo": True}])
def test_the_last_token_needs_no_position(
    model: GPT2, tokens: int, wanted: int, options: dict[str, Any]
) -> None:
    if wanted == 0 and "num_beams" in options:
        pytest.skip("a search of nothing is refused")
    prompt = list(range(1, tokens + 1))
    out = model.generate(prompt, max_new_tokens=wanted, eos_token_id=[], **options)
    assert len(out.token_ids) == wanted
    if "num_beams" not in options and wanted:
        read = [*prompt, *out.token_ids[:-1]]
        assert len(read) == 512
        assert out.token_ids[-1] == int(model.logits(read, rows=[-1])[0, 0].argmax())
    assert len(model.generate(prompt, max_new_tokens=wanted, overflow="truncate").prompt_token_ids) == tokens


def test_the_last_token_of_an_assistant_s_text(model: GPT2) -> None:
    prompt = list(range(1, 509))
    plain = model.generate(prompt, max_new_tokens=5, eos_token_id=[])
    assisted = model.generate(prompt, max_new_tokens=5, eos_token_id=[], assistant_model=model)
    assert assisted.token_ids == plain.token_ids


def test_truncation_keeps_the_newest_tokens(model: GPT2) -> None:
    prompt = list(range(1, 601))
    result = model.generate(prompt, max_new_tokens=12, overflow="truncate")
    assert result.prompt_token_ids == prompt[-500:]
    assert result.token_ids == model.generate(prompt[-500:], max_new_tokens=12).token_ids
    with pytest.raises(ValueError, match="max_new_tokens must be below 512"):
        model.generate(prompt, max_new_tokens=512, overflow="truncate")


def test_sliding_goes_beyond_the_positions(model: GPT2) -> None:
    result = model.generate(list(range(1, 601)), max_new_tokens=600, overflow="slide", eos_token_id=[])
    assert len(result.token_ids) == 600
    assert result.finish_reason == "length"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suppress_tokens": [4096]}, r"suppress_tokens\[0\] must be from 0 to 4095, got 4096"),
        ({"suppress_tokens": range(4096)}, "suppress_tokens holds the whole vocabulary"),
        ({"eos_token_id": [5000]}, r"eos_token_id\[0\] must be from 0 to 4095"),
        ({"logit_bias": {9999: 1.0}}, "a key of logit_bias must be from 0 to 4095, got 9999"),
        ({"bad_words": [[4096]]}, r"bad_words\[0\]\[0\] must be from 0 to 4095"),
        ({"bad_words": ["a", "b\ud800"]}, r"bad_words\[1\]: text holds the lone surrogate U\+D800"),
        ({"forced_prefix": "b\ud800"}, r"forced_prefix: text holds the lone surrogate U\+D800 at position 1"),
        (
            {"stop_strings": ["a", "b\ud800"]},
            r"stop_strings\[1\] holds the lone surrogate U\+D800 at position 1",
        ),
        (
            {"forced_prefix": [1, 2, 3], "max_new_tokens": 2},
            r"forced_prefix has 3 tokens, more than max_new_tokens",
        ),
    ],
)
def test_options_that_do_not_fit_the_model(model: GPT2, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate("Once", **options)


def test_unknown_options(model: GPT2) -> None:
    with pytest.raises(TypeError, match="unknown generation option 'temprature'; did you mean 'temperature'"):
        model.generate("Once", temprature=0.5)
