"""Errors in the middle of ``generate_many``: first the results before them, then the error by its number."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from typing import Any
from weakref import ref

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2fast import GPT2
from support.event_loops import ENDLESS

OPTIONS: dict[str, Any] = {"max_new_tokens": 5, "eos_token_id": []}
WRONG = 20
ORDERS = [pytest.param(True, id="ordered"), pytest.param(False, id="as they end")]


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(max_sequences=4)


def collected(found: Iterator[Any], ordered: bool) -> tuple[dict[int, Any], Exception]:
    """The results by the numbers of their prompts, and the error that ended them."""
    results: dict[int, Any] = {}
    try:
        for number, one in enumerate(found) if ordered else found:
            results[number] = one
    except Exception as error:
        return results, error
    raise AssertionError("there was no error")


def texts(model: GPT2, numbers: range) -> list[list[int]]:
    return [model.generate(f"Once {number}", **OPTIONS).token_ids for number in numbers]


@pytest.mark.parametrize("ordered", ORDERS)
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (5, TypeError, r"^prompts\[20\]: prompts must be text, token ids or a list of these, got int$"),
        ([4096], ValueError, r"^prompts\[20\]: prompt\[0\]: token id 4096 is outside"),
        ("a\ud800", ValueError, r"^prompts\[20\]: prompt: text holds the lone surrogate"),
        (["a", "b"], TypeError, r"^prompts\[20\] is a list of prompts"),
    ],
)
def test_a_wrong_prompt(model: GPT2, wrong: Any, error: type[Exception], message: str, ordered: bool) -> None:
    read = []

    def prompts() -> Iterator[Any]:
        for number in range(100):
            read.append(number)
            yield wrong if number == WRONG else f"Once {number}"

    results, raised = collected(model.generate_many(prompts(), ordered=ordered, **OPTIONS), ordered)
    assert sorted(results) == list(range(WRONG))
    assert [results[number].token_ids for number in range(WRONG)] == texts(model, range(WRONG))
    with pytest.raises(error, match=message):
        raise raised
    assert read == list(range(WRONG + 1))


@pytest.mark.parametrize("ordered", ORDERS)
def test_an_error_of_the_prompts_themselves(model: GPT2, ordered: bool) -> None:
    class MyError(Exception):
        pass

    def prompts() -> Iterator[str]:
        for number in range(WRONG):
            yield f"Once {number}"
        raise MyError

    results, raised = collected(model.generate_many(prompts(), ordered=ordered, **OPTIONS), ordered)
    assert sorted(results) == list(range(WRONG))
    assert isinstance(raised, MyError)


@pytest.mark.parametrize("ordered", ORDERS)
def test_an_error_of_a_hook(model: GPT2, ordered: bool) -> None:
    """The texts of later prompts, which would never end, are ended; those of earlier ones are whole."""

    class MyError(Exception):
        pass

    seen: list[ref[MyError]] = []

    def hook(prompt: NDArray[np.int32], output: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        number = int(prompt[0])
        if number == 6 and len(output) == 2:
            error = MyError("mine")
            seen.append(ref(error))
            raise error
        if number < 6 and len(output) == 9:
            scores[:] = -np.inf
            scores[0] = 0

    options = {**ENDLESS, "eos_token_id": 0, "suppress_tokens": (), "logits_processor": hook}
    found = model.generate_many([[number] for number in range(100)], ordered=ordered, **options)
    results, raised = collected(found, ordered)
    assert [number for number in sorted(results) if number < 6] == list(range(6))
    assert {results[number].finish_reason for number in range(6)} == {"eos"}
    assert all(number < 6 for number in results)
    assert isinstance(raised, MyError)
    if sys.version_info >= (3, 11):
        assert raised.__notes__ == ["of prompts[6]"]
    del raised, found
    gc.collect()
    assert [one() for one in seen] == [None]
    assert model.generate("Once", max_new_tokens=1).token_ids
    assert model.stats().slots_used == 0


def test_the_first_of_several_errors_is_raised(model: GPT2) -> None:
    """That of the earliest prompt, whichever comes first."""

    def hook(prompt: NDArray[np.int32], output: NDArray[np.int32], scores: Any) -> None:
        if prompt[0] == 3 and len(output) == 4:
            raise LookupError("third")

    found = model.generate_many([[1], [2], [3], "a\ud800"], logits_processor=hook, **OPTIONS)
    results, raised = collected(found, True)
    assert sorted(results) == [0, 1]
    assert isinstance(raised, LookupError)


def test_a_model_that_is_closed_meanwhile() -> None:
    with GPT2.from_pretrained(max_sequences=2) as model:
        found = model.generate_many((f"Once {number}" for number in range(50)), **OPTIONS)
        assert next(found).token_ids == model.generate("Once 0", **OPTIONS).token_ids
    with pytest.raises(RuntimeError, match=r"the model (is|was) closed"):
        list(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "(a"}, "^regex cannot be used"),
        ({"num_beams": 64}, r"^num_beams \(64\) must not exceed max_sequences \(4\)"),
        ({"suppress_tokens": [4096]}, r"^suppress_tokens\[0\] must be from 0 to 4095"),
        ({"stop_strings": "\ud800"}, r"^stop_strings\[0\] holds the lone surrogate"),
        ({"forced_prefix": [1, 2], "max_new_tokens": 1}, "^forced_prefix has 2 tokens, more than"),
    ],
)
def test_wrong_options_are_refused_at_once(model: GPT2, options: dict[str, Any], message: str) -> None:
    def unread() -> Iterator[str]:
        pytest.fail("a prompt was read")
        yield ""

    with pytest.raises(ValueError, match=message):
        model.generate_many(unread(), **options)
