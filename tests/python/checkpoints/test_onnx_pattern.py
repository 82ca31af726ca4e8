"""The parts of a GPT-2 in graphs of other exporters: embeddings, LayerNorms, linear layers, activation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx.helper import make_node

from gpt2fast.checkpoints.onnx_pattern import (
    Linear,
    find_activation,
    find_embeddings,
    find_linears,
    find_norms,
    follows,
)
from gpt2fast.checkpoints.onnx_walk import Graph
from gpt2fast.errors import ModelError
from support.onnx_samples import graph_of

TOKENS, POSITIONS = (
    np.arange(40, dtype=np.float32).reshape(10, 4),
    np.arange(20, dtype=np.float32).reshape(5, 4),
)
WEIGHT = np.arange(24, dtype=np.float32).reshape(4, 6)
BIAS = np.arange(6, dtype=np.float32)
GAIN, SHIFT = np.arange(1, 5, dtype=np.float32), np.arange(4, dtype=np.float32)


def floats(value: float) -> Any:
    return np.array(value, np.float32)


# Embeddings


def test_tables_are_told_apart_by_where_their_indices_come_from(tmp_path: Path) -> None:
    nodes = [
        make_node("Cast", ["ids"], ["cast"], to=7),
        make_node("Reshape", ["cast", "shape"], ["flat"]),
        make_node("Gather", ["wte", "flat"], ["tokens"]),
        make_node("Range", ["shape", "shape", "shape"], ["counted"]),
        make_node("Gather", ["wpe", "counted"], ["positions"]),
        # Neither a table of whole numbers nor a vector is a table of embeddings.
        make_node("Gather", ["whole", "ids"], ["a"]),
        make_node("Gather", ["vector", "ids"], ["b"]),
    ]
    constants = {"wte": TOKENS, "wpe": POSITIONS, "whole": np.ones((3, 4), np.int64), "vector": BIAS}
    graph = graph_of(tmp_path / "model.onnx", nodes, {**constants, "shape": np.array([-1])}, ("ids",))
    found = find_embeddings(graph, ["ids"])
    np.testing.assert_array_equal(found.tokens.read(), TOKENS)
    np.testing.assert_array_equal(found.positions.read(), POSITIONS)
    assert found.input == "ids"


@pytest.mark.parametrize("positions", [[], ["", "position_ids"]])
def test_tables_of_the_fused_operator(tmp_path: Path, positions: list[str]) -> None:
    inputs = ["ids", "", "wte", "wpe", "", "gain", "shift", *positions]
    constants = {"wte": TOKENS, "wpe": POSITIONS, "gain": GAIN, "shift": SHIFT}
    fused = make_node("EmbedLayerNormalization", inputs, ["out"])
    graph = graph_of(tmp_path / "model.onnx", [fused], constants, ("ids", "position_ids"))
    found = find_embeddings(graph, ["ids", "position_ids"])
    np.testing.assert_array_equal(found.tokens.read(), TOKENS)
    np.testing.assert_array_equal(found.positions.read(), POSITIONS)
    assert found.input == "ids"


@pytest.mark.parametrize(
    ("nodes", "counts"),
    [
        # A table of segments is no GPT-2's; rows that are picked by a chain without an end are positions.
        (
            [make_node("EmbedLayerNormalization", ["x", "", "wte", "wpe", "wpe", "g", "g"], ["out"])],
            "0 and 0",
        ),
        ([make_node("EmbedLayerNormalization", ["x", "", "wte", "wpe"], ["out"])], "0 and 0"),
        (
            [make_node("Identity", ["x"], ["v0"])]
            + [make_node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(300)]
            + [make_node("Gather", ["wte", "v300"], ["out"])],
            "0 and 1",
        ),
        ([make_node("Gather", ["wte", "x"], ["a"]), make_node("Gather", ["wpe", "x"], ["b"])], "2 and 0"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, nodes: list[Any], counts: str) -> None:
    constants = {"wte": TOKENS, "wpe": POSITIONS, "g": GAIN}
    graph = graph_of(tmp_path / "model.onnx", nodes, constants)
    with pytest.raises(ModelError, match=rf"model\.onnx: a GPT-2 looks rows up .* has {counts}"):
        find_embeddings(graph, ["x"])


# Linear layers


def linears_of(path: Path, nodes: list[Any], more: dict[str, Any] | None = None) -> list[Linear]:
    constants = {"weight": WEIGHT, "bias": BIAS, "other": np.ones(4, np.float32), **(more or {})}
    return find_linears(graph_of(path, nodes, constants, ("x", "y")))


@pytest.mark.parametrize(
    "nodes",
    [
        [make_node("Gemm", ["x", "weight", "bias"], ["out"])],
        [make_node("Gemm", ["x", "turned", "bias"], ["out"], transB=1)],
        [make_node("Gemm", ["x", "weight", "bias"], ["out"], alpha=1.0, beta=1.0, transA=0, transB=0)],
        [make_node("MatMul", ["x", "weight"], ["p"]), make_node("Add", ["bias", "p"], ["out"])],
        [
            make_node("MatMul", ["x", "weight"], ["p"]),
            make_node("Mul", ["p", "y"], ["elsewhere"]),
            make_node("Add", ["p", "other"], ["wider"]),
            make_node("Reshape", ["p", "shape"], ["r"]),
            make_node("Add", ["r", "bias"], ["out"]),
        ],
    ],
)
def test_weight_bias_and_sum_of_a_linear_layer(tmp_path: Path, nodes: list[Any]) -> None:
    more = {"turned": np.ascontiguousarray(WEIGHT.T), "shape": np.array([-1, 6])}
    [linear] = linears_of(tmp_path / "model.onnx", nodes, more)
    np.testing.assert_array_equal(linear.weight.read(), WEIGHT)
    assert linear.bias is not None
    np.testing.assert_array_equal(linear.bias.read(), BIAS)
    assert (linear.input, linear.output) == ("x", "out")


@pytest.mark.parametrize(
    "fused",
    [
        make_node("BiasGelu", ["p", "bias"], ["out"]),
        make_node("FastGelu", ["p", "bias"], ["out"]),
        make_node("SkipLayerNormalization", ["p", "y", "other", "other", "bias"], ["out"]),
    ],
)
def test_a_bias_that_a_fused_operator_adds(tmp_path: Path, fused: Any) -> None:
    [linear] = linears_of(tmp_path / "model.onnx", [make_node("MatMul", ["x", "weight"], ["p"]), fused])
    assert linear.bias is not None
    np.testing.assert_array_equal(linear.bias.read(), BIAS)
    assert linear.output == "p"  # the sum is inside the operator


def test_products_that_are_no_linear_layers(tmp_path: Path) -> None:
    nodes = [
        make_node("MatMul", ["x", "y"], ["a"]),
        make_node("MatMul", ["weight", "weight"], ["b"]),
        make_node("MatMul", ["x"], ["c"]),
        make_node("MatMul", ["x", "weight"], ["d"]),
        # The same product, once more.
        make_node("Identity", ["x"], ["same"]),
        make_node("MatMul", ["x", "weight"], ["e"]),
        make_node("MatMul", ["a", "weight"], ["f"]),
        make_node("Cast", ["a"], ["cast"], to=1),
        make_node("MatMul", ["cast", "weight"], ["g"]),
    ]
    found = linears_of(tmp_path / "model.onnx", nodes)
    assert [(linear.input, linear.output, linear.bias) for linear in found] == [
        ("x", "d", None),
        ("a", "f", None),
    ]


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_gemm_that_computes_something_else_is_refused(tmp_path: Path, attributes: dict[str, Any]) -> None:
    gemm = make_node("Gemm", ["x", "weight", "bias"], ["out"], name="odd", **attributes)
    with pytest.raises(ModelError, match="the Gemm 'odd' scales or transposes its input"):
        linears_of(tmp_path / "model.onnx", [gemm])


def test_whether_a_linear_layer_follows_a_norm(tmp_path: Path) -> None:
    nodes = [
        make_node("LayerNormalization", ["x", "gain", "shift"], ["norm"]),
        make_node("Cast", ["norm"], ["cast"], to=1),
        make_node("MatMul", ["cast", "weight"], ["a"]),
        make_node("MatMul", ["x", "weight"], ["b"]),
        make_node("Exp", ["norm"], ["exp"]),
        make_node("MatMul", ["exp", "weight"], ["c"]),
    ]
    constants = {"weight": WEIGHT, "gain": GAIN, "shift": SHIFT}
    graph = graph_of(tmp_path / "model.onnx", nodes, constants)
    [norm] = find_norms(graph)
    assert [follows(graph, linear, norm) for linear in find_linears(graph)] == [True, False, False]


# LayerNorms


@pytest.mark.parametrize(
    ("node", "epsilon"),
    [
        (make_node("LayerNormalization", ["x", "gain", "shift"], ["out"]), 1e-5),
        (make_node("LayerNormalization", ["x", "gain", "shift"], ["out"], epsilon=1e-3), 1e-3),
        (make_node("SkipLayerNormalization", ["x", "y", "gain", "shift"], ["out"]), 1e-12),
        (make_node("EmbedLayerNormalization", ["x", "", "y", "y", "", "gain", "shift"], ["out"]), 1e-12),
    ],
)
def test_gain_shift_and_epsilon_of_a_norm(tmp_path: Path, node: Any, epsilon: float) -> None:
    graph = graph_of(tmp_path / "model.onnx", [node], {"gain": GAIN, "shift": SHIFT}, ("x", "y"))
    [norm] = find_norms(graph)
    np.testing.assert_array_equal(norm.gamma.read(), GAIN)
    np.testing.assert_array_equal(norm.beta.read(), SHIFT)
    assert norm.epsilon == pytest.approx(epsilon)
    assert norm.output == "out"


@pytest.mark.parametrize(
    "node",
    [
        make_node("LayerNormalization", ["x", "x", "shift"], ["out"]),
        make_node("LayerNormalization", ["x", "gain", "x"], ["out"]),
        make_node("EmbedLayerNormalization", ["x", "", "x", "x"], ["out"]),
        make_node("SkipLayerNormalization", ["x", "x", "gain", "one"], ["out"]),
    ],
)
def test_a_norm_without_gain_or_shift_is_refused(tmp_path: Path, node: Any) -> None:
    constants = {"gain": GAIN, "shift": SHIFT, "one": floats(1)}
    graph = graph_of(tmp_path / "model.onnx", [node], constants)
    with pytest.raises(ModelError, match=r"model\.onnx: a LayerNorm has no gain or no shift"):
        find_norms(graph)


def spelled_out(**changes: list[Any]) -> list[Any]:
    """A LayerNorm of single operators; each may be changed or left out."""
    nodes = {
        "mean": [make_node("ReduceMean", ["x"], ["mean"])],
        "centred": [make_node("Sub", ["x", "mean"], ["centred"])],
        "square": [make_node("Pow", ["centred", "two"], ["square"])],
        "variance": [make_node("ReduceMean", ["square"], ["variance"])],
        "total": [make_node("Add", ["variance", "epsilon"], ["total"])],
        "root": [make_node("Sqrt", ["total"], ["root"])],
        "quotient": [make_node("Div", ["centred", "root"], ["quotient"])],
        "product": [make_node("Mul", ["quotient", "gain"], ["product"])],
        "shifted": [make_node("Add", ["product", "shift"], ["out"])],
    }
    return [node for part in {**nodes, **changes}.values() for node in part]


NORM = {"two": floats(2), "epsilon": floats(1e-3), "gain": GAIN, "shift": SHIFT, "one": floats(1)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"total": [make_node("Add", ["epsilon", "variance"], ["total"])]},
        {"product": [make_node("Mul", ["gain", "quotient"], ["product"])]},
        {
            "root": [
                make_node("Sqrt", ["total"], ["deviation"]),
                make_node("Reciprocal", ["deviation"], ["root"]),
            ],
            "quotient": [make_node("Mul", ["centred", "root"], ["quotient"])],
        },
        # Other users of the same values, before those that matter.
        {
            "quotient": [
                make_node("Exp", ["root"], ["a"]),
                make_node("Div", ["centred", "root"], ["quotient"]),
                make_node("Sub", ["quotient", "x"], ["b"]),
            ],
            "shifted": [
                make_node("Sub", ["product", "x"], ["c"]),
                make_node("Add", ["product", "x"], ["d"]),
                make_node("Add", ["product", "shift"], ["out"]),
            ],
        },
    ],
)
def test_a_norm_of_single_operators(tmp_path: Path, changes: dict[str, Any]) -> None:
    [norm] = find_norms(graph_of(tmp_path / "model.onnx", spelled_out(**changes), NORM))
    np.testing.assert_array_equal(norm.gamma.read(), GAIN)
    np.testing.assert_array_equal(norm.beta.read(), SHIFT)
    assert norm.epsilon == pytest.approx(1e-3)
    assert norm.output == "out"


@pytest.mark.parametrize(
    "changes",
    [
        {"root": [make_node("Sqrt", [], ["root"])]},
        {"root": [make_node("Sqrt", ["x"], ["root"])]},
        {"total": [make_node("Add", ["variance"], ["total"])]},
        {"total": [make_node("Sub", ["variance", "epsilon"], ["total"])]},
        {"total": [make_node("Add", ["variance", "x"], ["total"])]},
        {"total": [make_node("Add", ["x", "epsilon"], ["total"])]},
        {"variance": [make_node("ReduceMax", ["square"], ["variance"])]},
        {"quotient": [make_node("Div", ["centred", "root", "root"], ["quotient"])]},
        {"product": [make_node("Mul", ["quotient", "one"], ["product"])]},
        {"product": [make_node("Mul", ["quotient", "gain", "gain"], ["product"])]},
        {"shifted": [make_node("Add", ["product", "one"], ["out"])]},
        {"shifted": []},
    ],
)
def test_other_square_roots_are_no_norms(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert find_norms(graph_of(tmp_path / "model.onnx", spelled_out(**changes), NORM)) == []


# Activations

TANH_GELU = [
    make_node("Pow", ["a", "three"], ["cube"]),
    make_node("Mul", ["cube", "cubic"], ["scaled"]),
    make_node("Add", ["a", "scaled"], ["sum"]),
    make_node("Mul", ["sum", "slope"], ["inner"]),
    make_node("Tanh", ["inner"], ["tanh"]),
    make_node("Mul", ["a", "tanh"], ["b"]),
]
GELU_CONSTANTS = {"three": floats(3), "cubic": floats(0.044715), "slope": floats(0.7978846)}


def activation_of(path: Path, nodes: list[Any], constants: dict[str, Any]) -> str:
    first = make_node("MatMul", ["x", "up"], ["a"])
    second = make_node("MatMul", ["b", "down"], ["out"])
    matrices = {"up": WEIGHT, "down": np.ascontiguousarray(WEIGHT.T)}
    graph = graph_of(path, [first, *nodes, second], {**matrices, **constants})
    return find_activation(graph, *find_linears(graph))


@pytest.mark.parametrize(
    ("nodes", "name"),
    [
        ([make_node("Gelu", ["a"], ["b"])], "gelu"),
        ([make_node("Gelu", ["a"], ["b"], approximate="none")], "gelu"),
        ([make_node("Gelu", ["a"], ["b"], approximate="tanh")], "gelu_new"),
        ([make_node("FastGelu", ["a"], ["b"])], "gelu_new"),
        ([make_node("BiasGelu", ["a", "three"], ["b"])], "gelu"),
        ([make_node("Relu", ["a"], ["b"])], "relu"),
        ([make_node("Erf", ["a"], ["e"]), make_node("Mul", ["a", "e"], ["b"])], "gelu"),
        (TANH_GELU, "gelu_new"),
    ],
)
def test_the_name_of_the_activation(tmp_path: Path, nodes: list[Any], name: str) -> None:
    assert activation_of(tmp_path / "model.onnx", nodes, GELU_CONSTANTS) == name


@pytest.mark.parametrize(
    ("nodes", "constants", "shown"),
    [
        ([make_node("Sigmoid", ["a"], ["b"])], {}, "Sigmoid"),
        (TANH_GELU, {**GELU_CONSTANTS, "cubic": floats(0.05)}, "Add, Mul, Pow, Tanh"),
        (TANH_GELU, {**GELU_CONSTANTS, "slope": floats(0.9)}, "Add, Mul, Pow, Tanh"),
        ([make_node("Neg", ["x"], ["b"])], {}, "Neg"),
        (
            [make_node("Exp", ["a"], ["v0"])]
            + [make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(300)]
            + [make_node("Neg", ["v300"], ["b"])],
            {},
            "Neg",
        ),
    ],
)
def test_other_activations_are_refused(
    tmp_path: Path, nodes: list[Any], constants: dict[str, Any], shown: str
) -> None:
    with pytest.raises(ModelError, match=rf"the activation made of {shown} is not known"):
        activation_of(tmp_path / "model.onnx", nodes, constants)


def test_no_activation_is_refused(tmp_path: Path) -> None:
    nodes = [make_node("MatMul", ["x", "up"], ["a"]), make_node("MatMul", ["a", "down"], ["out"])]
    constants = {"up": WEIGHT, "down": np.ascontiguousarray(WEIGHT.T)}
    graph: Graph = graph_of(tmp_path / "model.onnx", nodes, constants)
    with pytest.raises(ModelError, match="the activation made of nothing is not known"):
        find_activation(graph, *find_linears(graph))
