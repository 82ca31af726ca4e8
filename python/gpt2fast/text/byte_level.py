"""GPT-2's byte alphabet: a printable character for each byte, in which vocabularies are written."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

# Bytes that stand for themselves in a vocabulary; the others follow from U+0100 on, in order.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PRINTABLE)]
#: The character that stands for each byte in a byte-level vocabulary.
BYTE_ALPHABET = [
    chr(byte) if byte in set(_PRINTABLE) else chr(0x100 + _OTHERS.index(byte)) for byte in range(256)
]
# Alphabet character -> the byte as a Latin-1 character; other characters map outside Latin-1.
_TO_LATIN1 = dict.fromkeys(_OTHERS, 0xFFFF) | {ord(c): byte for byte, c in enumerate(BYTE_ALPHABET)}
#: Bytes that are no UTF-8, as ``surrogateescape`` writes them.
ESCAPED_BYTES = re.compile("([\udc80-\udcff]+)")


def in_alphabet(text: str) -> str:
    """A text's bytes in the alphabet; bytes that are no UTF-8 are escaped in it."""
    return "".join(BYTE_ALPHABET[byte] for byte in text.encode("utf-8", "surrogateescape"))


def byte_table(vocabulary: dict[str, int], added: dict[int, str], count: int) -> tuple[bytes, array[int]]:
    """The bytes of ``count`` tokens and their offsets, in few operations on the whole vocabulary.

    A token with a character outside the alphabet stands for its own text, and so do added tokens.
    """
    tokens = [""] * count
    for token, token_id in vocabulary.items():
        tokens[token_id] = token
    for token_id, content in added.items():
        tokens[token_id] = in_alphabet(content)
    try:
        data = "".join(tokens).translate(_TO_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        return joined(map(_token_bytes, tokens))
    return data, array("i", accumulate(map(len, tokens), initial=0))


def joined(pieces: Iterable[bytes]) -> tuple[bytes, array[int]]:
    """Pieces one after another, and where each begins and the last ends."""
    parts = list(pieces)
    return b"".join(parts), array("i", accumulate(map(len, parts), initial=0))


def _token_bytes(token: str) -> bytes:
    try:
        return token.translate(_TO_LATIN1).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode("utf-8")


def without_prefix_space(pre_tokenizer: Any) -> Any:
    """A byte-level pre-tokenizer that adds no space in front; None for one that isn't byte-level."""
    if pre_tokenizer is None:
        return None
    values = json.loads(pre_tokenizer.__getstate__())
    if not _drop_prefix_space(values):
        return None
    copy: Any = type(pre_tokenizer).__new__(
        type(pre_tokenizer), *([[]] if values["type"] == "Sequence" else [])
    )
    copy.__setstate__(json.dumps(values).encode())
    return copy


def for_continuations(tokenizer_json: str) -> str:
    """A byte-level ``tokenizer.json`` that makes tokens of a text as it is."""
    values = json.loads(tokenizer_json)
    _drop_prefix_space(values["pre_tokenizer"])
    values["normalizer"] = None
    return json.dumps(values)


def _drop_prefix_space(pre_tokenizer: dict[str, Any]) -> bool:
    """Change the values of a pre-tokenizer; False if it isn't byte-level."""
    is_sequence = pre_tokenizer["type"] == "Sequence"
    stages = pre_tokenizer["pretokenizers"] if is_sequence else [pre_tokenizer]
    byte_level = [stage for stage in stages if stage["type"] == "ByteLevel"]
    for stage in byte_level:
        stage["add_prefix_space"] = False
    return bool(byte_level)
