"""Checks a model.onnx before ONNX Runtime sees it: the step graph of its configuration over weights.bin.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. A graph holds what our
writer writes and nothing else; what passes may be given to ONNX Runtime as it is.
"""

from __future__ import annotations

import struct
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from gpt2fast.errors import ModelError
from gpt2fast.storage.protobuf import (
    Schema,
    WireError,
    bytes_tag,
    fields,
    fixed32_tag,
    number_tag,
    text,
)
from gpt2fast.storage.step_graph import DOMAIN, INPUT_NAMES, OPSETS, OUTPUT_NAMES, StepNode, step_nodes

if TYPE_CHECKING:
    from gpt2fast.config import ModelConfig

WEIGHTS_NAME = "weights.bin"
PAGE_BYTES = 4096

# More of anything than a graph of MAX_GRAPH_BYTES has room for.
_ANY = 1 << 30
_MAX_RANK = 8

_MODEL_GRAPH, _MODEL_OPSET = bytes_tag(7), bytes_tag(8)
_MODEL = Schema("model", {number_tag(1): 1, bytes_tag(2): 1, _MODEL_GRAPH: 1, _MODEL_OPSET: 4})
_OPSET_DOMAIN, _OPSET_VERSION = bytes_tag(1), number_tag(2)
_OPSET = Schema("imported operators", {_OPSET_DOMAIN: 1, _OPSET_VERSION: 1})
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_TENSOR = bytes_tag(1), bytes_tag(2), bytes_tag(5)
_GRAPH_INPUT, _GRAPH_OUTPUT = bytes_tag(11), bytes_tag(12)
_GRAPH = Schema(
    "graph",
    {
        _GRAPH_NODE: _ANY,
        _GRAPH_NAME: 1,
        _GRAPH_TENSOR: _ANY,
        _GRAPH_INPUT: len(INPUT_NAMES),
        _GRAPH_OUTPUT: len(OUTPUT_NAMES),
    },
)
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR = map(bytes_tag, (1, 2, 3, 4))
_NODE_ATTRIBUTE, _NODE_DOMAIN = bytes_tag(5), bytes_tag(7)
_NODE = Schema(
    "node",
    {
        _NODE_INPUT: 8,
        _NODE_OUTPUT: 2,
        _NODE_NAME: 1,
        _NODE_OPERATOR: 1,
        _NODE_ATTRIBUTE: 8,
        _NODE_DOMAIN: 1,
    },
)
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT = bytes_tag(1), fixed32_tag(2)
_ATTRIBUTE_INTEGER, _ATTRIBUTE_TYPE = number_tag(3), number_tag(20)
_ATTRIBUTE = Schema(
    "attribute", {_ATTRIBUTE_NAME: 1, _ATTRIBUTE_FLOAT: 1, _ATTRIBUTE_INTEGER: 1, _ATTRIBUTE_TYPE: 1}
)
_TENSOR_SIZE, _TENSOR_TYPE, _TENSOR_NAME = number_tag(1), number_tag(2), bytes_tag(8)
_TENSOR_ENTRY, _TENSOR_PLACE = bytes_tag(13), number_tag(14)
_TENSOR = Schema(
    "tensor",
    {_TENSOR_SIZE: _MAX_RANK, _TENSOR_TYPE: 1, _TENSOR_NAME: 1, _TENSOR_ENTRY: 4, _TENSOR_PLACE: 1},
)
_ENTRY_KEY, _ENTRY_VALUE = bytes_tag(1), bytes_tag(2)
_ENTRY = Schema("entry of a tensor", {_ENTRY_KEY: 1, _ENTRY_VALUE: 1})
# An input or output, its type (a tensor's), the dimensions of that, and one of these.
_VALUE_NAME, _VALUE_TYPE = bytes_tag(1), bytes_tag(2)
_VALUE = Schema("input or output", {_VALUE_NAME: 1, _VALUE_TYPE: 1})
_TYPE = Schema("type", {bytes_tag(1): 1})
_SHAPE_OF_TYPE = bytes_tag(2)
_TYPE_OF_TENSOR = Schema("tensor type", {number_tag(1): 1, _SHAPE_OF_TYPE: 1})
_SHAPE = Schema("shape", {bytes_tag(1): _MAX_RANK})
_DIMENSION_NAME = bytes_tag(2)
_DIMENSION = Schema("dimension", {number_tag(1): 1, _DIMENSION_NAME: 1})

