"""Reads safetensors files, any range of rows at a time.

The format is the one of https://huggingface.co/docs/safetensors: 8 bytes of little-endian header length, a
JSON header (name -> dtype, shape, data_offsets), the data. It is read here rather than through the
`safetensors` package because that one returns no bfloat16 without PyTorch, accepts a header with a name
twice, and maps the file, so that a file cut short meanwhile kills the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2fast.checkpoints.base import LazyTensor
from gpt2fast.checkpoints.binary_file import BinaryFile
from gpt2fast.checkpoints.stored_tensor import StoredTensor
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import parse_json_object

#: The package safetensors allows 100 MB, which take a gigabyte to parse; the largest GPT-2 needs 70 KB.
MAX_HEADER_BYTES = 8 << 20
MAX_RANK = 8

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
_READABLE = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies in its file: ``[begin, end)`` in bytes from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile(Mapping[str, LazyTensor]):
    """The tensors of one file by name.

    Looking one up raises ModelError unless its dtype is F16, BF16, F32 or F64.

    Parameters
    ----------
    path : Path
        The file, links resolved.

    Raises
    ------
    ModelError
        The file is not a safetensors file, is cut short, or its header contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = BinaryFile(path)
        self._entries = _read_header(self._file)

    def __getitem__(self, name: str) -> LazyTensor:
        entry = self._entries[name]
        if entry.dtype not in _READABLE or not entry.shape:
            raise ModelError(
                f"{self._path}: the tensor {name!r} has dtype {entry.dtype} and shape {list(entry.shape)}; "
                f"weights must be {', '.join(_READABLE)} of at least one dimension"
            )
        self._file.check_range(entry.begin, entry.end - entry.begin, f"the tensor {name!r}")
        return StoredTensor.contiguous(self._file, entry.dtype, entry.begin, entry.shape).lazy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _read_header(file: BinaryFile) -> dict[str, TensorEntry]:
    """The tensors that a file holds."""
    path, size = file.path, file.size
    length = int.from_bytes(file.read(0, min(size, 8), "the header's length"), "little")
    if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
        raise ModelError(
            f"{path}: not a safetensors file, or cut short: it has {size} bytes and claims "
            f"a header of {length}; the limit is {MAX_HEADER_BYTES}"
        )
    header = parse_json_object(file.read(8, length, "the header"), path)
    _check_metadata(header.pop("__metadata__", {}), path)
    data_start = 8 + length
    entries = {name: _entry(name, value, data_start, path) for name, value in header.items()}
    _check_coverage(entries, data_start, size, path)
    return entries


def _check_metadata(metadata: Any, path: Path) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelError(f"{path}: __metadata__ must map strings to strings")


def _entry(name: str, value: Any, data_start: int, path: Path) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelError(f"{path}: the tensor {name!r} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ModelError(f"{path}: the tensor {name!r} has the unknown dtype {dtype!r}")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise ModelError(f"{path}: the tensor {name!r} has the impossible shape {str(shape)[:80]}")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ModelError(f"{path}: the tensor {name!r} has the impossible data_offsets {str(offsets)[:80]}")
    begin, end = offsets
    wanted = math.prod(shape) * _ITEM_BYTES[dtype]
    if end - begin != wanted:
        raise ModelError(
            f"{path}: the tensor {name!r} ({dtype} {shape}) needs {wanted} bytes, its data_offsets "
            f"span {end - begin}"
        )
    return TensorEntry(dtype, tuple(shape), data_start + begin, data_start + end)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_coverage(entries: Mapping[str, TensorEntry], data_start: int, size: int, path: Path) -> None:
    """Raise ModelError unless the tensors make up the data exactly: no overlap, no hole, nothing beyond."""
    position = data_start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            kind = "overlaps another" if entry.begin < position else "leaves a hole before it"
            raise ModelError(f"{path}: the tensor {name!r} {kind}")
        position = entry.end
    if position != size:
        raise ModelError(
            f"{path}: cut short or corrupt: its tensors end at byte {position}, the file at {size}"
        )
