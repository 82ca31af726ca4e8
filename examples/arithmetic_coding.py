"""Arithmetic coding in exact integers: symbols with integer shares of a whole <-> bytes.

The interval [low, high] of ``PRECISION`` bits shrinks to each symbol's share; leading bits that low and high
agree on are written. When they straddle the middle closely, a bit is kept pending until the side is known.
"""

from __future__ import annotations

PRECISION = 62
_FULL = (1 << PRECISION) - 1
_HALF = 1 << (PRECISION - 1)
_QUARTER = 1 << (PRECISION - 2)


class Encoder:
    """Symbols -> bytes. The wholes must stay below 2^(PRECISION - 2)."""

    def __init__(self) -> None:
        self._low, self._high, self._pending = 0, _FULL, 0
        self._bits: list[int] = []

    def encode(self, start: int, stop: int, whole: int) -> None:
        """Add the symbol whose share of ``whole`` is from ``start`` to ``stop``."""
        size = self._high - self._low + 1
        self._high = self._low + size * stop // whole - 1
        self._low += size * start // whole
        while True:
            if self._high < _HALF:
                self._write(0)
            elif self._low >= _HALF:
                self._write(1)
            elif self._low >= _QUARTER and self._high < _HALF + _QUARTER:
                self._pending += 1
                self._low -= _QUARTER
                self._high -= _QUARTER
            else:
                return
            self._low = (self._low << 1) & _FULL
            self._high = ((self._high << 1) & _FULL) | 1

    def finish(self) -> bytes:
        """The code of all symbols; bits after its end count as zeros."""
        self._pending += 1
        self._write(int(self._low >= _QUARTER))
        self._bits += [0] * (-len(self._bits) % 8)
        return int("1" + "".join(map(str, self._bits)), 2).to_bytes(len(self._bits) // 8 + 1, "big")[1:]

    def _write(self, bit: int) -> None:
        self._bits += [bit] + [1 - bit] * self._pending
        self._pending = 0


class Decoder:
    """Bytes -> symbols: ask for the place, find the symbol there, remove it."""

    def __init__(self, code: bytes) -> None:
        self._code = code
        self._position = 0
        self._low, self._high, self._value = 0, _FULL, 0
        for _ in range(PRECISION):
            self._value = self._value << 1 | self._read()

    def place(self, whole: int) -> int:
        """A number below ``whole``, inside the next symbol's share of it."""
        return ((self._value - self._low + 1) * whole - 1) // (self._high - self._low + 1)

    def remove(self, start: int, stop: int, whole: int) -> None:
        """Go on after the symbol whose share of ``whole`` is from ``start`` to ``stop``."""
        size = self._high - self._low + 1
        self._high = self._low + size * stop // whole - 1
        self._low += size * start // whole
        while True:
            if self._high < _HALF:
                pass
            elif self._low >= _HALF:
                self._shift(_HALF)
            elif self._low >= _QUARTER and self._high < _HALF + _QUARTER:
                self._shift(_QUARTER)
            else:
                return
            self._low <<= 1
            self._high = self._high << 1 | 1
            self._value = self._value << 1 | self._read()

    def _shift(self, amount: int) -> None:
        self._low -= amount
        self._high -= amount
        self._value -= amount

    def _read(self) -> int:
        byte, bit = divmod(self._position, 8)
        self._position += 1
        return self._code[byte] >> (7 - bit) & 1 if byte < len(self._code) else 0
