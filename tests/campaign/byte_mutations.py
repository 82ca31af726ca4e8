"""Damages a file in ways that break readers: numbers at their limits, cuts, repetitions, moved pieces."""

from __future__ import annotations

import random
import struct

#: Numbers at which arithmetic wraps or a sign changes.
_LIMITS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    1 << 31,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 62,
    (1 << 63) - 1,
)
#: Those of 64 bits too.
LIMITS_64 = (*_LIMITS, 1 << 63, (1 << 64) - 1, (1 << 64) - 32)
_TOKENS = (
    b"18446744073709551615",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"[[[[[[[[",
    b"{}",
    b'"../../escape"',
    b"/etc/passwd",
    b"\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
)
_LARGEST_PIECE = 64


def mutate(data: bytes, seed: int) -> bytes:
    """The data with one to four kinds of damage; the same seed gives the same result."""
    generator = random.Random(seed)
    for _ in range(generator.choice((1, 1, 2, 4))):
        operation = generator.choice(_OPERATIONS)
        data = operation(generator, data, _position(generator, len(data)))
    return data


def _position(generator: random.Random, size: int) -> int:
    """Anywhere, but more often near the ends, where the headers are."""
    near = min(size, 400)
    place = generator.random()
    if place < 0.3:
        return generator.randrange(near + 1)
    if place < 0.4:
        return size - generator.randrange(near + 1)
    return generator.randrange(size + 1)


def _flip_bit(generator: random.Random, data: bytes, at: int) -> bytes:
    return (
        data[:at] + bytes(byte ^ (1 << generator.randrange(8)) for byte in data[at : at + 1]) + data[at + 1 :]
    )


def _set_byte(generator: random.Random, data: bytes, at: int) -> bytes:
    return data[:at] + bytes([generator.randrange(256)]) + data[at + 1 :]


def _set_32(generator: random.Random, data: bytes, at: int) -> bytes:
    return data[:at] + struct.pack("<I", generator.choice(_LIMITS) & 0xFFFFFFFF) + data[at + 4 :]


def _set_64(generator: random.Random, data: bytes, at: int) -> bytes:
    return data[:at] + struct.pack("<Q", generator.choice(LIMITS_64)) + data[at + 8 :]


def _put_token(generator: random.Random, data: bytes, at: int) -> bytes:
    token = generator.choice(_TOKENS)
    return data[:at] + token + data[at + generator.choice((0, len(token))) :]


def _change_digit(generator: random.Random, data: bytes, at: int) -> bytes:
    """The next decimal digit: sizes in JSON and names of layers."""
    for position in range(at, min(at + 1000, len(data))):
        if 0x30 <= data[position] <= 0x39:
            return data[:position] + str(generator.choice((0, 1, 9, 10**18))).encode() + data[position + 1 :]
    return data


def _cut(generator: random.Random, data: bytes, at: int) -> bytes:
    return data[:at]


def _remove(generator: random.Random, data: bytes, at: int) -> bytes:
    return data[:at] + data[at + generator.randrange(1, _LARGEST_PIECE) :]


def _repeat(generator: random.Random, data: bytes, at: int) -> bytes:
    piece = data[at : at + generator.randrange(1, _LARGEST_PIECE)]
    return data[:at] + piece * generator.choice((2, 3, 50)) + data[at + len(piece) :]


def _move(generator: random.Random, data: bytes, at: int) -> bytes:
    piece = data[at : at + generator.randrange(1, _LARGEST_PIECE)]
    rest = data[:at] + data[at + len(piece) :]
    target = _position(generator, len(rest))
    return rest[:target] + piece + rest[target:]


def _append(generator: random.Random, data: bytes, at: int) -> bytes:
    return data + generator.randbytes(generator.choice((1, 8, 1000)))


_OPERATIONS = (
    *(_flip_bit, _set_byte, _set_32, _set_64, _put_token, _change_digit),
    *(_cut, _remove, _repeat, _move, _append),
)
