"""Protocol Buffers' wire format, one level of a message at a time, over a file.

https://protobuf.dev/programming-guides/encoding/: a message is a run of fields, each a tag and a payload.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpt2fast.checkpoints.binary_file import BinaryFile
from gpt2fast.errors import ModelError
from gpt2fast.storage.protobuf import MAX_TAG, MAX_TAG_BYTES

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
#: Of one message: a graph has a field for each node and each weight.
MAX_FIELDS = 1 << 17
_MAX_VALUE = (1 << 64) - 1


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
    position = start
    count = 0
    while position < stop:
        begin = position
        tag, position = varint(file, position, stop)
        count += 1
        if tag > MAX_TAG or position - begin > MAX_TAG_BYTES:
            raise ModelError(f"{file.path}: is corrupt at byte {begin}: a field's tag is wider than 32 bits")
        if count > MAX_FIELDS:
            raise ModelError(f"{file.path}: has more than {MAX_FIELDS} fields in one message")
        number, kind = tag >> 3, tag & 7
        value = 0
        if kind == BYTES:
            length, position = varint(file, position, stop)
        elif kind == VARINT:
            value, end = varint(file, position, stop)
            length = end - position
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ModelError(f"{file.path}: is corrupt at byte {begin}: a field has the kind {kind}")
        if length > stop - position:
            raise ModelError(f"{file.path}: is cut short or corrupt: {length} bytes are wanted at {position}")
        yield Field(number, kind, begin, position, position + length, value)
        position += length


def varint(file: BinaryFile, position: int, stop: int) -> tuple[int, int]:
    """The variable-length integer at a position, and the position after it."""
    value = 0
    data = file.read(position, max(0, min(_MAX_VARINT_BYTES, stop - position)), "a number")
    for i, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if value > _MAX_VALUE:
                break
            return value, position + i + 1
    raise ModelError(f"{file.path}: is cut short or corrupt at byte {position}")
