"""ONNX files from other exporters, and a check of what is read from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.checkpoints.onnx_file import read_onnx
from gpt2fast.checkpoints.onnx_graph import open_onnx
from gpt2fast.checkpoints.onnx_verify import verify_against_source
from gpt2fast.checkpoints.onnx_walk import Graph
from gpt2fast.config import ModelConfig
from support.checkpoint_samples import random_tensors

#: Scores reach about 20; float32 in another order of summation stays below this.
CLOSE = 1e-4


def check(path: Path, config: ModelConfig, *, exact: bool = True) -> Checkpoint:
    """The file must yield this configuration and its random weights, and compute the same as they do."""
    checkpoint = open_onnx(path)
    assert checkpoint.config == config
    wanted = random_tensors(config)
    assert set(checkpoint.tensors) == set(wanted)
    if exact:
        for name, values in wanted.items():
            np.testing.assert_array_equal(checkpoint.tensors[name].read(), values, err_msg=name)
    assert verify_against_source(checkpoint, path) < CLOSE
    return checkpoint


def transformers_model(config: ModelConfig, *, with_head: bool, attention: str) -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    values = {**config.to_dict(), "attn_implementation": attention}
    kind = transformers.GPT2LMHeadModel if with_head else transformers.GPT2Model
    model = kind(transformers.GPT2Config(**values)).eval()
    prefix = "transformer." if with_head else ""
    state = {prefix + name: torch.from_numpy(value) for name, value in random_tensors(config).items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    return model


def export_with_past(path: Path, config: ModelConfig, attention: str, dtype: Any, *, stacked: bool) -> None:
    """Export with positions, a mask and a past: stacked as ONNX Runtime has them, or apart as optimum has."""
    torch = pytest.importorskip("torch")
    from transformers.cache_utils import DynamicCache

    model = transformers_model(config, with_head=True, attention=attention).to(dtype)

    class Wrapped(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, position_ids: Any, attention_mask: Any, *past: Any) -> Any:
            pairs = past if stacked else zip(past[::2], past[1::2], strict=True)
            cache = DynamicCache([(keys, values) for keys, values in pairs])
            result = self.model(
                input_ids, position_ids=position_ids, attention_mask=attention_mask, past_key_values=cache
            )
            layers = [(layer.keys, layer.values) for layer in result.past_key_values.layers]
            if stacked:
                return (result[0], *(torch.stack(layer) for layer in layers))
            return (result[0], *(half for layer in layers for half in layer))

    shape: tuple[int, ...] = (1, config.n_head, 3, config.head_dim)
    if stacked:
        past_names, shape = [f"past_{i}" for i in range(config.n_layer)], (2, *shape)
    else:
        past_names = [
            f"past_key_values.{i}.{half}" for i in range(config.n_layer) for half in ("key", "value")
        ]
    past = [torch.zeros(shape, dtype=dtype) for _ in past_names]
    mask = torch.ones(1, 11, dtype=torch.long)
    names = ["input_ids", "position_ids", "attention_mask", *past_names]
    axes = {name: [len(shape) - 4, len(shape) - 2] if name in past_names else [0, 1] for name in names}
    arguments = (torch.zeros(1, 8, dtype=torch.long), torch.arange(3, 11)[None], mask, *past)
    torch.onnx.export(
        Wrapped(), arguments, path, dynamo=False, opset_version=14, input_names=names, dynamic_axes=axes
    )


def graph_of(
    path: Path, nodes: list[Any], constants: dict[str, Any], inputs: tuple[str, ...] = ("x",)
) -> Graph:
    """The walk over these nodes, by way of a file; constants are initializers."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = onnx.helper.make_graph(nodes, "graph", values, [], initializers)
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return Graph(read_onnx(path))
