"""How far outputs of int4 layers are off when the weights are rounded by some tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from gpt2fast._native import core
from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.checkpoints.reference import linear_inputs
from gpt2fast.export.input_moments import feedback_of_layers

_COLUMNS = 64


def rounding_errors(
    checkpoint: Checkpoint,
    text: Sequence[int],
    rounded_by: Sequence[NDArray[np.int64]],
    layers: int,
) -> Iterator[tuple[str, list[float]]]:
    """Of the first linear layers, as ``text`` is read: the name, and the error by each of ``rounded_by``."""
    inputs = islice(linear_inputs(checkpoint, np.array(text).reshape(-1, 128)), layers)
    feedback = [dict(islice(feedback_of_layers(checkpoint, tokens), layers)) for tokens in rounded_by]
    for name, layer_inputs in inputs:
        weight = checkpoint.tensors[name].read()[:, :_COLUMNS].copy()
        errors = []
        for given in feedback:
            packed = core.pack_linear(weight, core.FORMAT_INT4, feedback=given[name])
            rounded = core.unpack_linear(packed, core.FORMAT_INT4, weight.shape[0], 0, _COLUMNS).T
            errors.append(float(np.linalg.norm(layer_inputs @ (rounded - weight))))
        yield name, errors
