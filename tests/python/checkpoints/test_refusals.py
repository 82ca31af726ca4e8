"""Hand-made files, one for each way in which a part of a checkpoint may be wrong: an error that says so."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gpt2fast.checkpoints.binary_file import BinaryFile
from gpt2fast.checkpoints.gguf_container import read_container
from gpt2fast.checkpoints.gguf_tokenizer import tokenizer_files
from gpt2fast.checkpoints.onnx_file import read_onnx, tensor_from_proto
from gpt2fast.checkpoints.onnx_session import open_session
from gpt2fast.checkpoints.tensorflow_checkpoint import open_tensorflow
from gpt2fast.checkpoints.tokenizer_files import find_tokenizer_files, read_tokenizer_files
from gpt2fast.checkpoints.torch_pickle import open_torch_file
from gpt2fast.errors import ModelError
from gpt2fast.storage.cache_root import CACHE_VARIABLE, cache_root
from gpt2fast.storage.files import MAX_JSON_ITEMS, parse_json_object, read_json_object
from support.checkpoint_samples import pickled_state, pickled_tensor, small_config, torch_legacy, torch_zip
from support.protobuf_edits import bytes_field, varint
from support.tensorflow_samples import HEADER, entry, message, table, write_tensorflow

_NUMBERS = bytes(48)
_MATRIX = pickled_tensor("0", 12, (3, 4), (4, 1))
_OLD_MATRIX = pickled_tensor("0", 12, (3, 4), (4, 1), legacy=True)


def _text(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


@pytest.mark.parametrize(
    ("opcodes", "fault"),
    [
        (b"t", "a mark is missing"),
        (b"]K\x01K\x02s", "set in something that is not a dictionary"),
        (b"}K\x01a", "appended to something that is not a list"),
        (b"]}b", "attributes are set on something that is not a dictionary"),
        (b"NQ", "a persistent id is not a tuple"),
        (b"(" + _text("module") + b"NNNNtQ", "a persistent id is not a storage"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR", "a tensor is described wrongly"),
        (b"}Nb]a" + b"N", "appended to something that is not a list"),
        (b"NN", "too many values"),
        (b"]}K\x01NN\x87a]Na", "appended to something that is not a list"),
        (b"}NK\x01s", "a key is neither text nor a number"),
        (b"NN\x93", "a name is not text"),
        (b"N)R", "a call of something that is not a function"),
        (b"ccollections\nOrderedDict\nNR", "a call of something that is not a function"),
        (b"ccollections\nOrderedDict\nN\x85R", "the call of collections.OrderedDict has unknown arguments"),
        (b"N" + b"\x85" * 100, "tuples nested more than"),
        (b"c" + b"m" * 300 + b"\nname\n", "the pickle refers to mmmm"),
        (b"c" + b"m" * 300, "."),
    ],
)
def test_pickles(tmp_path: Path, opcodes: bytes, fault: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(torch_zip(b"\x80\x02" + opcodes + b".", {}))
    with pytest.raises(ModelError, match=fault):
        open_torch_file(path)


def _members(**members: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", data)
    return target.getvalue()


def test_an_archive_needs_no_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(_members(data_pkl=pickled_state({"x": _MATRIX}), **{"data/0": _NUMBERS}))
    assert open_torch_file(path).tensors["x"].read().tolist() == np.zeros((3, 4)).tolist()


def test_archives_without_a_pickle_or_with_a_corrupt_header(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(_members(version=b"3"))
    with pytest.raises(ModelError, match=r"has one data\.pkl, this one has 0"):
        open_torch_file(path)
    whole = torch_zip(pickled_state({"x": _MATRIX}), {"0": _NUMBERS})
    path.write_bytes(whole[:4] + whole[4:].replace(b"PK\x03\x04", b"PK\x03\x05", 1))
    with pytest.raises(ModelError, match="header of the member 'archive/byteorder' is corrupt"):
        open_torch_file(path)


def test_a_disk_that_fails_in_an_archive_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(torch_zip(pickled_state({"x": _MATRIX}), {"0": _NUMBERS}))

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    read = BinaryFile.read
    monkeypatch.setattr(
        BinaryFile, "read", lambda file, *where: (fail if where[0] > 4 else read)(file, *where)
    )
    with pytest.raises(ModelError, match=rf"pytorch_model\.bin: .*{os.strerror(errno.EIO)}"):
        open_torch_file(path)


def _legacy(*, system: Any = None, keys: Any = ("0",), count: int = 12, behind: bytes = b"") -> bytes:
    system = {"little_endian": True} if system is None else system
    head = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    data = struct.pack("<q", count) + _NUMBERS
    state = pickled_state({"x": _OLD_MATRIX})
    return b"".join([*head, state, pickle.dumps(keys, protocol=2), data, behind])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (_legacy(system=[]), "not written on a little-endian machine"),
        (_legacy(system={"little_endian": False}), "not written on a little-endian machine"),
        (_legacy(keys="0"), "the list of storages is corrupt"),
        (_legacy(keys=["1"]), "the list of storages is corrupt"),
        (_legacy(keys=["0", "0"]), "the list of storages has repetitions"),
        (_legacy(keys=["0"], count=11), "has 11 numbers, not 12"),
        (_legacy(keys=["0"], behind=b"more"), "4 bytes follow the last storage"),
    ],
)
def test_files_of_old_pytorch(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=fault):
        open_torch_file(path)
    path.write_bytes(torch_legacy(pickled_state({"x": _OLD_MATRIX}), {"0": _NUMBERS}))
    assert open_torch_file(path).tensors["x"].shape == (3, 4)


def test_tensorflow_without_a_tokenizer_and_with_an_optimizer(tmp_path: Path) -> None:
    config = small_config()
    wanted = write_tensorflow(tmp_path, config)
    (tmp_path / "encoder.json").unlink()
    checkpoint = open_tensorflow(tmp_path)
    assert set(checkpoint.tensors) == set(wanted)
    assert checkpoint.tokenizer.vocab_json is None
    values = json.loads((tmp_path / "hparams.json").read_text())
    (tmp_path / "hparams.json").write_text(json.dumps({k: v for k, v in values.items() if k != "n_head"}))
    with pytest.raises(ModelError, match="the key 'n_head' is missing"):
        open_tensorflow(tmp_path)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (message(f2=message(f1=1))[:-1], "bytes are wanted|does not end|should be at bytes"),
        (varint(8 | 1 << 32) + b"\0", "wider than 32 bits"),
        (b"\x08", "does not end"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", "does not end"),
        (b"\x09\0\0", "bytes are wanted"),
        (b"\x0b", "has the kind 3"),
    ],
)
def test_messages(tmp_path: Path, value: bytes, fault: str) -> None:
    write_tensorflow(tmp_path, small_config())
    (tmp_path / "model.ckpt.index").write_bytes(table([HEADER, (b"model/x", value)]))
    with pytest.raises(ModelError, match=fault):
        open_tensorflow(tmp_path)


def test_what_is_no_weight_is_left_alone(tmp_path: Path) -> None:
    write_tensorflow(tmp_path, small_config())
    checksum = b"\x35\0\0\0\0"
    entries = [HEADER, (b"model/wte/Adam", entry((2,), 0, 8) + checksum), (b"step", entry((), 8, 8, dtype=9))]
    (tmp_path / "model.ckpt.index").write_bytes(table(entries))
    with pytest.raises(ModelError, match="wte"):  # which is missing
        open_tensorflow(tmp_path)


def _gguf(content: bytes = b"", *, version: int = 3, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + content


def _gguf_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


_GGUF_TENSOR = _gguf_text("x") + struct.pack("<IQIQ", 1, 4, 0, 0)
_GGUF_ALIGNMENT = _gguf_text("general.alignment")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"GGML" + bytes(60), "is not a GGUF file"),
        (_gguf(version=1), "has GGUF version 1"),
        (_gguf(2 * _GGUF_TENSOR, tensors=2) + bytes(64), "the tensor 'x' occurs twice"),
        (_gguf(_GGUF_ALIGNMENT + struct.pack("<II", 4, 0), keys=1), "general.alignment is 0"),
        (_gguf(_GGUF_ALIGNMENT + struct.pack("<IB", 7, 1), keys=1), "general.alignment is True"),
        (
            _gguf(2 * (_GGUF_ALIGNMENT + struct.pack("<II", 4, 32)), keys=2),
            "'general.alignment' occurs twice",
        ),
    ],
)
def test_headers_of_gguf(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=fault):
        read_container(BinaryFile(path))


def _weight(name: str = "w", **changes: Any) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(8))
    for key, value in changes.items():
        tensor.ClearField("raw_data") if key == "float_data" else None
        if isinstance(value, list):
            getattr(tensor, key).extend(value)
        else:
            setattr(tensor, key, value)
    return tensor


def _outside(**entries: str) -> Any:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _model(*, nodes: list[Any] | None = None, weights: list[Any] | None = None, **graph: Any) -> Any:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    nodes = [helper.make_node("Identity", ["w"], ["y"])] if nodes is None else nodes
    made = helper.make_graph(nodes, "g", [], [output], weights or [], **graph)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])


def _graph(*fields: bytes) -> Callable[[], bytes]:
    return lambda: bytes_field(7, b"".join(fields))


def _sparse() -> Any:
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    return helper.make_sparse_tensor(values, indices, [2])


ONNX: dict[str, tuple[Callable[[], bytes], str]] = {
    "sparse weights": (
        lambda: _model(sparse_initializer=[_sparse()]).SerializeToString(),
        "sparse weights are not supported",
    ),
    "a loop": (
        lambda: _model(nodes=[helper.make_node("Scan", ["w"], ["y"])]).SerializeToString(),
        "has a Scan, which no GPT-2 needs",
    ),
    "float data of another type": (
        lambda: _model(
            weights=[_weight(data_type=TensorProto.INT64, float_data=[1.0, 2.0])]
        ).SerializeToString(),
        "has float data of another type",
    ),
    "data in two pieces": (
        lambda: (
            _model(weights=[_weight()]).SerializeToString()
            and bytes_field(7, bytes_field(5, _weight().SerializeToString() + bytes_field(9, bytes(8))))
        ),
        "its data is in several pieces",
    ),
    "too little data": (
        lambda: _model(
            weights=[TensorProto(name="w", data_type=TensorProto.INT64, dims=[2], int64_data=[1])]
        ).SerializeToString(),
        "do not fill the shape",
    ),
    "a weight twice": (
        lambda: _model(weights=[_weight(), _weight()]).SerializeToString(),
        "occurs twice",
    ),
    "an offset that is no number": (
        lambda: _model(weights=[_outside(location="data", offset="x")]).SerializeToString(),
        "must be numbers",
    ),
    "an element type that no weight has": (
        lambda: _model(weights=[_weight(data_type=TensorProto.STRING)]).SerializeToString(),
        "the element type 8 is not supported",
    ),
    "a large description": (_graph(bytes_field(11, bytes_field(1, b"x" * (1 << 20)))), "description of an"),
    "a name that is no text": (_graph(bytes_field(1, bytes_field(4, b"\xff\xfe"))), "not UTF-8|corrupt"),
    "a field of an unknown kind": (_graph(bytes_field(1, b"\x0b")), "kind 3|corrupt|does not know"),
    "a node that is cut short": (_graph(bytes_field(1, b"\x0a\x05x")), "cut short|longer"),
}


@pytest.mark.parametrize(("content", "fault"), ONNX.values(), ids=ONNX)
def test_graphs_of_onnx(tmp_path: Path, content: Callable[[], bytes], fault: str) -> None:
    path = tmp_path / "model.onnx"
    (tmp_path / "data").write_bytes(bytes(64))
    path.write_bytes(content())
    with pytest.raises(ModelError, match=fault):
        read_onnx(path)


def test_a_constant_holds_its_own_numbers() -> None:
    with pytest.raises(ModelError, match="c: external data is read for initializers only"):
        tensor_from_proto(_outside(location="data"), "c")


def test_what_a_session_is_given_has_its_weights_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for weights, fault in (
        ([_outside()], "names no file, or several"),
        ([_outside(location="absent")], "'absent', which is not beside it"),
        ([_outside(location="../data")], "not the name of a file"),
    ):
        onnx.save(_model(weights=weights), path)
        with pytest.raises(ModelError, match=fault), open_session(path):
            pass
    (tmp_path / "data").write_bytes(bytes(8))
    inner = helper.make_graph([], "inner", [], [], [_outside(location="absent")])
    nested = helper.make_node("If", ["w"], ["z"], then_branch=inner)
    for place in ("training", "function"):
        model = _model(weights=[_outside(location="data")], sparse_initializer=[_sparse()])
        if place == "training":
            model.training_info.add().algorithm.initializer.append(_outside(location="absent"))
        else:
            model.functions.add().node.append(nested)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="'absent', which is not beside it"), open_session(path):
            pass


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"tokens": ["a", 1]}, "must be lists of strings"),
        ({"merges": "a b"}, "must be lists of strings"),
        ({"token_type": [1]}, "must be a list as long as"),
        ({"bos_token_id": 2}, "must be from 0 to 1, got 2"),
        ({"eos_token_id": True}, "must be from 0 to 1, got True"),
    ],
)
def test_tokenizers_of_gguf(changes: dict[str, Any], fault: str) -> None:
    values = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b"], "merges": [], **changes}
    with pytest.raises(ModelError, match=fault):
        tokenizer_files({f"tokenizer.ggml.{key}": value for key, value in values.items()}, Path("model.gguf"))


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("one", "one"),
        ([{"name": "tool_use", "template": "two"}, {"name": "default", "template": "three"}], "three"),
        ([{"name": "tool_use", "template": "two"}], None),
        ([4], None),
        (5, None),
    ],
)
def test_templates_of_chats(tmp_path: Path, template: Any, found: str | None) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert find_tokenizer_files(tmp_path).chat_template is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert find_tokenizer_files(tmp_path).chat_template == found
    (tmp_path / "chat_template.jinja").write_text("beside")
    assert find_tokenizer_files(tmp_path).chat_template == "beside"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"[1]", "must hold a JSON object, holds a list"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs twice"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_json(tmp_path: Path, text: bytes, fault: str) -> None:
    with pytest.raises(ModelError, match=fault):
        parse_json_object(text, "here")
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(ModelError, match=r"file: not (UTF-8|valid JSON)|file: must hold"):
        read_json_object(tmp_path / "file")


def test_json_of_too_many_values() -> None:
    most = b"[" + b"," * (MAX_JSON_ITEMS - 1)
    with pytest.raises(ModelError, match="here: not valid JSON: Expecting value"):
        parse_json_object(most, "here")
    with pytest.raises(ModelError, match=f"here: not valid JSON: it has more than {MAX_JSON_ITEMS} values"):
        parse_json_object(most + b",", "here")


def test_a_vocabulary_under_another_name_has_no_merges(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text('{"a": 0, "b": 1}')
    with pytest.raises(
        ModelError, match=r"words\.json: a vocabulary without merges; put it into a directory"
    ):
        read_tokenizer_files(path)
    for other in ("{}", '{"version": "1.0", "model": {}}'):
        path.write_text(other)
        assert read_tokenizer_files(path).tokenizer_json == other


@pytest.mark.parametrize(("value", "fault"), [("~nobody-of-this-name/x", "no such user")])
def test_the_cache_has_a_name(monkeypatch: pytest.MonkeyPatch, value: str, fault: str) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, value)
    with pytest.raises(ValueError, match=fault):
        cache_root()
    monkeypatch.delenv(CACHE_VARIABLE)
    assert cache_root().name == "gpt2fast"
