"""The NumPy forward pass, compared with transformers and, with a past, with itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gpt2fast.checkpoints import reference
from support.checkpoint_samples import random_tensors
from support.zoo_samples import random_checkpoint

IDS = np.random.default_rng(0).integers(0, 101, (3, 11))


def test_a_past_changes_nothing() -> None:
    checkpoint = random_checkpoint()
    whole, present = reference.forward(checkpoint, IDS)
    first, past = reference.forward(checkpoint, IDS[:, :4])
    second, after = reference.forward(checkpoint, IDS[:, 4:], past)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, rtol=1e-12, atol=1e-12)
    for layer, expected in zip(after, present, strict=True):
        assert layer.shape == (2, 3, 4, 11, 16)
        np.testing.assert_allclose(layer, expected, rtol=1e-12, atol=1e-12)


def test_the_requested_dtype_is_used() -> None:
    hidden, past = reference.forward(random_checkpoint(), IDS, dtype=np.float32)
    assert hidden.dtype == past[0].dtype == np.float32


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_function": "gelu", "tie_word_embeddings": False},
        {"activation_function": "relu", "n_inner": 40, "layer_norm_epsilon": 1e-3},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
    ],
)
def test_it_agrees_with_transformers(changes: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    checkpoint = random_checkpoint(**changes)
    config = checkpoint.config
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config.to_dict())).double().eval()
    for name, values in random_tensors(config).items():
        prefix = "" if name == "lm_head.weight" else "transformer."
        model.get_parameter(prefix + name).data = torch.from_numpy(values.astype(np.float64))
    model.tie_weights()
    with torch.no_grad():
        wanted = model(torch.from_numpy(IDS), output_hidden_states=True)
    hidden, past = reference.forward(checkpoint, IDS)
    np.testing.assert_allclose(hidden, wanted.hidden_states[-1].numpy(), rtol=1e-9, atol=1e-9)
    scores = reference.logits(checkpoint, hidden)
    np.testing.assert_allclose(scores, wanted.logits.numpy(), rtol=1e-9, atol=1e-9)
    for layer, cache in zip(past, wanted.past_key_values.layers, strict=True):
        np.testing.assert_allclose(layer[0], cache.keys.numpy(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(layer[1], cache.values.numpy(), rtol=1e-9, atol=1e-9)


def test_erf_is_that_of_the_standard_library() -> None:
    x = np.concatenate([np.random.RandomState(0).randn(20000) * 2, np.linspace(-7, 7, 14337), [0.0, 1e-300]])
    expected = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(reference.erf(x), expected, rtol=0, atol=3e-16)
    np.testing.assert_array_equal(reference.erf(-x), -reference.erf(x))


def test_erf_of_what_is_not_finite() -> None:
    found = reference.erf(np.array([[np.inf, -np.inf], [np.nan, 100.0]]))
    np.testing.assert_array_equal(found, [[1.0, -1.0], [np.nan, 1.0]])


def test_erf_keeps_the_dtype() -> None:
    found = reference.erf(np.array([0.25, -3.0], np.float32))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([math.erf(0.25), math.erf(-3.0)]).astype(np.float32))
