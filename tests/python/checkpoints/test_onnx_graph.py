"""Weights and configuration from ONNX graphs: our own exports, rewritten graphs, broken files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.checkpoints.onnx_graph import open_onnx
from gpt2fast.checkpoints.onnx_verify import check_against_source, verify_against_source
from gpt2fast.errors import ModelError
from gpt2fast.export.standard import StandardOptions, export_onnx
from support.checkpoint_samples import random_tensors, small_config
from support.onnx_samples import check
from support.zoo_samples import random_checkpoint


@pytest.mark.parametrize("opset", [10, 13, 17])
@pytest.mark.parametrize("layout", ["zoo", "gpt2fast"])
@pytest.mark.parametrize("head", ["lm", "hidden"])
@pytest.mark.parametrize("past", [False, True])
def test_our_own_exports_come_back(tmp_path: Path, opset: int, layout: str, head: str, past: bool) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(), path, StandardOptions(head=head, past=past, opset=opset, layout=layout))
    check(path, small_config())


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "gelu"},
        {"activation_function": "relu"},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
        {"layer_norm_epsilon": 1e-3},
        {"n_inner": 40},
        {"n_head": 1},
        {"n_head": 16},
        {"n_head": 64},
        {"tie_word_embeddings": False},
        {"n_layer": 5},
    ],
)
def test_the_configuration_is_found(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(**changes), path)
    check(path, small_config(**changes))


def test_external_data_is_read_lazily(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    files = export_onnx(random_checkpoint(), path, external_data=True)
    assert len(files) == 2
    checkpoint = check(path, small_config())
    wanted = random_tensors(small_config())["wte.weight"][3:5]
    np.testing.assert_array_equal(checkpoint.tensors["wte.weight"].read_rows(3, 5), wanted)
    before = checkpoint.fingerprint
    data = bytearray(files[1].read_bytes())
    data[0] ^= 1
    files[1].write_bytes(data)
    assert open_onnx(path).fingerprint != before


def test_a_fitting_config_adds_the_special_tokens(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(), path)
    fitting = small_config(bos_token_id=3, eos_token_id=[5, 7])
    (tmp_path / "config.json").write_text(fitting.to_json())
    assert open_onnx(path).config == fitting
    (tmp_path / "config.json").write_text(small_config(n_layer=3, eos_token_id=5).to_json())
    assert open_onnx(path).config == small_config()


def renamed(model: Any) -> None:
    """Replace every name but those of inputs and outputs."""
    kept = {value.name for value in (*model.graph.input, *model.graph.output)} | {""}
    names: dict[str, str] = {}

    def short(name: str) -> str:
        return name if name in kept else names.setdefault(name, f"v{len(names)}")

    for initializer in model.graph.initializer:
        initializer.name = short(initializer.name)
    for node in model.graph.node:
        node.name = ""
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]


def transposed_gemms(model: Any) -> None:
    """Store every matrix of a Gemm the other way round."""
    initializers = {initializer.name: initializer for initializer in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in initializers:
            stored = initializers[node.input[1]]
            values = numpy_helper.to_array(stored)
            stored.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values.T), stored.name))
            swap = onnx.helper.make_node("Transpose", [node.input[1]], [f"{node.input[1]}.T"], perm=[1, 0])
            node.input[1] = swap.output[0]
            model.graph.node.insert(0, swap)


def as_constants(model: Any) -> None:
    """Move every initializer into a Constant node."""
    constants = [
        onnx.helper.make_node("Constant", [], [initializer.name], value=initializer)
        for initializer in model.graph.initializer
    ]
    del model.graph.initializer[:]
    for node in reversed(constants):
        model.graph.node.insert(0, node)


def float_data(model: Any) -> None:
    """Keep the numbers in float_data in place of raw_data."""
    for initializer in model.graph.initializer:
        if initializer.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(initializer)
            initializer.ClearField("raw_data")
            initializer.float_data.extend(values.reshape(-1).tolist())


def typed_constants(model: Any) -> None:
    """Add unused constants of every type that has its own field or shares one."""
    types = onnx.TensorProto
    for kind in (
        types.UINT8,
        types.INT16,
        types.UINT16,
        types.BOOL,
        types.UINT32,
        types.UINT64,
        types.DOUBLE,
    ):
        name = f"unused.{kind}"
        model.graph.initializer.append(onnx.helper.make_tensor(name, kind, [3], [1, 0, 1]))


@pytest.mark.parametrize("change", [renamed, transposed_gemms, as_constants, float_data, typed_constants])
@pytest.mark.parametrize("head", ["lm", "hidden"])
def test_rewritten_graphs_are_understood(tmp_path: Path, change: Callable[[Any], None], head: str) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(), path, StandardOptions(head=head))
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    check(path, small_config())


def edited(tmp_path: Path, edit: Callable[[Any], None], **options: Any) -> Path:
    """An export with its message changed."""
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(), path, **options)
    model = onnx.load(path, load_external_data=False)
    edit(model)
    path.write_bytes(model.SerializeToString())
    return path


def weight(model: Any, name: str = "wte.weight") -> Any:
    return next(one for one in model.graph.initializer if one.name == name)


def set_external(key: str, value: str) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        for entry in weight(model).external_data:
            if entry.key == key:
                entry.value = value

    return edit


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("location", "/etc/passwd", "not the name of a file"),
        ("location", "../model.onnx.data", "not the name of a file"),
        ("location", "sub/../../x", "not the name of a file"),
        ("location", "", "not the name of a file"),
        ("location", "absent", "has no absent"),
        ("location", "linked", "leads out of its directory"),
        ("location", "fifo", "not a regular file"),
        ("location", "folder", "not a regular file"),
        ("offset", "-64", "should be at bytes"),
        ("offset", "99999999999999999999", "should be at bytes"),
        ("offset", "0x10", "must be numbers"),
        ("length", "1", "do not fill the shape"),
        ("length", "-1", "do not fill the shape"),
    ],
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, key: str, value: str, fault: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    (home / "linked").symlink_to(tmp_path / "secret")
    os.mkfifo(home / "fifo")
    (home / "folder").mkdir()
    path = edited(home, set_external(key, value), external_data=True)
    with pytest.raises(ModelError, match=fault):
        open_onnx(path)


def _read_from_nowhere(model: Any) -> None:
    model.graph.node[-1].input[0] = "nowhere"


def _quantize(model: Any) -> None:
    stored = weight(model, "h.0.mlp.c_fc.weight")
    values = np.zeros(tuple(stored.dims), np.int8)
    stored.CopyFrom(numpy_helper.from_array(values, stored.name))


def _set_dims(*dims: int) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        weight(model).dims[:] = dims

    return edit


def _twice(model: Any) -> None:
    model.graph.initializer.append(weight(model))


def _branch(model: Any) -> None:
    node = onnx.helper.make_node("If", ["input_ids"], ["branched"], then_branch=onnx.GraphProto())
    model.graph.node.append(node)


def _activation(model: Any) -> None:
    for node in model.graph.node:
        if node.op_type == "Tanh":
            node.op_type = "Sigmoid"


def _no_wpe(model: Any) -> None:
    gathers = [node for node in model.graph.node if "wpe.weight" in node.input]
    for node in gathers:
        node.op_type = "Elsewhere"


def _function(model: Any) -> None:
    model.functions.add().name = "f"


def _norm(model: Any) -> Any:
    return next(node for node in model.graph.node if node.op_type == "LayerNormalization")


def _one_norm_less(model: Any) -> None:
    _norm(model).op_type = "Elsewhere"


def _other_epsilon(model: Any) -> None:
    del _norm(model).attribute[:]
    _norm(model).attribute.append(onnx.helper.make_attribute("epsilon", 0.25))


def _past_a_norm(model: Any) -> None:
    for node in model.graph.node:
        if node.op_type == "MatMul" and "h.0.attn.c_attn.weight" in node.input:
            node.input[0] = "embedding"


def _one_attention_more(model: Any) -> None:
    product = onnx.helper.make_node("MatMul", ["embedding", "embedding"], ["another"])
    model.graph.node.extend([product, onnx.helper.make_node("Softmax", ["another"], ["weights"])])


def _scaled_otherwise(model: Any) -> None:
    for node in model.graph.node:
        if node.op_type == "Softmax":
            half = onnx.helper.make_node("Mul", [node.input[0], "half"], [f"{node.output[0]}.half"])
            node.input[0] = half.output[0]
            model.graph.node.append(half)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))


def _two_heads(model: Any) -> None:
    matrix = numpy_helper.from_array(np.ones((101, 64), np.float32), "second")
    model.graph.initializer.append(matrix)
    model.graph.node.append(onnx.helper.make_node("MatMul", ["logits", "second"], ["more"]))


def _head_of_another_width(model: Any) -> None:
    for node in model.graph.node:
        if node.op_type == "Gemm" and "wte.weight" in node.input:
            node.input[1] = "wider"
    model.graph.initializer.append(numpy_helper.from_array(np.ones((101, 65), np.float32), "wider"))


def _head_with_a_bias(model: Any) -> None:
    for node in model.graph.node:
        node.output[:] = ["product" if name == "logits" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.ones(101, np.float32), "bias"))
    model.graph.node.append(onnx.helper.make_node("Add", ["product", "bias"], ["logits"]))


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (_one_norm_less, "this graph has 9 and 4"),
        (_other_epsilon, r"different epsilons: \[1e-05, 0.25\]"),
        (_past_a_norm, "in layer 0, a linear layer does not follow its LayerNorm"),
        (_one_attention_more, "has 2 layers and 3 attentions"),
        (_scaled_otherwise, r"scales its scores in an unknown way, by \[0.125, 0.125\]"),
        (_two_heads, "this graph has 10 and 5"),
        (_head_of_another_width, r"the last linear layer has shape \[65, 101\]"),
        (_head_with_a_bias, "its head has a bias, which a GPT-2's has not"),
        (_read_from_nowhere, "come from nowhere"),
        (_quantize, "weights of type I8 are not supported"),
        (_set_dims(101, 65), "do not fill the shape"),
        (_set_dims(-101, -64), "is not possible"),
        (_set_dims(1 << 62, 1 << 62), "do not fill the shape"),
        (_set_dims(*[1] * 9), "is not possible"),
        (_set_dims(64, 101), "GPT-2|shape"),
        (_twice, "occurs twice"),
        (_branch, "control flow operation If"),
        (_activation, "the activation made of .*Sigmoid.* is not known"),
        (_no_wpe, "has 1 and 0"),
        (_function, "functions of its own"),
        (lambda model: model.graph.ClearField("node"), "has 0 and 0"),
        (lambda model: model.ClearField("graph"), "has 0 graphs"),
        (lambda model: model.graph.node.append(model.graph.node[0]), "is made twice"),
    ],
)
def test_other_graphs_are_refused(tmp_path: Path, edit: Callable[[Any], None], fault: str) -> None:
    path = edited(tmp_path, edit)
    with pytest.raises(ModelError, match=rf"model\.onnx.*({fault})"):
        open_onnx(path)


def test_heads_that_only_the_past_reveals(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        for node in model.graph.node:
            if node.op_type == "Reshape":
                node.op_type = "Elsewhere"
        # The first past has another width, so it says nothing of the model's heads.
        model.graph.output[1].type.tensor_type.shape.dim[2].dim_value = 5

    assert open_onnx(edited(tmp_path, edit)).config.n_head == 4


def test_a_past_of_less_than_no_heads(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        for node in model.graph.node:
            if node.op_type == "Reshape":
                node.op_type = "Elsewhere"
        for output in model.graph.output[1:]:
            dimensions = output.type.tensor_type.shape.dim
            for place in (-3, -1):  # whose product is the width all the same
                dimensions[place].dim_value = -dimensions[place].dim_value

    with pytest.raises(ModelError, match="is not a multiple of -4 heads"):
        open_onnx(edited(tmp_path, edit))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(n_layer=1), path)
    whole = path.read_bytes()
    for length in [*range(64), *range(64, len(whole), 1499), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"model\.onnx"):
            open_onnx(path)


def test_the_wrong_weights_do_not_pass_verification(tmp_path: Path) -> None:
    """Swapped matrices of one shape: only running both graphs reveals them."""
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(), path)
    checkpoint = open_onnx(path)
    tensors = dict(checkpoint.tensors)
    names = ("h.0.attn.c_proj.weight", "h.1.attn.c_proj.weight")
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]
    swapped = Checkpoint.checked(checkpoint.config, tensors, source=path, fingerprint="")
    assert verify_against_source(swapped, path) > 0.1
    with pytest.raises(ModelError, match="computes something else"):
        check_against_source(swapped, path)


@pytest.mark.parametrize("output", ["logits", "present.1"])
def test_outputs_that_are_not_finite_do_not_pass_verification(tmp_path: Path, output: str) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(), path)
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = ["before" if name == output else name for name in node.input]
        node.output[:] = ["before" if name == output else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(np.nan).reshape(()), "nan"))
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "nan"], [output]))
    onnx.save(model, path)
    with pytest.raises(ModelError, match="computes something else"):
        check_against_source(open_onnx(path), path)
