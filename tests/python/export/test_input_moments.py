"""Moments of inputs: exact sums, in any order; and that int4 layers are rounded by them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from gpt2fast._native import core
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.base import Checkpoint, LazyTensor
from gpt2fast.checkpoints.reference import linear_inputs
from gpt2fast.export import input_moments
from gpt2fast.export.input_moments import feedback_of_layers, second_moments
from gpt2fast.export.quantize import layout
from gpt2fast.export.written_tokens import written_tokens
from support.checkpoint_samples import random_tensors, small_config


def random_inputs(tokens: int, features: int) -> np.ndarray:
    generator = np.random.default_rng(3)
    return generator.normal(size=(tokens, features)) * np.exp(generator.normal(size=features))


def small_checkpoint(**changes: object) -> Checkpoint:
    config = small_config(**changes)
    tensors = {name: LazyTensor.from_array(values) for name, values in random_tensors(config).items()}
    return Checkpoint.checked(config, tensors, source="a test", fingerprint="")


def test_moments_are_those_of_the_inputs_in_blocks() -> None:
    inputs = random_inputs(2048, 1100)
    moments = second_moments([inputs])
    assert moments is not None
    assert moments.shape == (2, 1024, 1024)
    exact = inputs.T @ inputs
    factor = moments[0, 0, 0] / exact[0, 0]
    root = np.sqrt(np.diag(exact))
    for block, features in ((0, slice(0, 1024)), (1, slice(1024, 1100))):
        size = features.stop - features.start
        scaled = exact[features, features] / np.outer(root[features], root[features])
        found = moments[block, :size, :size] / factor / np.outer(root[features], root[features])
        np.testing.assert_allclose(found, scaled, atol=0.01)  # the inputs are rounded to seven bits
    assert not moments[1, 76:].any()
    assert not moments[1, :, 76:].any()


def test_the_order_of_tokens_does_not_change_a_bit() -> None:
    inputs = random_inputs(2048, 70)
    np.testing.assert_array_equal(second_moments([inputs[::-1].copy()]), second_moments([inputs]))
    np.testing.assert_array_equal(second_moments([inputs * (1 + 1e-12)]), second_moments([inputs]))


def test_runs_count_as_one() -> None:
    inputs = random_inputs(2048, 300)
    runs = [inputs[:700], inputs[700:], np.zeros((1, 300))]
    np.testing.assert_array_equal(second_moments(runs), second_moments([inputs]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_that_are_not_finite_have_no_moments(bad: float) -> None:
    inputs = random_inputs(8, 5)
    inputs[3, 2] = bad
    assert second_moments([inputs]) is None


def test_every_int4_layer_has_its_feedback() -> None:
    checkpoint = small_checkpoint(n_embd=51, n_head=3)
    layers = list(feedback_of_layers(checkpoint, written_tokens(checkpoint)))
    int4 = [one.name for one in layout(checkpoint.config, "int4") if one.format == core.FORMAT_INT4]
    assert [name for name, _ in layers] == int4
    assert all(feedback is not None and feedback.shape == (1, 1024, 1024) for _, feedback in layers)


def test_the_model_runs_over_some_sequences_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = small_checkpoint()
    tokens = written_tokens(checkpoint)[:8]
    whole = dict(feedback_of_layers(checkpoint, tokens))
    monkeypatch.setattr(input_moments, "_RUN", 3 * tokens.shape[1])
    lengths = []

    def recorded(checkpoint: Checkpoint, tokens: np.ndarray) -> object:
        lengths.append(len(tokens))
        return linear_inputs(checkpoint, tokens)

    monkeypatch.setattr(input_moments, "linear_inputs", recorded)
    for name, feedback in feedback_of_layers(checkpoint, tokens):
        np.testing.assert_array_equal(feedback, whole[name])
    assert lengths == [3, 3, 2]


def test_layers_of_the_embedded_model_come_closer(embedded_dir: Path) -> None:
    checkpoint = open_checkpoint(embedded_dir)
    # Other tokens than those that the feedback was made from.
    inputs = dict(islice(linear_inputs(checkpoint, np.arange(1, 257).reshape(4, 64)), 4))
    for name, feedback in islice(feedback_of_layers(checkpoint, written_tokens(checkpoint)), 4):
        weight = checkpoint.tensors[name].read()[:, :64].copy()
        errors = []
        for given in (None, feedback):
            packed = core.pack_linear(weight, core.FORMAT_INT4, feedback=given)
            rounded = core.unpack_linear(packed, core.FORMAT_INT4, weight.shape[0], 0, weight.shape[1]).T
            errors.append(np.linalg.norm(inputs[name] @ (rounded - weight)))
        assert errors[1] < 0.95 * errors[0], name


def test_feedback_of_another_size_is_refused() -> None:
    weight = np.zeros((1100, 16), np.float32)
    for feedback in (np.zeros((1, 1024, 1024), np.float32), np.zeros((2, 1024, 64), np.float32)):
        with pytest.raises(ValueError, match="feedback must"):
            core.pack_linear(weight, core.FORMAT_INT4, feedback=feedback)
    with pytest.raises(ValueError, match="int4"):
        core.pack_linear(weight, core.FORMAT_INT8, feedback=np.zeros((2, 1024, 1024), np.float32))
