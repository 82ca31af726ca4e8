"""Texts of results that are decoded when they are first read."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

from gpt2fast.inference.results import Generation, UnreadText
from gpt2fast.text.lazy_tokenizer import LazyTokenizer

if TYPE_CHECKING:
    from gpt2fast.text.tokenizer import IncrementalDecoder


class OutputText(UnreadText):
    """The text of an output, up to ``kept_bytes``."""

    __slots__ = ("_kept_bytes", "_token_ids", "_tokenizer")

    def __init__(self, tokenizer: LazyTokenizer, token_ids: list[int], kept_bytes: int | None = None) -> None:
        self._tokenizer = tokenizer
        # A copy: the result's list may be changed before the text is read.
        self._token_ids = tuple(token_ids)
        self._kept_bytes = kept_bytes

    def decode(self) -> str:
        """The text."""
        data = self._tokenizer.get().decode_bytes(self._token_ids)
        return data[: self._kept_bytes].decode("utf-8", "replace")

    def at_hand(self) -> bool:
        """Whether the tokenizer is loaded."""
        return self._tokenizer.is_loaded


class EchoedText(UnreadText):
    """The text of a prompt followed by that of its result."""

    __slots__ = ("_prompt", "_result")

    def __init__(self, tokenizer: LazyTokenizer, result: Generation) -> None:
        self._prompt = OutputText(tokenizer, result.prompt_token_ids)
        self._result = result

    def decode(self) -> str:
        """The text."""
        return self._prompt.decode() + self._result.text

    def at_hand(self) -> bool:
        """Whether the tokenizer is loaded."""
        return self._prompt.at_hand()


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
        self.token_ids = tuple(token_ids)  # of its own, as an output's
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
    """Decodes the pieces of one text, in their order, when the text of one is first read."""

    def __init__(self, tokenizer: LazyTokenizer) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._decoder: IncrementalDecoder | None = None
        self._shown_bytes = 0
        self._held_back = b""

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
        tokenizer = self.tokenizer.get()
        if self._decoder is None:
            from gpt2fast.text.tokenizer import IncrementalDecoder

            self._decoder = IncrementalDecoder(tokenizer)
        data = self._held_back + tokenizer.decode_bytes(piece.token_ids)
        count = len(data) if piece.safe_bytes is None else max(0, piece.safe_bytes - self._shown_bytes)
        shown, self._held_back = data[:count], data[count:]
        self._shown_bytes += len(shown)
        return self._decoder.feed_bytes(shown, final=piece.last)


def output_text(tokenizer: LazyTokenizer | None, token_ids: list[int], kept_bytes: int | None = None) -> str:
    """The text of an output for a field that takes unread text; empty without a tokenizer."""
    return "" if tokenizer is None else cast("str", OutputText(tokenizer, token_ids, kept_bytes))
