"""Hidden states of all layers: transformers' values, the same bits in any company, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2, ForwardOutput
from support.goldens import EMBEDDED

GOLDEN = EMBEDDED["hidden_states"]
IDS = np.array(GOLDEN["token_ids"], np.int32)
# Of random tokens, hidden states are in the tens: relative to the largest value.
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2, "int8": 5e-2, "int4": 2e-1, "int4-all": 3e-1}


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(request: pytest.FixtureRequest) -> GPT2:
    return GPT2.from_pretrained(precision=request.param)


@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_values_are_those_of_transformers(precision: Any) -> None:
    with GPT2.from_pretrained(precision=precision) as model:
        found = model.forward(IDS, output_hidden_states=True).hidden_states
    assert len(found) == len(GOLDEN["values"]) == 7
    for states, expected in zip(found, GOLDEN["values"], strict=True):
        assert states.shape == (1, len(IDS), 256)
        assert states.dtype == np.float32
        some = states[0][np.ix_(GOLDEN["rows"], GOLDEN["columns"])]
        error = np.abs(some - np.array(expected)).max() / np.abs(expected).max()
        assert error < TOLERANCES[precision]


def test_what_forward_gave_stays_the_same(model: GPT2) -> None:
    hidden, past = model.forward([IDS[:20], IDS[20:40]])
    out = model.forward([IDS[:20], IDS[20:40]], output_hidden_states=True)
    assert isinstance(out, ForwardOutput)
    np.testing.assert_array_equal(out.last_hidden_state, hidden)
    assert out.hidden_states[-1] is out.last_hidden_state
    for one, other in zip(out.past, past, strict=True):
        np.testing.assert_array_equal(one, other)
    again = model.forward([IDS[:20], IDS[20:40]], output_hidden_states=False)
    assert len(again) == 2
    np.testing.assert_array_equal(again[0], hidden)


def test_bits_depend_on_the_text_alone(model: GPT2) -> None:
    batch = np.stack([IDS[:70], IDS[70:140]])
    whole = model.forward(batch, output_hidden_states=True).hidden_states
    for row, ids in enumerate(batch):
        alone = model.forward(ids, output_hidden_states=True).hidden_states
        for one, other in zip(alone, whole, strict=True):
            np.testing.assert_array_equal(one[0], other[row])
    _, past = model.forward(batch[:, :33])
    rest = model.forward(batch[:, 33:], past, output_hidden_states=True).hidden_states
    for one, other in zip(rest, whole, strict=True):
        np.testing.assert_array_equal(one, other[:, 33:])


def test_beside_texts_that_are_generated(model: GPT2) -> None:
    alone = model.generate([5, 6, 7], max_new_tokens=60, seed=1).token_ids
    wanted = model.forward(IDS, output_hidden_states=True).hidden_states
    stream = model.stream([5, 6, 7], max_new_tokens=60, seed=1)
    ids = next(stream).token_ids
    found = model.forward(IDS, output_hidden_states=True).hidden_states
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    for chunk in stream:
        ids += chunk.token_ids
    assert ids == alone


@pytest.mark.parametrize("layer", range(-7, 7))
def test_vectors_of_a_layer(model: GPT2, layer: int) -> None:
    texts = [IDS[:9].tolist(), IDS[9:140].tolist()]
    vectors = model.embed(texts, layer=layer)
    for ids, vector in zip(texts, vectors, strict=True):
        states = model.forward(ids, output_hidden_states=True).hidden_states[layer]
        np.testing.assert_allclose(vector, states[0].astype(np.float64).mean(0), rtol=1e-5, atol=1e-6)
    if layer in (-1, 6):
        np.testing.assert_array_equal(vectors, model.embed(texts))


def test_what_is_refused(model: GPT2) -> None:
    for layer in (-8, 7):
        with pytest.raises(ValueError, match=f"layer must be from -7 to 6, got {layer}"):
            model.embed("a", layer=layer)
    wrong: Any = 1.5
    with pytest.raises(TypeError, match=r"layer must be an integer, got 1\.5"):
        model.embed("a", layer=wrong)
    wrong = "yes"
    with pytest.raises(TypeError, match="output_hidden_states must be True or False, got 'yes'"):
        model.forward([5], output_hidden_states=wrong)
