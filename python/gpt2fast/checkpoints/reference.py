"""GPT-2 in plain NumPy, the reference for everything else. Slow, and meant to be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.base import Checkpoint

Array = NDArray[Any]

_TABLE_ROWS = 4096
_ERF_NODES = 512  # nodes a unit
_ERF_END = 6  # from here on erf is 1 in float64


def forward(
    checkpoint: Checkpoint,
    input_ids: NDArray[np.integer[Any]],
    past: Sequence[Array] | None = None,
    *,
    dtype: Any = np.float64,
) -> tuple[Array, list[Array]]:
    """Run a model.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model; its weights are read one at a time.
    input_ids : array of int, shape (batch, tokens)
        Rows of equal length.
    past : sequence of arrays, optional
        Keys and values of the tokens before, one array per layer, as returned here.
    dtype : numpy dtype
        The precision of the computation.

    Returns
    -------
    hidden : array of dtype, shape (batch, tokens, n_embd)
        After the last LayerNorm.
    past : list of arrays of dtype, shape (2, batch, n_head, all tokens, head_dim)
        One per layer.
    """
    present: list[Array] = []
    return _last(_run(checkpoint, input_ids, past, dtype, present)), present


def hidden_states(checkpoint: Checkpoint, input_ids: NDArray[np.integer[Any]]) -> Array:
    """As :func:`forward`, in float64, without keeping keys and values of layers that are done."""
    return _last(_run(checkpoint, input_ids, None, np.float64, None))


def linear_inputs(
    checkpoint: Checkpoint, input_ids: NDArray[np.integer[Any]], *, dtype: Any = np.float64
) -> Iterator[tuple[str, Array]]:
    """The name of each linear weight, in the order of use, and what it multiplies: (batch, tokens, features).

    The model runs as the items are asked for. Memory holds one layer's weights and activations.
    """
    yield from _run(checkpoint, input_ids, None, dtype, None)


def _last(run: Generator[tuple[str, Array], None, Array]) -> Array:
    while True:
        try:
            next(run)
        except StopIteration as end:
            hidden: Array = end.value
            return hidden


def _run(
    checkpoint: Checkpoint,
    input_ids: NDArray[np.integer[Any]],
    past: Sequence[Array] | None,
    dtype: Any,
    present: list[Array] | None,
) -> Generator[tuple[str, Array], None, Array]:
    """Yields as :func:`linear_inputs`, returns the hidden states; ``present``, if given, gets the cache."""
    config = checkpoint.config
    weights = _Weights(checkpoint, dtype)
    start = 0 if past is None else past[0].shape[3]
    tokens = input_ids.shape[1]
    x = weights.rows("wte.weight", input_ids) + weights["wpe.weight"][start : start + tokens]
    for layer in range(config.n_layer):
        name = f"h.{layer}"
        normal = weights.layer_norm(f"{name}.ln_1", x, config.layer_norm_epsilon)
        yield f"{name}.attn.c_attn.weight", normal
        qkv = weights.linear(f"{name}.attn.c_attn", normal)
        before = None if past is None else past[layer].astype(dtype)
        mixed, cache = _attention(qkv, before, config.n_head, config.attention_scale(layer))
        if present is not None:
            present.append(cache)
        yield f"{name}.attn.c_proj.weight", mixed
        x = x + weights.linear(f"{name}.attn.c_proj", mixed)
        normal = weights.layer_norm(f"{name}.ln_2", x, config.layer_norm_epsilon)
        yield f"{name}.mlp.c_fc.weight", normal
        inner = weights.linear(f"{name}.mlp.c_fc", normal)
        for sequence in inner:  # one at a time, for the sake of memory
            sequence[...] = _ACTIVATIONS[config.activation_function](sequence)
        yield f"{name}.mlp.c_proj.weight", inner
        x = x + weights.linear(f"{name}.mlp.c_proj", inner)
    return weights.layer_norm("ln_f", x, config.layer_norm_epsilon)


def logits(checkpoint: Checkpoint, hidden: Array) -> Array:
    """The scores of the whole vocabulary, of shape (..., vocab_size), from :func:`forward`'s hidden."""
    return np.concatenate([scores for _, scores in score_parts(checkpoint, hidden)], axis=-1)


