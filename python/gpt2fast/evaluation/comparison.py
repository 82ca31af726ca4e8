"""How far a model's predictions are from those of a reference, such as the same model in fp32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2fast._validation import Integer
from gpt2fast.evaluation.items import Progress, measure
from gpt2fast.evaluation.journal import Journal
from gpt2fast.evaluation.language_model import LanguageModel, Tokens, log_softmax
from gpt2fast.inference.windows import Window, windows

# Distributions over a whole vocabulary are large: only this many are in double precision at once.
_ROWS = 64


@dataclass(frozen=True)
class Comparison:
    """The difference between the next-token distributions of two models.

    Attributes
    ----------
    positions : int
        Distributions compared.
    kl_divergence : float
        Mean divergence of the model's distribution from the reference's, ``sum(p * log(p / q))``, in nats.
    top_1_agreement : float
        The share of positions where both have the same most likely token.
    """

    positions: int
    kl_divergence: float
    top_1_agreement: float


def compare(
    reference: LanguageModel,
    model: LanguageModel,
    ids: Tokens,
    *,
    window: int,
    limit: int | None = None,
    run: str = "",
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the predictions after each token of a text, cut into windows without overlap.

    Parameters
    ----------
    reference, model : LanguageModel
        The reference, and the model to compare with it.
    ids : int32 array, shape (tokens,)
        The text.
    window : int
        Tokens that the models see at once.
    limit : int, optional
        Use only this many tokens from the start.
    run, journal, progress : optional
        As for :func:`gpt2fast.evaluation.items.measure`.
    """
    if limit is not None:
        ids = ids[: Integer(2, 1 << 62)("limit", limit)]
    items = windows(len(ids), window, window)
    if not items:
        raise ValueError(f"the text is too short to compare on: {len(ids)} tokens")

    def evaluate(group: Sequence[Window]) -> list[list[float]]:
        return [_differences(reference, model, ids[one.start : one.stop]) for one in group]

    values = measure(items, evaluate, run=run, journal=journal, progress=progress).values
    positions = sum(item.tokens for item in items)
    return Comparison(
        positions=positions,
        kl_divergence=math.fsum(divergence for divergence, _ in values) / positions,
        top_1_agreement=sum(agreeing for _, agreeing in values) / positions,
    )


def _differences(reference: LanguageModel, model: LanguageModel, ids: Tokens) -> list[float]:
    """The sum of divergences over a window's positions, and how often the most likely tokens agree."""
    (right,), (other,) = reference.logits([ids], None), model.logits([ids], None)
    divergence = 0.0
    for start in range(0, len(ids), _ROWS):
        p, q = log_softmax(right[start : start + _ROWS]), log_softmax(other[start : start + _ROWS])
        divergence += float((np.exp(p) * (p - q)).sum())
    return [divergence, float((right.argmax(axis=-1) == other.argmax(axis=-1)).sum())]
