"""Writes an ONNX model without ever holding all its weights in memory.

The wire format is protobuf's (https://protobuf.dev/programming-guides/encoding); field numbers are those of
``onnx.proto``. A model above protobuf's limit of 2 GiB gets its weights in a second file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from onnx import GraphProto, ModelProto, StringStringEntryProto, TensorProto

from gpt2fast.storage.atomic import atomic_file, check_room, sync_directory

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import LazyTensor

#: The largest protobuf message.
MAX_PROTOBUF_BYTES = (1 << 31) - 1
#: Weights in a file of their own lie on page boundaries, so that they can be mapped.
PAGE_BYTES = 4096

# The largest piece of a tensor that is in memory at once.
_CHUNK_BYTES = 16 << 20
_SPARE_BYTES = 1 << 20
_FLOAT_BYTES = 4

# Field number and wire type 2 (a length, then that many bytes).
_MODEL_GRAPH = 7 << 3 | 2
_GRAPH_INITIALIZER = 5 << 3 | 2
_TENSOR_RAW_DATA = 9 << 3 | 2


def data_path(path: Path) -> Path:
    """The path of the weights of the model file ``path`` if they are not inside."""
    return path.with_name(f"{path.name}.data")


def write_model(
    path: Path,
    model: ModelProto,
    weights: Mapping[str, LazyTensor],
    *,
    external_data: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write ``model`` with ``weights`` as further initializers, float32.

    Parameters
    ----------
    path : Path
        The file to write or replace. It appears whole or not at all.
    model : ModelProto
        The model without the weights.
    weights : mapping of str to LazyTensor
        The initializers to add, by name.
    external_data : bool
        Always keep the weights in the file :func:`data_path`.
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)``.

    Returns
    -------
    list of Path
        The files written: ``path``, and the weights' file if there is one.
    """
    total = sum(_weight_bytes(tensor) for tensor in weights.values())
    report = _Report(total, progress)
    check_room(path.parent, total + len(weights) * PAGE_BYTES + model.ByteSize() + _SPARE_BYTES)
    graph_bytes = _graph_bytes(model.graph, weights)
    if external_data or graph_bytes + _SPARE_BYTES > MAX_PROTOBUF_BYTES:
        return _write_two_files(path, model, weights, report)
    with atomic_file(path) as file:
        outer = ModelProto()
        outer.CopyFrom(model)
        outer.ClearField("graph")
        file.write(outer.SerializeToString(deterministic=True))
        file.write(_field(_MODEL_GRAPH, graph_bytes))
        file.write(model.graph.SerializeToString(deterministic=True))
        for name, tensor in weights.items():
            file.write(_field(_GRAPH_INITIALIZER, _initializer_bytes(name, tensor)))
            file.write(_initializer(name, tensor).SerializeToString(deterministic=True))
            file.write(_field(_TENSOR_RAW_DATA, _weight_bytes(tensor)))
            _write_values(file, tensor, report)
    return [path]


class _Report:
    """Counts bytes for a progress callback."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress

    def advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def chunks(tensor: LazyTensor) -> Iterator[bytes]:
    """The values of a tensor as little-endian float32, a few rows at a time."""
    row_bytes = _FLOAT_BYTES * math.prod(tensor.shape[1:])
    rows = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, tensor.shape[0], rows):
        stop = min(start + rows, tensor.shape[0])
        yield tensor.read_rows(start, stop).astype("<f4", copy=False).tobytes()


def _write_values(file: BinaryIO, tensor: LazyTensor, report: _Report) -> None:
    for chunk in chunks(tensor):
        file.write(chunk)
        report.advance(len(chunk))


def _write_two_files(
    path: Path, model: ModelProto, weights: Mapping[str, LazyTensor], report: _Report
) -> list[Path]:
    complete = ModelProto()
    complete.CopyFrom(model)
    target = data_path(path)
    with atomic_file(path) as file:
        with atomic_file(target) as data:
            for name, tensor in weights.items():
                offset = -(-data.tell() // PAGE_BYTES) * PAGE_BYTES
                data.seek(offset)
                complete.graph.initializer.append(_external(name, tensor, target.name, offset))
                _write_values(data, tensor, report)
            # An old model must never be found with new weights.
            path.unlink(missing_ok=True)
            sync_directory(path.parent)
        file.write(complete.SerializeToString(deterministic=True))
    return [path, target]


def _initializer(name: str, tensor: LazyTensor) -> TensorProto:
    """An initializer without its values."""
    return TensorProto(name=name, dims=tensor.shape, data_type=TensorProto.FLOAT)


def _external(name: str, tensor: LazyTensor, location: str, offset: int) -> TensorProto:
    entries = {"location": location, "offset": offset, "length": _weight_bytes(tensor)}
    initializer = _initializer(name, tensor)
    initializer.data_location = TensorProto.EXTERNAL
    initializer.external_data.extend(
        StringStringEntryProto(key=key, value=str(value)) for key, value in entries.items()
    )
    return initializer


def _graph_bytes(graph: GraphProto, weights: Mapping[str, LazyTensor]) -> int:
    total = int(graph.ByteSize())
    for name, tensor in weights.items():
        size = _initializer_bytes(name, tensor)
        total += len(_field(_GRAPH_INITIALIZER, size)) + size
    return total


def _initializer_bytes(name: str, tensor: LazyTensor) -> int:
    values = _weight_bytes(tensor)
    return int(_initializer(name, tensor).ByteSize()) + len(_field(_TENSOR_RAW_DATA, values)) + values


def _weight_bytes(tensor: LazyTensor) -> int:
    return _FLOAT_BYTES * math.prod(tensor.shape)


def _field(key: int, length: int) -> bytes:
    """The start of a length-delimited field; both numbers in base 128, low digits first."""
    return _varint(key) + _varint(length)


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
