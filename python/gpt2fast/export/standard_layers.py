"""The layers of GPT-2 in ONNX's own operators, for any opset from 10.

Operators whose form changed between opsets are avoided where others serve (Split, Squeeze, Unsqueeze). Only
Range (from 11) and LayerNormalization (from 17) still depend on the opset.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from gpt2fast.config import ModelConfig

_RANGE_OPSET = 11
_LAYER_NORM_OPSET = 17
_LOWEST = float(np.finfo(np.float32).min)
_END = np.iinfo(np.int64).max


@dataclass
class NodeList:
    """Nodes in the order of evaluation, and the constants they use."""

    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output of the same name; returns the name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def integers(self, *values: int) -> str:
        """A constant int64 [n]."""
        return self._constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def integer(self, value: int) -> str:
        """A constant int64 scalar."""
        return self._constant(f"int_{value}", np.array(value, np.int64))

    def number(self, value: float) -> str:
        """A constant float32 scalar."""
        return self._constant(f"float_{value!r}", np.array(value, np.float32))

    def _constant(self, name: str, value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(value, name))
        return name


@dataclass(frozen=True)
class Context:
    """Shared by all layers: ``positions`` int64 [tokens], ``mask`` float32 [tokens, past and new tokens]."""

    positions: str
    mask: str


def add_context(graph: NodeList, input_ids: str, past: str | None) -> Context:
    """Positions and causal mask, from the shapes of ``input_ids`` [batch, tokens] and of a layer's past."""
    tokens = _size(graph, input_ids, 1, "tokens")
    if past is None:
        keys = queries = _count(graph, tokens, "positions")
    else:
        past_tokens = _size(graph, past, 3, "past_tokens")
        keys = _count(graph, graph.add("Add", [past_tokens, tokens], "total_tokens"), "key_positions")
        start = graph.add("Reshape", [past_tokens, graph.integers(1)], "first_position")
        bounds = [start, graph.integers(_END), graph.integers(0)]
        queries = graph.add("Slice", [keys, *bounds], "positions")
    column = graph.add("Reshape", [queries, graph.integers(-1, 1)], "query_positions")
    later = graph.add("Greater", [keys, column], "is_later")
    mask = graph.add("Where", [later, graph.number(_LOWEST), graph.number(0.0)], "mask")
    return Context(queries, mask)


def add_embedding(graph: NodeList, input_ids: str, context: Context) -> str:
    """Token and position embeddings; ``[batch, tokens, n_embd]``."""
    tokens = graph.add("Gather", ["wte.weight", input_ids], "wte", axis=0)
    positions = graph.add("Gather", ["wpe.weight", context.positions], "wpe", axis=0)
    return graph.add("Add", [tokens, positions], "embedding")


def add_layer(
    graph: NodeList, config: ModelConfig, layer: int, x: str, context: Context, past: str | None, present: str
) -> str:
    """One layer; ``x`` and the result are ``[batch, tokens, n_embd]``, ``present`` names the new past."""
    prefix = f"h.{layer}"
    normed = add_layer_norm(graph, config, x, f"{prefix}.ln_1")
    qkv = _linear(graph, normed, f"{prefix}.attn.c_attn")
    attended = _attention(graph, config, layer, qkv, context, past, present)
    x = graph.add("Add", [x, _linear(graph, attended, f"{prefix}.attn.c_proj")], f"{prefix}.attn.residual")
    normed = add_layer_norm(graph, config, x, f"{prefix}.ln_2")
    inner = _activation(graph, config, _linear(graph, normed, f"{prefix}.mlp.c_fc"), f"{prefix}.mlp.act")
    return graph.add("Add", [x, _linear(graph, inner, f"{prefix}.mlp.c_proj")], f"{prefix}.mlp.residual")


def add_layer_norm(graph: NodeList, config: ModelConfig, x: str, name: str) -> str:
    """LayerNorm over the last of three axes, with the parameters ``name.weight`` and ``name.bias``."""
    weight, bias, epsilon = f"{name}.weight", f"{name}.bias", config.layer_norm_epsilon
    if graph.opset >= _LAYER_NORM_OPSET:
        return graph.add("LayerNormalization", [x, weight, bias], name, axis=-1, epsilon=epsilon)
    mean = graph.add("ReduceMean", [x], f"{name}.mean", axes=[2], keepdims=1)
    centred = graph.add("Sub", [x, mean], f"{name}.centred")
    squares = graph.add("Pow", [centred, graph.number(2.0)], f"{name}.squares")
    variance = graph.add("ReduceMean", [squares], f"{name}.variance", axes=[2], keepdims=1)
    shifted = graph.add("Add", [variance, graph.number(epsilon)], f"{name}.shifted")
    deviation = graph.add("Sqrt", [shifted], f"{name}.deviation")
    standard = graph.add("Div", [centred, deviation], f"{name}.standard")
    scaled = graph.add("Mul", [standard, weight], f"{name}.scaled")
    return graph.add("Add", [scaled, bias], name)