# TensorProto.DataType of float32 and bytes; TensorProto.DataLocation; AttributeProto.AttributeType.
_FLOAT, _UINT8 = 1, 2
_EXTERNAL = 1
_FLOAT_KIND, _INTEGER_KIND = 1, 2


class StoredTensor(NamedTuple):
    """A tensor in ``weights.bin``: packed (bytes) or float32, its shape, and its offset in bytes."""

    name: str
    is_packed: bool
    shape: tuple[int, ...]
    offset: int


def check_graph(data: bytes, config: ModelConfig, weights_bytes: int, *, where: str) -> list[StoredTensor]:
    """Check the content of a ``model.onnx``.

    Parameters
    ----------
    data : bytes
        The file.
    config : ModelConfig
        The configuration that the graph must be of.
    weights_bytes : int
        Size of ``weights.bin``.
    where : str
        The file's name, for errors.

    Returns
    -------
    list of StoredTensor
        Where its weights are.

    Raises
    ------
    ModelError
        It is not an ONNX model, or holds anything that the graph of a converted model does not.
    """
    try:
        return _check_model(data, config, weights_bytes)
    except WireError as error:
        raise ModelError(f"{where}: {error}") from None


def _check_model(data: bytes, config: ModelConfig, weights_bytes: int) -> list[StoredTensor]:
    graph = None
    opsets: dict[str, int] = {}
    for tag, _, start, stop in fields(data, 0, len(data), _MODEL):
        if tag == _MODEL_GRAPH:
            graph = (start, stop)
        elif tag == _MODEL_OPSET:
            opsets.update(_opset(data, start, stop))
    if graph is None:
        raise WireError("it is no ONNX model: it holds no graph")
    if opsets != OPSETS:
        raise WireError(f"it imports the operators of {opsets}, not {OPSETS}")
    return _check_graph(data, *graph, config, weights_bytes)


def _opset(data: bytes, start: int, stop: int) -> dict[str, int]:
    domain, version = "", 0
    for tag, value, begin, end in fields(data, start, stop, _OPSET):
        if tag == _OPSET_DOMAIN:
            domain = text(data, begin, end)
        else:
            version = value
    return {domain: version}


def _check_graph(
    data: bytes, start: int, stop: int, config: ModelConfig, weights_bytes: int
) -> list[StoredTensor]:
    nodes = _NodeCheck(config)
    tensors: dict[str, StoredTensor] = {}
    inputs, outputs = [], []
    for tag, _, begin, end in fields(data, start, stop, _GRAPH):
        if tag == _GRAPH_NODE:
            nodes.take(_node(data, begin, end))
        elif tag == _GRAPH_TENSOR:
            tensor = _tensor(data, begin, end, weights_bytes)
            if tensors.setdefault(tensor.name, tensor) is not tensor:
                raise WireError(f"the tensor {tensor.name!r} occurs twice")
        elif tag == _GRAPH_INPUT:
            inputs.append(_value(data, begin, end))
        elif tag == _GRAPH_OUTPUT:
            outputs.append(_value(data, begin, end))
    nodes.finish()
    for found, wanted in ((inputs, INPUT_NAMES), (outputs, OUTPUT_NAMES)):
        if tuple(found) != wanted:
            raise WireError(f"its inputs or outputs are {', '.join(found)}, not {', '.join(wanted)}")
    unused = tensors.keys() - nodes.inputs
    if unused:
        raise WireError(f"the tensor {min(unused)!r} is no weight of the model")
    _check_overlaps(list(tensors.values()))
    return list(tensors.values())


