"""Damages protobuf messages field by field; the lengths around the damage are right."""

from __future__ import annotations

import random
from dataclasses import dataclass

from support.protobuf_edits import bytes_field, varint

_NUMBERS = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
_CONTENTS = (
    *(b"", b"\0", b"a", b"Loop", b"If", b"com.microsoft", b"../x", b"/etc/passwd", b"location", b"\xff" * 9),
    *(b"\x08\x01" * 1000, b"\0" * 5000, b"n" * 70_000, "\ud800".encode("utf-8", "surrogatepass")),
)
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_DEEPEST = 10


@dataclass(frozen=True)
class Field:
    """One field of a message: its number, its wire type, and what it holds."""

    number: int
    kind: int
    value: int | bytes


def mutate_protobuf(generator: random.Random, data: bytes) -> bytes:
    """A message with one change at a random depth; ValueError if it is none."""
    return _change(generator, data, 0)


def fields_of(data: bytes) -> list[Field]:
    """The fields of a message; ValueError if it is none."""
    fields, at = [], 0
    while at < len(data):
        tag, at = read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = read_varint(data, at)
            fields.append(Field(tag >> 3, kind, value))
            continue
        if kind not in (_FIXED_64, _BYTES, _FIXED_32):
            raise ValueError("no wire type")
        size, at = read_varint(data, at) if kind == _BYTES else ((8 if kind == _FIXED_64 else 4), at)
        if at + size > len(data):
            raise ValueError("cut short")
        fields.append(Field(tag >> 3, kind, data[at : at + size]))
        at += size
    return fields


def message_of(fields: list[Field]) -> bytes:
    """The bytes of fields."""
    out = []
    for field in fields:
        if isinstance(field.value, int):
            out.append(varint(field.number << 3 | field.kind) + varint(field.value))
        elif field.kind == _BYTES:
            out.append(bytes_field(field.number, field.value))
        else:
            out.append(varint(field.number << 3 | field.kind) + field.value)
    return b"".join(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("cut short")


def _change(generator: random.Random, data: bytes, depth: int) -> bytes:
    fields = fields_of(data)
    if not fields:
        return message_of([_new(generator)])
    # Large contents (weights) are no more likely than others.
    at = generator.randrange(len(fields))
    field = fields[at]
    if (
        isinstance(field.value, bytes)
        and field.kind == _BYTES
        and depth < _DEEPEST
        and generator.random() < 0.85
    ):
        try:
            inner = _change(generator, field.value, depth + 1)
        except ValueError:
            inner = _other_content(generator, field.value)
        fields[at] = Field(field.number, _BYTES, inner)
    else:
        _change_field(generator, fields, at)
    return message_of(fields)


def _change_field(generator: random.Random, fields: list[Field], at: int) -> None:
    field = fields[at]
    choice = generator.randrange(7)
    if choice == 0:
        del fields[at]
    elif choice == 1:
        fields.insert(generator.randrange(len(fields) + 1), field)
    elif choice == 2:
        fields.insert(generator.randrange(len(fields)), fields.pop(at))
    elif choice == 3:
        fields[at] = Field(
            generator.choice((field.number + 1, max(1, field.number - 1), 100)), field.kind, field.value
        )
    elif choice == 4:
        fields[at:at] = [_new(generator)] * generator.choice((1, 3, 2000))
    elif isinstance(field.value, int):
        number = generator.choice((*_NUMBERS, field.value + 1, max(0, field.value - 1)))
        fields[at] = Field(field.number, _VARINT, number & ((1 << 64) - 1))
    else:
        fields[at] = Field(field.number, _BYTES, _other_content(generator, field.value))


def _new(generator: random.Random) -> Field:
    number = generator.randrange(1, 25)
    if generator.random() < 0.5:
        return Field(number, _VARINT, generator.choice(_NUMBERS))
    return Field(number, _BYTES, generator.choice(_CONTENTS))


def _other_content(generator: random.Random, value: bytes) -> bytes:
    choice = generator.randrange(4)
    if choice == 0:
        return generator.choice(_CONTENTS)
    if choice == 1:
        return value[: generator.randrange(len(value) + 1)]
    if choice == 2:
        return value + value
    at = generator.randrange(len(value) + 1)
    return value[:at] + generator.randbytes(generator.choice((1, 4, 8))) + value[at + 1 :]
