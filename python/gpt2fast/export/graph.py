"""Builds the step graph: one call for any number of tokens of any number of sequences.

Inputs, for T tokens, S sequences, H hidden states and R rows of logits: ``input_ids`` [T], ``positions``
[T], ``sequence_starts`` [S + 1], ``slots`` [S], ``cached_lengths`` [S], ``hidden_rows`` [H] (indices of
tokens), ``logits_rows`` [R] (indices into ``hidden_rows``), all int32, and ``kv_cache`` [slots, blocks,
layers, heads, 2, block_bytes] uint8: blocks of 64 positions, for each head the keys and then the values.
Their format, and so ``block_bytes``, is chosen when the model is loaded. Outputs, all float32: ``logits`` [R,
vocab_size]; ``logits_maxima`` [R, 16 ceil(vocab_size / 256)], 16 floats for every 256 logits, the largest of
which is the largest of these logits; ``hidden`` [H, n_embd]. Once the last layer's keys and values are
written, no token needs another's results: from there on only the rows of ``hidden_rows`` are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    StringStringEntryProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

from gpt2fast.config import ModelConfig
from gpt2fast.export.quantize import PackedTensor
from gpt2fast.storage.graph_check import WEIGHTS_NAME
from gpt2fast.storage.step_graph import OPSETS, StepNode, step_nodes

IR_VERSION = 9

_CACHE_BLOCK = 64
# Logits whose largest are found together, and the floats that hold them, as in the kernels.
_MAXIMA_COLUMNS = 256
_MAXIMA_LANES = 16


def build_graph(config: ModelConfig, tensors: Sequence[PackedTensor]) -> ModelProto:
    """The graph of a model whose tensors lie in ``weights.bin`` as ``tensors`` says.

    Parameters
    ----------
    config : ModelConfig
        The model's configuration.
    tensors : sequence of PackedTensor
        From :func:`gpt2fast.export.quantize.layout`.
    """
    formats = {tensor.name: tensor.format for tensor in tensors if tensor.format is not None}
    graph = helper.make_graph(
        [_node(node) for node in step_nodes(config, formats)],
        "gpt2_step",
        _inputs(config),
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["R", config.vocab_size]),
            helper.make_tensor_value_info("logits_maxima", TensorProto.FLOAT, ["R", _maxima_width(config)]),
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["H", config.n_embd]),
        ],
        [_initializer(tensor) for tensor in tensors],
    )
    return _model(graph)


def _model(graph: GraphProto) -> ModelProto:
    return helper.make_model(
        graph,
        producer_name="gpt2fast",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid(*opset) for opset in OPSETS.items()],
    )


def _maxima_width(config: ModelConfig) -> int:
    return -(-config.vocab_size // _MAXIMA_COLUMNS) * _MAXIMA_LANES


def _inputs(config: ModelConfig) -> list[ValueInfoProto]:
    dimensions = {
        "input_ids": "T",
        "positions": "T",
        "sequence_starts": "S1",
        "slots": "S",
        "cached_lengths": "S",
        "hidden_rows": "H",
        "logits_rows": "R",
    }
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32, [size]) for name, size in dimensions.items()
    ]
    blocks = -(-config.n_positions // _CACHE_BLOCK)
    cache_shape: list[str | int] = ["cache_slots", blocks, config.n_layer, config.n_head, 2, "block_bytes"]
    return [*inputs, helper.make_tensor_value_info("kv_cache", TensorProto.UINT8, cache_shape)]


def _node(node: StepNode) -> NodeProto:
    proto = helper.make_node(node.operator, node.inputs, node.outputs, name=node.name, domain=node.domain)
    proto.attribute.extend(helper.make_attribute(*item) for item in sorted(node.attributes.items()))
    return proto


def _initializer(tensor: PackedTensor) -> TensorProto:
    """A tensor that points into ``weights.bin``."""
    packed = tensor.format is not None
    location = {"location": WEIGHTS_NAME, "offset": tensor.offset, "length": tensor.length}
    return TensorProto(
        name=tensor.name,
        dims=[tensor.length] if packed else tensor.shape,
        data_type=TensorProto.UINT8 if packed else TensorProto.FLOAT,
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=key, value=str(value)) for key, value in location.items()],
    )
