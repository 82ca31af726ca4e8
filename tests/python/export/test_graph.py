"""The step graph, the layout of weights.bin, and its packed content."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gpt2fast._native import core
from gpt2fast.checkpoints.base import LazyTensor, expected_shapes
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError
from gpt2fast.export import quantize
from gpt2fast.export.graph import build_graph
from gpt2fast.export.quantize import PackedTensor, layout, packed_chunks
from gpt2fast.storage.graph_check import check_graph
from gpt2fast.storage.model_directory import PRECISIONS
from support.checkpoint_samples import small_config


def graph_of(config: ModelConfig, precision: str = "int8") -> onnx.ModelProto:
    return build_graph(config, layout(config, precision))


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("tied", [True, False])
def test_the_graph_is_valid_and_passes_our_own_check(tmp_path: Path, precision: str, tied: bool) -> None:
    config = small_config(tie_word_embeddings=tied)
    tensors = layout(config, precision)
    size = tensors[-1].offset + tensors[-1].length
    model = graph_of(config, precision)
    (tmp_path / "weights.bin").write_bytes(bytes(size))
    onnx.save(model, tmp_path / "model.onnx")
    onnx.checker.check_model(tmp_path / "model.onnx")
    assert model.ir_version == 9
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 17), ("gpt2fast", 1)}
    check_graph(model.SerializeToString(), config, size, where="model.onnx")


def test_inputs_and_outputs() -> None:
    def shapes(values: Any) -> dict[str, tuple[int, list[Any]]]:
        return {
            value.name: (
                value.type.tensor_type.elem_type,
                [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
            )
            for value in values
        }

    config = small_config(n_embd=51, n_head=3, n_positions=65)
    inputs = shapes(graph_of(config).graph.input)
    assert inputs == {
        "input_ids": (TensorProto.INT32, ["T"]),
        "positions": (TensorProto.INT32, ["T"]),
        "sequence_starts": (TensorProto.INT32, ["S1"]),
        "slots": (TensorProto.INT32, ["S"]),
        "cached_lengths": (TensorProto.INT32, ["S"]),
        "hidden_rows": (TensorProto.INT32, ["H"]),
        "logits_rows": (TensorProto.INT32, ["R"]),
        "kv_cache": (TensorProto.UINT8, ["cache_slots", 2, 2, 3, 2, "block_bytes"]),
    }
    assert shapes(graph_of(config, "fp32").graph.output) == {
        "logits": (TensorProto.FLOAT, ["R", 101]),
        "logits_maxima": (TensorProto.FLOAT, ["R", 16]),
        "hidden": (TensorProto.FLOAT, ["H", 51]),
    }


def test_the_nodes_of_a_layer() -> None:
    config = small_config(n_inner=100, layer_norm_epsilon=1e-6, scale_attn_by_inverse_layer_idx=True)
    model = graph_of(config, "int4")
    assert [n.op_type for n in model.graph.node] == [
        "Embed",
        *["Linear", "CachedAttention", "Linear", "Linear", "Linear"],
        *["Linear", "CachedAttention", "Gather", "Gather", "Linear", "Linear", "Linear"],
        "LayerNorm",
        "Gather",
        "Linear",
    ]
    qkv, fc, projection = (node(model, f"h.1.{name}") for name in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj"))
    assert list(qkv.input) == [
        "x.1",
        *(f"h.1.{name}" for name in ("attn.c_attn.weight", "attn.c_attn.bias", "ln_1.weight", "ln_1.bias")),
    ]
    assert attributes(qkv) == {
        "in_features": 64,
        "out_features": 192,
        "format": core.FORMAT_INT4,
        "activation": 0,
        "epsilon": pytest.approx(1e-6),
    }
    assert attributes(fc)["activation"] == 1
    assert (attributes(projection)["in_features"], attributes(projection)["out_features"]) == (100, 64)
    assert list(projection.input)[3:] == ["", "", node(model, "h.1.attn.c_proj").output[0]]
    assert attributes(node(model, "h.1.attn")) == {
        "layer": 1,
        "layers": 2,
        "heads": 4,
        "head_dim": 16,
        "positions": 24,
        "scale": pytest.approx(1 / 4 / 2),
    }


def test_a_residual_stream_runs_through_all_layers() -> None:
    model = graph_of(small_config())
    x = "x.0"
    for layer in range(2):
        assert node(model, f"h.{layer}.attn.c_attn").input[0] == x
        first, second = (node(model, f"h.{layer}.{name}.c_proj") for name in ("attn", "mlp"))
        if layer == 1:
            assert list(node(model, f"{x}.rows").input) == [x, "hidden_rows"]
            assert list(node(model, first.input[0]).input) == ["h.1.a", "hidden_rows"]
            x = f"{x}.rows"
        assert (first.input[5], second.input[5]) == (x, first.output[0])
        x = second.output[0]
    assert node(model, "ln_f").input[0] == x


@pytest.mark.parametrize(
    ("activation", "value"),
    [("gelu_new", 1), ("gelu_pytorch_tanh", 1), ("gelu_fast", 1), ("gelu", 2), ("relu", 3)],
)
def test_activations(activation: str, value: int) -> None:
    model = graph_of(small_config(activation_function=activation))
    assert attributes(node(model, "h.0.mlp.c_fc"))["activation"] == value
    assert attributes(node(model, "h.0.mlp.c_proj"))["activation"] == 0


@pytest.mark.parametrize("tied", [True, False])
def test_the_head(tied: bool) -> None:
    model = graph_of(small_config(tie_word_embeddings=tied), "int4")
    embed, head = node(model, "embed"), node(model, "lm_head")
    assert list(embed.input) == ["input_ids", "positions", "wte.weight", "wpe.weight"]
    assert attributes(embed) == {"width": 64, "vocabulary": 101, "format": core.FORMAT_INT8}
    assert head.input[1] == ("wte.weight" if tied else "lm_head.weight")
    assert (attributes(head)["format"], attributes(head)["out_features"]) == (core.FORMAT_INT8, 101)


def test_the_same_model_gives_the_same_bytes() -> None:
    first, second = (graph_of(small_config()).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layout(precision: str) -> None:
    config = small_config(n_embd=51, n_head=3, tie_word_embeddings=False)
    tensors = layout(config, precision)
    assert [(tensor.name, tensor.shape) for tensor in tensors] == list(expected_shapes(config))
    assert all(tensor.offset % 4096 == 0 for tensor in tensors)
    assert all(a.offset + a.length <= b.offset < a.offset + a.length + 4096 for a, b in pairwise(tensors))
    formats = {tensor.name: tensor.format for tensor in tensors}
    linear, table = {"fp32": (0, 0), "bf16": (1, 1), "int8": (2, 2), "int4": (3, 2), "int4-all": (3, 3)}[
        precision
    ]
    assert formats["wte.weight"] == formats["lm_head.weight"] == table
    assert formats["h.1.mlp.c_fc.weight"] == formats["h.0.attn.c_proj.weight"] == linear
    assert formats["wpe.weight"] is formats["ln_f.weight"] is formats["h.0.mlp.c_fc.bias"] is None
    lengths = {tensor.name: tensor.length for tensor in tensors}
    assert lengths["wpe.weight"] == 24 * 51 * 4
    assert lengths["wte.weight"] == core.packed_weight_bytes(table, 51, 101)


def packed(tensor: PackedTensor, values: np.ndarray) -> np.ndarray:
    return np.concatenate(list(packed_chunks(tensor, LazyTensor.from_array(values))))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["wte.weight", "h.0.attn.c_attn.weight", "wpe.weight", "h.0.mlp.c_fc.bias"])
def test_pieces_are_the_whole(monkeypatch: pytest.MonkeyPatch, precision: str, name: str) -> None:
    config = small_config(n_embd=51, n_head=3)
    tensor = next(tensor for tensor in layout(config, precision) if tensor.name == name)
    values = np.random.default_rng(0).normal(size=tensor.shape).astype(np.float32)
    whole = packed(tensor, values)
    assert whole.dtype == np.uint8
    assert whole.size == tensor.length
    monkeypatch.setattr(quantize, "_CHUNK_BYTES", 1)  # pieces of one panel
    np.testing.assert_array_equal(packed(tensor, values), whole)


def test_float32_is_kept_exactly() -> None:
    tensors = {tensor.name: tensor for tensor in layout(small_config(n_embd=51, n_head=3), "fp32")}
    for name in ("wte.weight", "h.0.attn.c_attn.weight", "wpe.weight"):
        values = np.random.default_rng(0).normal(size=tensors[name].shape).astype(np.float32)
        blob = packed(tensors[name], values)
        if name == "wpe.weight":
            np.testing.assert_array_equal(blob.view("<f4").reshape(values.shape), values)
            continue
        columns = values if name == "wte.weight" else values.T  # [out_features, in_features]
        unpacked = core.unpack_linear(blob, core.FORMAT_FLOAT32, columns.shape[1], 0, columns.shape[0])
        np.testing.assert_array_equal(unpacked, columns)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["wte.weight", "h.0.attn.c_attn.weight", "wpe.weight", "ln_f.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(name: str, bad: float) -> None:
    tensor = next(tensor for tensor in layout(small_config(), "int8") if tensor.name == name)
    values = np.zeros(tensor.shape, np.float32)
    values.flat[-1] = bad
    with pytest.raises(ModelError, match=f"the tensor '{name}' can't be stored"):
        packed(tensor, values)
