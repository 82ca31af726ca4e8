"""Finds the parts of a GPT-2 in an ONNX graph: embeddings, LayerNorms, linear layers, activation.

Nothing depends on the names of weights. A GPT-2 is a chain, so the order of its linear layers and of its
LayerNorms in the graph identifies them; the shapes and the connections between the two are checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gpt2fast.checkpoints.onnx_walk import CONVERTING, REARRANGING, Graph, attribute_float, attribute_ints
from gpt2fast.checkpoints.stored_tensor import StoredTensor
from gpt2fast.errors import ModelError

#: ONNX Runtime's LayerNorms fused with what precedes them: the index of the gain among the inputs.
_FUSED_NORMS = {"SkipLayerNormalization": 2, "EmbedLayerNormalization": 5}
_GELU_OPERATORS = ("FastGelu", "BiasGelu")
_SEARCH_LIMIT = 256
#: Rounding to float16 stays within this fraction of a constant.
_TOLERANCE = 0.01
_GELU_CUBIC, _GELU_SLOPE = 0.044715, math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Linear:
    """``y = x W + b``: weight ``[in, out]``, bias ``[out]`` or None; its input and output values."""

    weight: StoredTensor
    bias: StoredTensor | None
    input: str
    output: str
    node: Any


@dataclass(frozen=True)
class Norm:
    """A LayerNorm: gain and shift ``[width]``, epsilon, and its output value."""

    gamma: StoredTensor
    beta: StoredTensor
    epsilon: float
    output: str


@dataclass(frozen=True)
class Embeddings:
    """Token and position tables, and the graph input for the tokens."""

    tokens: StoredTensor
    positions: StoredTensor
    input: str


def find_embeddings(graph: Graph, inputs: list[str]) -> Embeddings:
    """The two tables that rows are gathered from."""
    tables: dict[str, list[StoredTensor]] = {"tokens": [], "positions": []}
    token_input = ""
    for name, indices in _lookups(graph):
        table = graph.matrix(name)
        if table is None or not table.dtype_name.startswith(("F", "BF")):
            continue
        source = _input_behind(graph, indices, inputs)
        if source is None or "pos" in source.lower():
            tables["positions"].append(table)
        else:
            tables["tokens"].append(table)
            token_input = source
    if any(len(found) != 1 for found in tables.values()):
        raise ModelError(
            f"{graph.path}: a GPT-2 looks rows up in one token table and in one position table; this graph "
            f"has {len(tables['tokens'])} and {len(tables['positions'])}"
        )
    return Embeddings(tables["tokens"][0], tables["positions"][0], token_input)


def find_linears(graph: Graph) -> list[Linear]:
    """Every product with a constant matrix, in the graph's order, once if the graph computes it twice."""
    found = []
    seen = set()
    for node in graph.nodes:
        if node.op_type not in ("MatMul", "Gemm", "Attention") or len(node.input) < 2:
            continue
        weight = graph.matrix(node.input[1])
        if weight is None or not node.output or node.input[0] in graph.constants:
            continue
        maker = graph.behind(node.input[0])
        product = (node.input[0] if maker is None else maker.output[0], node.input[1])
        if product in seen:
            # Optimised graphs project once for attention, and again for the keys and values that they output.
            continue
        seen.add(product)
        if not weight.dtype_name.startswith(("F", "BF")):
            raise ModelError(
                f"{graph.path}: weights of type {weight.dtype_name} are not supported; give floats"
            )
        bias = graph.vector(node.input[2]) if node.op_type != "MatMul" and len(node.input) > 2 else None
        if node.op_type == "Gemm":
            weight = _gemm_weight(graph, node, weight)
        output = node.output[0]
        if bias is None:
            bias, output = _added_bias(graph, output, weight.shape[1])
        found.append(Linear(weight, bias, node.input[0], output, node))
    return found


def find_norms(graph: Graph) -> list[Norm]:
    """Every LayerNorm, one operator or several, in the graph's order."""
    found = []
    for node in graph.nodes:
        if node.op_type == "LayerNormalization" and len(node.input) == 3:
            gain, shift, epsilon = node.input[1], node.input[2], attribute_float(node, "epsilon", 1e-5)
            output = node.output[0]
        elif node.op_type in _FUSED_NORMS and len(node.input) >= 4:
            first = _FUSED_NORMS[node.op_type]
            gain, shift = (*node.input[first : first + 2], "", "")[:2]
            epsilon, output = attribute_float(node, "epsilon", 1e-12), node.output[0]
        elif node.op_type == "Sqrt":
            spelled_out = _norm_around(graph, node)
            if spelled_out is None:
                continue
            gain, shift, epsilon, output = spelled_out
        else:
            continue
        gamma, beta = graph.vector(gain), graph.vector(shift)
        if gamma is None or beta is None:
            raise ModelError(f"{graph.path}: a LayerNorm has no gain or no shift")
        found.append(Norm(gamma, beta, epsilon, output))
    return found


