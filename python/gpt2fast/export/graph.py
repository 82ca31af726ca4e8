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

from collections.abc import Mapping, Sequence

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

DOMAIN = "gpt2fast"
OPSET = 17
IR_VERSION = 9
DOMAIN_VERSION = 1

# Values of Activation in the kernels. The polynomial of gelu_fast is gelu_new's with its constant rounded.
_NO_ACTIVATION = 0
_ACTIVATIONS = {"gelu_new": 1, "gelu_pytorch_tanh": 1, "gelu_fast": 1, "gelu": 2, "relu": 3}
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
    stored = {tensor.name: tensor for tensor in tensors}
    graph = helper.make_graph(
        _nodes(config, stored),
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
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
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


def _nodes(config: ModelConfig, stored: Mapping[str, PackedTensor]) -> list[NodeProto]:
    table = stored["wte.weight"]
    embed = helper.make_node(
        "Embed",
        ["input_ids", "positions", table.name, "wpe.weight"],
        ["x.0"],
        name="embed",
        domain=DOMAIN,
        width=config.n_embd,
        vocabulary=config.vocab_size,
        format=table.format,
    )
    nodes = [embed]
    for layer in range(config.n_layer):
        nodes += _layer_nodes(config, stored, layer)
    nodes.append(
        helper.make_node(
            "LayerNorm",
            [f"x.{config.n_layer}", "ln_f.weight", "ln_f.bias"],
            ["hidden"],
            name="ln_f",
            domain=DOMAIN,
            epsilon=config.layer_norm_epsilon,
        )
    )
    nodes.append(_gather("hidden", "logits_rows", "wanted"))
    head = table if config.tie_word_embeddings else stored["lm_head.weight"]
    nodes.append(
        helper.make_node(
            "Linear",
            ["wanted", head.name],
            ["logits", "logits_maxima"],
            name="lm_head",
            domain=DOMAIN,
            in_features=config.n_embd,
            out_features=config.vocab_size,
            format=head.format,
            activation=_NO_ACTIVATION,
            epsilon=config.layer_norm_epsilon,
        )
    )
    return nodes


def _layer_nodes(config: ModelConfig, stored: Mapping[str, PackedTensor], layer: int) -> list[NodeProto]:
    prefix = f"h.{layer}"

    def linear(
        name: str, x: str, y: str, *, norm: str = "", residual: str = "", activation: int = 0
    ) -> NodeProto:
        weight = stored[f"{prefix}.{name}.weight"]
        inputs = [x, weight.name, f"{prefix}.{name}.bias"]
        inputs += [f"{prefix}.{norm}.weight", f"{prefix}.{norm}.bias"] if norm else ["", ""]
        inputs.append(residual)
        while not inputs[-1]:
            inputs.pop()
        return helper.make_node(
            "Linear",
            inputs,
            [y],
            name=f"{prefix}.{name}",
            domain=DOMAIN,
            in_features=weight.shape[0],
            out_features=weight.shape[1],
            format=weight.format,
            activation=activation,
            epsilon=config.layer_norm_epsilon,
        )

    x, qkv, attended, middle, inner = f"x.{layer}", *(f"{prefix}.{part}" for part in ("qkv", "a", "x", "f"))
    last = layer == config.n_layer - 1
    wanted = ["hidden_rows"] if last else []
    attention = helper.make_node(
        "CachedAttention",
        [qkv, "sequence_starts", "slots", "cached_lengths", "kv_cache", *wanted],
        [attended],
        name=f"{prefix}.attn",
        domain=DOMAIN,
        layer=layer,
        layers=config.n_layer,
        heads=config.n_head,
        head_dim=config.head_dim,
        positions=config.n_positions,
        scale=config.attention_scale(layer),
    )
    activation = _ACTIVATIONS[config.activation_function]
    nodes = [linear("attn.c_attn", x, qkv, norm="ln_1"), attention]
    if last:
        nodes += [_gather(name, "hidden_rows", f"{name}.rows") for name in (attended, x)]
        attended, x = f"{attended}.rows", f"{x}.rows"
    return [
        *nodes,
        linear("attn.c_proj", attended, middle, residual=x),
        linear("mlp.c_fc", middle, inner, norm="ln_2", activation=activation),
        linear("mlp.c_proj", inner, f"x.{layer + 1}", residual=middle),
    ]


def _gather(x: str, rows: str, y: str) -> NodeProto:
    return helper.make_node("Gather", [x, rows], [y], name=y, axis=0)


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
