"""Checks a model.onnx before ONNX Runtime sees it: a step graph's operators only, tensors in weights.bin.

It reads the few protobuf messages that such a file consists of
(https://protobuf.dev/programming-guides/encoding, field numbers from
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). Every length is checked against the enclosing
message, so no part of a file is ever read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    from gpt2fast.config import ModelConfig

WEIGHTS_NAME = "weights.bin"
PAGE_BYTES = 4096

# Domain and type of every operator of a step graph.
_OPERATORS = {
    ("gpt2fast", "Embed"),
    ("gpt2fast", "Linear"),
    ("gpt2fast", "CachedAttention"),
    ("gpt2fast", "LayerNorm"),
    ("", "Gather"),
}
_DOMAINS = ("", "gpt2fast")
# TensorProto.DataType -> bytes per element, of the types that weights have.
_ELEMENT_BYTES = {1: 4, 2: 1}
_EXTERNAL = 1
_MAX_NAME_BYTES = 1024

# Wire types: a number, bytes after their length, and numbers of fixed size.
_VARINT, _BYTES = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}

# A field of a message: its number, its wire type, and its value (an integer, or the bounds of its bytes).
Field = tuple[int, int, int, int]


class GraphError(ValueError):
    """What is wrong with a graph; the message does not name the file."""


def check_graph(data: bytes, config: ModelConfig, weights_bytes: int, *, where: str) -> None:
    """Check the content of a ``model.onnx``.

    Parameters
    ----------
    data : bytes
        The file.
    config : ModelConfig
        The sizes that the graph must have.
    weights_bytes : int
        Size of ``weights.bin``.
    where : str
        The file's name, for errors.

    Raises
    ------
    ModelError
        It is not an ONNX model, or holds anything that the graph of a converted model does not.
    """
    try:
        _check_model(data, config, weights_bytes)
    except (GraphError, UnicodeDecodeError) as error:
        raise ModelError(f"{where}: {error}") from None


def _check_model(data: bytes, config: ModelConfig, weights_bytes: int) -> None:
    graphs = []
    for number, wire, start, stop in _fields(data, 0, len(data)):
        if number == 7 and wire == _BYTES:
            graphs.append((start, stop))
        elif number == 8 and wire == _BYTES:
            _check_opset(data, start, stop)
        elif number in (20, 25):
            raise GraphError("it holds functions or training steps, which no converted model has")
    if len(graphs) != 1:
        raise GraphError(f"not an ONNX model: it holds {len(graphs)} graphs")
    _check_graph(data, *graphs[0], config, weights_bytes)


def _check_opset(data: bytes, start: int, stop: int) -> None:
    for number, wire, begin, end in _fields(data, start, stop):
        if number == 1 and wire == _BYTES and _text(data, begin, end) not in _DOMAINS:
            raise GraphError(f"it imports the operators of {_text(data, begin, end)!r}")


def _check_graph(data: bytes, start: int, stop: int, config: ModelConfig, weights_bytes: int) -> None:
    ranges: list[tuple[int, int, str]] = []
    layers: list[int] = []
    for number, wire, begin, end in _fields(data, start, stop):
        if number == 1 and wire == _BYTES:
            operator, attributes = _check_node(data, begin, end, config)
            if operator == "CachedAttention":
                layers.append(attributes.get("layer", 0))
        elif number == 5 and wire == _BYTES:
            ranges.append(_tensor_range(data, begin, end, weights_bytes))
        elif number == 15:
            raise GraphError("it holds sparse tensors, which no converted model has")
    if sorted(layers) != list(range(config.n_layer)):
        raise GraphError(f"it has the layers {sorted(layers)}; the configuration says {config.n_layer}")
    previous_end, previous = 0, ""
    for begin, end, name in sorted(ranges):
        if begin < previous_end:
            raise GraphError(f"the tensors {previous!r} and {name!r} overlap in {WEIGHTS_NAME}")
        previous_end, previous = end, name


def _check_node(data: bytes, start: int, stop: int, config: ModelConfig) -> tuple[str, Mapping[str, int]]:
    """Check one node; return its operator and attributes."""
    operator = domain = ""
    attributes: dict[str, int] = {}
    for number, wire, begin, end in _fields(data, start, stop):
        if number == 4 and wire == _BYTES:
            operator = _text(data, begin, end)
        elif number == 7 and wire == _BYTES:
            domain = _text(data, begin, end)
        elif number == 5 and wire == _BYTES:
            name, value = _attribute(data, begin, end)
            attributes[name] = value
    if (domain, operator) not in _OPERATORS:
        raise GraphError(
            f"it holds the operator {domain + '.' if domain else ''}{operator}, which no converted model has"
        )
    for name, wanted in _sizes(operator, config).items():
        if attributes.get(name) != wanted:
            raise GraphError(
                f"{operator} has {name} = {attributes.get(name)}; the configuration says {wanted}"
            )
    return operator, attributes


def _sizes(operator: str, config: ModelConfig) -> Mapping[str, int]:
    """The attributes that the configuration determines."""
    if operator == "CachedAttention":
        return {
            "layers": config.n_layer,
            "heads": config.n_head,
            "head_dim": config.head_dim,
            "positions": config.n_positions,
        }
    if operator == "Embed":
        return {"width": config.n_embd, "vocabulary": config.vocab_size}
    return {}


def _attribute(data: bytes, start: int, stop: int) -> tuple[str, int]:
    """Name and integer value of an attribute, which must be a number: no tensor, no subgraph."""
    name, value = "", 0
    for number, wire, begin, end in _fields(data, start, stop):
        if number == 1 and wire == _BYTES:
            name = _text(data, begin, end)
        elif number == 3 and wire == _VARINT:
            value = begin
        elif number not in (2, 13, 20):  # a float, documentation, the type
            raise GraphError(f"the attribute {name!r} is not a number")
    return name, value


def _tensor_range(data: bytes, start: int, stop: int, weights_bytes: int) -> tuple[int, int, str]:
    """The bounds of a tensor in ``weights.bin``, and its name."""
    name, elements, element_bytes, location = "", 1, 0, 0
    entries: dict[str, str] = {}
    for number, wire, begin, end in _fields(data, start, stop):
        if number == 1:
            for size in (begin,) if wire == _VARINT else _varints(data, begin, end):
                elements *= size
                if elements > weights_bytes:
                    raise GraphError(f"the tensor {name!r} is larger than {WEIGHTS_NAME}")
        elif number == 2 and wire == _VARINT:
            element_bytes = _ELEMENT_BYTES.get(begin, 0)
        elif number == 8 and wire == _BYTES:
            name = _text(data, begin, end)
        elif number == 13 and wire == _BYTES:
            key, value = _entry(data, begin, end)
            if key in entries:
                raise GraphError(f"the tensor {name!r} has two values for {key!r}")
            entries[key] = value
        elif number == 14 and wire == _VARINT:
            location = begin
        elif number != 12:  # documentation
            raise GraphError(f"the tensor {name!r} holds data of its own; all must be in {WEIGHTS_NAME}")
    if location != _EXTERNAL or entries.keys() != {"location", "offset", "length"}:
        raise GraphError(f"the tensor {name!r} must have location, offset and length in {WEIGHTS_NAME}")
    if entries["location"] != WEIGHTS_NAME:
        raise GraphError(f"the tensor {name!r} is in {entries['location']!r}; it must be in {WEIGHTS_NAME}")
    offset, length = _decimal(entries["offset"], name), _decimal(entries["length"], name)
    if element_bytes == 0 or elements * element_bytes != length:
        raise GraphError(
            f"the tensor {name!r} has a length of {length} bytes, which its type and shape contradict"
        )
    if offset % PAGE_BYTES or offset + length > weights_bytes:
        raise GraphError(
            f"the tensor {name!r} lies at {offset} with {length} bytes; it must begin on a page and end "
            f"within the {weights_bytes} bytes of {WEIGHTS_NAME}"
        )
    return offset, offset + length, name


def _entry(data: bytes, start: int, stop: int) -> tuple[str, str]:
    key = value = ""
    for number, wire, begin, end in _fields(data, start, stop):
        if wire == _BYTES:
            if number == 1:
                key = _text(data, begin, end)
            elif number == 2:
                value = _text(data, begin, end)
    return key, value


def _decimal(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise GraphError(f"the tensor {name!r} has the impossible offset or length {text!r}")
    return int(text)


def _text(data: bytes, start: int, stop: int) -> str:
    if stop - start > _MAX_NAME_BYTES:
        raise GraphError(f"a name in it has {stop - start} bytes")
    return data[start:stop].decode("utf-8")


def _fields(data: bytes, position: int, stop: int) -> list[Field]:
    """The fields of the message in ``data[position:stop]``: (number, wire type, value or begin, end)."""
    fields = []
    while position < stop:
        tag, position = _varint(data, position, stop)
        wire = tag & 7
        if wire == _BYTES:
            value, position = _varint(data, position, stop)
            begin, position = position, position + value
        elif wire == _VARINT:
            begin, position = _varint(data, position, stop)
        elif wire in _FIXED_BYTES:
            begin, position = position, position + _FIXED_BYTES[wire]
        else:
            raise GraphError("not an ONNX model: an unknown kind of field")
        if position > stop:
            raise GraphError("not an ONNX model, or cut short: a field is longer than its message")
        fields.append((tag >> 3, wire, begin, position))
    return fields


def _varints(data: bytes, position: int, stop: int) -> Iterator[int]:
    while position < stop:
        value, position = _varint(data, position, stop)
        yield value


def _varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """A variable-length integer and the position after it."""
    if position < stop and (byte := data[position]) < 0x80:  # nearly all
        return byte, position + 1
    value = shift = 0
    while position < stop and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise GraphError("not an ONNX model, or cut short: a number does not end")
