"""ONNX graphs that differ from the plain export and compute the same: order of nodes, head, last token."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from gpt2fast.checkpoints.onnx_graph import open_onnx
from gpt2fast.checkpoints.onnx_verify import check_against_source
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError
from gpt2fast.export.standard import export_onnx
from support.checkpoint_samples import random_tensors, small_config
from support.onnx_samples import check
from support.zoo_samples import random_checkpoint

TIED, UNTIED = small_config(), small_config(tie_word_embeddings=False)


def edited(path: Path, edit: Callable[[Any], None], config: ModelConfig = UNTIED) -> Path:
    """An export with its message changed."""
    export_onnx(random_checkpoint(tie_word_embeddings=config.tie_word_embeddings), path)
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return path


def reverse(nodes: list[Any]) -> None:
    nodes.reverse()


def shuffle(nodes: list[Any]) -> None:
    random.Random(7).shuffle(nodes)


@pytest.mark.parametrize("reorder", [reverse, shuffle])
def test_nodes_in_any_order(tmp_path: Path, reorder: Callable[[list[Any]], None]) -> None:
    def edit(model: Any) -> None:
        nodes = list(model.graph.node)
        reorder(nodes)
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    check(edited(tmp_path / "model.onnx", edit), UNTIED)


def test_a_circle_of_nodes_is_refused(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        model.graph.node.append(onnx.helper.make_node("Add", ["b", "b"], ["a"]))
        model.graph.node.append(onnx.helper.make_node("Add", ["a", "a"], ["b"]))

    path = edited(tmp_path / "model.onnx", edit)
    with pytest.raises(ModelError, match="2 nodes of its graph depend on one another in a circle"):
        open_onnx(path)


def head_of(config: ModelConfig) -> NDArray[np.float32]:
    return random_tensors(config)["wte.weight" if config.tie_word_embeddings else "lm_head.weight"]


def put_head(model: Any, before: list[Any], hidden: str, head: NDArray[np.float32]) -> None:
    """End the graph after the last LayerNorm with these nodes and a product of ``hidden`` and the head."""
    nodes = list(model.graph.node)
    end = next(index for index, node in enumerate(nodes) if "ln_f" in node.output) + 1
    product = onnx.helper.make_node("MatMul", [hidden, "head.T"], ["logits"])
    del model.graph.node[end:]
    model.graph.node.extend([*before, product])
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(head.T), "head.T"))


def declare(model: Any, *shape: Any) -> None:
    """Change the declared shape of the first output."""
    value = onnx.helper.make_tensor_value_info(model.graph.output[0].name, onnx.TensorProto.FLOAT, shape)
    model.graph.output[0].CopyFrom(value)


def last_of(name: str, *, keep: bool) -> list[Any]:
    """Nodes that pick the last token of ``name``, as [batch, 1, n] or [batch, n]."""
    index = numpy_helper.from_array(np.array([-1] if keep else -1), "last")
    constant = onnx.helper.make_node("Constant", [], ["last"], value=index)
    return [constant, onnx.helper.make_node("Gather", [name, "last"], [f"{name}.last"], axis=1)]


@pytest.mark.parametrize("config", [TIED, UNTIED])
@pytest.mark.parametrize("keep", [True, False])
def test_scores_of_the_last_token_alone(tmp_path: Path, config: ModelConfig, keep: bool) -> None:
    """As text-generation exporters have it: hidden states are cut before the head."""

    def edit(model: Any) -> None:
        put_head(model, last_of("ln_f", keep=keep), "ln_f.last", head_of(config))
        declare(model, "batch", *([1] if keep else []), 101)

    check(edited(tmp_path / "model.onnx", edit, config), config)


def test_scores_that_are_cut_to_the_last_token_afterwards(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        for node in model.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        *before, last = last_of("scores", keep=False)
        last.output[0] = "logits"
        model.graph.node.extend([*before, last])
        declare(model, "batch", 101)

    check(edited(tmp_path / "model.onnx", edit), UNTIED)


def test_another_token_than_the_last_is_refused(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        for node in model.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        model.graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
        model.graph.node.append(onnx.helper.make_node("Gather", ["scores", "first"], ["logits"], axis=1))
        declare(model, "batch", 101)

    path = edited(tmp_path / "model.onnx", edit)
    with pytest.raises(ModelError, match="computes something else"):
        check_against_source(open_onnx(path), path)


@pytest.mark.parametrize("config", [TIED, UNTIED])
@pytest.mark.parametrize("padding", [0.0, 0.5])
def test_a_head_padded_beyond_the_table(tmp_path: Path, config: ModelConfig, padding: float) -> None:
    """As ONNX Runtime's converters pad the vocabulary to a multiple of eight; only zeros are padding."""

    def edit(model: Any) -> None:
        padded = np.concatenate([head_of(config), np.full((3, 64), padding, np.float32)])
        put_head(model, [], "ln_f", padded)
        declare(model, "batch", "tokens", 104)

    path = edited(tmp_path / "model.onnx", edit, config)
    if padding:
        with pytest.raises(ModelError, match=r"'lm_head.weight' has 104 rows, the token table 101"):
            open_onnx(path)
    else:
        check(path, config)
