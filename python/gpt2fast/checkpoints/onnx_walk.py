"""Looks things up in a graph: the producer and the consumers of a value, and the constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.onnx_file import OnnxFile, tensor_from_proto
from gpt2fast.checkpoints.stored_tensor import StoredTensor
from gpt2fast.errors import ModelError

#: Operations that pass on their first input, at most rearranged or converted.
REARRANGING = frozenset(
    ("Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Dropout", "Expand")
)
CONVERTING = frozenset(("Identity", "Cast"))
#: Operations that assemble shapes.
_JOINING = frozenset(("Concat", "Reshape", "Squeeze", "Unsqueeze"))
#: Operations that pass on a value, and those that pick an element of a shape.
_PICKING = REARRANGING | {"Gather", "Slice"}
#: Computed values are kept up to this many elements: shapes and scalars.
_MAX_COMPUTED = 64
_MAX_DEPTH = 24
_MAX_EXPRESSION = 6


class Graph:
    """The nodes of a file in topological order.

    Attributes
    ----------
    nodes : list
        NodeProto messages, each after those that it reads from, otherwise in the file's order.
    constants : dict
        Initializers, values of Constant nodes, and the results of Identity, Cast and Transpose on them.
    """

    def __init__(self, file: OnnxFile) -> None:
        self.path = file.path
        self.nodes = _topological_order(file.nodes, file.path)
        self.constants: dict[str, StoredTensor] = dict(file.tensors)
        self._producers: dict[str, Any] = {}
        self._consumers: dict[str, list[Any]] = {}
        self._scalars: dict[tuple[str, int | None], float | None] = {}
        known = {"", *file.inputs, *file.tensors}
        for node in self.nodes:
            if any(attribute.HasField("g") for attribute in node.attribute):
                raise ModelError(
                    f"{file.path}: has the control flow operation {node.op_type}; only one If is followed, "
                    f"whose branches are a model with a past and the same without; give it without the others"
                )
            if not known.issuperset(node.input):
                raise ModelError(f"{file.path}: the inputs of node {node.name[:200]!r} come from nowhere")
            if not node.output or (node.op_type in _PICKING and not node.input):
                raise ModelError(f"{file.path}: the node {node.name[:200]!r} lacks an input or output")
            for name in dict.fromkeys(node.input):
                self._consumers.setdefault(name, []).append(node)
            for name in node.output:
                if name in known and name:
                    raise ModelError(f"{file.path}: the value {name[:200]!r} is made twice")
                known.add(name)
                self._producers[name] = node
            self._fold(node)

    def producer(self, name: str) -> Any | None:
        """The node that produces a value; None for inputs and initializers."""
        return self._producers.get(name)

    def consumers(self, name: str) -> list[Any]:
        """The nodes that use a value."""
        return self._consumers.get(name, [])

    def matrix(self, name: str) -> StoredTensor | None:
        """A constant of two axes, both longer than one."""
        tensor = self.constants.get(name)
        return tensor if tensor is not None and len(tensor.shape) == 2 and min(tensor.shape) > 1 else None

    def vector(self, name: str) -> StoredTensor | None:
        """A constant whose last axis alone is longer than one."""
        tensor = self.constants.get(name)
        if tensor is None or not tensor.shape or tensor.size != tensor.shape[-1] or tensor.size == 1:
            return None
        return replace(tensor, shape=tensor.shape[-1:], strides=tensor.strides[-1:])

    def numbers(self, name: str) -> NDArray[Any] | None:
        """A small constant's value."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.size > _MAX_COMPUTED or tensor.dtype_name == "BF16":
            return None
        return tensor.read()

    def scalar(self, name: str, width: int | None = None) -> float | None:
        """A number that is constant, or computed from the length ``width`` of an axis."""
        key = (name, width)
        if key not in self._scalars:
            self._scalars[key] = self._evaluated(name, width, 0)
        return self._scalars[key]

    def shape_tail(self, name: str) -> list[int | None]:
        """The elements of a shape, None where they vary; only the position of the last ones is certain."""
        node = self.behind(name, CONVERTING)
        if name in self.constants or node is None or node.op_type != "Concat":
            return self._integers(name)
        return [value for piece in node.input for value in self._integers(piece)]

    def behind(self, name: str, skipped: frozenset[str] = REARRANGING) -> Any | None:
        """The node that produces a value, looking through operations that only rearrange."""
        node = self.producer(name)
        for _ in range(_MAX_DEPTH):
            if node is None or node.op_type not in skipped:
                return node
            node = self.producer(node.input[0])
        return None

    def after(self, name: str, skipped: frozenset[str] = REARRANGING) -> Iterator[Any]:
        """The nodes that use a value, looking through operations that only rearrange."""
        pending = [(name, 0)]
        while pending:
            value, depth = pending.pop()
            for node in self.consumers(value):
                if node.op_type in skipped and node.input[0] == value and depth < _MAX_DEPTH:
                    pending.append((node.output[0], depth + 1))
                else:
                    yield node

    def _integers(self, name: str) -> list[int | None]:
        known = self.numbers(name)
        if known is None or not np.issubdtype(known.dtype, np.integer):
            return [None]
        return [int(value) for value in known.reshape(-1)]

    def _evaluated(self, name: str, width: int | None, depth: int) -> float | None:
        known = self.numbers(name)
        if known is not None:
            return float(known.reshape(-1)[0]) if known.size == 1 else None
        node = self.behind(name, _PICKING)
        if node is None or width is None or depth > _MAX_EXPRESSION:
            return None
        if node.op_type == "Shape":
            return float(width)
        if node.op_type not in _SCALAR_FUNCTIONS or len(node.input) > 2:
            return None
        arguments = [self._evaluated(argument, width, depth + 1) for argument in node.input]
        return None if None in arguments else _computed(node.op_type, arguments)

    def _fold(self, node: Any) -> None:
        """Record a node's output if it is constant."""
        if len(node.output) != 1:
            return
        result = None
        if node.op_type == "Constant":
            result = self._constant(node)
        elif node.op_type in CONVERTING:
            result = self.constants.get(node.input[0])
        elif node.op_type == "Transpose":
            result = self._transposed(node)
        elif node.op_type in _SCALAR_FUNCTIONS or node.op_type in _JOINING:
            result = self._small(node)
        if result is not None:
            self.constants[node.output[0]] = result

    def _constant(self, node: Any) -> StoredTensor | None:
        where = f"{self.path}: the constant {node.output[0][:200]!r}"
        for attribute in node.attribute:
            if attribute.name == "value":
                return tensor_from_proto(attribute.t, where)
            if attribute.name in ("value_float", "value_floats"):
                values = attribute.floats if attribute.name.endswith("s") else attribute.f
                return StoredTensor.of_array(np.array(values), "F32")
            if attribute.name in ("value_int", "value_ints"):
                values = attribute.ints if attribute.name.endswith("s") else attribute.i
                return StoredTensor.of_array(np.array(values), "I64")
        return None

    def _transposed(self, node: Any) -> StoredTensor | None:
        tensor = self.constants.get(node.input[0])
        if tensor is None:
            return None
        order = list(attribute_ints(node, "perm")) or list(range(len(tensor.shape)))[::-1]
        if sorted(order) != list(range(len(tensor.shape))):
            raise ModelError(f"{self.path}: the node {node.name[:200]!r} transposes axes that are not there")
        return tensor.transpose(order)

    def _small(self, node: Any) -> StoredTensor | None:
        known = [self.numbers(name) for name in node.input]
        arguments = [argument for argument in known if argument is not None]
        if not arguments or len(arguments) != len(known):
            return None
        if node.op_type in _SCALAR_FUNCTIONS:
            value = _computed(node.op_type, arguments)
            return None if value is None else _stored(value)
        # Only the order of a shape's elements matters.
        flat = [np.reshape(argument, -1) for argument in arguments]
        joined = np.concatenate(flat) if node.op_type == "Concat" else flat[0]
        if node.op_type == "Squeeze" and joined.size == 1:
            joined = joined.reshape(())
        return _stored(joined)


