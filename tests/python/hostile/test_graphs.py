"""Graphs of model directories that say one thing to one protobuf parser and another to the next."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import gpt2fast
from gpt2fast.errors import ModelError
from gpt2fast.export import convert
from gpt2fast.loading.loaded_model import LoadedModel
from gpt2fast.storage.model_directory import open_model_directory
from support.huggingface_samples import write_directory
from support.model_copies import copy_model
from support.protobuf_edits import append_inside, bytes_field, varint

# The messages of a step graph, by the numbers of the fields that lead to them.
MESSAGES = {
    "model": (),
    "imported operators": (8,),
    "graph": (7,),
    "node": (7, 1),
    "attribute": (7, 1, 5),
    "tensor": (7, 5),
    "entry of a tensor": (7, 5, 13),
    "input or output": (7, 11),
    "type": (7, 11, 2),
    "tensor type": (7, 11, 2, 1),
    "shape": (7, 11, 2, 1, 2),
    "dimension": (7, 11, 2, 1, 2, 1),
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("converted")
    return convert(write_directory(root / "source"), root / "model", precision="int8")


@pytest.fixture
def model(converted: Path, tmp_path: Path) -> Path:
    """A model directory to damage."""
    return copy_model(converted, tmp_path / "model")


def refused(model: Path, content: bytes, message: str) -> None:
    (model / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=rf"model\.onnx: .*{message}"):
        open_model_directory(model)


@pytest.mark.parametrize(("name", "path"), MESSAGES.items(), ids=MESSAGES)
def test_tags_that_are_cut_to_32_bits_are_refused(model: Path, name: str, path: tuple[int, ...]) -> None:
    whole = (model / "model.onnx").read_bytes()
    for number in (1, 7, 100):
        extra = bytes_field(number, b"", wide=1)
        refused(model, append_inside(whole, path, extra), f"{name} has a field whose tag is wider")


def test_a_second_graph_behind_a_wide_tag_is_refused(model: Path) -> None:
    whole = (model / "model.onnx").read_bytes()
    proto = onnx.load(model / "model.onnx", load_external_data=False)
    body = helper.make_graph([helper.make_node("Relu", ["hidden"], ["logits"])], "g", [], [])
    refused(model, whole + bytes_field(7, body.SerializeToString(), wide=1), "wider than 32 bits")
    refused(model, whole + bytes_field(7, body.SerializeToString()), "field 7 of kind 2 2 times")
    refused(model, whole + bytes_field(7, body.SerializeToString(), size=6), "wider than 32 bits")
    (model / "model.onnx").write_bytes(proto.SerializeToString())
    open_model_directory(model)


@pytest.mark.parametrize(("name", "path"), MESSAGES.items(), ids=MESSAGES)
def test_unknown_fields_are_refused(model: Path, name: str, path: tuple[int, ...]) -> None:
    whole = (model / "model.onnx").read_bytes()
    unknown = (
        varint(100 << 3) + b"\x01",
        varint(1 << 3 | 1) + bytes(8),
        varint(1 << 3 | 3),
        varint(200 << 3 | 5),
    )
    for extra in unknown:
        refused(model, append_inside(whole, path, extra), f"{name} has the field")


def test_numbers_beyond_64_bits_are_refused(model: Path) -> None:
    whole = (model / "model.onnx").read_bytes()
    extra = varint(3 << 3) + b"\xff" * 9 + b"\x7f"
    for path in ((7, 1, 5), (7, 5)):
        refused(model, append_inside(whole, path, extra), "")


def test_many_empty_parts_are_refused_quickly(model: Path) -> None:
    whole = (model / "model.onnx").read_bytes()
    for path, number in (
        ((), 100),
        ((7,), 1),
        ((7,), 5),
        ((7, 1), 5),
        ((7, 1), 1),
        ((7, 5), 13),
        ((7, 11, 2, 1, 2), 1),
    ):
        content = append_inside(whole, path, bytes_field(number, b"") * (1 << 20))
        tracemalloc.start()
        start = time.process_time()
        try:
            refused(model, content, "")
            assert tracemalloc.get_traced_memory()[1] < 2 * len(content)
        finally:
            tracemalloc.stop()
        assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_norm_epsilon": 1e-3},
        {"activation_function": "relu"},
        {"n_inner": 128},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"tie_word_embeddings": False},
        {"n_layer": 3},
        {"n_layer": 1 << 24},
        {"n_positions": 25},
        {"vocab_size": 1000},
        {"n_head": 2},
    ],
    ids=str,
)
def test_a_configuration_of_another_model_is_refused(model: Path, changes: dict[str, object]) -> None:
    values = json.loads((model / "config.json").read_text())
    assert any(values[name] != value for name, value in changes.items())
    (model / "config.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(ModelError, match=r"model\.onnx: "):
        open_model_directory(model)


def test_what_was_checked_is_what_runs(model: Path) -> None:
    checked = open_model_directory(model)
    wanted = gpt2fast.GPT2.from_pretrained(model).logits([1, 2, 3])
    (model / "model.onnx").write_bytes(b"another graph")
    assert np.array_equal(gpt2fast.GPT2(LoadedModel(checked)).logits([1, 2, 3]), wanted)
