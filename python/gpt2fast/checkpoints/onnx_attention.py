"""Finds how a GPT-2 in an ONNX graph splits its projections into heads, and how it scales its scores."""

from __future__ import annotations

import math
from typing import Any

from gpt2fast.checkpoints.onnx_pattern import Linear
from gpt2fast.checkpoints.onnx_walk import REARRANGING, Graph, attribute_float, attribute_ints
from gpt2fast.errors import ModelError

#: Operations on the way from the joint projection to the heads.
_TO_HEADS = REARRANGING | {"Split", "Slice", "Gather", "Mul", "Div", "Concat"}
_HEADS_LIMIT = 256
_SCORES_LIMIT = 64
_MAX_ATTENTIONS = 1000


def find_heads(graph: Graph, joint: Linear, width: int) -> int | None:
    """The number of heads that the output of a joint projection is split into."""
    if joint.node.op_type == "Attention":
        return next(iter(attribute_ints(joint.node, "num_heads")), None)
    pending = [joint.output]
    seen: set[str] = set()
    while pending and len(seen) < _HEADS_LIMIT:
        name = pending.pop()
        for node in graph.consumers(name):
            if node.op_type == "Reshape" and len(node.input) == 2:
                heads = _heads_of_shape(graph.shape_tail(node.input[1]), width)
                if heads is not None:
                    return heads
            if node.op_type in _TO_HEADS:
                fresh = [output for output in node.output if output not in seen]
                seen.update(fresh)
                pending.extend(fresh)
    return None


def find_attention_scales(graph: Graph, head_dim: int) -> list[float]:
    """The factor on the query-key products of every attention, in the graph's order."""
    scales = []
    found = [node for node in graph.nodes if node.op_type in ("Softmax", "Attention")]
    if len(found) > _MAX_ATTENTIONS:
        raise ModelError(f"{graph.path}: has {len(found)} attentions, more than any GPT-2")
    for node in found:
        scores = _Scores(graph, head_dim)
        if node.op_type == "Softmax" and node.input:
            scale = scores.scale(node.input[0])
            if scale is not None:
                scales.append(scale)
        elif node.op_type == "Attention" and len(node.input) >= 3:
            declared = attribute_float(node, "scale", 0.0) or 1 / math.sqrt(head_dim)
            if graph.matrix(node.input[1]) is None:
                # ONNX's own operator, which takes queries, keys and values.
                scales.append(declared * scores.operands(node))
                continue
            if attribute_ints(node, "unidirectional") != (1,):
                raise ModelError(f"{graph.path}: its attention is not causal; a GPT-2's is")
            scales.append(declared)
    return scales


class _Scores:
    """The way back from a Softmax to the product of queries and keys, collecting constant factors."""

    def __init__(self, graph: Graph, head_dim: int) -> None:
        self._graph = graph
        self._head_dim = head_dim
        self._steps = 0

    def scale(self, name: str) -> float | None:
        """The product of all factors; None if no product of two computed values is found."""
        self._steps += 1
        node = self._graph.behind(name)
        if node is None or self._steps > _SCORES_LIMIT or not node.input:
            return None
        if node.op_type in ("MatMul", "FusedMatMul"):
            return attribute_float(node, "alpha", 1.0) * self.operands(node)
        factor, rest = self._factor(node)
        if factor is not None:
            inner = self.scale(rest)
            return None if inner is None else inner * factor
        if node.op_type in ("Add", "Sub", "Mul", "Where", "Max"):
            found = (self.scale(operand) for operand in node.input)
            return next((scale for scale in found if scale is not None), None)
        return None

    def operands(self, node: Any) -> float:
        """The product of the factors on queries and keys before their product."""
        return math.prod(self._operand_scale(operand) for operand in node.input[:2])

    def _operand_scale(self, name: str) -> float:
        """The factor on queries or keys before their product."""
        total = 1.0
        for _ in range(_SCORES_LIMIT):
            node = self._graph.behind(name)
            factor, rest = (None, "") if node is None else self._factor(node)
            if factor is not None:
                total *= factor
                name = rest
            elif node is not None and node.op_type == "Concat" and node.input:
                # The cached past comes first, then this step's own.
                name = node.input[-1]
            else:
                break
        return total

    def _factor(self, node: Any) -> tuple[float | None, str]:
        """A multiplication's constant factor and its other operand."""
        if node.op_type not in ("Mul", "Div") or len(node.input) != 2:
            return None, ""
        left, right = node.input
        number = self._graph.scalar(right, self._head_dim)
        if number:
            return (1 / number if node.op_type == "Div" else number), left
        number = self._graph.scalar(left, self._head_dim) if node.op_type == "Mul" else None
        return (number, right) if number else (None, "")


def _heads_of_shape(tail: list[int | None], width: int) -> int | None:
    """The heads in a shape that ends in [heads, head_dim], where one of the two may vary."""
    if len(tail) < 3:
        return None
    heads, head_dim = (value if value is not None and value > 1 else None for value in tail[-2:])
    if heads is None and head_dim is not None and width % head_dim == 0 and head_dim < width:
        return width // head_dim
    if heads is not None and width % heads == 0 and head_dim in (None, width // heads):
        return heads
    return None
