"""The safetensors reader: values of every dtype, and malformed files."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from gpt2fast.checkpoints import binary_file
from gpt2fast.checkpoints.safetensors_file import SafetensorsFile
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import open_regular


def file_of(header: Any, data: bytes = b"") -> bytes:
    """A file with this header, given as text or as a JSON value."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_reads_what_the_library_writes(tmp_path: Path, dtype: type) -> None:
    generator = np.random.default_rng(0)
    tensors = {f"t{i}": generator.normal(size=(3 + i, 5)).astype(dtype) for i in range(3)}
    tensors["vector"] = generator.normal(size=7).astype(dtype)
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    read = SafetensorsFile(tmp_path / "x.safetensors")
    assert set(read) == set(tensors)
    for name, values in tensors.items():
        assert read[name].shape == values.shape
        np.testing.assert_array_equal(read[name].read(), values.astype(np.float32))
        assert read[name].read().dtype == np.float32


def test_reads_bfloat16(tmp_path: Path) -> None:
    bits = np.array([[0x3F80, 0xC000], [0x0001, 0x7F7F]], "<u2")
    (tmp_path / "x").write_bytes(file_of({"a": entry("BF16", (2, 2))}, bits.tobytes()))
    expected = [[1.0, -2.0], [2.0**-133, 255 * 2.0**120]]
    np.testing.assert_array_equal(SafetensorsFile(tmp_path / "x")["a"].read(), np.float32(expected))


def test_float64_beyond_float32_becomes_infinite(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(file_of({"a": entry("F64", (1,))}, np.float64(1e300).tobytes()))
    assert np.isposinf(SafetensorsFile(tmp_path / "x")["a"].read())


@given(st.integers(0, 9), st.integers(0, 9))
def test_row_ranges(tmp_path_factory: pytest.TempPathFactory, start: int, stop: int) -> None:
    values = np.arange(9 * 4, dtype=np.float32).reshape(9, 2, 2)
    path = tmp_path_factory.getbasetemp() / "rows.safetensors"
    if not path.exists():
        save_file({"pad": np.zeros(3, np.float32), "a": values}, path)
    tensor = SafetensorsFile(path)["a"]
    if start <= stop:
        np.testing.assert_array_equal(tensor.read_rows(start, stop), values[start:stop])
    else:
        with pytest.raises(ValueError, match="outside its 9 rows"):
            tensor.read_rows(start, stop)


def test_unreadable_tensors_are_refused_on_access(tmp_path: Path) -> None:
    header = {"mask": entry("BOOL", (8,)), "scalar": entry("F32", (), (8, 12)), "a": entry(offsets=(12, 20))}
    (tmp_path / "x").write_bytes(file_of(header, bytes(20)))
    tensors = SafetensorsFile(tmp_path / "x")
    assert tensors["a"].read().tolist() == [0, 0]
    with pytest.raises(ModelError, match="'mask' has dtype BOOL"):
        tensors["mask"]
    with pytest.raises(ModelError, match="'scalar' has dtype F32 and shape"):
        tensors["scalar"]


BAD_FILES = {
    "empty file": (b"", "the file is empty"),
    "half a length": (b"\x02\0\0", "cut short"),
    "header beyond the file": (b"\xff\0\0\0\0\0\0\0{}", "claims a header of 255"),
    "header of 2**64 - 1 bytes": (b"\xff" * 8 + b"{}", "claims a header"),
    "header whose end wraps": ((2**64 - 4).to_bytes(8, "little") + b"{}", "claims a header"),
    "no JSON": (file_of(b"{'a': 1}"), "not valid JSON"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "not valid JSON"),
    "no object": (file_of([1, 2]), "must hold a JSON object"),
    "deep nesting": (file_of(b"[" * 900), "not valid JSON"),
    "a number of 500 digits": (file_of({"a": entry(offsets=[0, 10**500])}), "impossible data_offsets"),
    "a name twice": (
        file_of(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
        "'a' occurs twice",
    ),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "__metadata__"),
    "an entry that is no object": (file_of({"a": 3}), "exactly dtype, shape and data_offsets"),
    "an entry with a key too many": (file_of({"a": {**entry(), "b": 1}}, bytes(8)), "exactly dtype"),
    "unknown dtype": (file_of({"a": entry("F33")}, bytes(8)), "unknown dtype 'F33'"),
    "dtype that is no string": (file_of({"a": entry([])}, bytes(8)), "unknown dtype"),  # type: ignore[arg-type]
    "negative dimension": (file_of({"a": entry(shape=[-2, -1])}, bytes(8)), "impossible shape"),
    "boolean dimension": (file_of({"a": entry(shape=[True, 2])}, bytes(8)), "impossible shape"),
    "fractional dimension": (file_of({"a": entry(shape=[2.0])}, bytes(8)), "impossible shape"),
    "too many dimensions": (file_of({"a": entry(shape=[1] * 9 + [2])}, bytes(8)), "impossible shape"),
    "elements that wrap": (file_of({"a": entry(shape=[2**32, 2**30 + 1])}, bytes(8)), "needs"),
    "bytes that wrap": (file_of({"a": entry(shape=[2**62 + 2])}, bytes(8)), "needs"),
    "end before begin": (file_of({"a": entry(shape=[0], offsets=[8, 0])}, bytes(8)), "span -8"),
    "end beyond the file": (file_of({"a": entry(shape=[4], offsets=[0, 16])}, bytes(8)), "cut short"),
    "gigabytes": (file_of({"a": entry(shape=[2**30], offsets=[0, 2**32])}, bytes(8)), "cut short"),
    "overlap": (file_of({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)), "'b' overlaps another"),
    "hole": (file_of({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)), "'b' leaves a hole"),
    "data beyond the tensors": (file_of({"a": entry()}, bytes(9)), "tensors end at byte"),
    "no tensors but data": (file_of({}, bytes(9)), "tensors end at byte"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused_cheaply(tmp_path: Path, content: bytes, message: str) -> None:
    assert len(content) <= 1024
    (tmp_path / "x").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=message):
            SafetensorsFile(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@given(st.data())
def test_damaged_files_raise_nothing_but_model_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(save({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        for tensor in SafetensorsFile(path).values():
            tensor.read()
    except ModelError:
        pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(ModelError, match="not a regular file"):
        SafetensorsFile(tmp_path / "x")


def test_a_file_that_shrinks_meanwhile(tmp_path: Path) -> None:
    save_file({"a": np.ones((99, 99), np.float32)}, tmp_path / "x")  # more than is read with the header
    tensor = SafetensorsFile(tmp_path / "x")["a"]
    os.truncate(tmp_path / "x", (tmp_path / "x").stat().st_size - 4)
    with pytest.raises(ModelError, match="became shorter"):
        tensor.read()


def test_a_file_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Header and data then belong to the same file, even if another takes its name meanwhile."""
    opened: list[Path] = []

    def counted(path: Path) -> BinaryIO:
        opened.append(path)
        return open_regular(path)

    monkeypatch.setattr(binary_file, "open_regular", counted)
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "x")
    SafetensorsFile(tmp_path / "x")["a"].read()
    assert opened == [tmp_path / "x"]
