"""Perplexity of a text, over windows that slide along it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpt2fast._validation import Flag, Integer
from gpt2fast.evaluation.items import Progress, measure
from gpt2fast.evaluation.journal import Journal
from gpt2fast.evaluation.language_model import LanguageModel, Tokens
from gpt2fast.inference.windows import Window, windows
from gpt2fast.text.tokenizer import Tokenizer

_POSITIVE = Integer(1, 1 << 62)
_FLAG = Flag()


@dataclass(frozen=True)
class PerplexitySettings:
    """How a text is cut.

    Attributes
    ----------
    window : int, optional
        The number of tokens that the model sees at once. Default: all its positions.
    stride : int, optional
        Tokens from the start of one window to that of the next, at most ``window``. Default: half a window.
        Each token is scored once, in the first window in which a token precedes it; a smaller stride gives
        more context and takes longer.
    split : str, optional
        A regular expression (without groups) for what separates documents; each is stripped of white space
        at its ends and followed by the end-of-text token. Default: the text is one document, as it is.
    drop_last : bool
        Leave out the last window if it is not full.
    limit : int, optional
        Use only this many tokens from the start.
    """

    window: int | None = None
    stride: int | None = None
    split: str | None = None
    drop_last: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("window", "stride", "limit"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _POSITIVE(name, getattr(self, name)))
        object.__setattr__(self, "drop_last", _FLAG("drop_last", self.drop_last))
        if self.window is not None and self.window < 2:
            raise ValueError(f"window must be at least 2, got {self.window}")
        if self.split is not None:
            _pattern(self.split)

    def sizes(self, n_positions: int) -> tuple[int, int]:
        """Window and stride for a model."""
        window = n_positions if self.window is None else self.window
        stride = max(1, window // 2) if self.stride is None else self.stride
        if window > n_positions:
            raise ValueError(f"window must be at most the model's {n_positions} positions, got {window}")
        if stride > window:
            raise ValueError(f"stride must be at most the window of {window} tokens, got {stride}")
        return window, stride


@dataclass(frozen=True)
class PerplexityResult:
    """How well a model predicts a text.

    The loss per word, byte and character is the mean loss per token times the tokens per word, byte,
    character; words are what white space separates, bytes those of UTF-8.

    Attributes
    ----------
    tokens, words, bytes, characters : int
        Counts for the text.
    scored_tokens : int
        Tokens that were scored; the first has no context.
    loss : float
        Mean negative log-likelihood of a token, in nats.
    perplexity, word_perplexity, byte_perplexity : float
        ``exp`` of the loss per token, word, byte.
    bits_per_byte, bits_per_character : float
        The loss in bits.
    seconds : float
        Time in the model.
    tokens_per_second : float or None
        Tokens through the model, including context, divided by that time; None if all came from a journal.
    """

    tokens: int
    scored_tokens: int
    words: int
    bytes: int
    characters: int
    loss: float
    perplexity: float
    word_perplexity: float
    byte_perplexity: float
    bits_per_byte: float
    bits_per_character: float
    seconds: float
    tokens_per_second: float | None


def perplexity(
    model: LanguageModel,
    tokenizer: Tokenizer,
    text: str,
    settings: PerplexitySettings | None = None,
    *,
    run: str = "",
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> PerplexityResult:
    """Measure a model on a text.

    Parameters
    ----------
    model : LanguageModel
        What to measure.
    tokenizer : Tokenizer
        The model's.
    text : str
        Has at least two tokens, and a full window if the last is dropped.
    settings : PerplexitySettings, optional
        How the text is cut.
    run, journal, progress : optional
        As for :func:`gpt2fast.evaluation.items.measure`.

    Raises
    ------
    ValueError
        The settings don't fit the model, or the text is too short.
    """
    settings = settings or PerplexitySettings()
    ids = encode(tokenizer, text, settings)
    if settings.limit is not None and len(ids) > settings.limit:
        ids = ids[: settings.limit]
        text = tokenizer.decode(ids)
    items = windows(len(ids), *settings.sizes(model.n_positions), drop_last=settings.drop_last)
    if not items:
        raise ValueError(f"the text is too short to measure: {len(ids)} tokens")

    def evaluate(group: Sequence[Window]) -> list[list[float]]:
        sequences = [ids[window.start : window.stop] for window in group]
        scores = model.score(sequences, [window.first - window.start for window in group])
        return [[-float(score.sum(dtype=np.float64)), len(score)] for score in scores]

    measured = measure(items, evaluate, run=run, journal=journal, progress=progress)
    scored = sum(window.stop - window.first for window in items)
    loss = math.fsum(total for total, _ in measured.values) / scored
    return _result(text, len(ids), scored, loss, measured.seconds, measured.tokens_per_second)


def encode(tokenizer: Tokenizer, text: str, settings: PerplexitySettings) -> Tokens:
    """The token ids of a text, split as the settings say; int32 [tokens]."""
    if settings.split is None:
        return np.array(tokenizer.encode(text), np.int32)
    end = tokenizer.end_of_text_id
    if end is None:
        raise ValueError("split needs a tokenizer with an end-of-text token")
    ids: list[int] = []
    for document in tokenizer.encode_batch(part.strip() for part in _pattern(settings.split).split(text)):
        ids += [*document, end]
    return np.array(ids, np.int32)


def _pattern(split: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(split)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"split must be a regular expression, got {split!r}: {error}") from None
    if pattern.groups:
        raise ValueError(f"split must have no groups, got {split!r}; write (?:...) for (...)")
    return pattern


def _result(
    text: str, tokens: int, scored: int, loss: float, seconds: float, speed: float | None
) -> PerplexityResult:
    words, size, characters = len(text.split()), len(text.encode("utf-8")), len(text)
    per_byte = loss * tokens / size if size else math.nan
    return PerplexityResult(
        tokens=tokens,
        scored_tokens=scored,
        words=words,
        bytes=size,
        characters=characters,
        loss=loss,
        perplexity=exponential(loss),
        word_perplexity=exponential(loss * tokens / words) if words else math.nan,
        byte_perplexity=exponential(per_byte),
        bits_per_byte=per_byte / math.log(2),
        bits_per_character=loss * tokens / characters / math.log(2) if characters else math.nan,
        seconds=seconds,
        tokens_per_second=speed,
    )


def exponential(value: float) -> float:
    """``exp``, or infinity where a float overflows."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
