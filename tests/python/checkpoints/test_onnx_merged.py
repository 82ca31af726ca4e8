"""Two ONNX models merged by an If, as optimum merges a decoder with and without a past."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gpt2fast.checkpoints.onnx_graph import open_onnx
from gpt2fast.checkpoints.onnx_verify import check_against_source
from gpt2fast.errors import ModelError
from support.checkpoint_samples import random_tensors, small_config
from support.merged_samples import CHOICE, exports, merged
from support.onnx_samples import check, export_with_past, transformers_model
from support.zoo_samples import random_checkpoint


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("opset", [11, 17])
def test_merged_exports_are_read(tmp_path: Path, opset: int, shared: bool) -> None:
    path = tmp_path / "decoder_model_merged.onnx"
    onnx.save(merged(*exports(random_checkpoint(), tmp_path, opset=opset), shared=shared), path)
    checkpoint = check(path, small_config())
    assert checkpoint.check_source is not None
    checkpoint.check_source()


def test_weights_in_external_data(tmp_path: Path) -> None:
    path = tmp_path / "decoder_model_merged.onnx"
    model = merged(*exports(random_checkpoint(), tmp_path), shared=False)
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=1024)
    check(path, small_config())


def edit_branch(model: Any, branch: str) -> Any:
    return next(attribute.g for attribute in model.graph.node[0].attribute if attribute.name == branch)


@pytest.mark.parametrize("branch", ["then_branch", "else_branch"])
def test_a_branch_that_computes_something_else_is_noticed(tmp_path: Path, branch: str) -> None:
    """Also the branch that is not read: both are run."""
    path = tmp_path / "decoder_model_merged.onnx"
    model = merged(*exports(random_checkpoint(), tmp_path), shared=False)
    other = edit_branch(model, "then_branch").initializer
    weight = next(one for one in other if one.name.endswith("h.1.mlp.c_proj.weight"))
    wrong = numpy_helper.to_array(weight)[::-1]
    for one in edit_branch(model, branch).initializer:
        if one.name.endswith("h.1.mlp.c_proj.weight"):
            one.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(wrong), one.name))
    onnx.save(model, path)
    checkpoint = open_onnx(path)
    with pytest.raises(ModelError, match="computes something else"):
        check_against_source(checkpoint, path)


def _no_input(model: Any) -> None:
    del model.graph.input[-1]
    model.graph.initializer.append(numpy_helper.from_array(np.array([True]), CHOICE))


def _second_if(model: Any) -> None:
    edit_branch(model, "else_branch").node.append(model.graph.node[0])


def _lost_output(model: Any) -> None:
    del edit_branch(model, "else_branch").output[-1]


def _no_else(model: Any) -> None:
    del model.graph.node[0].attribute[1]


def _sparse(model: Any) -> None:
    edit_branch(model, "else_branch").sparse_initializer.add()


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (_no_input, "an If whose condition is not an input"),
        (_second_if, "control flow operation If"),
        (_no_else, "control flow operation If"),
        (_lost_output, "other outputs"),
        (_sparse, "sparse weights"),
    ],
)
def test_other_control_flow_is_refused(tmp_path: Path, edit: Callable[[Any], None], fault: str) -> None:
    path = tmp_path / "decoder_model_merged.onnx"
    model = merged(*exports(random_checkpoint(), tmp_path))
    edit(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=fault):
        open_onnx(path)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_the_merge_of_two_exports_of_transformers(tmp_path: Path) -> None:
    """Separate keys and values, a mask, positions: the inputs and outputs of optimum's exports."""
    torch = pytest.importorskip("torch")
    config = small_config()
    export_with_past(tmp_path / "with.onnx", config, "eager", torch.float32, stacked=False)
    model = transformers_model(config, with_head=True, attention="eager")

    class Wrapped(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, position_ids: Any, attention_mask: Any) -> Any:
            result = self.model(input_ids, position_ids=position_ids, attention_mask=attention_mask)
            layers = result.past_key_values.layers
            return (result[0], *(half for layer in layers for half in (layer.keys, layer.values)))

    names = ["input_ids", "position_ids", "attention_mask"]
    arguments = (torch.zeros(1, 8, dtype=torch.long), torch.arange(8)[None], torch.ones(1, 8).long())
    axes = {name: [0, 1] for name in names}
    torch.onnx.export(
        Wrapped(), arguments, tmp_path / "without.onnx", dynamo=False, opset_version=14,
        input_names=names, dynamic_axes=axes,
    )  # fmt: skip
    path = tmp_path / "decoder_model_merged.onnx"
    onnx.save(merged(*(onnx.load(tmp_path / name) for name in ("with.onnx", "without.onnx"))), path)
    checkpoint = check(path, config)
    assert set(checkpoint.tensors) == set(random_tensors(config))
