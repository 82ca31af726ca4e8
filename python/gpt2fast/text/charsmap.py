"""SentencePiece's maps of characters in a tokenizer's normalizer, before the library reads them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Any

from gpt2fast.errors import ModelError

_LENGTH_BYTES = 4


def check_charsmaps(normalizer: Any, where: str) -> None:
    """Raise ModelError if a map in a ``tokenizer.json``'s normalizer claims more bytes than it has.

    A map begins with the length of its first part (``DecodePrecompiledCharsMap`` of SentencePiece's
    ``normalizer.cc``). The library reserves memory for that, and the process ends if there is none.
    """
    for encoded in _charsmaps(normalizer):
        try:
            charsmap = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError, TypeError):
            continue  # the library refuses it
        claimed, left = int.from_bytes(charsmap[:_LENGTH_BYTES], "little"), len(charsmap) - _LENGTH_BYTES
        if claimed > left >= 0:
            raise ModelError(
                f"{where}: the map of characters in its normalizer (precompiled_charsmap) claims {claimed} "
                f"bytes and has {left}"
            )


def _charsmaps(normalizer: Any) -> Iterator[Any]:
    waiting = [normalizer]
    while waiting:
        step = waiting.pop()
        if isinstance(step, list):
            waiting += step
        elif isinstance(step, dict):
            waiting += (value for value in step.values() if isinstance(value, (list, dict)))
            if "precompiled_charsmap" in step:
                yield step["precompiled_charsmap"]
