"""Reads the parts of an ONNX file that the search for weights needs; large tensors stay in the file.

The outer levels of the protobuf message (ModelProto, GraphProto, TensorProto of onnx.proto) are scanned
here, so that an initializer is a place in the file rather than a copy; the package ``onnx`` parses small
messages.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt2fast.checkpoints.binary_file import BinaryFile, Memory
from gpt2fast.checkpoints.onnx_limits import OnnxLimits
from gpt2fast.checkpoints.stored_tensor import STORED_DTYPES, StoredTensor
from gpt2fast.checkpoints.wire_format import BYTES, Field, fields
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import file_inside

#: TensorProto.DataType -> name of the number format.
_DTYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    16: "BF16",
}
#: The field of TensorProto for numbers that are not raw.
_TYPED_FIELDS = {
    "F32": "float_data",
    "F64": "double_data",
    "I32": "int32_data",
    "I64": "int64_data",
    "U32": "uint64_data",
    "U64": "uint64_data",
}
# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 15, 11, 12
_TENSOR_FLOAT_DATA, _TENSOR_RAW_DATA = 4, 9
_EXTERNAL = 1
#: Operators that may run for ever; the file is run once to compare it with what was read from it.
_LOOPS = frozenset(("Loop", "Scan", "SequenceMap"))

_MAX_NODES = 30_000
_MAX_NODE_BYTES = 256 << 20
_MAX_INITIALIZERS = 50_000
_MAX_DESCRIPTION = 1 << 16
_MAX_RANK = 8


@dataclass
class OnnxFile:
    """Nodes in the file's order, initializers by name, inputs and outputs with their declared dimensions.

    If a model with a past and one without are merged, the nodes are those of the one without; ``use_past``
    is the input that chooses.
    """

    path: Path
    nodes: list[Any] = field(default_factory=list)
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    inputs: dict[str, list[int | None] | None] = field(default_factory=dict)
    outputs: dict[str, list[int | None] | None] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    use_past: str | None = None


def read_onnx(path: Path) -> OnnxFile:
    """Scan an ONNX file.

    Parameters
    ----------
    path : Path
        The file; external data must be beside it.

    Raises
    ------
    ModelError
        The file is truncated or corrupt, a tensor doesn't fit its data, or external data leads elsewhere.
    """
    return _Scanner(path).scan()


def tensor_from_proto(tensor: Any, where: str) -> StoredTensor:
    """A tensor whose numbers are inside a message.

    Raises
    ------
    ModelError
        Its data is elsewhere, has another type, or does not fill its dimensions.
    """
    dtype_name, shape = _type_and_shape(tensor, where)
    dtype = STORED_DTYPES[dtype_name]
    if tensor.data_location == _EXTERNAL:
        raise ModelError(f"{where}: external data is read for initializers only")
    if tensor.HasField("raw_data"):
        data = tensor.raw_data
    elif dtype_name in _TYPED_FIELDS:
        data = np.array(getattr(tensor, _TYPED_FIELDS[dtype_name]), dtype=dtype).tobytes()
    else:
        # Numbers of up to 16 bits are stored as their bits, each in an int32.
        data = np.array(tensor.int32_data, dtype=np.int32).astype(f"<u{dtype.itemsize}").tobytes()
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ModelError(
            f"{where}: {len(data)} bytes of data do not fill the shape {list(shape)} of {dtype_name}"
        )
    return StoredTensor.contiguous(Memory(data), dtype_name, 0, shape)


def _type_and_shape(tensor: Any, where: str) -> tuple[str, tuple[int, ...]]:
    if tensor.data_type not in _DTYPES:
        raise ModelError(f"{where}: the element type {tensor.data_type} is not supported")
    shape = tuple(tensor.dims)
    if len(shape) > _MAX_RANK or any(size < 0 for size in shape):
        raise ModelError(f"{where}: the shape {list(shape)[:_MAX_RANK]} is not possible")
    return _DTYPES[tensor.data_type], shape


class _Scanner:
    """Walks one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = BinaryFile(Path(os.path.realpath(path)))
        self._result = OnnxFile(path, files=[self._file.path])
        self._external: dict[str, BinaryFile] = {}
        self._node_bytes = 0
        self._limits = OnnxLimits(str(path))

    def scan(self) -> OnnxFile:
        graphs = []
        for part in fields(self._file, 0, self._file.size):
            if part.number == _MODEL_FUNCTIONS:
                raise ModelError(f"{self._path}: has functions of its own; export it with them inlined")
            if part.number == _MODEL_GRAPH:
                graphs.append(part)
        if len(graphs) != 1:
            raise ModelError(f"{self._path}: is not an ONNX model: it has {len(graphs)} graphs")
        self._scan_graph(graphs[0])
        result = self._result
        if result.use_past is not None and (
            result.use_past not in result.inputs or result.use_past in result.tensors
        ):
            raise ModelError(f"{self._path}: has an If whose condition is not an input; export it without it")
        return result

    def _scan_graph(self, graph: Field) -> None:
        import onnx

        for part in fields(self._file, graph.start, graph.stop):
            if part.number == _GRAPH_NODE:
                self._node_bytes += part.stop - part.start
                if self._node_bytes > _MAX_NODE_BYTES:
                    raise ModelError(f"{self._path}: the graph has more nodes than any GPT-2")
                self._add_node(self._parse(onnx.NodeProto, self._payload(part)))
            elif part.number == _GRAPH_INITIALIZER:
                self._scan_initializer(part)
            elif part.number == _GRAPH_SPARSE:
                raise ModelError(f"{self._path}: sparse weights are not supported")
            elif part.number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
                self._check_description(part)
                value = self._parse(onnx.ValueInfoProto, self._payload(part))
                self._check_text(value.name)
                declared = self._result.inputs if part.number == _GRAPH_INPUT else self._result.outputs
                declared[value.name] = _dimensions(value)

    def _add_node(self, node: Any) -> None:
        self._refuse_loops(node)
        self._check_text(node.op_type, node.name, *node.input, *node.output)
        branches = {attribute.name: attribute.g for attribute in node.attribute if attribute.HasField("g")}
        if (
            node.op_type == "If"
            and set(branches) == {"then_branch", "else_branch"}
            and len(node.input) == 1
            and self._result.use_past is None
        ):
            self._result.use_past = node.input[0]
            self._add_branch(branches["else_branch"], node.output)
            return
        if len(self._result.nodes) >= _MAX_NODES:
            raise ModelError(f"{self._path}: the graph has more nodes than any GPT-2")
        self._result.nodes.append(node)

    def _refuse_loops(self, node: Any) -> None:
        if node.op_type in _LOOPS:
            raise ModelError(f"{self._path}: has a {node.op_type}, which no GPT-2 needs")
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                for inner in graph.node:
                    self._refuse_loops(inner)

    def _add_branch(self, branch: Any, outputs: Sequence[str]) -> None:
        """Replace the If that has these outputs by the nodes and weights of one of its branches."""
        import onnx

        if branch.sparse_initializer or len(branch.output) != len(outputs):
            raise ModelError(f"{self._path}: a branch of an If has sparse weights, or other outputs than it")
        for tensor in branch.initializer:
            self._add_initializer(tensor)
        for node in branch.node:
            self._add_node(node)
        for value, name in zip(branch.output, outputs, strict=True):
            self._check_text(value.name)
            # The branch is a scope of its own, so the names may be the same.
            if value.name != name:
                self._add_node(onnx.helper.make_node("Identity", [value.name], [name]))

    def _scan_initializer(self, part: Field) -> None:
        import onnx

        data: list[Field] = []
        description = bytearray()
        for inner in fields(self._file, part.start, part.stop):
            if inner.kind == BYTES and inner.number in (_TENSOR_FLOAT_DATA, _TENSOR_RAW_DATA):
                data.append(inner)
            else:
                description += self._file.read(inner.begin, inner.stop - inner.begin, "a tensor")
        self._add_initializer(self._parse(onnx.TensorProto, bytes(description)), data)

    def _add_initializer(self, tensor: Any, data: Sequence[Field] = ()) -> None:
        """Record where the numbers of an initializer are: ``data``, another file, or the message."""
        entries = [text for entry in tensor.external_data for text in (entry.key, entry.value)]
        self._check_text(tensor.name, *entries)
        where = f"{self._path}: the initializer {tensor.name[:200]!r}"
        if tensor.name in self._result.tensors or len(self._result.tensors) >= _MAX_INITIALIZERS:
            raise ModelError(f"{where} occurs twice, or there are more than {_MAX_INITIALIZERS}")
        if tensor.data_location == _EXTERNAL:
            stored = self._external_tensor(tensor, where)
        elif len(data) == 1:
            place = data[0]
            if place.number == _TENSOR_FLOAT_DATA and tensor.data_type != 1:
                raise ModelError(f"{where}: has float data of another type")
            stored = self._in_file(self._file, tensor, place.start, place.stop - place.start, where)
        elif data:
            raise ModelError(f"{where}: its data is in several pieces")
        else:
            stored = tensor_from_proto(tensor, where)
        self._result.tensors[tensor.name] = stored

    def _external_tensor(self, tensor: Any, where: str) -> StoredTensor:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "").removeprefix("./")
        if location not in self._external:
            opened = BinaryFile(file_inside(self._path.parent, location))
            self._external[location] = opened
            self._result.files.append(opened.path)
        file = self._external[location]
        dtype_name, shape = _type_and_shape(tensor, where)
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries.get("length") or math.prod(shape) * STORED_DTYPES[dtype_name].itemsize)
        except ValueError:
            raise ModelError(f"{where}: offset and length of its external data must be numbers") from None
        return self._in_file(file, tensor, offset, length, where)

    def _in_file(self, file: BinaryFile, tensor: Any, offset: int, length: int, where: str) -> StoredTensor:
        dtype_name, shape = _type_and_shape(tensor, where)
        if length != math.prod(shape) * STORED_DTYPES[dtype_name].itemsize:
            raise ModelError(
                f"{where}: {length} bytes of data do not fill the shape {list(shape)} of {dtype_name}"
            )
        file.check_range(offset, length, f"the initializer {tensor.name[:200]!r}")
        return StoredTensor.contiguous(file, dtype_name, offset, shape)

    def _parse(self, message: Any, data: bytes) -> Any:
        self._limits.check(data, message)
        try:
            return message.FromString(data)
        except Exception as error:  # protobuf's DecodeError, which the package onnx does not export
            raise ModelError(f"{self._path}: is cut short or corrupt: {error}") from None

    def _check_text(self, *texts: object) -> None:
        # Protobuf returns text that is not UTF-8 as bytes.
        if not all(isinstance(text, str) for text in texts):
            raise ModelError(f"{self._path}: is corrupt: a name in it is not UTF-8 text")

    def _payload(self, part: Field) -> bytes:
        return self._file.read(part.start, part.stop - part.start, "a message")

    def _check_description(self, part: Field) -> None:
        if part.stop - part.start > _MAX_DESCRIPTION:
            raise ModelError(
                f"{self._path}: the description of an input or output is larger than {_MAX_DESCRIPTION}"
            )


def _dimensions(value: Any) -> list[int | None] | None:
    """The declared dimensions, None where they vary; None if their number varies too."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or len(tensor.shape.dim) > _MAX_RANK:
        return None
    return [size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim]
