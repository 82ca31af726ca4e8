"""What a tokenizer's decoder does to tokens, as far as it decides whether a text can be decoded in pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

#: Decoders that look at nothing but a token and whether it is the first.
_BY_PLACE = ("WordPiece", "Metaspace")
#: Decoders that look at a token alone.
_ALONE = ("Replace", "Strip")
#: Tokens to put around another to see its text; one that the decoder leaves as it is will do.
_PROBES = ("a", "0", "é", "中")
_BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Decoding:
    """How tokens become a text.

    Attributes
    ----------
    name : str
        Of the decoder, for errors.
    by_bytes : bool
        Whether tokens are written in the byte alphabet, and their bytes joined are the text.
    in_pieces : bool
        Whether each token adds a text of its own, which depends on whether it is the first, and whether any
        follows.
    word_end : str or None
        The mark at the end of tokens that stands for a space, except in a text's last token.
    byte_tokens : bool
        Whether tokens such as ``<0xE3>`` stand for bytes. A run of them that isn't UTF-8 decodes to one
        U+FFFD a byte.
    stripped : tuple of (str, int)
        A character, and how many of it are removed from the beginning of the text.
    """

    name: str
    by_bytes: bool = False
    in_pieces: bool = True
    word_end: str | None = None
    byte_tokens: bool = False
    stripped: tuple[str, int] = ("", 0)


def read_decoding(decoder: Any) -> Decoding:
    """The properties of a decoder of the package ``tokenizers``, or of none."""
    if decoder is None:
        return Decoding("none")
    return _decoding(json.loads(decoder.__getstate__()))


def _decoding(values: dict[str, Any]) -> Decoding:
    name = values["type"]
    if name == "Sequence":
        return _sequence(values["decoders"])
    if name == "ByteLevel":
        return Decoding(name, by_bytes=True)
    if name == "BPEDecoder":
        return Decoding(name, word_end=values["suffix"])
    if name == "ByteFallback":
        return Decoding(name, byte_tokens=True)
    return Decoding(name, in_pieces=name in (*_BY_PLACE, *_ALONE, "Fuse"))


def _sequence(stages: list[dict[str, Any]]) -> Decoding:
    names = [stage["type"] for stage in stages]
    whole = Decoding(f"Sequence of {', '.join(names)}" if names else "Sequence")
    if names and set(names[1:]) <= {"Fuse"} and names[0] in ("ByteLevel", "BPEDecoder"):
        return replace(_decoding(stages[0]), name=whole.name)
    fused = names.index("Fuse") if "Fuse" in names else len(names)
    before, after = stages[:fused], stages[fused + 1 :]
    kinds = [stage["type"] for stage in before]
    # Tokens of bytes are joined by their decoder, so that a later one sees other tokens.
    if "ByteFallback" in kinds[:-1] or not set(kinds) <= {*_BY_PLACE, *_ALONE, "ByteFallback"}:
        return replace(whole, in_pieces=False)
    whole = replace(whole, byte_tokens="ByteFallback" in kinds)
    after = [stage for stage in after if stage["type"] != "Fuse"]
    if not after:
        return whole
    strip = after[0]
    if len(after) > 1 or strip["type"] != "Strip" or strip["stop"] != 0:
        return replace(whole, in_pieces=False)
    return replace(whole, stripped=(strip["content"], strip["start"]))


class TokenPieces:
    """The texts of single tokens, as the decoder itself makes them.

    Parameters
    ----------
    decoding : Decoding
        The decoder's properties.
    decoder : object
        The decoder of the package ``tokenizers``, or None.
    tokens : iterable of str
        The vocabulary.

    Raises
    ------
    ValueError
        Tokens have no texts of their own.
    """

    def __init__(self, decoding: Decoding, decoder: Any, tokens: Iterable[str]) -> None:
        self.decoding = decoding
        self._decode = " ".join if decoder is None else decoder.decode
        probes = (one for one in _PROBES if one != decoding.stripped[0] and self._decode([one]) == one)
        self._probe = next(probes, "")
        # What such a mark becomes depends on what follows only at a token's end.
        end = decoding.word_end
        is_odd = end is not None and (not end or any(_has_within(token, end) for token in tokens))
        if not decoding.in_pieces or not self._probe or is_odd:
            raise ValueError(
                f"the tokenizer's decoder ({decoding.name}) makes a text of all tokens together: single "
                f"tokens have none, so that streams and stop_strings are not possible; use generate"
            )
        self._after = self._decode([self._probe] * 2)[len(self._probe) :]

    def within(self, token: str | None) -> bytes:
        """The text of a token with others on both sides; the byte of one that stands for a byte."""
        if token is None:
            return b""
        if self.is_byte(token):
            return bytes([int(token[3:5], 16)])
        text = self._decode([self._probe, token, self._probe])
        return str(text[len(self._probe) : len(text) - len(self._after)]).encode("utf-8")

    def first(self, token: str) -> bytes:
        """The text of a token at the beginning, before anything is stripped, with others after it."""
        if self.decoding.stripped[1] or self.is_byte(token):
            return self.within(token)
        text = self._decode([token, self._probe])
        return str(text[: len(text) - len(self._after)]).encode("utf-8")

    def is_byte(self, token: str) -> bool:
        """Whether a token stands for a byte."""
        return self.decoding.byte_tokens and _BYTE_TOKEN.fullmatch(token) is not None

    def ends_word(self, token: str) -> bool:
        """Whether the text of a token within a text ends in a space that its last one lacks."""
        return self.decoding.word_end is not None and token.endswith(self.decoding.word_end)


def _has_within(token: str, mark: str) -> bool:
    """Whether a mark is in a token elsewhere than at its end."""
    return token.find(mark) not in (-1, len(token) - len(mark))
