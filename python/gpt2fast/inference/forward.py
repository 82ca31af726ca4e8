"""What the network computes, as arrays in and out: hidden states, keys and values, scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gpt2fast._validation import Flag
from gpt2fast.inference.results import ForwardOutput
from gpt2fast.loading.loaded_model import LoadedModel
from gpt2fast.text.arrays import read_batch, read_past, read_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from gpt2fast.inference.work import Work
    from gpt2fast.text.arrays import Past


def forward(
    model: LoadedModel,
    input_ids: ArrayLike,
    past: Sequence[ArrayLike] | None = None,
    output_hidden_states: bool = False,
) -> Work[tuple[NDArray[np.float32], Past] | ForwardOutput]:
    """See :meth:`gpt2fast.GPT2.forward`."""
    with_layers = Flag()("output_hidden_states", output_hidden_states)
    before = None if past is None else read_past(past, model.config)
    past_tokens = 0 if before is None else before[0].shape[3]
    batch = read_batch(input_ids, model.config, past_tokens=past_tokens)
    if before is not None and before[0].shape[1] != len(batch):
        raise ValueError(f"past has a batch of {before[0].shape[1]}, input_ids of {len(batch)}")
    layers = range(model.config.n_layer if with_layers else 0)
    call = yield partial(model.engine.forward, list(batch), before, True, layers)
    hidden, new_past, layer_inputs = call.results()
    last, after = _stacked(hidden), tuple(new_past or ())
    if not with_layers:
        return last, after
    earlier = (_stacked([one[layer] for one in layer_inputs]) for layer in layers)
    return ForwardOutput(last, after, (*earlier, last))


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