def _check_overlaps(tensors: list[StoredTensor]) -> None:
    previous_end, previous = 0, ""
    for tensor in sorted(tensors, key=lambda one: one.offset):
        if tensor.offset < previous_end:
            raise WireError(f"the tensors {previous!r} and {tensor.name!r} overlap in {WEIGHTS_NAME}")
        previous_end, previous = tensor.offset + _bytes(tensor), tensor.name


def _bytes(tensor: StoredTensor) -> int:
    return prod(tensor.shape) * (1 if tensor.is_packed else 4)


class _NodeCheck:
    """Compares nodes, one by one, with those of the configuration; any format is one of theirs."""

    def __init__(self, config: ModelConfig) -> None:
        self.inputs: set[str] = set()
        self._formats: dict[str, int] = {}
        self._wanted = step_nodes(config, self._formats)

    def take(self, node: StepNode) -> None:
        """Check the next node."""
        place = {"Embed": 2, "Linear": 1}.get(node.operator)
        if place is not None and len(node.inputs) > place:
            self._formats.setdefault(node.inputs[place], int(node.attributes.get("format", -1)))
        try:
            wanted = next(self._wanted, None)
        except KeyError:  # the format of a weight that this node has not
            wanted = None
        if wanted is None or wanted.operator != node.operator:
            raise WireError(f"it holds the operator {_operator(node)} where no converted model has it")
        if node != wanted:
            raise WireError(_difference(node, wanted))
        self.inputs.update(node.inputs)

    def finish(self) -> None:
        """Check that no node is missing."""
        try:
            wanted = next(self._wanted, None)
            missing = wanted and f"{wanted.operator} {wanted.name!r}"
        except KeyError as error:
            missing = f"over {error}"
        if missing:
            raise WireError(f"it ends before the operator {missing}")


def _operator(node: StepNode) -> str:
    return f"{node.domain}.{node.operator}" if node.domain not in ("", DOMAIN) else node.operator


def _difference(found: StepNode, wanted: StepNode) -> str:
    for part in ("domain", "name", "inputs", "outputs"):
        if getattr(found, part) != getattr(wanted, part):
            return (
                f"the {part} of the operator {_operator(found)} {found.name!r} should be "
                f"{getattr(wanted, part)!r}, got {getattr(found, part)!r}"
            )
    names = sorted({*found.attributes, *wanted.attributes})
    name = next(name for name in names if found.attributes.get(name) != wanted.attributes.get(name))
    return (
        f"{wanted.operator} {wanted.name!r} has {name} = {found.attributes.get(name)}; "
        f"the configuration says {wanted.attributes.get(name)}"
    )


def _node(data: bytes, start: int, stop: int) -> StepNode:
    texts: dict[int, str] = {}
    inputs, outputs = [], []
    attributes: dict[str, int | float] = {}
    for tag, _, begin, end in fields(data, start, stop, _NODE):
        if tag == _NODE_INPUT:
            inputs.append(text(data, begin, end))
        elif tag == _NODE_OUTPUT:
            outputs.append(text(data, begin, end))
        elif tag == _NODE_ATTRIBUTE:
            name, value = _attribute(data, begin, end)
            if name in attributes:
                raise WireError(f"a node has the attribute {name!r} twice")
            attributes[name] = value
        else:
            texts[tag] = text(data, begin, end)
    operator, domain, name = (texts.get(tag, "") for tag in (_NODE_OPERATOR, _NODE_DOMAIN, _NODE_NAME))
    return StepNode(operator, domain, name, tuple(inputs), tuple(outputs), attributes)


