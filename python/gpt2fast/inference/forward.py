"""Hidden states, keys and values, and scores of whole batches, as arrays in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt2fast._native import core

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from gpt2fast.config import ModelConfig
    from gpt2fast.text.prompts import Past


class ForwardPass:
    """The methods of :class:`gpt2fast.GPT2` that give what the network computes."""

    _engine: core.Engine

    if TYPE_CHECKING:

        @property
        def config(self) -> ModelConfig:
            """Sizes of the model."""

    def forward(
        self, input_ids: ArrayLike, past: Sequence[ArrayLike] | None = None
    ) -> tuple[NDArray[np.float32], Past]:
        """The hidden states after the last LayerNorm, and the keys and values to go on from.

        The contract of the ONNX Model Zoo's GPT-2.

        Parameters
        ----------
        input_ids : integer array, shape (tokens,) or (batch, tokens)
            At least one token.
        past : sequence of array, optional
            What an earlier call returned; ``input_ids`` then continue where it ended.

        Returns
        -------
        last_hidden_state : float32 array, shape (batch, tokens, n_embd)
        past : tuple of float32 array
            For each layer one array of shape (2, batch, n_head, past tokens + tokens, head_dim): keys, then
            values.

        Raises
        ------
        TypeError, ValueError
            Ids of a wrong type, shape or range; more tokens than the model has positions; a past of another
            shape.
        """
        from gpt2fast.text.arrays import read_batch, read_past

        layers = None if past is None else read_past(past, self.config)
        past_tokens = 0 if layers is None else layers[0].shape[3]
        batch = read_batch(input_ids, self.config, past_tokens=past_tokens)
        if layers is not None and layers[0].shape[1] != len(batch):
            raise ValueError(f"past has a batch of {layers[0].shape[1]}, input_ids of {len(batch)}")
        hidden, new_past = self._engine.forward(list(batch), layers, True)
        return _stacked(hidden), tuple(new_past or ())

    def logits(self, input_ids: ArrayLike, *, rows: ArrayLike | None = None) -> NDArray[np.float32]:
        """The scores of every possible next token after each token.

        Parameters
        ----------
        input_ids : integer array, shape (tokens,) or (batch, tokens)
            At least one token.
        rows : int or list of int, optional
            Only after the tokens at these positions; negative ones count from the end. Spares the rest of the
            vocabulary projection.

        Returns
        -------
        float32 array, shape (batch, tokens, vocab_size) or (batch, len(rows), vocab_size)
        """
        import numpy as np

        from gpt2fast.text.arrays import read_batch, read_rows

        batch = read_batch(input_ids, self.config)
        if rows is None:
            return _stacked(self._engine.logits(list(batch), None))
        ascending, order = np.unique(read_rows(rows, batch.shape[1]), return_inverse=True)
        return _stacked(self._engine.logits(list(batch), [ascending] * len(batch)))[:, order]


def _stacked(arrays: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The arrays along a new first axis; a single one is not copied."""
    import numpy as np

    return arrays[0][np.newaxis] if len(arrays) == 1 else np.stack(arrays)
