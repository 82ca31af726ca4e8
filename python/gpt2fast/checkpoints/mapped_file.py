"""A file mapped read-only, every access checked against its length; stored numbers as float32."""

from __future__ import annotations

import mmap
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast._files import open_regular
from gpt2fast.checkpoints.base import LazyTensor
from gpt2fast.errors import ModelError

#: Number formats by the names safetensors gives them; bfloat16 is kept as its 16 bits.
STORED_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}


class MappedFile:
    """A regular file, mapped read-only.

    It must stay as it is while in use: to cut it short would end the process.

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
        with open_regular(path) as file:
            self.size = os.fstat(file.fileno()).st_size
            if not self.size:
                raise ModelError(f"{path}: the file is empty")
            self._map = mmap.mmap(file.fileno(), self.size, access=mmap.ACCESS_READ)

    def check_range(self, offset: int, length: int, what: str) -> None:
        """Refuse a range that is not wholly inside the file."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ModelError(
                f"{self.path}: {what} should be at bytes {offset} to {offset + length}, "
                f"but the file has {self.size} bytes"
            )

    def read(self, offset: int, length: int, what: str) -> bytes:
        """A copy of ``length`` bytes at ``offset``."""
        self.check_range(offset, length, what)
        return self._map[offset : offset + length]

    def array(self, dtype: np.dtype[Any], offset: int, count: int, what: str) -> NDArray[Any]:
        """A read-only view of ``count`` numbers at ``offset``; nothing is read yet."""
        self.check_range(offset, count * dtype.itemsize, what)
        return np.frombuffer(self._map, dtype, count, offset)


class BoundedReader:
    """A reading position in a mapped file that refuses to take more than ``limit`` bytes at once."""

    def __init__(self, file: MappedFile, position: int, end: int, limit: int) -> None:
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
                f"{self._file.path}: a piece of {length} bytes passes the limit of {self._limit}"
            )
        data = self._file.read(self._position, min(length, self._end - self._position), "a piece")
        self._position += len(data)
        return data

    def readline(self) -> bytes:
        """Bytes up to and with the next newline."""
        ahead = self._file.read(self._position, min(self._limit, self._end - self._position), "a line")
        data = ahead[: ahead.find(b"\n") + 1] or ahead
        self._position += len(data)
        return data


def to_float32(stored: NDArray[Any], dtype_name: str) -> NDArray[np.float32]:
    """Stored numbers as a new C-contiguous float32 array."""
    if dtype_name == "BF16":
        return (np.array(stored, dtype=np.uint32, order="C") << 16).view(np.float32)
    # A double beyond float32's range becomes infinite, as in every framework; that is no reason to warn.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(stored, dtype=np.float32, order="C")


def nearest_decimal(value: float) -> float:
    """The number of at most seven digits that a value kept as float32 stands for: 1e-5, not 9.9999997e-6."""
    return float(f"{value:.7g}")


def lazy_view(stored: NDArray[Any], dtype_name: str) -> LazyTensor:
    """A tensor over a view (strided or transposed as may be) of a mapped file."""
    return LazyTensor(tuple(stored.shape), lambda start, stop: to_float32(stored[start:stop], dtype_name))


def refuse_overlaps(path: Path, ranges: list[tuple[int, int, str]]) -> None:
    """Refuse byte ranges ``(start, stop, name)`` of which two share bytes."""
    for (_, stop, first), (start, _, second) in pairwise(sorted(ranges)):
        if start < stop:
            raise ModelError(f"{path}: {first!r} and {second!r} overlap in the file")