def find_activation(graph: Graph, first: Linear, second: Linear) -> str:
    """The function between the two linear layers of an MLP, by its Hugging Face name."""
    operators: set[str] = set()
    constants: list[float] = []
    pending, seen = [second.input], {first.output}
    while pending and len(seen) < _SEARCH_LIMIT:
        name = pending.pop()
        node = graph.producer(name)
        number = graph.scalar(name)
        if number is not None:
            constants.append(number)
        elif node is not None and name not in seen:
            if node.op_type == "Gelu":
                tanh = any(attribute.s == b"tanh" for attribute in node.attribute)
                return "gelu_new" if tanh else "gelu"
            operators.add(node.op_type)
            pending.extend(node.input)
        seen.add(name)
    if "Tanh" in operators and all(_has(constants, value) for value in (_GELU_CUBIC, _GELU_SLOPE)):
        return "gelu_new"
    for operator, name in (("FastGelu", "gelu_new"), ("BiasGelu", "gelu"), ("Erf", "gelu"), ("Relu", "relu")):
        if operator in operators:
            return name
    shown = ", ".join(sorted(operators)[:10])
    raise ModelError(f"{graph.path}: the activation made of {shown or 'nothing'} is not known")


def follows(graph: Graph, linear: Linear, norm: Norm) -> bool:
    """Whether a linear layer's input is a LayerNorm's output."""
    maker = graph.behind(linear.input)
    return maker is not None and norm.output in maker.output


def _lookups(graph: Graph) -> Iterator[tuple[str, str]]:
    """Table and indices of every gather."""
    for node in graph.nodes:
        if node.op_type == "Gather" and len(node.input) == 2:
            yield node.input[0], node.input[1]
        elif node.op_type == "EmbedLayerNormalization" and len(node.input) >= 7 and not node.input[4]:
            yield node.input[2], node.input[0]
            # Without indices of their own, positions count from zero.
            yield node.input[3], node.input[8] if len(node.input) > 8 else ""


def _input_behind(graph: Graph, name: str, inputs: list[str]) -> str | None:
    """The graph input that indices come from; None if they are computed."""
    for _ in range(_SEARCH_LIMIT):
        if name in inputs:
            return name
        node = graph.producer(name)
        if node is None or node.op_type not in REARRANGING:
            return None
        name = node.input[0]
    return None


def _gemm_weight(graph: Graph, node: Any, weight: StoredTensor) -> StoredTensor:
    plain = attribute_float(node, "alpha", 1.0) == 1.0 and attribute_float(node, "beta", 1.0) == 1.0
    if not plain or any(attribute_ints(node, "transA")):
        raise ModelError(f"{graph.path}: the Gemm {node.name[:200]!r} scales or transposes its input")
    if any(attribute_ints(node, "transB")):
        return weight.transpose()
    return weight


def _added_bias(graph: Graph, output: str, size: int) -> tuple[StoredTensor | None, str]:
    """The vector that is added to a product, and the sum."""
    for node in graph.after(output):
        if node.op_type == "Add" or node.op_type in _GELU_OPERATORS:
            vectors = [graph.vector(name) for name in node.input]
        elif node.op_type == "SkipLayerNormalization":
            vectors = [graph.vector(name) for name in node.input[4:5]]
        else:
            continue
        for vector in vectors:
            if vector is not None and vector.shape == (size,):
                return vector, node.output[0] if node.op_type == "Add" else output
    return None, output


def _norm_around(graph: Graph, root: Any) -> tuple[str, str, float, str] | None:
    """Gain, shift, epsilon and output of the LayerNorm whose denominator is this Sqrt."""
    total = graph.behind(root.input[0], CONVERTING) if root.input else None
    if total is None or total.op_type != "Add" or len(total.input) != 2:
        return None
    numbers = [graph.scalar(name) for name in total.input]
    epsilon = next((number for number in numbers if number is not None), None)
    variance = graph.behind(total.input[1] if numbers[0] is not None else total.input[0], CONVERTING)
    if epsilon is None or variance is None or variance.op_type != "ReduceMean":
        return None
    for quotient in graph.after(root.output[0], CONVERTING | {"Reciprocal"}):
        if quotient.op_type not in ("Div", "Mul") or len(quotient.input) != 2:
            continue
        for product in graph.after(quotient.output[0], CONVERTING):
            gain = _vector_operand(graph, product, "Mul")
            for shifted in graph.after(product.output[0], CONVERTING) if gain else ():
                shift = _vector_operand(graph, shifted, "Add")
                if gain and shift:
                    return gain, shift, epsilon, shifted.output[0]
    return None


def _vector_operand(graph: Graph, node: Any, operator: str) -> str | None:
    if node.op_type != operator or len(node.input) != 2:
        return None
    return next((name for name in node.input if graph.vector(name) is not None), None)


def _has(constants: list[float], wanted: float) -> bool:
    return any(math.isclose(value, wanted, rel_tol=_TOLERANCE) for value in constants)
