"""Bounds what a tokenizer's file makes of texts: one from strangers may double them again and again."""

from __future__ import annotations

import base64
import json
from math import prod
from typing import Any

from gpt2fast.errors import ModelError

#: Far beyond what the steps of any known tokenizer could do together.
_MOST_GROWTH = 1 << 14
#: The most characters that one can become, by the step that does it; those of other steps stay one.
_CHARACTERS = {
    **dict.fromkeys(("NFKC", "NFKD"), 18),
    **dict.fromkeys(("NFC", "NFD", "ByteLevel"), 4),
    **dict.fromkeys(("Lowercase", "Metaspace"), 2),
    "BertNormalizer": 24,
}
#: Of a word that WordPiece cuts (100 in BERT's), and of a piece of Unigram (16 in SentencePiece's).
_MOST_CHARACTERS = 1000
# Of UTF-8: bytes that begin a character become ones, and the others go.
_ONES, _CONTINUING = bytes([0, *[1] * 255]), bytes(range(0x80, 0xC0))
_LISTS = ("normalizers", "pretokenizers", "decoders")


def check_growth(backend: Any, where: str) -> None:
    """Raise ModelError if the steps of a tokenizer of the package can multiply the length of a text.

    Each step alone is harmless; forty that double a text make a terabyte of a word.
    """
    encoding = [*_steps(backend.normalizer), *_steps(backend.pre_tokenizer)]
    for what, steps in (("normalizer and pre_tokenizer", encoding), ("decoder", _steps(backend.decoder))):
        if prod(map(_growth, steps)) > _MOST_GROWTH:
            raise ModelError(
                f"{where}: the {len(steps)} steps of its {what} can make a text more than {_MOST_GROWTH} "
                f"times as long"
            )


def check_lengths(backend: Any, vocabulary: Any, where: str) -> None:
    """Raise ModelError if WordPiece may cut words, or Unigram has pieces, that are far too long.

    The time for a word grows with the cube of its length, that for a text with its longest piece.
    """
    longest = getattr(backend.model, "max_input_chars_per_word", 0)
    if isinstance(vocabulary, list):
        longest = max((len(piece) for piece, _ in vocabulary), default=0)
    if longest > _MOST_CHARACTERS:
        raise ModelError(
            f"{where}: words or pieces of {longest} characters (max_input_chars_per_word, or vocab of a "
            f"Unigram); the limit is {_MOST_CHARACTERS}"
        )


def _steps(part: Any) -> list[dict[str, Any]]:
    """What a part consists of, as the package writes it."""
    steps, waiting = [], [] if part is None else [json.loads(part.__getstate__())]
    while waiting:
        step = waiting.pop()
        inner = next((step[name] for name in _LISTS if name in step), None)
        if inner is None:
            steps.append(step)
        else:
            waiting += inner
    return steps


def _growth(step: dict[str, Any]) -> int:
    kind = step["type"]
    if kind == "Replace":
        return _growth_of_replacing(step["pattern"], len(step["content"]))
    if kind == "Prepend":
        return 1 + len(step["prepend"])
    if kind == "Precompiled":
        return _longest(base64.b64decode(step["precompiled_charsmap"]))
    return _CHARACTERS.get(kind, 1)


def _growth_of_replacing(pattern: dict[str, str], new: int) -> int:
    if "String" in pattern:
        return max(1, -(-new // max(1, len(pattern["String"]))))
    return 1 + new  # an expression may match where nothing is


def _longest(charsmap: bytes) -> int:
    """The characters of the longest of a map's texts: after a length, and as much, each ends with a NUL."""
    texts = charsmap[4 + int.from_bytes(charsmap[:4], "little") :]
    characters = texts.translate(_ONES, _CONTINUING)
    # They may be millions, so they are not looked at one by one.
    low, high = 1, _MOST_GROWTH + 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if b"\1" * middle in characters else (low, middle - 1)
    return low