def _topological_order(nodes: list[Any], path: Path) -> list[Any]:
    """Kahn's algorithm; of the nodes that may come next, the first in the file does."""
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    readers: dict[int, list[int]] = {}
    missing = [0] * len(nodes)
    for index, node in enumerate(nodes):
        for before in {maker[name] for name in node.input if name in maker}:
            readers.setdefault(before, []).append(index)
            missing[index] += 1
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = heappop(ready)
        order.append(nodes[index])
        for reader in readers.get(index, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, reader)
    if len(order) < len(nodes):
        raise ModelError(
            f"{path}: {len(nodes) - len(order)} nodes of its graph depend on one another in a circle"
        )
    return order


def attribute_ints(node: Any, name: str) -> tuple[int, ...]:
    """A node's attribute of integers; empty if there is none of that name."""
    for attribute in node.attribute:
        if attribute.name == name:
            return tuple(attribute.ints) or (attribute.i,)
    return ()


def attribute_float(node: Any, name: str, default: float) -> float:
    """A node's attribute, a number."""
    return next((float(attribute.f) for attribute in node.attribute if attribute.name == name), default)


def _divide(dividend: Any, divisor: Any) -> Any:
    integers = all(np.issubdtype(np.asarray(value).dtype, np.integer) for value in (dividend, divisor))
    return np.floor_divide(dividend, divisor) if integers else np.true_divide(dividend, divisor)


#: The number of operands, which NumPy would exceed by writing into the one after them, and the function.
_SCALAR_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "Add": (2, np.add),
    "Sub": (2, np.subtract),
    "Mul": (2, np.multiply),
    "Div": (2, _divide),
    "Pow": (2, np.power),
    "Sqrt": (1, np.sqrt),
    "Reciprocal": (1, lambda value: np.true_divide(1.0, value)),
}


def _computed(operator: str, arguments: list[Any]) -> Any | None:
    """A function's value; None for a wrong number or shape of arguments, or a result that is not finite."""
    operands, function = _SCALAR_FUNCTIONS[operator]
    if len(arguments) != operands:
        return None
    try:
        with np.errstate(all="ignore"):
            value = function(*arguments)
    except (TypeError, ValueError):
        return None
    usable = np.size(value) <= _MAX_COMPUTED and all(map(math.isfinite, np.ravel(value)))
    return value if usable else None


def _stored(value: Any) -> StoredTensor:
    array = np.asarray(value)
    is_integer = np.issubdtype(array.dtype, np.integer)
    return StoredTensor.of_array(array, "I64" if is_integer else "F64")
