"""Texts of results that are decoded when they are first read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from gpt2fast.inference.results import UnreadText
from gpt2fast.text.lazy_tokenizer import LazyTokenizer

if TYPE_CHECKING:
    from gpt2fast.text.incremental import IncrementalDecoder
    from gpt2fast.text.tokenizer import Tokenizer


class OutputText(UnreadText):
    """The text of an output, up to ``kept_bytes``, after that of the prompt ``before`` it."""

    __slots__ = ("_before", "_kept_bytes", "_token_ids", "_tokenizer")

    def __init__(
        self,
        tokenizer: LazyTokenizer,
        token_ids: list[int],
        kept_bytes: int | None = None,
        before: list[int] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        # Copies: the result's lists may be changed before the text is read.
        self._token_ids = tuple(token_ids)
        self._kept_bytes = kept_bytes
        self._before = tuple(before or ())

    def decode(self) -> str:
        """The text."""
        tokenizer = self._tokenizer.get()
        if self._kept_bytes is None:
            return tokenizer.decode((*self._before, *self._token_ids))
        decoder = _incremental(tokenizer)
        text = decoder.feed(self._before)
        kept = decoder.counted_bytes + self._kept_bytes
        return text + decoder.feed(self._token_ids, limit=kept, final=True)

    def at_hand(self) -> bool:
        """Whether the tokenizer is loaded."""
        return self._tokenizer.is_loaded


class StreamPiece(UnreadText):
    """What a step added to a text, up to ``safe_bytes``, counted from the output's start.

    It refers to the piece before it, and neither it nor the decoder to a later one: a stream whose text
    nobody reads makes no reference cycle.
    """

    __slots__ = ("_decoder", "before", "last", "safe_bytes", "text", "token_ids")

    def __init__(
        self,
        decoder: StreamDecoder,
        before: StreamPiece | None,
        token_ids: list[int],
        safe_bytes: int | None,
        last: bool,
    ) -> None:
        self._decoder = decoder
        self.before = before  # until this one is decoded
        self.token_ids = tuple(token_ids)  # a copy: the result's list may be changed
        self.safe_bytes = safe_bytes
        self.last = last
        self.text: str | None = None  # until it is decoded

    def decode(self) -> str:
        """The text."""
        return self._decoder.text_of(self)

    def at_hand(self) -> bool:
        """Whether the tokenizer is loaded."""
        return self._decoder.tokenizer.is_loaded


class StreamDecoder:
    """Decodes the pieces of one text, in their order, when the text of one is first read.

    Parameters
    ----------
    tokenizer : LazyTokenizer
        The model's.
    before : sequence of int
        The prompt, if the text goes on where it ends.
    """

    def __init__(self, tokenizer: LazyTokenizer, before: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self._before = tuple(before)
        self._lock = threading.Lock()
        self._decoder: IncrementalDecoder | None = None
        self._bytes_before = 0

    def text_of(self, piece: StreamPiece) -> str:
        """The text of a piece; those before it are decoded first."""
        with self._lock:
            waiting = []
            unread: StreamPiece | None = piece
            while unread is not None and unread.text is None:
                waiting.append(unread)
                unread = unread.before
            for one in reversed(waiting):
                one.text, one.before = self._decoded(one), None
        return cast("str", piece.text)

    def _decoded(self, piece: StreamPiece) -> str:
        text = ""
        if self._decoder is None:
            self._decoder = _incremental(self.tokenizer.get())
            text = self._decoder.feed(self._before)
            self._bytes_before = self._decoder.counted_bytes
        limit = None if piece.safe_bytes is None else self._bytes_before + piece.safe_bytes
        return text + self._decoder.feed(piece.token_ids, limit=limit, final=piece.last)


def _incremental(tokenizer: Tokenizer) -> IncrementalDecoder:
    from gpt2fast.text.incremental import IncrementalDecoder

    return IncrementalDecoder(tokenizer)


def output_text(
    tokenizer: LazyTokenizer | None,
    token_ids: list[int],
    kept_bytes: int | None = None,
    before: list[int] | None = None,
) -> str:
    """The text of an output for a field that takes unread text; empty without a tokenizer."""
    return "" if tokenizer is None else cast("str", OutputText(tokenizer, token_ids, kept_bytes, before))
