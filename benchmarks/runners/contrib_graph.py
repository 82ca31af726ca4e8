"""A GPT-2 graph of ONNX Runtime's own contributed operators: what it does without our kernels."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gpt2fast.evaluation.speed import Arrivals

PACKAGES = ("onnxruntime", "onnx")
FORMATS = {"fp32": 32, "int8": 8, "int4": 4}
_BLOCK_SIZE = 128
_CONTRIB = "com.microsoft"
_OPSET = 17
_IR_VERSION = 9
_INT8_ARITHMETIC = 4  # MatMulNBits' accuracy_level that quantises activations


def convert(checkpoint: Path, directory: Path, format: str) -> None:
    import onnx
    from safetensors.numpy import load_file

    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    tensors = {
        name.removeprefix("transformer."): tensor.astype(np.float32)
        for name, tensor in load_file(checkpoint / "model.safetensors").items()
    }
    graph = _GraphBuilder(tensors, config, FORMATS[format]).build()
    onnx.save(graph, directory / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    (directory / "config.json").write_text(json.dumps(config), "utf-8")


class _GraphBuilder:
    """Builds the step graph [batch, tokens] -> logits [batch, 1, vocabulary] over a shared KV buffer."""

    def __init__(self, tensors: dict[str, NDArray[np.float32]], config: dict[str, Any], bits: int) -> None:
        self._tensors = tensors
        self._config = config
        self._bits = bits
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []

    def build(self) -> Any:
        from onnx import TensorProto, helper

        hidden = self._add_layers(self._add_embedding())
        newest = self._add("Gather", [hidden, self._constant("newest", np.array([-1]))], axis=1)
        self._linear(newest, self._tensors["wte.weight"].T, None, "logits")
        heads = self._config["n_head"]
        cache = ["batch", heads, "positions", self._config["n_embd"] // heads]
        inputs = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "tokens"]),
            helper.make_tensor_value_info("last_position", TensorProto.INT32, ["batch"]),
            helper.make_tensor_value_info("length", TensorProto.INT32, []),
        ]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
        for name in cache_names(self._config):
            inputs.append(helper.make_tensor_value_info(f"past_{name}", TensorProto.FLOAT, cache))
            outputs.append(helper.make_tensor_value_info(f"present_{name}", TensorProto.FLOAT, cache))
        graph = helper.make_graph(self._nodes, "gpt2", inputs, outputs, self._initializers)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(_CONTRIB, 1)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = _IR_VERSION
        return model

    def _add_embedding(self) -> str:
        tokens = self._add("Gather", [self._weight("wte.weight"), "input_ids"])
        positions = self._add("Gather", [self._weight("wpe.weight"), "position_ids"])
        return self._add("Add", [tokens, positions])

    def _add_layers(self, residual: str) -> str:
        layers = self._config["n_layer"]
        epsilon = self._config["layer_norm_epsilon"]
        normed = self._add(
            "LayerNormalization", [residual, *self._norm("h.0.ln_1")], axis=-1, epsilon=epsilon
        )
        for layer in range(layers):
            attended = self._add_attention(normed, layer)
            normed, residual = self._add_norm(attended, residual, f"h.{layer}.ln_2")
            inner = self._layer_linear(normed, f"h.{layer}.mlp.c_fc")
            inner = self._add("FastGelu", [inner], domain=_CONTRIB)
            output = self._layer_linear(inner, f"h.{layer}.mlp.c_proj")
            following = "ln_f" if layer == layers - 1 else f"h.{layer + 1}.ln_1"
            normed, residual = self._add_norm(output, residual, following)
        return normed

    def _add_attention(self, x: str, layer: int) -> str:
        heads = self._config["n_head"]
        qkv = self._layer_linear(x, f"h.{layer}.attn.c_attn")
        attended = self._add(
            "GroupQueryAttention",
            [qkv, "", "", f"past_key_{layer}", f"past_value_{layer}", "last_position", "length"],
            [f"attended_{layer}", f"present_key_{layer}", f"present_value_{layer}"],
            domain=_CONTRIB,
            num_heads=heads,
            kv_num_heads=heads,
        )
        return self._layer_linear(attended, f"h.{layer}.attn.c_proj")

    def _add_norm(self, x: str, residual: str, name: str) -> tuple[str, str]:
        """LayerNorm of x + residual, and the sum."""
        outputs = [f"{name}.normed", "", "", f"{name}.sum"]
        self._add(
            "SkipLayerNormalization",
            [x, residual, *self._norm(name)],
            outputs,
            domain=_CONTRIB,
            epsilon=self._config["layer_norm_epsilon"],
        )
        return outputs[0], outputs[3]

    def _layer_linear(self, x: str, name: str) -> str:
        return self._linear(x, self._tensors[f"{name}.weight"], f"{name}.bias", f"{name}.output")

    def _linear(self, x: str, weight: NDArray[np.float32], bias: str | None, output: str) -> str:
        """Multiply x [.., inputs] by weight [inputs, outputs], plus a bias if there is one."""
        if self._bits == 32:
            product = [output] if bias is None else None
            y = self._add("MatMul", [x, self._constant(f"{output}.weight", weight)], product)
            return y if bias is None else self._add("Add", [y, self._weight(bias)], [output])
        quantized, scales = quantize_blocks(weight, self._bits)
        inputs = [
            x,
            self._constant(f"{output}.weight", quantized),
            self._constant(f"{output}.scales", scales),
        ]
        return self._add(
            "MatMulNBits",
            inputs if bias is None else [*inputs, "", "", self._weight(bias)],
            [output],
            domain=_CONTRIB,
            K=weight.shape[0],
            N=weight.shape[1],
            bits=self._bits,
            block_size=_BLOCK_SIZE,
            accuracy_level=_INT8_ARITHMETIC,
        )

    def _norm(self, name: str) -> list[str]:
        return [self._weight(f"{name}.weight"), self._weight(f"{name}.bias")]

    def _weight(self, name: str) -> str:
        return self._constant(name, self._tensors[name])

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _add(
        self, operator: str, inputs: list[str], outputs: list[str] | None = None, **attributes: Any
    ) -> str:
        from onnx import helper

        outputs = outputs or [f"value_{len(self._nodes)}"]
        self._nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        return outputs[0]


def quantize_blocks(weight: NDArray[np.float32], bits: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """MatMulNBits' weights: rounded to the nearest over blocks of inputs, each with a scale.

    Parameters
    ----------
    weight : float32 array, shape (inputs, outputs)
    bits : {4, 8}

    Returns
    -------
    quantized : uint8 array, shape (outputs, blocks, block bytes)
    scales : float32 array, shape (outputs, blocks)
    """
    inputs, outputs = weight.shape
    columns = np.pad(weight.T, ((0, 0), (0, -inputs % _BLOCK_SIZE)))
    blocks = columns.reshape(outputs, -1, _BLOCK_SIZE)
    zero = 1 << (bits - 1)
    scales = np.maximum(np.abs(blocks).max(axis=2) / (zero - 1), np.finfo(np.float32).tiny)
    values = np.clip(np.rint(blocks / scales[..., np.newaxis]) + zero, 0, 2 * zero - 1).astype(np.uint8)
    if bits == 4:
        values = values[..., 0::2] | values[..., 1::2] << 4
    return values, scales.astype(np.float32)


def cache_names(config: dict[str, Any]) -> list[str]:
    """The KV buffers: one for keys and one for values, for each layer."""
    return [f"{kind}_{layer}" for layer in range(config["n_layer"]) for kind in ("key", "value")]


def load(directory: Path, format: str, threads: int, texts: int) -> _Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        directory / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    return _Runner(session, json.loads((directory / "config.json").read_text("utf-8")))


class _Runner:
    def __init__(self, session: Any, config: dict[str, Any]) -> None:
        self._session = session
        self._config = config
        self._caches: dict[int, dict[str, Any]] = {}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Arrivals:
        cache = self.cache(len(prompts))
        ids = np.array(prompts, dtype=np.int64)
        times = []
        position = 0
        start = time.perf_counter()
        for _ in range(new_tokens):
            logits = self.step(ids, position, cache)
            position += ids.shape[1]
            ids = logits[:, 0].argmax(axis=-1).reshape(-1, 1)
            times.append(time.perf_counter() - start)
        return [list(times) for _ in prompts]

    def step(self, ids: NDArray[np.int64], position: int, cache: dict[str, Any]) -> NDArray[np.float32]:
        """Logits [batch, 1, vocabulary] of the newest tokens; the cache is written in place."""
        batch, tokens = ids.shape
        length = position + tokens
        positions = np.tile(np.arange(position, length, dtype=np.int64), (batch, 1))
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("position_ids", positions)
        binding.bind_cpu_input("last_position", np.full(batch, length - 1, dtype=np.int32))
        binding.bind_cpu_input("length", np.array(length, dtype=np.int32))
        binding.bind_output("logits")
        for name, value in cache.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        self._session.run_with_iobinding(binding)
        logits: NDArray[np.float32] = binding.get_outputs()[0].numpy()
        return logits

    def cache(self, batch: int) -> dict[str, Any]:
        """Buffers [batch, heads, positions, head width] by name, kept for the next call."""
        from onnxruntime import OrtValue

        if batch not in self._caches:
            heads = self._config["n_head"]
            shape = (batch, heads, self._config["n_positions"], self._config["n_embd"] // heads)
            self._caches[batch] = {
                name: OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32))
                for name in cache_names(self._config)
            }
        return self._caches[batch]