def score_parts(checkpoint: Checkpoint, hidden: Array) -> Iterator[tuple[int, Array]]:
    """:func:`logits` of some tokens after others: the first of them, and their scores.

    Memory holds a part of the table.
    """
    name = "wte.weight" if checkpoint.config.tie_word_embeddings else "lm_head.weight"
    tensor = checkpoint.tensors[name]
    for first in range(0, tensor.shape[0], _TABLE_ROWS):
        rows = tensor.read_rows(first, min(first + _TABLE_ROWS, tensor.shape[0]))
        yield first, hidden @ rows.astype(hidden.dtype, copy=False).T


class _Weights:
    """Reads a checkpoint's weights as they are needed."""

    def __init__(self, checkpoint: Checkpoint, dtype: Any) -> None:
        self._checkpoint = checkpoint
        self._dtype = dtype

    def __getitem__(self, name: str) -> Array:
        values: Array = self._checkpoint.tensors[name].read().astype(self._dtype, copy=False)
        return values

    def rows(self, name: str, ids: NDArray[np.integer[Any]]) -> Array:
        """Rows of a table by id; memory holds these and a part of the table."""
        tensor = self._checkpoint.tensors[name]
        result = np.empty((*ids.shape, tensor.shape[1]), self._dtype)
        for first in range(0, tensor.shape[0], _TABLE_ROWS):
            part = (first <= ids) & (ids < first + _TABLE_ROWS)
            if part.any():
                read = tensor.read_rows(first, min(first + _TABLE_ROWS, tensor.shape[0]))
                result[part] = read[ids[part] - first]
        return result

    def linear(self, name: str, x: Array) -> Array:
        result: Array = x @ self[f"{name}.weight"] + self[f"{name}.bias"]
        return result

    def layer_norm(self, name: str, x: Array, epsilon: float) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        result: Array = centred / np.sqrt(variance + epsilon) * self[f"{name}.weight"] + self[f"{name}.bias"]
        return result


def _attention(qkv: Array, past: Array | None, heads: int, scale: float) -> tuple[Array, Array]:
    """Causal attention over ``qkv`` (batch, tokens, 3 * width): (batch, tokens, width) and the cache."""
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    split = qkv.reshape(batch, tokens, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    query, cache = split[0], split[1:]
    if past is not None:
        cache = np.concatenate([past, cache], axis=3)
    scores = query @ cache[0].swapaxes(-1, -2) * scale
    total = cache.shape[3]
    visible = np.arange(total) <= np.arange(total - tokens, total)[:, None]
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ cache[1]
    return mixed.swapaxes(1, 2).reshape(batch, tokens, width), cache


def _gelu_tanh(x: Array) -> Array:
    result: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))
    return result


def _gelu(x: Array) -> Array:
    result: Array = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return result


def erf(x: Array) -> Array:
    """The error function, to within 3e-16: Taylor's series of four terms from the nearest node of a table.

    ``math.erf`` takes single values; for arrays this is about nine times as fast.
    """
    inside = np.clip(x, -_ERF_END, _ERF_END)
    index = np.rint(np.fmax(inside, -_ERF_END) * _ERF_NODES).astype(np.intp)  # also of NaN
    node = index / _ERF_NODES
    step = inside - node
    values, slopes = _erf_table()
    index += _ERF_END * _ERF_NODES
    series = 1 - step * (node - step * ((2 * node**2 - 1) / 3 + step * node * (3 - 2 * node**2) / 6))
    result: Array = (values[index] + slopes[index] * step * series).astype(x.dtype)
    return result


@cache
def _erf_table() -> tuple[Array, Array]:
    nodes = np.arange(-_ERF_END * _ERF_NODES, _ERF_END * _ERF_NODES + 1) / _ERF_NODES
    values = np.array([math.erf(node) for node in nodes])
    return values, 2 / math.sqrt(math.pi) * np.exp(-(nodes**2))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu": _gelu,
    "relu": lambda x: np.maximum(x, 0),
}
