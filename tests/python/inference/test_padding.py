"""Padded arrays, as transformers takes them: with a mask the padding is dropped; without, a warning."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2

PAD = 9
END = 0
SHORT, LONG = [50, 60], [51, 61, 71, 81]
LEFT = np.array([[END, END, *SHORT], LONG])
MASK = np.array([[0, 0, 1, 1], [1, 1, 1, 1]])


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(precision="fp32")


def read(model: GPT2, *prompts: Any, **options: Any) -> list[list[int]]:
    """The prompts that the model reads."""
    results = model.generate(*prompts, max_new_tokens=1, **options)
    return [one.prompt_token_ids for one in (results if isinstance(results, list) else [results])]


@pytest.mark.parametrize("mask", [MASK, MASK.astype(bool), MASK.tolist(), MASK.astype(np.float32)])
def test_a_mask_makes_rows_ragged(model: GPT2, mask: Any) -> None:
    assert read(model, input_ids=LEFT, attention_mask=mask) == [SHORT, LONG]
    assert read(model, LEFT.tolist(), attention_mask=mask) == [SHORT, LONG]
    assert read(model, LEFT[:, ::-1], attention_mask=np.asarray(mask)[:, ::-1]) == [SHORT[::-1], LONG[::-1]]


def test_one_prompt_with_a_mask(model: GPT2) -> None:
    out = model.generate(LEFT[0], attention_mask=MASK[0], max_new_tokens=1)
    assert not isinstance(out, list)
    assert out.prompt_token_ids == SHORT


async def _started(model: GPT2) -> list[list[int]]:
    results = await model.agenerate(input_ids=LEFT, attention_mask=MASK, max_new_tokens=1)
    assert isinstance(results, list)
    return [one.prompt_token_ids for one in results]


def test_streams_and_tasks_take_a_mask(model: GPT2) -> None:
    import asyncio

    assert asyncio.run(_started(model)) == [SHORT, LONG]
    chunks = list(model.stream(input_ids=LEFT, attention_mask=MASK, max_new_tokens=3))
    whole = model.generate([SHORT, LONG], max_new_tokens=3)
    for index, one in enumerate(whole):
        assert [t for chunk in chunks if chunk.index == index for t in chunk.token_ids] == one.token_ids


def test_a_pad_token_makes_rows_ragged_unless_it_ends_texts(model: GPT2) -> None:
    padded = np.where(LEFT == END, PAD, LEFT)
    assert read(model, padded, pad_token_id=PAD) == [SHORT, LONG]
    assert read(model, SHORT, pad_token_id=END) == [SHORT]
    assert read(model, "Once", pad_token_id=PAD) == [model.tokenizer.encode("Once")]
    with pytest.warns(UserWarning, match=r"prompts\[0\] begins with the end-of-text token 0"):
        assert read(model, LEFT, pad_token_id=END) == LEFT.tolist()


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (LEFT, r"prompts\[0\] begins with the end-of-text token 0"),
        (LEFT[::-1, ::-1], r"prompts\[1\] ends"),
        (np.array([LONG, [END, *LONG[1:]]]), r"prompts\[1\] begins"),
    ],
)
def test_padding_without_a_mask_warns(model: GPT2, prompts: Any, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        assert read(model, prompts) == np.asarray(prompts).tolist()


@pytest.mark.parametrize(
    "prompts",
    [
        np.array([[END, 5, 6], [END, 7, 8]]),  # a text may begin so
        [[END, 5, 6], [7, 8, 9]],
        [[END, END, 5], [7, 8, 9]],
        np.array([[5, 6, 7], [7, 8, 9]]),
        [END, END, 5],
        ["", "<|endoftext|>a"],
    ],
)
def test_texts_that_begin_with_the_end_of_text_are_no_padding(model: GPT2, prompts: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(model, prompts)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"input_ids": LEFT, "attention_mask": MASK[:1]}, ValueError, r"attention_mask must have the shape"),
        ({"input_ids": LEFT, "attention_mask": MASK * 2}, ValueError, "attention_mask must hold only 0"),
        ({"input_ids": LEFT, "attention_mask": MASK * 0}, ValueError, r"input_ids\[0\] is all padding"),
        ({"input_ids": "Once", "attention_mask": [1]}, TypeError, "attention_mask goes with token ids"),
        ({"input_ids": [5.5], "attention_mask": [1]}, TypeError, "input_ids must hold integers"),
        ({"attention_mask": MASK}, TypeError, "prompts must be text, .* got NoneType"),
        ({"prompts": [1], "input_ids": [1]}, TypeError, "input_ids contradicts prompts"),
        ({"prompts": {"input_ids": [1]}}, TypeError, r"got dict: write \*\*inputs"),
        ({"prompts": [1], "pad_token_id": 4096}, ValueError, "pad_token_id must be from 0 to 4095"),
    ],
)
def test_what_is_refused(model: GPT2, arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        model.generate(**arguments)
