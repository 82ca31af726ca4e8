"""Text from tokens as they arrive."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING

from gpt2fast.text.clean_up import IncrementalCleanUp

if TYPE_CHECKING:
    from gpt2fast.text.tokenizer import Tokenizer

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class IncrementalDecoder:
    """Text from tokens as they arrive; never a part of a character.

    The deltas, joined, equal the decoded whole: bytes that turn out to be invalid UTF-8 become U+FFFD as soon
    as that is certain, and a space that a decoder drops at the end is held back.

    Parameters
    ----------
    tokenizer : Tokenizer
        The tokenizer of the ids.
    skip_special_tokens : bool
        Whether special tokens decode to nothing.

    Raises
    ------
    ValueError
        The tokenizer's decoder makes a text of all tokens together.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._silent = tokenizer.special_token_ids if skip_special_tokens else frozenset[int]()
        self._is_first = True
        # Tokens that are not shown yet: the bytes that count for `limit`, and those to show.
        self._waiting: deque[tuple[bytes, bytes, int]] = deque()
        self._counted = 0
        self._characters = 0
        self._text = _TextOfBytes() if tokenizer.decodes_bytes else _TextOfPieces(tokenizer)
        self._clean_up = IncrementalCleanUp() if tokenizer.cleans_up else None

    @property
    def counted_bytes(self) -> int:
        """How many bytes of :meth:`Tokenizer.byte_table` the tokens shown so far have."""
        return self._counted

    @property
    def position(self) -> int:
        """Where the next token's text begins: the characters of all tokens that may be shown so far.

        Those held back are among them, as if something followed; a part of a character is not.
        """
        pending = self._text.pending()
        if self._clean_up is not None:
            pending = self._clean_up.pending(pending)
        return self._characters + len(pending)

    def feed(self, ids: Sequence[int], *, limit: int | None = None, final: bool = False) -> str:
        """The text that these ids complete; with ``final``, also what was held back.

        Parameters
        ----------
        ids : sequence of int
            The next tokens.
        limit : int, optional
            How much may be shown so far, counted from the beginning in bytes of
            :meth:`Tokenizer.byte_table`, special tokens included. Default: everything.
        final : bool
            Whether nothing follows.
        """
        for token in map(index, ids):
            counted = self._tokenizer.text_within(token)
            if token in self._silent:
                self._waiting.append((counted, b"", token))
            else:
                shown = self._tokenizer.text_of_first(token) if self._is_first else counted
                self._waiting.append((counted, shown, token))
                # The decoder of whole texts leaves out ids that the tokenizer doesn't have.
                self._is_first = self._is_first and self._tokenizer.token_name(token) is None
        text = "".join(self._released(limit))
        text += self._text.rest(cut=bool(self._waiting)) if final else ""
        if self._clean_up is not None:
            text = self._clean_up.feed(text, final=final)
        self._characters += len(text)
        return text

    def feed_bytes(self, data: bytes, *, final: bool = False) -> str:
        """:meth:`feed` for bytes, with a byte-level tokenizer."""
        if not isinstance(self._text, _TextOfBytes):
            raise ValueError("feed_bytes needs a byte-level tokenizer, and this one isn't; use feed")
        return self._text.feed(data, 0, whole=True) + (self._text.rest(cut=False) if final else "")

    def _released(self, limit: int | None) -> list[str]:
        texts = []
        while self._waiting:
            counted, shown, token = self._waiting[0]
            room = len(counted) if limit is None else limit - self._counted
            if room < len(counted):
                part = len(shown) - len(counted) + room
                if room > 0 and part > 0:
                    texts.append(self._text.feed(shown[:part], token, whole=False))
                    self._waiting[0] = (counted[room:], shown[part:], token)
                    self._counted = limit or 0
                break
            self._waiting.popleft()
            self._counted += len(counted)
            if token not in self._silent:
                texts.append(self._text.feed(shown, token, whole=True))
        return texts


class _TextOfBytes:
    """Joined bytes as UTF-8."""

    def __init__(self) -> None:
        self._decoder = _Utf8Decoder("replace")

    def feed(self, data: bytes, token: int, *, whole: bool) -> str:
        return self._decoder.decode(data)

    def pending(self) -> str:
        return ""

    def rest(self, *, cut: bool) -> str:
        return self._decoder.decode(b"", True)


class _TextOfPieces:
    """Joined texts of tokens, as other decoders than the byte-level one join them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces = tokenizer.pieces
        self._run = b""  # of tokens that stand for bytes
        self._held_back = ""  # a space, unless nothing follows
        self._character, self._left = self._pieces.decoding.stripped

    def feed(self, data: bytes, token: int, *, whole: bool) -> str:
        name = self._tokenizer.token_name(token)
        if name is None:
            return ""
        if self._pieces.is_byte(name):
            self._run += data
            return ""
        text = self._held_back + self._end_of_run() + data.decode("utf-8", "replace")
        self._held_back = ""
        if whole and self._pieces.ends_word(name) and text.endswith(" "):
            text, self._held_back = text[:-1], " "
        return self._stripped(text)

    def pending(self) -> str:
        run = self._run.decode("utf-8", "ignore") if _may_go_on(self._run) else "\ufffd" * len(self._run)
        return self._without_stripped(self._held_back + run)[0]

    def rest(self, *, cut: bool) -> str:
        text = (self._held_back if cut else "") + self._end_of_run()
        self._held_back = ""
        return self._stripped(text)

    def _end_of_run(self) -> str:
        run, self._run = self._run, b""
        try:
            return run.decode("utf-8")
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    def _stripped(self, text: str) -> str:
        text, self._left = self._without_stripped(text)
        return text

    def _without_stripped(self, text: str) -> tuple[str, int]:
        """A text without what is stripped from the beginning, and how much may be stripped from the next."""
        left = self._left
        while left and text:
            if not text.startswith(self._character):
                return text, 0
            text = text[len(self._character) :]
            left -= 1
        return text, left


def _may_go_on(data: bytes) -> bool:
    """Whether bytes are the beginning of valid UTF-8."""
    try:
        _Utf8Decoder().decode(data)
    except UnicodeDecodeError:
        return False
    return True
