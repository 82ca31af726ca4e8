"""Reading model directories: what is accepted, what is refused, and that it stays light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gpt2fast.errors import ModelError
from gpt2fast.export import convert
from gpt2fast.storage.graph_check import check_graph
from gpt2fast.storage.model_directory import is_complete, is_model_directory, open_model_directory
from support.checkpoint_samples import small_config
from support.huggingface_samples import write_directory
from support.model_copies import copy_model


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("converted")
    return convert(write_directory(root / "source"), root / "model", precision="int4")


@pytest.fixture
def model(converted: Path, tmp_path: Path) -> Path:
    """A model directory to damage."""
    return copy_model(converted, tmp_path / "model")


def test_a_valid_directory(converted: Path) -> None:
    model = open_model_directory(str(converted))
    assert model.path == converted
    assert model.config == small_config()
    assert model.precision == "int4"
    assert model.graph == (converted / "model.onnx").read_bytes()
    assert model.weights_path == converted / "weights.bin"
    assert [tensor.name for tensor in model.tensors][:2] == ["wte.weight", "wpe.weight"]
    assert model.tensors[1][1:] == (False, (model.config.n_positions, model.config.n_embd), 8192)
    assert model.tokenizer_path == converted / "tokenizer.json"
    assert model.weights_bytes == (converted / "weights.bin").stat().st_size
    assert is_model_directory(converted)
    assert is_complete(converted)


def test_reading_imports_nothing_heavy(converted: Path) -> None:
    script = (
        "import sys; from gpt2fast.storage.model_directory import open_model_directory\n"
        f"open_model_directory({str(converted)!r})\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert not {"numpy", "onnx", "onnxruntime", "safetensors", "tokenizers"} & set(done.stdout.split())


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", "config.json", "gpt2fast.json"])
def test_missing_files_are_named(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(ModelError, match=f"has no {name} in it"):
        open_model_directory(model)
    assert not is_complete(model)


def test_the_tokenizer_may_be_missing(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    assert open_model_directory(model).tokenizer_path is None


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such directory"):
        open_model_directory(tmp_path / "absent")
    assert not is_model_directory(tmp_path / "absent")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 9}, "format_version is 9; this gpt2fast reads 10; convert the model again"),
        ({"format_version": 11}, "format_version is 11; this gpt2fast reads 10; convert the model again"),
        ({"format_version": None}, "format_version is None"),
        ({"precision": "int3"}, r"precision must be one of .*, got 'int3'"),
        ({"precision": ["int8"]}, "precision must be one of"),
        ({"weights_bytes": "many"}, "weights_bytes must be an integer"),
        ({"weights_bytes": 4096}, r"weights\.bin: has \d+ bytes; gpt2fast.json says 4096"),
    ],
)
def test_metadata_that_does_not_fit(model: Path, changes: dict[str, object], message: str) -> None:
    values = json.loads((model / "gpt2fast.json").read_text())
    (model / "gpt2fast.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(ModelError, match=message):
        open_model_directory(model)
    assert not is_complete(model)


def test_weights_that_are_cut_short(model: Path) -> None:
    os.truncate(model / "weights.bin", (model / "weights.bin").stat().st_size - 1)
    with pytest.raises(ModelError, match=r"convert the model again"):
        open_model_directory(model)


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", "config.json", "tokenizer.json"])
def test_links_out_of_the_directory_are_refused(model: Path, tmp_path: Path, name: str) -> None:
    (model / name).rename(tmp_path / "elsewhere")
    (model / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="a link that leads out of its directory"):
        open_model_directory(model)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", "config.json", "tokenizer.json"])
def test_special_files_are_refused(model: Path, name: str) -> None:
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(ModelError, match=f"{name}: not a regular file"):
        open_model_directory(model)


def place(tensor: onnx.TensorProto, **entries: str) -> None:
    """Change where a tensor lies."""
    for entry in tensor.external_data:
        entry.value = entries.get(entry.key, entry.value)


def tensor(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


def add_operator(proto: onnx.ModelProto, operator: str, domain: str = "") -> None:
    proto.graph.node.append(helper.make_node(operator, ["hidden"], ["y"], domain=domain))


def add_subgraph(proto: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    proto.graph.node[0].attribute.append(helper.make_attribute("body", body))


def add_tensor_attribute(proto: onnx.ModelProto) -> None:
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    proto.graph.node[0].attribute.append(helper.make_attribute("value", value))


def add_function(proto: onnx.ModelProto) -> None:
    node = helper.make_node("Add", ["a", "a"], ["b"])
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("gpt2fast", "Linear", ["a"], ["b"], [node], opsets))


def add_sparse(proto: onnx.ModelProto) -> None:
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def set_attribute(proto: onnx.ModelProto, operator: str, name: str, value: int) -> None:
    node = next(node for node in proto.graph.node if node.op_type == operator)
    next(attribute for attribute in node.attribute if attribute.name == name).i = value


def make_inline(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[2].raw_data = bytes(8)


def add_entry(proto: onnx.ModelProto, key: str, value: str) -> None:
    proto.graph.initializer[2].external_data.add(key=key, value=value)


def drop_layer(proto: onnx.ModelProto) -> None:
    index = next(i for i, node in enumerate(proto.graph.node) if node.op_type == "CachedAttention")
    del proto.graph.node[index]


def drop_last_operator(proto: onnx.ModelProto) -> None:
    del proto.graph.node[-1]


def add_unused_tensor(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(proto.graph.initializer[0])
    proto.graph.initializer[-1].name = "a.further.weight"


def repeat_attribute(proto: onnx.ModelProto) -> None:
    node = next(node for node in proto.graph.node if node.attribute)
    node.attribute.append(node.attribute[0])


Change = Callable[[onnx.ModelProto], object]

BAD_GRAPHS: dict[str, tuple[Change, str]] = {
    "location with ..": (lambda p: place(p.graph.initializer[0], location="../weights.bin"), "it must be in"),
    "absolute location": (lambda p: place(p.graph.initializer[0], location="/etc/passwd"), "'/etc/passwd'"),
    "location below": (lambda p: place(p.graph.initializer[0], location="a/../weights.bin"), "it must be in"),
    "other file": (lambda p: place(p.graph.initializer[0], location="config.json"), "'config.json'"),
    "offset beyond the end": (lambda p: place(p.graph.initializer[0], offset=str(1 << 40)), "end within"),
    "offset that wraps": (lambda p: place(p.graph.initializer[0], offset=str(2**64 - 4096)), "impossible"),
    "negative offset": (lambda p: place(p.graph.initializer[0], offset="-4096"), "impossible offset"),
    "offset inside a page": (lambda p: place(p.graph.initializer[0], offset="64"), "must begin on a page"),
    "overlap": (lambda p: place(p.graph.initializer[1], offset="0"), "overlap in weights.bin"),
    "length of another shape": (
        lambda p: place(p.graph.initializer[2], length="8"),
        "its type and shape contradict",
    ),
    "no number": (lambda p: place(p.graph.initializer[2], length="0x100"), "impossible offset or length"),
    "two offsets": (lambda p: add_entry(p, "offset", "0"), "two values for 'offset'"),
    "unknown entry": (lambda p: add_entry(p, "checksum", "0"), "must have location, offset and length"),
    "no entries": (lambda p: p.graph.initializer[2].ClearField("external_data"), "must have location"),
    "data inside": (make_inline, "its tensor has the field 9"),
    "huge shape": (lambda p: p.graph.initializer[2].dims.append(1 << 62), "is larger than weights.bin"),
    "negative shape": (lambda p: p.graph.initializer[2].dims.append(-1), "is larger than weights.bin"),
    "other type": (
        lambda p: setattr(p.graph.initializer[2], "data_type", TensorProto.STRING),
        "its type and shape contradict",
    ),
    "foreign operator": (lambda p: add_operator(p, "Relu"), "holds the operator Relu"),
    "foreign domain": (lambda p: add_operator(p, "Linear", "com.evil"), r"operator com\.evil\.Linear"),
    "imported domain": (
        lambda p: p.opset_import.append(helper.make_opsetid("com.evil", 1)),
        "imports the operators of {.*'com.evil': 1}",
    ),
    "subgraph": (add_subgraph, "its attribute has the field 6"),
    "tensor attribute": (add_tensor_attribute, "its attribute has the field 5"),
    "function": (add_function, "its model has the field 25"),
    "sparse tensor": (add_sparse, "its graph has the field 15"),
    "a tensor twice": (
        lambda p: p.graph.initializer.append(p.graph.initializer[0]),
        "the tensor 'wte.weight' occurs twice",
    ),
    "a tensor of nothing": (add_unused_tensor, r"the tensor 'a\.further\.weight' is no weight of the model"),
    "an input less": (lambda p: p.graph.input.pop(), "its inputs or outputs are"),
    "an output of another name": (
        lambda p: setattr(p.graph.output[0], "name", "other"),
        "its inputs or outputs are other",
    ),
    "an attribute twice": (repeat_attribute, "a node has the attribute '.*' twice"),
    "a name of two kilobytes": (
        lambda p: setattr(p.graph.node[0], "name", "x" * 2000),
        "a name in it has 2000 bytes",
    ),
    "an operator less": (drop_last_operator, "it ends before the operator"),
    "a layer less": (drop_layer, "holds the operator Linear where no converted model has it"),
    "a layer twice": (
        lambda p: set_attribute(p, "CachedAttention", "layer", 1),
        "layer = 1; the configuration says 0",
    ),
    "other layers": (lambda p: set_attribute(p, "CachedAttention", "layers", 3), "layers = 3; the config"),
    "other heads": (
        lambda p: set_attribute(p, "CachedAttention", "heads", 8),
        "heads = 8; the configuration says 4",
    ),
    "other positions": (lambda p: set_attribute(p, "CachedAttention", "positions", 1 << 40), "positions ="),
    "other vocabulary": (lambda p: set_attribute(p, "Embed", "vocabulary", 1 << 20), "vocabulary = 1048576"),
}


@pytest.mark.parametrize(("change", "message"), BAD_GRAPHS.values(), ids=BAD_GRAPHS)
def test_foreign_graphs_are_refused(model: Path, change: Change, message: str) -> None:
    proto = onnx.load(model / "model.onnx", load_external_data=False)
    change(proto)
    (model / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=rf"model\.onnx: .*{message}"):
        open_model_directory(model)


TINY_GRAPHS = {
    "empty": b"",
    "text": b"not a model",
    "number that never ends": b"\xff" * 1000,
    "length of 2**63": b"\x3a" + b"\xff" * 9 + b"\x01",
    "graph longer than the file": b"\x3a\x10\x0a",
    "two graphs": b"\x3a\x00\x3a\x00",
    "a thousand groups": b"\x3b" * 1000,
    "tensor of 2**62 by 2**62": b"\x3a\x16\x2a\x14" + (b"\x08" + b"\xff" * 8 + b"\x3f") * 2,
    "packed dimensions": b"\x3a\x0d\x2a\x0b\x0a\x09" + b"\xff" * 8 + b"\x3f",
    "name of a kilobyte": b"\x42\x83\x08\x0a\x81\x08" + b"x" * 1017,
}


@pytest.mark.parametrize("content", TINY_GRAPHS.values(), ids=TINY_GRAPHS)
def test_tiny_files_are_refused_cheaply(model: Path, content: bytes) -> None:
    assert len(content) <= 1024
    (model / "model.onnx").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=r"model\.onnx"):
            open_model_directory(model)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_graph_beyond_the_limit_is_not_read(model: Path) -> None:
    os.truncate(model / "model.onnx", (4 << 20) + 1)
    with pytest.raises(ModelError, match=r"has 4194305 bytes; the limit for such a file is 4194304"):
        open_model_directory(model)


@given(st.data())
def test_damaged_graphs_raise_nothing_but_model_errors(converted: Path, data: st.DataObject) -> None:
    content = bytearray((converted / "model.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ModelError):
        check_graph(bytes(content), small_config(), (converted / "weights.bin").stat().st_size, where="x")
