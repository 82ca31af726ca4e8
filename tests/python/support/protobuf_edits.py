"""Changes serialised protobuf messages byte by byte, in ways that no protobuf library would write."""

from __future__ import annotations

from collections.abc import Sequence


def varint(value: int, size: int = 0) -> bytes:
    """A variable-length integer, of at least ``size`` bytes."""
    encoded = bytearray()
    while value > 0x7F or len(encoded) + 1 < size:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


def bytes_field(number: int, payload: bytes, *, wide: int = 0, size: int = 0) -> bytes:
    """A field of bytes; ``wide`` is added to its tag beyond 32 bits, ``size`` pads the tag."""
    return varint(number << 3 | 2 | wide << 32, size) + varint(len(payload)) + payload


def append_inside(data: bytes, path: Sequence[int], extra: bytes) -> bytes:
    """Append ``extra`` to the first message that the field numbers of ``path`` lead to."""
    if not path:
        return data + extra
    position = 0
    while position < len(data):
        begin = position
        tag, position = _read(data, position)
        if tag & 7 == 2:
            length, position = _read(data, position)
            start, position = position, position + length
            if tag >> 3 == path[0]:
                inner = append_inside(data[start:position], path[1:], extra)
                return data[:begin] + bytes_field(path[0], inner) + data[position:]
        elif tag & 7 == 0:
            _, position = _read(data, position)
        else:
            position += 4 if tag & 7 == 5 else 8
    raise ValueError(f"no field {path[0]} in the message")


def _read(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        shift += 7
        if byte < 0x80:
            return value, position
