"""Second moments of what each linear layer multiplies, from a run over tokens of a text or of the model.

Rounding weights to four bits costs least where the errors of a column cancel for the inputs that occur.
The model runs in NumPy, in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpt2fast._native import core
from gpt2fast.checkpoints.reference import linear_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.checkpoints.base import Checkpoint

_RUN = 2048  # tokens of a run; temporary arrays, but for a layer's inputs, are only that long
_BLOCK = 1024  # features whose errors make up for one another
# An input is rounded to so many bits, beside its sign, before it is multiplied: sums of so many products are
# then exact in float32, in any order, and last bits that differ from machine to machine are gone.
_BITS = 7
_SUMMED = 256


def feedback_of_layers(
    checkpoint: Checkpoint, tokens: NDArray[np.int64]
) -> Iterator[tuple[str, NDArray[np.float32] | None]]:
    """Name of each linear weight, in the order of use, and ``core.error_feedback`` of its inputs.

    None where an input is not finite. The model runs over ``tokens`` [sequences, tokens] as items are asked
    for; memory holds one weight and its inputs.
    """
    sequences = max(1, _RUN // tokens.shape[1])
    runs = [
        linear_inputs(checkpoint, tokens[first : first + sequences])
        for first in range(0, len(tokens), sequences)
    ]
    with np.errstate(all="ignore"):
        for layer in zip(*runs, strict=True):  # all runs at the same layer
            moments = second_moments([inputs.reshape(-1, inputs.shape[-1]) for _, inputs in layer])
            yield layer[0][0], None if moments is None else core.error_feedback(moments)


def second_moments(runs: Sequence[NDArray[np.float64]]) -> NDArray[np.float32] | None:
    """Sums of products within blocks of features, [blocks, 1024, 1024], up to a factor; None if not finite.

    Each of ``runs`` is [tokens, features].
    """
    features = runs[0].shape[1]
    largest = np.max([np.abs(inputs).max(axis=0) for inputs in runs], axis=0)
    if not np.isfinite(largest).all():
        return None
    blocks = -(-features // _BLOCK)
    exponents = np.zeros(blocks * _BLOCK, np.int32)
    exponents[:features] = np.frexp(largest)[1]
    sums = np.zeros((blocks, _BLOCK, _BLOCK))
    for part in (inputs[at : at + _SUMMED] for inputs in runs for at in range(0, len(inputs), _SUMMED)):
        steps = np.zeros((len(part), blocks * _BLOCK), np.float32)
        steps[:, :features] = np.rint(np.ldexp(part, _BITS - exponents[:features]))
        steps = steps.reshape(len(part), blocks, _BLOCK).transpose(1, 0, 2)
        sums += steps.swapaxes(1, 2) @ steps
    exponents = exponents.reshape(blocks, _BLOCK) - exponents.max()
    scaled: NDArray[np.float64] = np.ldexp(sums, exponents[:, :, None] + exponents[:, None, :])
    return scaled.astype(np.float32)
