"""Hidden states, keys and values, logits: their shapes, what a past continues, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2

IDS = [50, 60, 70]


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(precision="fp32")


def test_shapes_of_forward_and_logits(model: GPT2) -> None:
    hidden, past = model.forward(IDS)
    assert hidden.shape == (1, 3, 256)
    assert hidden.dtype == np.float32
    assert len(past) == 6
    assert {layer.shape for layer in past} == {(2, 1, 4, 3, 64)}
    assert {layer.dtype for layer in past} == {np.dtype(np.float32)}
    hidden, past = model.forward(np.array([IDS, IDS]))
    assert hidden.shape == (2, 3, 256)
    more, longer = model.forward([[80], [80]], past=past)
    assert more.shape == (2, 1, 256)
    assert longer[0].shape == (2, 2, 4, 4, 64)
    assert model.logits(IDS).shape == (1, 3, 4096)
    assert model.logits([IDS, IDS], rows=-1).shape == (2, 1, 4096)


def test_a_past_continues_exactly(model: GPT2) -> None:
    ids = np.array([[*IDS, 80, 90], [5, 6, 7, 8, 9]])
    whole, whole_past = model.forward(ids)
    first, past = model.forward(ids[:, :2])
    rest, rest_past = model.forward(ids[:, 2:], past=past)
    np.testing.assert_array_equal(np.concatenate([first, rest], axis=1), whole)
    for one, other in zip(rest_past, whole_past, strict=True):
        np.testing.assert_array_equal(one, other)


def test_chosen_rows_are_those_of_all_logits(model: GPT2) -> None:
    everything = model.logits([IDS, [5, 6, 7]])
    np.testing.assert_array_equal(model.logits([IDS, [5, 6, 7]], rows=[2, 0, -1]), everything[:, [2, 0, 2]])


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([], ValueError, "input_ids must hold at least one token"),
        ([[], []], ValueError, "input_ids must hold at least one token"),
        ([[1, 2], [3]], ValueError, "input_ids must be a rectangular array of integers"),
        ([[[1]]], ValueError, r"input_ids must have shape \(tokens,\) or \(batch, tokens\), got \(1, 1, 1\)"),
        (5, ValueError, r"got \(\)"),
        ("abc", TypeError, r"input_ids must hold integers, got 'abc' \(str\)"),
        ([[1, True]], TypeError, r"input_ids must hold integers, got True \(bool\)"),
        ([[1, 2.0]], TypeError, r"input_ids must hold integers, got 2\.0 \(float\)"),
        ([[1], [4096]], ValueError, r"input_ids\[1, 0\]: token id 4096 is outside the vocabulary"),
        (list(range(513)), ValueError, "input_ids holds 513 tokens; the model has n_positions = 512"),
    ],
)
@pytest.mark.parametrize("method", ["forward", "logits"])
def test_arrays_that_are_refused(
    model: GPT2, method: str, ids: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(model, method)(ids)


def test_pasts_that_are_refused(model: GPT2) -> None:
    _, past = model.forward([IDS])
    no_past: Any = 5
    with pytest.raises(TypeError, match="past must be a sequence of float arrays, one for each layer: 'int'"):
        model.forward([IDS], past=no_past)
    with pytest.raises(ValueError, match=r"past must be a sequence of float arrays, .*: could not convert"):
        model.forward([IDS], past=["a"] * 6)
    with pytest.raises(ValueError, match="past must have one array for each of 6 layers, got 5"):
        model.forward([IDS], past=past[:-1])
    with pytest.raises(ValueError, match=r"past\[0\] must have shape \(2, batch, 4, tokens, 64\)"):
        model.forward([IDS], past=[layer[:, :, :2] for layer in past])
    with pytest.raises(ValueError, match=r"past\[1\] must have shape .* the same in every layer"):
        model.forward([IDS], past=[past[0], past[1][:, :, :, :1], *past[2:]])
    with pytest.raises(ValueError, match="past has a batch of 1, input_ids of 2"):
        model.forward([IDS, IDS], past=past)
    with pytest.raises(
        ValueError, match="input_ids holds 510 tokens after a past of 3; the model has n_positions"
    ):
        model.forward([[1] * 510], past=past)


@pytest.mark.parametrize("rows", [3, [0, -4], []])
def test_rows_that_are_refused(model: GPT2, rows: Any) -> None:
    with pytest.raises(ValueError, match="rows must be"):
        model.logits(IDS, rows=rows)
