"""What the network computes, as arrays in and out: hidden states, keys and values, scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gpt2fast.loading.loaded_model import LoadedModel
from gpt2fast.text.arrays import read_batch, read_past, read_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from gpt2fast.inference.work import Work
    from gpt2fast.text.arrays import Past


def forward(
    model: LoadedModel, input_ids: ArrayLike, past: Sequence[ArrayLike] | None = None
) -> Work[tuple[NDArray[np.float32], Past]]:
    """See :meth:`gpt2fast.GPT2.forward`."""
    layers = None if past is None else read_past(past, model.config)
    past_tokens = 0 if layers is None else layers[0].shape[3]
    batch = read_batch(input_ids, model.config, past_tokens=past_tokens)
    if layers is not None and layers[0].shape[1] != len(batch):
        raise ValueError(f"past has a batch of {layers[0].shape[1]}, input_ids of {len(batch)}")
    call = yield partial(model.engine.forward, list(batch), layers)
    hidden, new_past = call.results()
    return _stacked(hidden), tuple(new_past or ())


def logits(
    model: LoadedModel, input_ids: ArrayLike, rows: ArrayLike | None = None
) -> Work[NDArray[np.float32]]:
    """See :meth:`gpt2fast.GPT2.logits`."""
    batch = read_batch(input_ids, model.config)
    if rows is None:
        call = yield partial(model.engine.logits, list(batch))
        return _stacked(call.results())
    ascending, order = np.unique(read_rows(rows, batch.shape[1]), return_inverse=True)
    call = yield partial(model.engine.logits, list(batch), [ascending] * len(batch))
    return _stacked(call.results())[:, order]


def _stacked(arrays: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The arrays along a new first axis; a single one is not copied."""
    return arrays[0][np.newaxis] if len(arrays) == 1 else np.stack(arrays)
