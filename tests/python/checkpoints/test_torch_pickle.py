"""PyTorch's files: both containers, views of storages, and what must be refused."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast.checkpoints.torch_pickle import open_torch_file
from gpt2fast.errors import ModelError
from support.checkpoint_samples import (
    pickled_state,
    pickled_tensor,
    pickled_text,
    random_tensors,
    small_config,
    torch_legacy,
    torch_state,
    torch_zip,
)

NUMBERS = np.arange(12, dtype=np.float32)
MATRIX = pickled_tensor("0", 12, (3, 4), (4, 1))


def opened(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    return open_torch_file(path).tensors


def one(tmp_path: Path, tensor: bytes, storage: bytes = NUMBERS.tobytes()) -> Any:
    return opened(tmp_path, torch_zip(pickled_state({"x": tensor}), {"0": storage}))["x"]


@pytest.mark.parametrize("legacy", [False, True])
def test_reads_every_tensor(tmp_path: Path, legacy: bool) -> None:
    wanted = random_tensors(small_config())
    found = opened(tmp_path, torch_state(wanted, legacy=legacy))
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert found[name].shape == values.shape
        np.testing.assert_array_equal(found[name].read(), values)
        np.testing.assert_array_equal(found[name].read_rows(1, 3), values[1:3])


def test_a_view_follows_its_strides_and_offset(tmp_path: Path) -> None:
    tensor = one(tmp_path, pickled_tensor("0", 12, (4, 2), (1, 4), offset=4))
    np.testing.assert_array_equal(tensor.read(), NUMBERS.reshape(3, 4)[1:].T)
    assert tensor.read().flags.c_contiguous


@pytest.mark.parametrize(
    ("storage", "stored"),
    [
        ("HalfStorage", NUMBERS.astype("<f2")),
        ("DoubleStorage", NUMBERS.astype("<f8")),
        ("BFloat16Storage", (NUMBERS.view(np.uint32) >> 16).astype("<u2")),
        ("LongStorage", NUMBERS.astype("<i8")),
        ("ByteStorage", NUMBERS.astype("u1")),
    ],
)
def test_every_dtype_becomes_float32(tmp_path: Path, storage: str, stored: Any) -> None:
    values = one(tmp_path, pickled_tensor("0", 12, (12,), (1,), storage=storage), stored.tobytes()).read()
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, NUMBERS)


def test_a_parameter_is_its_tensor(tmp_path: Path) -> None:
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + MATRIX + b"\x88ccollections\nOrderedDict\n)RtR"
    np.testing.assert_array_equal(one(tmp_path, parameter).read(), NUMBERS.reshape(3, 4))


def test_entries_that_are_not_tensors_are_left_out(tmp_path: Path) -> None:
    scalar = pickled_tensor("0", 12, (), ())
    state = pickled_state({"step": b"K\x07", "scalar": scalar, "x": MATRIX})
    assert list(opened(tmp_path, torch_zip(state, {"0": NUMBERS.tobytes()}))) == ["x"]


class Witness:
    """Creates a file when unpickled normally."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_is_executed(tmp_path: Path, protocol: int, legacy: bool) -> None:
    state = pickle.dumps({"x": Witness(tmp_path / "witness")}, protocol=protocol)
    make = torch_legacy if legacy else torch_zip
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: the pickle"):
        opened(tmp_path, make(state, {}))
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("symbol", ["torch\nComplexFloatStorage", "torch._utils\n_rebuild_tensor_v3"])
def test_numbers_that_are_not_read(tmp_path: Path, symbol: str) -> None:
    value = b"c" + symbol.encode() + b"\n(K\x01tR"
    message = (
        f"a tensor's numbers .{symbol.split()[1]}. are in a format that is not read; save the model with"
    )
    with pytest.raises(ModelError, match=message):
        opened(tmp_path, torch_zip(pickled_state({"x": value}), {}))