def add_scores(graph: NodeList, config: ModelConfig, hidden: str) -> str:
    """Scores ``[batch * tokens, vocab_size]``; a tied head uses the token table as it is."""
    head = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
    rows = graph.add("Reshape", [hidden, graph.integers(-1, config.n_embd)], "lm_head.rows")
    # The third input is optional only from opset 11 on.
    return graph.add("Gemm", [rows, head, graph.number(0.0)], "lm_head", transB=1)


def _attention(
    graph: NodeList,
    config: ModelConfig,
    layer: int,
    qkv: str,
    context: Context,
    past: str | None,
    present: str,
) -> str:
    name = f"h.{layer}.attn"
    split = graph.integers(0, 0, 3, config.n_head, config.head_dim)
    parts = graph.add("Reshape", [qkv, split], f"{name}.heads")
    # [batch, tokens, 3, heads, head_dim] -> [3, batch, heads, tokens, head_dim]
    parts = graph.add("Transpose", [parts], f"{name}.qkv", perm=[2, 0, 3, 1, 4])
    bounds = [graph.integers(1), graph.integers(3), graph.integers(0)]
    if past is None:
        graph.add("Slice", [parts, *bounds], present)
    else:
        new = graph.add("Slice", [parts, *bounds], f"{name}.new")
        graph.add("Concat", [past, new], present, axis=3)
    query = graph.add("Gather", [parts, graph.integer(0)], f"{name}.q", axis=0)
    key = graph.add("Gather", [present, graph.integer(0)], f"{name}.k", axis=0)
    value = graph.add("Gather", [present, graph.integer(1)], f"{name}.v", axis=0)
    scale = graph.number(config.attention_scale(layer))
    query = graph.add("Mul", [query, scale], f"{name}.scaled_q")
    key = graph.add("Transpose", [key], f"{name}.transposed_k", perm=[0, 1, 3, 2])
    scores = graph.add("MatMul", [query, key], f"{name}.scores")
    masked = graph.add("Add", [scores, context.mask], f"{name}.masked")
    weights = graph.add("Softmax", [masked], f"{name}.weights", axis=3)
    mixed = graph.add("MatMul", [weights, value], f"{name}.mixed")
    mixed = graph.add("Transpose", [mixed], f"{name}.mixed_tokens", perm=[0, 2, 1, 3])
    return graph.add("Reshape", [mixed, graph.integers(0, 0, config.n_embd)], f"{name}.merged")


def _linear(graph: NodeList, x: str, name: str) -> str:
    product = graph.add("MatMul", [x, f"{name}.weight"], f"{name}.product")
    return graph.add("Add", [product, f"{name}.bias"], name)


def _activation(graph: NodeList, config: ModelConfig, x: str, name: str) -> str:
    if config.activation_function == "relu":
        return graph.add("Relu", [x], name)
    if config.activation_function == "gelu":
        scaled = graph.add("Div", [x, graph.number(math.sqrt(2.0))], f"{name}.scaled")
        bent = graph.add("Erf", [scaled], f"{name}.erf")
    else:
        cube = graph.add("Pow", [x, graph.number(3.0)], f"{name}.cube")
        cube = graph.add("Mul", [cube, graph.number(0.044715)], f"{name}.cubic_term")
        argument = graph.add("Add", [x, cube], f"{name}.sum")
        argument = graph.add("Mul", [argument, graph.number(math.sqrt(2.0 / math.pi))], f"{name}.argument")
        bent = graph.add("Tanh", [argument], f"{name}.tanh")
    factor = graph.add("Add", [bent, graph.number(1.0)], f"{name}.factor")
    product = graph.add("Mul", [x, factor], f"{name}.product")
    return graph.add("Mul", [product, graph.number(0.5)], name)


def _size(graph: NodeList, tensor: str, axis: int, name: str) -> str:
    shape = graph.add("Shape", [tensor], f"{name}.shape")
    return graph.add("Gather", [shape, graph.integer(axis)], name, axis=0)


def _count(graph: NodeList, count: str, name: str) -> str:
    """The integers from 0 to ``count`` (a scalar) - 1."""
    if graph.opset >= _RANGE_OPSET:
        return graph.add("Range", [graph.integer(0), count, graph.integer(1)], name)
    shape = graph.add("Reshape", [count, graph.integers(1)], f"{name}.count")
    ones = graph.add(
        "ConstantOfShape", [shape], f"{name}.ones", value=numpy_helper.from_array(np.ones(1, np.int64))
    )
    indices = graph.add("NonZero", [ones], f"{name}.indices")
    return graph.add("Reshape", [indices, graph.integers(-1)], name)
