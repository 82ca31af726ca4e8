"""LAMBADA (Paperno et al. 2016): the last word of a passage; the file is OpenAI's ``lambada_test.jsonl``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt2fast.evaluation.items import Progress, measure, read_json_lines
from gpt2fast.evaluation.journal import Journal
from gpt2fast.evaluation.language_model import LanguageModel, Tokens, log_softmax
from gpt2fast.evaluation.perplexity import exponential
from gpt2fast.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class LambadaResult:
    """How well a model predicts last words.

    Attributes
    ----------
    examples : int
        Passages.
    accuracy : float
        The share of passages whose last word greedy decoding gives, token for token.
    perplexity : float
        ``exp`` of the mean negative log-likelihood of a last word.
    seconds, tokens_per_second : float
        As in :class:`~gpt2fast.evaluation.perplexity.PerplexityResult`.
    """

    examples: int
    accuracy: float
    perplexity: float
    seconds: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class Continuation:
    """Token ids; those from ``first`` on are to be predicted."""

    ids: Tokens
    first: int

    @property
    def tokens(self) -> int:
        """The tokens that go through the model: all but the last."""
        return len(self.ids) - 1


def read_lambada(path: str | os.PathLike[str], limit: int | None = None) -> list[str]:
    """The passages of a file with one ``{"text": ...}`` a line, the first ``limit`` of them.

    Raises
    ------
    ValueError
        A line is something else, or a passage has fewer than two words; the message names the line.
    """
    texts = []
    for where, value in read_json_lines(Path(path), limit):
        text = value.get("text")
        if not isinstance(text, str) or " " not in text.strip():
            raise ValueError(f'{where}: must be {{"text": ...}} with at least two words')
        texts.append(text)
    if not texts:
        raise ValueError(f"{path}: no passages in it")
    return texts


def lambada(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    run: str = "",
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> LambadaResult:
    """Measure a model on passages; the last word is what follows the last space, with that space.

    Parameters and errors are those of :func:`~gpt2fast.evaluation.perplexity.perplexity`; a passage longer
    than the model's positions loses its beginning.
    """
    if not texts:
        raise ValueError("texts must hold at least one passage")
    items = list(_items(tokenizer, texts, model.n_positions))

    def evaluate(group: Sequence[Continuation]) -> list[list[float]]:
        rows = [np.arange(item.first - 1, len(item.ids) - 1) for item in group]
        logits = model.logits([item.ids[:-1] for item in group], rows)
        return [
            _last_word(item.ids[item.first :], scores) for item, scores in zip(group, logits, strict=True)
        ]

    measured = measure(items, evaluate, run=run, journal=journal, progress=progress)
    return LambadaResult(
        examples=len(items),
        accuracy=sum(correct for _, correct in measured.values) / len(items),
        perplexity=exponential(math.fsum(loss for loss, _ in measured.values) / len(items)),
        seconds=measured.seconds,
        tokens_per_second=measured.tokens_per_second,
    )


def _items(tokenizer: Tokenizer, texts: Sequence[str], n_positions: int) -> Iterator[Continuation]:
    for text in texts:
        context = text.rstrip().rpartition(" ")[0]
        # Without a template's tokens, as in lm-evaluation-harness: one behind the context would divide it.
        before, whole = tokenizer.encode_batch((context, text.rstrip()), add_special_tokens=False)
        yield continuation(before, whole, n_positions, text)


def continuation(context: Sequence[int], whole: Sequence[int], n_positions: int, text: str) -> Continuation:
    """The tokens of a text, to be predicted after its context; the beginning is cut to fit the model.

    Raises
    ------
    ValueError
        There is nothing to predict, nothing before it, or too much for the model.
    """
    ids = np.array(whole[-(n_positions + 1) :], np.int32)
    first = len(context) - (len(whole) - len(ids))
    if not 1 <= first < len(ids):
        raise ValueError(
            f"the continuation of {text[:40]!r} must have 1 to {n_positions} tokens after at least one other"
        )
    return Continuation(ids, first)


def _last_word(word: Tokens, scores: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[float]:
    """Negative log-likelihood of a word, and 1 if each of its tokens is the most likely, else 0."""
    chosen = log_softmax(scores)[np.arange(len(word)), word]
    return [-float(chosen.sum()), float((scores.argmax(axis=-1) == word).all())]