@pytest.mark.parametrize(
    "value",
    [
        b"cos\nsystem\n(" + pickled_text("true") + b"tR",
        pickled_text("builtins") + pickled_text("eval") + b"\x93(" + pickled_text("1") + b"tR",
        b"ctorch\nFloatStorage\n(K\x01tR",
        b"ccollections\nOrderedDict\n(]tR",
        b"ccollections\nOrderedDict\n)\x81",
        b"(" + pickled_text("true") + b"ios\nsystem\n",
        b"\x82\x01",
        b"ctorch._utils\n_rebuild_parameter\n(K\x01tR",
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01tR",
        b"(K\x01tQ",
        b"ctorch.serialization\n_load\n",
        b"P7\n",
    ],
)
def test_calls_other_than_a_tensors_are_refused(tmp_path: Path, value: bytes) -> None:
    with pytest.raises(ModelError, match="the pickle"):
        opened(tmp_path, torch_zip(pickled_state({"x": value}), {}))


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (pickled_tensor("0", 12, (4, 4), (4, 1)), "reaches past its storage"),
        (pickled_tensor("0", 12, (3, 4), (4, 1), offset=1), "reaches past its storage"),
        (pickled_tensor("0", 12, (2, 2), (1 << 40, 1)), "reaches past its storage"),
        (pickled_tensor("0", 12, (1 << 40, 4), (0, 1)), "repeats numbers"),
        (pickled_tensor("0", 12, (0, 4), (4, 1)), "is empty"),
        (pickled_tensor("0", 12, (3, 4), (-4, 1), offset=11), "not a natural number"),
        (pickled_tensor("0", 12, (3, 4), (4,)), "2 axes and 1 strides"),
        (pickled_tensor("0", 12, (1,) * 9, (1,) * 9), "9 axes"),
        (pickled_tensor("0", 11, (2, 4), (4, 1)), "48 bytes instead of 44"),
        (pickled_tensor("0", 1 << 61, (2, 4), (4, 1)), "48 bytes instead of"),
        (pickled_tensor("1", 12, (3, 4), (4, 1)), "data of the tensor 'x' is missing"),
        (
            pickled_tensor("0", 12, (3, 4), (4, 1), storage="ComplexFloatStorage"),
            r"numbers \(ComplexFloatStorage\) are in a format that is not read",
        ),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path, tensor: bytes, fault: str) -> None:
    with pytest.raises(ModelError, match=fault):
        one(tmp_path, tensor)


def test_a_storage_described_in_two_ways_is_refused(tmp_path: Path) -> None:
    state = pickled_state({"x": MATRIX, "y": pickled_tensor("0", 6, (6,), (1,), storage="DoubleStorage")})
    with pytest.raises(ModelError, match="described in two ways"):
        opened(tmp_path, torch_zip(state, {"0": NUMBERS.tobytes()}))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, legacy: bool) -> None:
    whole = torch_state({"x": NUMBERS.reshape(3, 4)}, legacy=legacy)
    for length in range(len(whole)):
        with pytest.raises(ModelError):
            opened(tmp_path, whole[:length])


def test_a_compressed_member_is_refused(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled_state({"x": MATRIX}))
    with pytest.raises(ModelError, match="compressed or encrypted"):
        opened(tmp_path, target.getvalue())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for _ in range(2):
            archive.writestr("archive/data.pkl", pickled_state({"x": MATRIX}))
    with pytest.raises(ModelError, match="occurs twice"):
        opened(tmp_path, target.getvalue())


def test_big_endian_numbers_are_refused(tmp_path: Path) -> None:
    content = torch_zip(pickled_state({"x": MATRIX}), {"0": NUMBERS.tobytes()}, byteorder="big")
    with pytest.raises(ModelError, match="byte order b'big'"):
        opened(tmp_path, content)


@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04", b"hello, world", pickle.dumps([1], 2)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        opened(tmp_path, content)


@pytest.mark.parametrize(
    "state",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo entry of a huge number
        b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",  # a byte array of a terabyte
        b"\x80\x04\x95" + (1 << 40).to_bytes(8, "little") + b".",  # a frame of a terabyte
        b"\x80\x02X\xff\xff\xff\x7f.",  # a string of two gigabytes
        b"\x80\x02" + b"]" * 300_000 + b".",  # more operations than any model needs
    ],
)
def test_a_claim_of_memory_is_refused_cheaply(tmp_path: Path, state: bytes) -> None:
    content = torch_zip(state, {})
    tracemalloc.start()
    try:
        with pytest.raises(ModelError):
            opened(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < (32 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parity
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_reads_what_torch_saves(tmp_path: Path, zipped: bool, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(5, 3)
    state = layer.state_dict()
    state["transposed"] = layer.weight.t()
    state["half"] = torch.nn.Parameter(layer.bias.half())
    state["bfloat16"] = layer.weight.detach().bfloat16()
    state["mask"] = torch.ones(1, 1, 4, 4).tril().bool()
    path = tmp_path / "model.bin"
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = open_torch_file(path).tensors
    assert list(found) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name].read(), tensor.detach().float().numpy())


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict", "module"])
def test_weights_inside_a_training_checkpoint(tmp_path: Path, wrapper: str) -> None:
    numbers = {"0": NUMBERS.tobytes()}
    for inner in (b"}" + pickled_text("x") + MATRIX + b"s", b"N"):
        state = b"\x80\x02}" + pickled_text(wrapper) + inner + b"s."
        if inner == b"N":
            with pytest.raises(ModelError, match="holds no tensors by name"):
                opened(tmp_path, torch_zip(state, numbers))
        else:
            np.testing.assert_array_equal(
                opened(tmp_path, torch_zip(state, numbers))["x"].read().ravel(), NUMBERS
            )
