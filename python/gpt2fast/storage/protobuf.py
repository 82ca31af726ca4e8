"""Reads protobuf messages of which every field is known, so that every parser understands them alike.

The format is https://protobuf.dev/programming-guides/encoding. Parsers differ in what they make of a tag
wider than 32 bits, an unknown field, a known one of another type or given twice: all are refused here. Every
length is checked against the enclosing message, so no part of the data is read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

#: Wire types: a number, bytes after their length, four bytes.
VARINT, BYTES, FIXED32 = 0, 2, 5
MAX_TAG = (1 << 32) - 1
MAX_TAG_BYTES = 5
_MAX_VALUE = (1 << 64) - 1
_MAX_NAME_BYTES = 1024


def number_tag(number: int) -> int:
    """The tag of a field that is a number."""
    return number << 3 | VARINT


def bytes_tag(number: int) -> int:
    """The tag of a field of text or bytes, or of a message."""
    return number << 3 | BYTES


def fixed32_tag(number: int) -> int:
    """The tag of a field of four bytes."""
    return number << 3 | FIXED32


class WireError(ValueError):
    """What is wrong with a message; the text does not name the file."""


@dataclass(frozen=True)
class Schema:
    """The fields that a kind of message may have.

    Attributes
    ----------
    name : str
        Of the kind, for errors.
    limits : mapping of int to int
        How often a field may come, by its tag: 8 times its number plus its wire type.
    """

    name: str
    limits: Mapping[int, int]


#: A field: its tag, the value of a number, and the bounds of its payload.
Field: TypeAlias = "tuple[int, int, int, int]"


def fields(data: bytes, position: int, stop: int, schema: Schema) -> Iterator[Field]:
    """The fields of the message in ``data[position:stop]``.

    Raises
    ------
    WireError
        The message is cut short, or has a field that the schema does not have, or too often.
    """
    limits = schema.limits
    counts: dict[int, int] = {}
    while position < stop:
        tag = data[position]
        if tag < 0x80:
            position += 1
        else:
            tag, position = _wide_tag(data, position, stop, schema)
        counts[tag] = count = counts.get(tag, 0) + 1
        if count > limits.get(tag, 0):
            raise _refused(schema, tag, count)
        wire = tag & 7
        value, begin = 0, position
        if wire == BYTES:
            length, begin = varint(data, position, stop)
            position = begin + length
        elif wire == VARINT:
            value, position = varint(data, position, stop)
        else:
            position += 4
        if position > stop:
            raise WireError("it is no ONNX model, or cut short: a field is longer than its message")
        yield tag, value, begin, position


def _wide_tag(data: bytes, position: int, stop: int, schema: Schema) -> tuple[int, int]:
    tag, end = varint(data, position, stop)
    if tag > MAX_TAG or end - position > MAX_TAG_BYTES:
        raise WireError(f"its {schema.name} has a field whose tag is wider than 32 bits")
    return tag, end


def _refused(schema: Schema, tag: int, count: int) -> WireError:
    field = f"its {schema.name} has the field {tag >> 3} of kind {tag & 7}"
    if count == 1:
        return WireError(f"{field}, which no converted model has")
    return WireError(f"{field} {count} times")


def text(data: bytes, start: int, stop: int) -> str:
    """The text in ``data[start:stop]``, of at most a kilobyte."""
    if stop - start > _MAX_NAME_BYTES:
        raise WireError(f"a name in it has {stop - start} bytes")
    try:
        return data[start:stop].decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"a name in it is not UTF-8: {error}") from None


def varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """A variable-length integer and the position after it."""
    if position < stop and (byte := data[position]) < 0x80:  # nearly all
        return byte, position + 1
    value = shift = 0
    while position < stop and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _MAX_VALUE:
                break
            return value, position
        shift += 7
    raise WireError("it is no ONNX model, or cut short: a number does not end")
