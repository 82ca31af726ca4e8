"""Tokens like those that a model itself would write: what int4 weights are rounded by without a text.

A text would be written token by token, and every token would read all weights. Here all places are drawn
again at once, each from the scores after the tokens that were there before: places beside each other come to
fit one another within a few passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpt2fast.checkpoints.reference import hidden_states, score_parts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.checkpoints.base import Checkpoint

_SEQUENCE = 128
_PASSES = 8
_TOKENS = 512  # of a pass


def written_tokens(checkpoint: Checkpoint) -> NDArray[np.int64]:
    """Always the same ids for a model, [sequences, tokens]; one after the other those of every pass.

    The first of a sequence are drawn evenly from the vocabulary. Memory holds one weight, or a part of the
    vocabulary's table, and what 512 tokens need.
    """
    config = checkpoint.config
    length = sequence_length(config.n_positions)
    # The stream of RandomState is frozen; that of newer generators may change with NumPy.
    generator = np.random.RandomState(0)
    tokens = generator.randint(0, config.vocab_size, (_TOKENS // length, length), dtype=np.int64)
    passes = []
    with np.errstate(all="ignore"):
        for _ in range(_PASSES):
            following = _drawn(checkpoint, hidden_states(checkpoint, tokens), generator)
            tokens = np.concatenate([tokens[:, :1], following[:, :-1]], axis=1)
            passes.append(tokens)
    return np.concatenate(passes)


def sequence_length(n_positions: int) -> int:
    """Tokens of each sequence that a model with so many positions reads."""
    return min(_SEQUENCE, n_positions)


def _drawn(
    checkpoint: Checkpoint, hidden: NDArray[np.float64], generator: np.random.RandomState
) -> NDArray[np.int64]:
    """A token for each hidden state (batch, tokens, n_embd); 0 where scores are not finite.

    The largest sum of a score and Gumbel noise is a draw from softmax, and needs no row of scores as a whole.
    In float64, two sums are hardly ever as near to each other as machines differ in a score's last bits.
    """
    best = np.full(hidden.shape[:-1], -np.inf)
    drawn = np.zeros(hidden.shape[:-1], np.int64)
    for first, scores in score_parts(checkpoint, hidden):
        scores -= np.log(generator.standard_exponential(scores.shape))
        index = scores.argmax(-1)
        largest = np.take_along_axis(scores, index[..., None], -1)[..., 0]
        better = largest > best
        best[better] = largest[better]
        drawn[better] = first + index[better]
    return drawn
