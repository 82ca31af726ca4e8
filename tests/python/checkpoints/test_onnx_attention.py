"""Heads and scales of attention, as exporters and optimizers of other models spell them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.helper import make_node

from gpt2fast.checkpoints.onnx_attention import find_attention_scales, find_heads
from gpt2fast.checkpoints.onnx_pattern import find_linears
from gpt2fast.checkpoints.onnx_walk import Graph
from gpt2fast.errors import ModelError
from support.onnx_samples import graph_of

WIDTH = 8
MATRIX = np.ones((WIDTH, 3 * WIDTH), np.float32)


def floats(value: float) -> Any:
    return np.array(value, np.float32)


def scales_of(graph: Graph) -> list[float]:
    return find_attention_scales(graph, 4)


def heads_of(path: Path, after: list[Any], constants: dict[str, Any], product: Any = None) -> int | None:
    """The heads that are found behind a joint projection whose output is ``joint``."""
    nodes = [product or make_node("MatMul", ["x", "weight"], ["joint"]), *after]
    graph = graph_of(path, nodes, {"weight": MATRIX, **constants})
    return find_heads(graph, find_linears(graph)[0], WIDTH)


@pytest.mark.parametrize(
    ("shape", "heads"),
    [
        ([0, 0, 2, 4], 2),
        ([0, 0, 4, -1], 4),
        ([0, 0, -1, 4], 2),
        ([0, 0, -1, 8], None),
        ([0, 0, -1, 3], None),
        ([0, 0, 2, 3], None),
        ([0, 0, 3, -1], None),
        ([0, 0, -1, -1], None),
        ([2, 4], None),
    ],
)
def test_heads_of_the_shape_that_a_projection_is_split_into(
    tmp_path: Path, shape: list[int], heads: int | None
) -> None:
    split = make_node("Reshape", ["joint", "shape"], ["heads"])
    assert heads_of(tmp_path / "model.onnx", [split], {"shape": np.array(shape)}) == heads


def test_heads_behind_a_reshape_that_says_nothing(tmp_path: Path) -> None:
    nodes = [
        make_node("Exp", ["joint"], ["elsewhere"]),
        make_node("Reshape", ["joint"], ["shapeless"]),
        make_node("Reshape", ["joint", "varying"], ["flat"]),
        make_node("Cast", ["flat"], ["cast"]),
        make_node("Reshape", ["cast", "shape"], ["heads"]),
    ]
    constants = {"varying": np.array([0.5, 1.5, 2.5]), "shape": np.array([0, 0, 2, 4])}
    assert heads_of(tmp_path / "model.onnx", nodes, constants) == 2


def test_heads_are_not_looked_for_without_an_end(tmp_path: Path) -> None:
    chain = [make_node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(300)]
    nodes = [
        make_node("Identity", ["joint"], ["v0"]),
        *chain,
        make_node("Reshape", ["v300", "shape"], ["end"]),
    ]
    assert heads_of(tmp_path / "model.onnx", nodes, {"shape": np.array([0, 0, 2, 4])}) is None


@pytest.mark.parametrize(("attributes", "heads"), [({"num_heads": 4}, 4), ({}, None)])
def test_heads_of_an_operator_of_attention(
    tmp_path: Path, attributes: dict[str, int], heads: int | None
) -> None:
    fused = make_node("Attention", ["x", "weight", "bias"], ["joint"], **attributes)
    bias = np.ones(3 * WIDTH, np.float32)
    assert heads_of(tmp_path / "model.onnx", [], {"bias": bias}, fused) == heads


@pytest.mark.parametrize(
    ("before", "scale"),
    [
        ([make_node("MatMul", ["x", "y"], ["scores"])], 1.0),
        ([make_node("FusedMatMul", ["x", "y"], ["scores"], alpha=0.25)], 0.25),
        ([make_node("MatMul", ["x", "y"], ["p"]), make_node("Div", ["p", "four"], ["scores"])], 0.25),
        ([make_node("MatMul", ["x", "y"], ["p"]), make_node("Mul", ["p", "four"], ["scores"])], 4.0),
        ([make_node("MatMul", ["x", "y"], ["p"]), make_node("Mul", ["four", "p"], ["scores"])], 4.0),
        # The mask is added, multiplied or chosen.
        ([make_node("MatMul", ["x", "y"], ["p"]), make_node("Where", ["z", "p", "four"], ["scores"])], 1.0),
        ([make_node("MatMul", ["x", "y"], ["p"]), make_node("Add", ["z", "p"], ["scores"])], 1.0),
        # Queries are scaled before the product, and this step's keys are joined to those of the past.
        (
            [
                make_node("Mul", ["x", "four"], ["q"]),
                make_node("Div", ["y", "four"], ["own"]),
                make_node("Div", ["own", "four"], ["scaled"]),
                make_node("Concat", ["z", "scaled"], ["k"], axis=2),
                make_node("MatMul", ["q", "k"], ["scores"]),
            ],
            0.25,
        ),
    ],
)
def test_the_factor_on_the_scores(tmp_path: Path, before: list[Any], scale: float) -> None:
    nodes = [*before, make_node("Softmax", ["scores"], ["weights"])]
    graph = graph_of(tmp_path / "model.onnx", nodes, {"four": floats(4)}, ("x", "y", "z"))
    assert scales_of(graph) == [pytest.approx(scale)]


@pytest.mark.parametrize(
    "before",
    [
        [make_node("Exp", ["x"], ["scores"])],
        [make_node("Mul", ["x", "four"], ["scores"])],
        [make_node("Add", ["x", "y"], ["scores"])],
        # A divided constant is no constant factor, and zero none that a GPT-2 has.
        [make_node("MatMul", ["x", "y"], ["p"]), make_node("Div", ["four", "p"], ["scores"])],
        [make_node("MatMul", ["x", "y"], ["p"]), make_node("Div", ["p", "p", "p"], ["scores"])],
        [make_node("Range", [], ["scores"])],
        [make_node("Neg", ["x"], ["v0"])]
        + [make_node("Add", [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(80)]
        + [make_node("Identity", ["v80"], ["scores"])],
    ],
)
def test_a_softmax_of_something_else_is_no_attention(tmp_path: Path, before: list[Any]) -> None:
    nodes = [*before, make_node("Softmax", ["scores"], ["weights"]), make_node("Softmax", [], ["nothing"])]
    assert scales_of(graph_of(tmp_path / "model.onnx", nodes, {"four": floats(4)}, ("x", "y"))) == []


def test_factors_before_the_product_are_followed_for_a_while(tmp_path: Path) -> None:
    doubled = [make_node("Mul", [f"q{i}", "two"], [f"q{i + 1}"]) for i in range(100)]
    ends = [make_node("MatMul", ["q100", "y"], ["scores"]), make_node("Softmax", ["scores"], ["weights"])]
    nodes = [make_node("Neg", ["x"], ["q0"]), *doubled, *ends]
    graph = graph_of(tmp_path / "model.onnx", nodes, {"two": floats(2)}, ("x", "y"))
    assert scales_of(graph) == [2.0**64]


@pytest.mark.parametrize(
    ("inputs", "attributes", "scales"),
    [
        # ONNX's own operator takes queries, keys and values; ONNX Runtime's the weights of the projection.
        (["x", "y", "z"], {}, [0.5]),
        (["x", "y", "z"], {"scale": 0.125}, [0.125]),
        (["q", "y", "z"], {"scale": 0.125}, [0.5]),
        (["x", "weight", "bias"], {"unidirectional": 1}, [0.5]),
        (["x", "weight", "bias"], {"unidirectional": 1, "scale": 0.125}, [0.125]),
        (["x", "weight"], {}, []),
    ],
)
def test_the_scale_of_operators_of_attention(
    tmp_path: Path, inputs: list[str], attributes: dict[str, Any], scales: list[float]
) -> None:
    constants = {"weight": MATRIX, "bias": np.ones(3 * WIDTH, np.float32), "four": floats(4)}
    nodes = [make_node("Mul", ["x", "four"], ["q"]), make_node("Attention", inputs, ["out"], **attributes)]
    assert scales_of(graph_of(tmp_path / "model.onnx", nodes, constants, ("x", "y", "z"))) == scales


def test_attention_to_later_tokens_is_refused(tmp_path: Path) -> None:
    constants = {"weight": MATRIX, "bias": np.ones(3 * WIDTH, np.float32)}
    fused = make_node("Attention", ["x", "weight", "bias"], ["out"], unidirectional=0)
    graph = graph_of(tmp_path / "model.onnx", [fused], constants)
    with pytest.raises(ModelError, match=r"model\.onnx: its attention is not causal; a GPT-2's is"):
        scales_of(graph)


def test_a_thousand_attentions_are_refused(tmp_path: Path) -> None:
    nodes = [make_node("Softmax", ["x"], [f"weights{i}"]) for i in range(1001)]
    graph = graph_of(tmp_path / "model.onnx", nodes, {})
    with pytest.raises(ModelError, match="has 1001 attentions, more than any GPT-2"):
        scales_of(graph)
