"""Weights and configuration from the graphs of PyTorch's exporters, also after ONNX Runtime's optimizer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast.checkpoints.onnx_graph import open_onnx
from gpt2fast.checkpoints.onnx_verify import verify_against_source
from gpt2fast.config import ModelConfig
from support.checkpoint_samples import random_tensors, small_config
from support.onnx_samples import check, export_with_past, transformers_model


def export_zoo(path: Path, config: ModelConfig, *, with_head: bool, **options: Any) -> None:
    torch = pytest.importorskip("torch")
    from support.zoo_torch_model import zoo_model

    model = zoo_model(config, random_tensors(config), with_head=with_head)
    names = [f"output{i + 1}" for i in range(config.n_layer + 1)]
    ids = torch.zeros(1, 1, 8, dtype=torch.long)
    torch.onnx.export(
        model, (ids,), path, input_names=["input1"], output_names=names, verbose=False, **options
    )


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [10, 12, 17])
@pytest.mark.parametrize("with_head", [False, True])
@pytest.mark.parametrize("axes", [{}, {"dynamic_axes": {"input1": [0, 1, 2]}}])
def test_the_zoos_graph(tmp_path: Path, opset: int, with_head: bool, axes: dict[str, Any]) -> None:
    path = tmp_path / "gpt2.onnx"
    config = small_config()
    export_zoo(path, config, with_head=with_head, dynamo=False, opset_version=opset, **axes)
    check(path, config)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("with_head", [False, True])
def test_the_zoos_model_from_the_dynamo_exporter(tmp_path: Path, with_head: bool) -> None:
    pytest.importorskip("onnxscript")
    path = tmp_path / "gpt2.onnx"
    config = small_config()
    shapes = ({2: "tokens"},)
    export_zoo(path, config, with_head=with_head, dynamo=True, dynamic_shapes=shapes, external_data=with_head)
    check(path, config)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("exporter", "attention", "with_head"),
    [
        ("torchscript-14", "eager", False),
        ("torchscript-14", "eager", True),
        ("torchscript-14", "sdpa", True),
        ("torchscript-18", "eager", True),
        ("torchscript-18", "sdpa", False),
        ("dynamo-18", "eager", True),
        ("dynamo-18", "sdpa", False),
        # From here on attention is one of ONNX's operators.
        ("dynamo-23", "sdpa", True),
    ],
)
def test_transformers_without_a_past(tmp_path: Path, exporter: str, attention: str, with_head: bool) -> None:
    torch = pytest.importorskip("torch")
    config = small_config()
    model = transformers_model(config, with_head=with_head, attention=attention)

    class Wrapped(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any) -> Any:
            result = self.model(input_ids, use_cache=True)
            caches = [half for layer in result.past_key_values.layers for half in (layer.keys, layer.values)]
            return (result[0], *caches)

    path = tmp_path / "model.onnx"
    kind, opset = exporter.split("-")
    options: dict[str, Any] = {"dynamo": False, "dynamic_axes": {"input_ids": [0, 1]}}
    if kind == "dynamo":
        pytest.importorskip("onnxscript")
        options = {"dynamo": True, "dynamic_shapes": ({0: "batch", 1: "tokens"},), "verbose": False}
    ids = torch.zeros(2, 8, dtype=torch.long)
    torch.onnx.export(Wrapped(), (ids,), path, input_names=["input_ids"], opset_version=int(opset), **options)
    check(path, config)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("stacked", [True, False])
def test_transformers_with_a_past(tmp_path: Path, attention: str, stacked: bool) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.onnx"
    export_with_past(path, small_config(), attention, torch.float32, stacked=stacked)
    check(path, small_config())


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_half_precision_weights(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.onnx"
    config = small_config()
    export_with_past(path, config, "eager", torch.float16, stacked=True)
    checkpoint = open_onnx(path)
    assert checkpoint.config == config
    for name, values in random_tensors(config).items():
        np.testing.assert_array_equal(
            checkpoint.tensors[name].read(), values.astype(np.float16), err_msg=name
        )
    assert verify_against_source(checkpoint, path) < 0.1


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [10, 17])
def test_graphs_that_onnx_runtime_has_fused(
    tmp_path: Path, opset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from onnxruntime.transformers.optimizer import optimize_model

    path, fused = tmp_path / "gpt2.onnx", tmp_path / "fused.onnx"
    config = small_config()
    axes = {"input1": [0, 1, 2]}
    export_zoo(path, config, with_head=True, dynamo=False, opset_version=opset, dynamic_axes=axes)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    model = optimize_model(str(path), model_type="gpt2", num_heads=4, hidden_size=64)
    assert model.get_fused_operator_statistics()["FastGelu"] == config.n_layer
    model.save_model_to_file(str(fused))
    check(fused, config)
