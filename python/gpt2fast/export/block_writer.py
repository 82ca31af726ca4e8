"""Writes a large file so that reading its map is fast."""

from __future__ import annotations

from typing import BinaryIO

#: A multiple of the size of large pages on all common systems.
BLOCK_BYTES = 8 << 20


class BlockWriter:
    """Passes a file's bytes to the system in large blocks, aligned to their size.

    The system caches a file just written in pieces no larger than the writes. Pieces that can be large
    pages are mapped as such; with fewer addresses to translate, weights are read up to a tenth faster.

    Parameters
    ----------
    file : BinaryIO
        Open for writing, at its beginning.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._block = memoryview(bytearray(BLOCK_BYTES))
        self._filled = 0
        #: Bytes written so far.
        self.position = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        left = memoryview(data).cast("B")
        while left:
            part = left[: BLOCK_BYTES - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            self.position += len(part)
            left = left[len(part) :]
            if self._filled == BLOCK_BYTES:
                self._hand_over()

    def pad(self, position: int) -> None:
        """Append zeros up to a position."""
        self.write(bytes(position - self.position))

    def finish(self) -> None:
        """Write the remaining bytes. Nothing may be written afterwards."""
        self._hand_over()

    def _hand_over(self) -> None:
        self._file.write(self._block[: self._filled])
        self._filled = 0
