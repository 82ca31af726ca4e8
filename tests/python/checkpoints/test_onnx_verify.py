"""What a file's graph is run with, to compare it with what was read; graphs that can't be compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.helper import make_node, make_tensor_value_info

from gpt2fast.checkpoints.onnx_graph import open_onnx
from gpt2fast.checkpoints.onnx_verify import verify_against_source
from gpt2fast.errors import ModelError
from gpt2fast.export.standard import StandardOptions, export_onnx
from support.checkpoint_samples import small_config
from support.onnx_samples import check
from support.zoo_samples import random_checkpoint


def edited(path: Path, edit: Callable[[Any], None], *, past: bool = False) -> Path:
    """An export with its message changed."""
    export_onnx(random_checkpoint(), path, StandardOptions(past=past))
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return path


def replace_input(model: Any, old: str, new: str) -> None:
    """Let the nodes read ``new`` in place of ``old``."""
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("shape", [["tokens"], ["batch", "tokens"]])
def test_positions_are_given_behind_the_past(tmp_path: Path, shape: list[str], past: bool) -> None:
    def edit(model: Any) -> None:
        model.graph.input.append(make_tensor_value_info("position_ids", TensorProto.INT64, shape))
        gather = next(node for node in model.graph.node if "wpe.weight" in node.input)
        gather.input[1] = "position_ids"

    check(edited(tmp_path / "model.onnx", edit, past=past), small_config())


@pytest.mark.parametrize("past", [False, True])
def test_the_mask_covers_past_and_tokens(tmp_path: Path, past: bool) -> None:
    """The embeddings are multiplied by the mask's smallest value, and by its length over the right one."""

    def edit(model: Any) -> None:
        model.graph.input.append(
            make_tensor_value_info("attention_mask", TensorProto.FLOAT, ["batch", "total"])
        )
        replace_input(model, "wte", "masked")
        total = "total_tokens" if past else "tokens"
        added = [
            make_node("Shape", ["attention_mask"], ["mask.shape"]),
            make_node("Gather", ["mask.shape", "int_1"], ["mask.length"]),
            make_node("Div", ["mask.length", total], ["mask.ratio"]),
            make_node("Cast", ["mask.ratio"], ["mask.factor"], to=TensorProto.FLOAT),
            make_node("ReduceMin", ["attention_mask"], ["mask.least"], keepdims=0),
            make_node("Mul", ["mask.factor", "mask.least"], ["mask.product"]),
            make_node("Mul", ["wte", "mask.product"], ["masked"]),
        ]
        model.graph.node.extend(added)

    check(edited(tmp_path / "model.onnx", edit, past=past), small_config())


def test_an_input_that_no_gpt2_needs_is_refused(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        model.graph.input.append(
            make_tensor_value_info("token_type_ids", TensorProto.INT64, ["batch", "tokens"])
        )

    path = edited(tmp_path / "model.onnx", edit)
    checkpoint = open_onnx(path)
    with pytest.raises(ModelError, match="takes the input 'token_type_ids', which a GPT-2 does not need"):
        verify_against_source(checkpoint, path)


def put_first(model: Any, node: Any, shape: list[int | str]) -> None:
    """Add a node whose output becomes the graph's first."""
    model.graph.node.append(node)
    outputs = [make_tensor_value_info(node.output[0], TensorProto.FLOAT, shape), *model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(outputs)


@pytest.mark.parametrize(
    ("node", "declared", "shape"),
    [
        (make_node("ReduceMax", ["logits"], ["first"], keepdims=0), [], r"\[\]"),
        (make_node("Slice", ["logits", "0", "50", "2"], ["first"]), ["b", "t", 50], r"\[1, 8, 50\]"),
        (make_node("Slice", ["logits", "0", "5", "1"], ["first"]), ["b", 5, "v"], r"\[1, 5, 101\]"),
    ],
)
def test_a_first_output_that_is_no_gpt2s(tmp_path: Path, node: Any, declared: list[Any], shape: str) -> None:
    def edit(model: Any) -> None:
        put_first(model, node, declared)
        for number in (0, 1, 2, 5, 50):
            model.graph.initializer.append(numpy_helper.from_array(np.array([number]), str(number)))

    path = edited(tmp_path / "model.onnx", edit)
    checkpoint = open_onnx(path)
    with pytest.raises(ModelError, match=rf"its first output has shape {shape}, as no GPT-2's has"):
        verify_against_source(checkpoint, path)


def test_a_graph_that_fails_when_it_runs(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        # A text of eight tokens has no fiftieth.
        put_first(model, make_node("Gather", ["logits", "fifty"], ["first"], axis=1), ["b", 1, "v"])
        model.graph.initializer.append(numpy_helper.from_array(np.array([50]), "fifty"))

    path = edited(tmp_path / "model.onnx", edit)
    checkpoint = open_onnx(path)
    with pytest.raises(ModelError, match=r"model\.onnx: ONNX Runtime can't run it: "):
        verify_against_source(checkpoint, path)
