"""The interface that measurements need from a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gpt2fast.loading.loaded_model import LoadedModel, ModelLike

Tokens: TypeAlias = NDArray[np.int32]


class LanguageModel(Protocol):
    """Scores batches of token ids; sequences of a batch may differ in length."""

    @property
    def n_positions(self) -> int:
        """The longest sequence."""
        ...

    def score(self, sequences: Sequence[Tokens], first: Sequence[int]) -> list[NDArray[np.float32]]:
        """Log-probabilities of each sequence's tokens from ``first[i]`` >= 1 on, given those before them."""
        ...

    def logits(
        self, sequences: Sequence[Tokens], rows: Sequence[NDArray[np.int64]] | None
    ) -> list[NDArray[np.float32]]:
        """Next-token scores (rows, vocab_size) after the tokens ``rows[i]`` of each sequence; None: all."""
        ...


class _EngineModel:
    """A loaded model."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    @property
    def n_positions(self) -> int:
        return self._model.config.n_positions

    def score(self, sequences: Sequence[Tokens], first: Sequence[int]) -> list[NDArray[np.float32]]:
        call = self._model.engine.score(sequences, first)
        call.wait()
        return [chosen for chosen, _, _ in call.results()]

    def logits(
        self, sequences: Sequence[Tokens], rows: Sequence[NDArray[np.int64]] | None
    ) -> list[NDArray[np.float32]]:
        call = self._model.engine.logits(sequences, rows)
        call.wait()
        scores: list[NDArray[np.float32]] = call.results()
        return scores


def language_model(model: ModelLike) -> LanguageModel:
    """A :class:`gpt2fast.GPT2` to measure."""
    return _EngineModel(model.loaded)


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities over the last axis."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted
