"""Protocol Buffers' wire format, one level of a message at a time, over a file.

https://protobuf.dev/programming-guides/encoding/: a message is a run of fields, each a tag and a payload.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpt2fast.checkpoints.binary_file import BinaryFile
from gpt2fast.errors import ModelError
from gpt2fast.storage.protobuf import MAX_TAG, MAX_TAG_BYTES, WireError
from gpt2fast.storage.protobuf import varint as read_varint

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
#: The most fields of one message; a graph has one for each node and each weight.
MAX_FIELDS = 1 << 17
_WINDOW_BYTES = 4096


@dataclass(frozen=True)
class Field:
    """One field: number and kind, the place of its tag, the bounds of its payload, and a VARINT's value."""

    number: int
    kind: int
    begin: int
    start: int
    stop: int
    value: int


def fields(file: BinaryFile, start: int, stop: int) -> Iterator[Field]:
    """The fields of the message at bytes ``start:stop``.

    Raises
    ------
    ModelError
        A field is cut short, reaches past the message, has an unknown kind or a tag wider than 32 bits, or
        there are more than ``MAX_FIELDS``.
    """
    window, base, position, count = b"", start, start, 0
    try:
        while position < stop:
            if position + 2 * _MAX_VARINT_BYTES > base + len(window):
                window, base = file.read(position, min(_WINDOW_BYTES, stop - position), "a message"), position
            field = _field(window, position - base, base)
            count += 1
            if count > MAX_FIELDS:
                raise WireError(f"more than {MAX_FIELDS} fields in one message")
            position = field.stop
            if position > stop:
                raise WireError(f"{position - field.start} bytes are wanted")
            yield field
    except WireError as error:
        raise ModelError(f"{file.path}: is cut short or corrupt at byte {position}: {error}") from None


def _field(window: bytes, at: int, base: int) -> Field:
    """The field that begins at ``window[at]``; the window begins at ``base`` in the file."""
    begin = at
    tag, at = read_varint(window, at, len(window))
    if tag > MAX_TAG or at - begin > MAX_TAG_BYTES:
        raise WireError("a field's tag is wider than 32 bits")
    number, kind, value = tag >> 3, tag & 7, 0
    if kind == BYTES:
        length, at = read_varint(window, at, len(window))
    elif kind == VARINT:
        value, end = read_varint(window, at, len(window))
        length = end - at
    elif kind in (FIXED64, FIXED32):
        length = 8 if kind == FIXED64 else 4
    else:
        raise WireError(f"a field has the kind {kind}")
    return Field(number, kind, base + begin, base + at, base + at + length, value)


def varint(file: BinaryFile, position: int, stop: int) -> tuple[int, int]:
    """The variable-length integer at a position, and the position after it."""
    data = file.read(position, max(0, min(_MAX_VARINT_BYTES, stop - position)), "a number")
    try:
        value, length = read_varint(data, 0, len(data))
    except WireError as error:
        raise ModelError(f"{file.path}: is cut short or corrupt at byte {position}: {error}") from None
    return value, position + length
