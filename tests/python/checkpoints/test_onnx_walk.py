"""Constants, shapes and scalars of ONNX graphs, and graphs that are walked no further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_node

from gpt2fast.checkpoints import onnx_file
from gpt2fast.errors import ModelError
from support.onnx_samples import graph_of

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


def constant(name: str, **attributes: Any) -> Any:
    return make_node("Constant", [], [name], **attributes)


@pytest.mark.parametrize(
    ("attributes", "value"),
    [
        ({"value": numpy_helper.from_array(MATRIX)}, MATRIX),
        ({"value_float": 0.5}, 0.5),
        ({"value_floats": [0.5, 2.0]}, [0.5, 2.0]),
        ({"value_int": 7}, 7),
        ({"value_ints": [7, 8]}, [7, 8]),
        ({"note": "before the value", "value_int": 7}, 7),
    ],
)
def test_the_value_of_a_constant(tmp_path: Path, attributes: dict[str, Any], value: Any) -> None:
    graph = graph_of(tmp_path / "model.onnx", [constant("c", **attributes)], {})
    found = graph.numbers("c")
    assert found is not None
    np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize("attributes", [{"value_string": "text"}, {}])
def test_a_constant_that_is_no_number(tmp_path: Path, attributes: dict[str, Any]) -> None:
    graph = graph_of(tmp_path / "model.onnx", [constant("c", **attributes)], {})
    assert "c" not in graph.constants
    assert graph.numbers("c") is None


def test_large_and_bfloat16_constants_are_no_numbers(tmp_path: Path) -> None:
    half = onnx.helper.make_tensor("half", onnx.TensorProto.BFLOAT16, [1], [1.0])
    nodes = [constant("half", value=half)]
    graph = graph_of(tmp_path / "model.onnx", nodes, {"large": np.zeros(65), "small": np.zeros(64)})
    assert graph.numbers("half") is None
    assert graph.numbers("large") is None
    assert graph.numbers("small") is not None
    assert graph.scalar("small") is None


@pytest.mark.parametrize(
    ("nodes", "value"),
    [
        ([make_node("Identity", ["m"], ["c"])], MATRIX),
        ([make_node("Transpose", ["m"], ["c"])], MATRIX.T),
        ([make_node("Transpose", ["m"], ["c"], perm=[0, 1])], MATRIX),
        ([make_node("Add", ["m", "two"], ["c"])], MATRIX + 2),
        ([make_node("Div", ["seven", "two"], ["c"])], 3.5),
        ([make_node("Div", ["seven", "three"], ["c"])], 2),
        ([make_node("Reciprocal", ["two"], ["c"])], 0.5),
        ([make_node("Sqrt", ["two"], ["c"])], np.sqrt(2)),
        ([make_node("Pow", ["two", "three"], ["c"])], 8),
        ([make_node("Concat", ["seven", "shape"], ["c"], axis=0)], [7, 1, 7]),
        ([make_node("Reshape", ["m", "shape"], ["c"])], MATRIX.reshape(-1)),
        ([make_node("Unsqueeze", ["seven", "axes"], ["c"])], [7]),
        ([make_node("Squeeze", ["one", "axes"], ["c"])], 5),
    ],
)
def test_what_is_computed_from_constants_is_constant(tmp_path: Path, nodes: list[Any], value: Any) -> None:
    constants = {
        "m": MATRIX,
        "two": np.float64(2),
        "three": np.int64(3),
        "seven": np.int64(7),
        "shape": np.array([1, 7]),
        "axes": np.array([0]),
        "one": np.array([5]),
    }
    found = graph_of(tmp_path / "model.onnx", nodes, constants).numbers("c")
    assert found is not None
    assert found.shape == np.shape(value)
    np.testing.assert_allclose(found, value)


@pytest.mark.parametrize(
    "node",
    [
        # The wrong number, or wrong shapes, of operands; results that are not finite; too many elements.
        make_node("Sqrt", ["two", "two"], ["c"]),
        make_node("Add", ["m", "m", "m"], ["c"]),
        make_node("Pow", ["two"], ["c"]),
        make_node("Add", ["m", "shape"], ["c"]),
        make_node("Div", ["two", "zero"], ["c"]),
        make_node("Add", ["row", "column"], ["c"]),
        make_node("Add", ["two", "x"], ["c"]),
        make_node("Sqrt", [], ["c"]),
        make_node("Transpose", ["x"], ["c"]),
        make_node("Add", ["two", "two"], ["c", "d"]),
        make_node("Exp", ["two"], ["c"]),
    ],
)
def test_what_is_no_constant(tmp_path: Path, node: Any) -> None:
    constants = {
        "m": MATRIX,
        "two": np.float64(2),
        "zero": np.float64(0),
        "shape": np.array([1, 7]),
        "row": np.zeros((1, 9)),
        "column": np.zeros((9, 1)),
    }
    graph = graph_of(tmp_path / "model.onnx", [node], constants)
    assert "c" not in graph.constants


@pytest.mark.parametrize(
    ("node", "fault"),
    [
        (
            make_node("Transpose", ["m"], ["c"], name="turn", perm=[0, 2]),
            "'turn' transposes axes that are not",
        ),
        (make_node("Transpose", ["m"], ["c"], name="turn", perm=[0]), "'turn' transposes axes that are not"),
        (make_node("Gather", [], ["c"], name="pick"), "the node 'pick' lacks an input or output"),
        (make_node("Add", ["m", "m"], [], name="sum"), "the node 'sum' lacks an input or output"),
        (make_node("Add", ["n", "n"], ["m"], name="sum"), "the value 'm' is made twice"),
        (make_node("Add", ["m", "o"], ["c"], name="sum"), "the inputs of node 'sum' come from nowhere"),
    ],
)
def test_nodes_that_can_not_be_are_refused(tmp_path: Path, node: Any, fault: str) -> None:
    with pytest.raises(ModelError, match=rf"model\.onnx: .*{fault}"):
        graph_of(tmp_path / "model.onnx", [node], {"m": MATRIX, "n": MATRIX})


def test_outputs_without_a_name_may_be_many(tmp_path: Path) -> None:
    nodes = [make_node("Split", ["x"], ["", "a", ""]), make_node("Split", ["a"], ["", "b"])]
    graph = graph_of(tmp_path / "model.onnx", nodes, {})
    assert [node.op_type for node in graph.consumers("a")] == ["Split"]


def test_what_stands_behind_and_after_a_value(tmp_path: Path) -> None:
    chain = [make_node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(30)]
    nodes = [make_node("Exp", ["x"], ["v0"]), *chain, make_node("Neg", ["v30"], ["end"])]
    graph = graph_of(tmp_path / "model.onnx", nodes, {})
    assert graph.behind("v20").op_type == "Exp"
    assert graph.behind("v30") is None  # too far away
    assert graph.behind("x") is None
    assert [node.op_type for node in graph.after("v20")] == ["Neg"]
    # The twenty-fifth that only passes on is named itself.
    assert [(node.op_type, node.output[0]) for node in graph.after("v0")] == [("Identity", "v25")]


@pytest.mark.parametrize(
    ("shape", "tail"),
    [
        (make_node("Concat", ["x", "two", "pair"], ["shape"], axis=0), [None, 2, 3, 4]),
        (make_node("Concat", ["fraction", "pair"], ["shape"], axis=0), [None, 3, 4]),
        (make_node("Concat", ["two", "pair"], ["shape"], axis=0), [2, 3, 4]),
        (make_node("Identity", ["pair"], ["shape"]), [3, 4]),
        (make_node("Shape", ["x"], ["shape"]), [None]),
    ],
)
def test_the_end_of_a_shape(tmp_path: Path, shape: Any, tail: list[int | None]) -> None:
    constants = {"two": np.array([2]), "pair": np.array([3, 4]), "fraction": np.array([0.5, 1.0])}
    nodes = [shape, make_node("Neg", ["x"], ["end"])]
    graph = graph_of(tmp_path / "model.onnx", nodes, constants)
    # What is computed from numbers of which one is no integer is none either.
    wanted = [None] if shape.input[0] == "fraction" else tail
    assert graph.shape_tail("shape") == wanted
    assert graph.shape_tail("x") == [None]


def width_of(path: Path, *more: Any) -> Any:
    """A walk over the square root of the last axis of ``x``, and more nodes."""
    nodes = [
        make_node("Shape", ["x"], ["shape"]),
        make_node("Gather", ["shape", "last"], ["width"]),
        make_node("Cast", ["width"], ["float"], to=1),
        make_node("Sqrt", ["float"], ["root"]),
        *more,
    ]
    return graph_of(path, nodes, {"last": np.array(-1), "two": np.float64(2)})


def test_numbers_that_are_computed_from_a_width(tmp_path: Path) -> None:
    graph = width_of(
        tmp_path / "model.onnx",
        make_node("Div", ["two", "root"], ["scale"]),
        make_node("Exp", ["root"], ["unknown"]),
        make_node("Add", ["root", "unknown"], ["sum"]),
        make_node("Add", ["root", "two", "two"], ["three"]),
        *(make_node("Mul", [f"v{i}" if i else "two", "root"], [f"v{i + 1}"]) for i in range(6)),
    )
    assert graph.scalar("root", 16) == 4
    assert graph.scalar("scale", 16) == 0.5
    assert graph.scalar("v5", 16) == 2 * 4.0**5
    # No width, an unknown function, more than two operands, too long an expression.
    assert graph.scalar("root") is None
    assert graph.scalar("unknown", 16) is None
    assert graph.scalar("sum", 16) is None
    assert graph.scalar("three", 16) is None
    assert graph.scalar("v6", 16) is None
    assert graph.scalar("x", 16) is None


def test_attributes_without_a_value_are_zero(tmp_path: Path) -> None:
    node = make_node("Transpose", ["m"], ["c"])
    node.attribute.add().name = "perm"
    with pytest.raises(ModelError, match="transposes axes that are not there"):
        graph_of(tmp_path / "model.onnx", [node], {"m": MATRIX})


@pytest.mark.parametrize(("limit", "most"), [("_MAX_NODES", 2), ("_MAX_NODE_BYTES", 40)])
def test_graphs_of_too_many_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(onnx_file, limit, most)
    nodes = [make_node("Identity", ["x"], [f"y{i}"]) for i in range(3)]
    assert len(graph_of(tmp_path / "model.onnx", nodes[:2], {}).nodes) == 2
    with pytest.raises(ModelError, match="the graph has more nodes than any GPT-2"):
        graph_of(tmp_path / "model.onnx", nodes, {})
