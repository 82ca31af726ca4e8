"""Log-probabilities and hidden states of whole texts, as arrays: the work behind :mod:`gpt2fast.scoring`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpt2fast._native import core
from gpt2fast._validation import Integer
from gpt2fast.evaluation.perplexity import windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.inference.prefix import Prefix

POOLINGS = ("mean", "last", "first", "max")

# Hidden states of so many tokens are in memory at once.
_GROUP_TOKENS = 8192


def token_logprobs(
    engine: core.Engine,
    sequences: Sequence[Sequence[int]],
    n_positions: int,
    *,
    top: int = 0,
    stride: int | None = None,
) -> list[tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]]:
    """Log-probabilities of every token, and the ``top`` likeliest at its place, of texts of any length.

    Returns
    -------
    list of (chosen [tokens], top ids [tokens, top], their log-probabilities [tokens, top])
        The first token has none: NaN, and -1 for ids.
    """
    # With a stride of the whole context a window's first token would have nothing before it.
    widest = max(1, n_positions - 1)
    stride = max(1, n_positions // 2) if stride is None else Integer(1, widest)("stride", stride)
    results = [
        (
            np.full(len(ids), np.nan, np.float32),
            np.full((len(ids), top), -1, np.int32),
            np.full((len(ids), top), np.nan, np.float32),
        )
        for ids in sequences
    ]
    arrays = _arrays(sequences)
    places = [
        (index, window)
        for index, ids in enumerate(arrays)
        for window in windows(len(ids), n_positions, stride)
    ]
    pieces = [arrays[index][window.start : window.stop] for index, window in places]
    first = [window.first - window.start for _, window in places]
    for (index, window), values in zip(places, engine.token_logprobs(pieces, first, top), strict=True):
        for result, value in zip(results[index], values, strict=True):
            result[window.first : window.stop] = value
    return results


def continuation_logprobs(
    engine: core.Engine, prompt: Sequence[int], continuations: Sequence[Sequence[int]], prefix: Prefix | None
) -> list[NDArray[np.float32]]:
    """Log-probabilities of the tokens of each continuation of a prompt."""
    start = np.asarray(prompt, np.int32)
    return engine.score_continuations(start, _arrays(continuations), None if prefix is None else prefix.core)


def embeddings(
    engine: core.Engine, sequences: Sequence[Sequence[int]], width: int, pooling: str, *, normalize: bool
) -> NDArray[np.float32]:
    """One vector for each sequence, [sequences, width]; see :meth:`gpt2fast.scoring.Scoring.embed`."""
    vectors = np.empty((len(sequences), width), np.float32)
    for group in _groups(sequences):
        hidden, _ = engine.forward(_arrays([sequences[index] for index in group]), None, False)
        for index, states in zip(group, hidden, strict=True):
            _pool(states, pooling, vectors[index])
    if not normalize:
        return vectors
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    normalized: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalized.astype(np.float32)


def _arrays(sequences: Sequence[Sequence[int]]) -> list[NDArray[np.int32]]:
    return [np.asarray(ids, np.int32) for ids in sequences]


def _groups(sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of the sequences in order, in groups of about ``_GROUP_TOKENS``."""
    groups: list[list[int]] = []
    room = 0
    for index, ids in enumerate(sequences):
        if not groups or len(ids) > room:
            groups.append([])
            room = _GROUP_TOKENS
        groups[-1].append(index)
        room -= len(ids)
    return groups


def _pool(states: NDArray[np.float32], pooling: str, out: NDArray[np.float32]) -> None:
    """One vector [n_embd] of the hidden states [tokens, n_embd]."""
    if pooling == "mean":
        out[:] = np.mean(states, axis=0, dtype=np.float64)
    elif pooling == "max":
        out[:] = np.max(states, axis=0)
    else:
        out[:] = states[0 if pooling == "first" else -1]
