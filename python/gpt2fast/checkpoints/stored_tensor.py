"""The place and format of a tensor's numbers; any part of them can be read, as float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.base import LazyTensor
from gpt2fast.checkpoints.binary_file import ByteSource, Memory

#: Number formats by their names in safetensors; bfloat16 is kept as its 16 bits.
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
# Scattered numbers are read together with what lies between them, up to this many times their own size, or
# this many bytes; beyond that piece by piece.
_MOST_SPREAD = 4
_SMALL_SPAN = 1 << 16


@dataclass(frozen=True)
class StoredTensor:
    """A strided view of numbers in a file or in memory.

    Attributes
    ----------
    source : ByteSource
        What holds the numbers; whoever makes the view checks that all of them are inside it.
    dtype_name : str
        One of :data:`STORED_DTYPES`.
    offset : int
        Byte of the first number.
    shape, strides : tuple of int
        As for an array: numbers, and bytes (none negative), along each axis.
    """

    source: ByteSource
    dtype_name: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @classmethod
    def contiguous(
        cls, source: ByteSource, dtype_name: str, offset: int, shape: Sequence[int]
    ) -> StoredTensor:
        """Numbers that lie one after another, the last axis innermost."""
        itemsize = STORED_DTYPES[dtype_name].itemsize
        strides = tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return cls(source, dtype_name, offset, tuple(shape), strides)

    @classmethod
    def of_array(cls, array: NDArray[Any], dtype_name: str) -> StoredTensor:
        """A copy of an array as numbers of a format."""
        data = np.ascontiguousarray(array, STORED_DTYPES[dtype_name]).tobytes()
        return cls.contiguous(Memory(data), dtype_name, 0, np.shape(array))

    @property
    def size(self) -> int:
        """The count of numbers."""
        return math.prod(self.shape)

    def transpose(self, order: Sequence[int] | None = None) -> StoredTensor:
        """The axes in another order; by default reversed."""
        order = range(len(self.shape))[::-1] if order is None else order
        shape, strides = (tuple(values[axis] for axis in order) for values in (self.shape, self.strides))
        return replace(self, shape=shape, strides=strides)

    def narrow(self, axis: int, start: int, stop: int) -> StoredTensor:
        """The part from ``start`` to ``stop`` along an axis, clipped as slices are."""
        start, stop, _ = slice(start, stop).indices(self.shape[axis])
        shape = (*self.shape[:axis], max(0, stop - start), *self.shape[axis + 1 :])
        return replace(self, shape=shape, offset=self.offset + start * self.strides[axis])

    def read(self) -> NDArray[Any]:
        """The numbers as stored, in a new array of ``shape`` that keeps their order in memory."""
        order = sorted(range(len(self.shape)), key=lambda axis: -self.strides[axis])
        ordered = self.transpose(order)
        values: NDArray[Any] = np.empty(ordered.shape, STORED_DTYPES[self.dtype_name])
        ordered._fill(values)
        result: NDArray[Any] = values.transpose(sorted(range(len(order)), key=order.__getitem__))
        return result

    def lazy(self) -> LazyTensor:
        """These numbers as a tensor of a checkpoint."""
        return LazyTensor(self.shape, self._read_rows)

    def _read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start}:{stop} of a tensor are outside its {self.shape[0]} rows")
        return to_float32(self.narrow(0, start, stop).read(), self.dtype_name)

    def _fill(self, values: NDArray[Any]) -> None:
        """Read into ``values``, a contiguous array of this shape; strides descend."""
        if not values.size:
            return
        steps = [(size, stride) for size, stride in zip(self.shape, self.strides, strict=True) if size > 1]
        wanted = [stride for size, stride in zip(values.shape, values.strides, strict=True) if size > 1]
        if [stride for _, stride in steps] == wanted:
            self.source.read_into(self.offset, values.reshape(-1).view(np.uint8))
            return
        span = values.itemsize + sum((size - 1) * stride for size, stride in steps)
        if span <= max(_SMALL_SPAN, _MOST_SPREAD * values.nbytes):
            together = np.empty(span, np.uint8)
            self.source.read_into(self.offset, together)
            values[...] = np.ndarray(self.shape, values.dtype, together, strides=self.strides)
            return
        axis = next(axis for axis, size in enumerate(self.shape) if size > 1)
        half = self.shape[axis] // 2
        for start, stop in ((0, half), (half, self.shape[axis])):
            part = (slice(None),) * axis + (slice(start, stop),)
            self.narrow(axis, start, stop)._fill(values[part])


def to_float32(stored: NDArray[Any], dtype_name: str) -> NDArray[np.float32]:
    """Stored numbers as a C-contiguous float32 array; the same array if it is one already."""
    if dtype_name == "BF16":
        return (stored.astype(np.uint32, order="C") << 16).view(np.float32)
    # A double beyond float32's range becomes infinite, as in every framework, without a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(stored, dtype=np.float32, order="C")


def nearest_decimal(value: float) -> float:
    """The number of at most seven digits that a float32 value stands for: 1e-5, not 9.9999997e-6."""
    return float(f"{value:.7g}")
