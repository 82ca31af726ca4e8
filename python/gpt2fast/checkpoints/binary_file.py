"""Bytes of a file or in memory, read at any offset; every access is checked against their length."""

from __future__ import annotations

import os
import threading
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gpt2fast.errors import ModelError
from gpt2fast.storage.files import open_regular, refuse_substitute

_BEGINNING = 64

# Bytes that are first read for a line.
_FIRST_LINE_BYTES = 128


class ByteSource(Protocol):
    """What holds the numbers of a tensor."""

    def read_into(self, offset: int, target: NDArray[np.uint8]) -> None:
        """Fill ``target``, contiguous bytes, from ``offset`` on."""


class BinaryFile:
    """A regular file, open for reading as long as this object lives.

    It is read, not mapped: if it becomes shorter meanwhile, reading raises an error, where a map would kill
    the process. May be used from several threads.

    Parameters
    ----------
    path : Path
        The file, links resolved.

    Raises
    ------
    ModelError
        The path is not a regular file, or it is empty.
    OSError
        The file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_regular(path)
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self.size = os.fstat(self._file.fileno()).st_size
        if not self.size:
            raise ModelError(f"{path}: the file is empty")
        refuse_substitute(self._file.read(_BEGINNING), path)

    def check_range(self, offset: int, length: int, what: str) -> None:
        """Raise ModelError unless the range lies inside the file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ModelError(
                f"{self.path}: {what} should be at bytes {offset} to {offset + length}, "
                f"but the file has {self.size} bytes"
            )

    def read(self, offset: int, length: int, what: str) -> bytes:
        """``length`` bytes at ``offset``."""
        self.check_range(offset, length, what)
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(length)
        self._check_length(len(data), length)
        return data

    def read_into(self, offset: int, target: NDArray[np.uint8]) -> None:
        """Fill ``target``, contiguous bytes, from ``offset`` on."""
        with self._lock:
            self._file.seek(offset)
            count = self._file.readinto(target.data)  # type: ignore[attr-defined]
        self._check_length(count, target.size)

    def _check_length(self, found: int, wanted: int) -> None:
        if found != wanted:
            raise ModelError(f"{self.path}: the file became shorter while it was being read")


class Memory:
    """Bytes that are already in memory."""

    def __init__(self, data: bytes | NDArray[np.uint8]) -> None:
        self._data = np.frombuffer(data, np.uint8)

    def read_into(self, offset: int, target: NDArray[np.uint8]) -> None:
        """Fill ``target``, contiguous bytes, from ``offset`` on."""
        target[:] = self._data[offset : offset + target.size]


class BoundedReader:
    """A position in a file; reads more than ``limit`` bytes at once are refused."""

    def __init__(self, file: BinaryFile, position: int, end: int, limit: int) -> None:
        self._file = file
        self._end = end
        self._limit = limit
        self._position = position

    def tell(self) -> int:
        """The position in the file."""
        return self._position

    def read(self, length: int) -> bytes:
        """At most ``length`` bytes."""
        if not 0 <= length <= self._limit:
            raise ModelError(
                f"{self._file.path}: a piece of {length} bytes exceeds the limit of {self._limit}"
            )
        data = self._file.read(self._position, min(length, self._end - self._position), "a piece")
        self._position += len(data)
        return data

    def readline(self) -> bytes:
        """Bytes up to and including the next newline."""
        length = _FIRST_LINE_BYTES
        while True:
            available = min(length, self._limit, self._end - self._position)
            ahead = self._file.read(self._position, available, "a line")
            end = ahead.find(b"\n") + 1
            if end or available < length:
                break
            length *= 2
        data = ahead[:end] or ahead
        self._position += len(data)
        return data


def refuse_overlaps(path: Path, ranges: list[tuple[int, int, str]]) -> None:
    """Raise ModelError if two of the byte ranges ``(start, stop, name)`` overlap."""
    for (_, stop, first), (start, _, second) in pairwise(sorted(ranges)):
        if start < stop:
            raise ModelError(f"{path}: {first!r} and {second!r} overlap in the file")