class _Float(float):
    """A float32 of the graph; equal to a float that rounds to it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and struct.pack("<f", self) == struct.pack("<f", other)

    __hash__ = float.__hash__


def _attribute(data: bytes, start: int, stop: int) -> tuple[str, int | float]:
    """Name and value of an attribute, which must be a number: no tensor, no subgraph."""
    name, kind = "", 0
    values: dict[int, int | float] = {}
    for tag, value, begin, end in fields(data, start, stop, _ATTRIBUTE):
        if tag == _ATTRIBUTE_NAME:
            name = text(data, begin, end)
        elif tag == _ATTRIBUTE_FLOAT:
            values[_FLOAT_KIND] = _Float(*struct.unpack_from("<f", data, begin))
        elif tag == _ATTRIBUTE_INTEGER:
            values[_INTEGER_KIND] = value
        else:
            kind = value
    if not name or values.keys() != {kind}:
        raise WireError(f"the attribute {name!r} is not a number")
    return name, values[kind]


def _tensor(data: bytes, start: int, stop: int, weights_bytes: int) -> StoredTensor:
    name, data_type, location = "", 0, 0
    shape: list[int] = []
    entries: dict[str, str] = {}
    for tag, value, begin, end in fields(data, start, stop, _TENSOR):
        if tag == _TENSOR_SIZE:
            shape.append(value)
        elif tag == _TENSOR_TYPE:
            data_type = value
        elif tag == _TENSOR_NAME:
            name = text(data, begin, end)
        elif tag == _TENSOR_PLACE:
            location = value
        else:
            key, entry = _entry(data, begin, end)
            if key in entries:
                raise WireError(f"the tensor {name!r} has two values for {key!r}")
            entries[key] = entry
    if location != _EXTERNAL or entries.keys() != {"location", "offset", "length"}:
        raise WireError(f"the tensor {name!r} must have location, offset and length in {WEIGHTS_NAME}")
    if entries["location"] != WEIGHTS_NAME:
        raise WireError(f"the tensor {name!r} is in {entries['location']!r}; it must be in {WEIGHTS_NAME}")
    if not name or not shape or not 0 < prod(shape) <= weights_bytes:
        raise WireError(f"the tensor {name!r} of shape {shape} is empty, or is larger than {WEIGHTS_NAME}")
    stored = StoredTensor(name, data_type == _UINT8, tuple(shape), _decimal(entries["offset"], name))
    length = _decimal(entries["length"], name)
    if data_type not in (_FLOAT, _UINT8) or _bytes(stored) != length:
        raise WireError(
            f"the tensor {name!r} has a length of {length} bytes, which its type and shape contradict"
        )
    if stored.offset % PAGE_BYTES or stored.offset + length > weights_bytes:
        raise WireError(
            f"the tensor {name!r} lies at {stored.offset} with {length} bytes; it must begin on a page and "
            f"end within the {weights_bytes} bytes of {WEIGHTS_NAME}"
        )
    return stored


def _entry(data: bytes, start: int, stop: int) -> tuple[str, str]:
    texts = {tag: text(data, begin, end) for tag, _, begin, end in fields(data, start, stop, _ENTRY)}
    return texts.get(_ENTRY_KEY, ""), texts.get(_ENTRY_VALUE, "")


def _decimal(digits: str, name: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise WireError(f"the tensor {name!r} has the impossible offset or length {digits!r}")
    return int(digits)


def _value(data: bytes, start: int, stop: int) -> str:
    """The name of an input or output; its type is only checked to be a tensor's."""
    name = ""
    for tag, _, begin, end in fields(data, start, stop, _VALUE):
        if tag == _VALUE_NAME:
            name = text(data, begin, end)
        else:
            _check_type(data, begin, end)
    return name


def _check_type(data: bytes, start: int, stop: int) -> None:
    for _, _, begin, end in fields(data, start, stop, _TYPE):
        for tag, _, first, last in fields(data, begin, end, _TYPE_OF_TENSOR):
            if tag == _SHAPE_OF_TYPE:
                _check_shape(data, first, last)


def _check_shape(data: bytes, start: int, stop: int) -> None:
    for _, _, begin, end in fields(data, start, stop, _SHAPE):
        for tag, _, first, last in fields(data, begin, end, _DIMENSION):
            if tag == _DIMENSION_NAME:
                text(data, first, last)
