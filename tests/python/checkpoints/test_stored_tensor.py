"""Reading parts of tensors from files, and files that become shorter while they are open."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.checkpoints.binary_file import BinaryFile, Memory
from gpt2fast.checkpoints.stored_tensor import STORED_DTYPES, StoredTensor, to_float32
from gpt2fast.checkpoints.tensorflow_checkpoint import open_tensorflow
from gpt2fast.errors import ModelError
from gpt2fast.export.standard import export_onnx
from support.checkpoint_samples import random_tensors, small_config, torch_state
from support.huggingface_samples import write_directory
from support.tensorflow_samples import write_tensorflow
from support.zoo_samples import random_checkpoint

CONFIG = small_config()


@given(st.data())
def test_any_part_of_any_view_equals_numpys(data: st.DataObject) -> None:
    """Transposed, sliced and sliced again, at any offset: the same numbers as from a NumPy view."""
    dtype_name = data.draw(st.sampled_from(["U8", "F16", "F64"]))
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    offset = data.draw(st.integers(0, 9))
    itemsize = STORED_DTYPES[dtype_name].itemsize
    content = np.random.default_rng(0).integers(0, 100, offset + int(np.prod(shape)) * itemsize, np.uint8)
    wanted = np.frombuffer(content, STORED_DTYPES[dtype_name], offset=offset).reshape(shape)
    found = StoredTensor.contiguous(Memory(content), dtype_name, offset, shape)
    for _ in range(data.draw(st.integers(0, 3))):
        order = data.draw(st.permutations(range(len(shape))))
        axis = data.draw(st.integers(0, len(shape) - 1))
        start, stop = (data.draw(st.integers(0, 45)) for _ in range(2))
        found = found.transpose(order).narrow(axis, start, stop)
        wanted = wanted.transpose(order)[(slice(None),) * axis + (slice(start, stop),)]
    assert found.size == wanted.size
    np.testing.assert_array_equal(found.read(), wanted)


@pytest.mark.parametrize("stride", [1, 3, 700, 40_000])
def test_scattered_numbers_do_not_cost_what_lies_between(stride: int) -> None:
    """Columns of a matrix of one megabyte, and the bytes that are read for them."""

    class Counting(Memory):
        largest = 0

        def read_into(self, offset: int, target: np.ndarray) -> None:
            self.largest = max(self.largest, target.size)
            super().read_into(offset, target)

    numbers = np.arange(1 << 18, dtype=np.float32)
    source = Counting(numbers.view(np.uint8))
    count = len(numbers) // stride
    column = StoredTensor(source, "F32", 0, (count,), (4 * stride,))
    np.testing.assert_array_equal(column.read(), numbers[: count * stride : stride])
    assert source.largest <= max(1 << 16, 4 * 4 * count)


def test_numbers_become_float32() -> None:
    bits = np.array([0x3F80, 0xC000], np.uint16)
    np.testing.assert_array_equal(to_float32(bits, "BF16"), np.array([1.0, -2.0], np.float32))
    large = to_float32(np.array([1e300, 0.5]), "F64")
    np.testing.assert_array_equal(large, np.array([np.inf, 0.5], np.float32))
    columns = to_float32(np.asfortranarray(np.eye(3, dtype=np.float16)), "F16")
    assert columns.flags.c_contiguous


def torch_file(directory: Path, *, legacy: bool) -> tuple[Checkpoint, Path]:
    write_directory(directory, CONFIG)
    (directory / "model.safetensors").unlink()
    path = directory / "pytorch_model.bin"
    path.write_bytes(torch_state(random_tensors(CONFIG), legacy=legacy))
    return open_checkpoint(directory), path


def onnx_file(directory: Path, *, external: bool) -> tuple[Checkpoint, Path]:
    files = export_onnx(random_checkpoint(), directory / "model.onnx", external_data=external)
    return open_checkpoint(files[0]), files[-1]


def tensorflow_file(directory: Path) -> tuple[Checkpoint, Path]:
    write_tensorflow(directory, CONFIG)
    return open_tensorflow(directory), next(directory.glob("model.ckpt.data-*"))


def gguf_file(directory: Path) -> tuple[Checkpoint, Path]:
    pytest.importorskip("gguf")
    from support.gguf_samples import write_gguf

    write_gguf(directory / "model.gguf", kind="Q8_0")
    return open_checkpoint(directory / "model.gguf"), directory / "model.gguf"


def safetensors_file(directory: Path) -> tuple[Checkpoint, Path]:
    return open_checkpoint(write_directory(directory, CONFIG)), directory / "model.safetensors"


@pytest.mark.parametrize(
    "opened",
    [
        lambda directory: torch_file(directory, legacy=False),
        lambda directory: torch_file(directory, legacy=True),
        lambda directory: onnx_file(directory, external=False),
        lambda directory: onnx_file(directory, external=True),
        tensorflow_file,
        gguf_file,
        safetensors_file,
    ],
    ids=["torch-zip", "torch-legacy", "onnx", "onnx-external", "tensorflow", "gguf", "safetensors"],
)
def test_a_file_that_becomes_shorter_is_an_error(
    tmp_path: Path, opened: Callable[[Path], tuple[Checkpoint, Path]]
) -> None:
    checkpoint, path = opened(tmp_path)
    for tensor in checkpoint.tensors.values():
        tensor.read()
    os.truncate(path, 100)
    with pytest.raises(ModelError, match=rf"{path.name}: the file became shorter while it was being read"):
        checkpoint.tensors["h.1.mlp.c_fc.weight"].read()


def test_a_file_is_read_from_several_threads(tmp_path: Path) -> None:
    numbers = np.arange(1 << 16, dtype=np.int32)
    (tmp_path / "numbers").write_bytes(numbers.tobytes())
    tensor = StoredTensor.contiguous(BinaryFile(tmp_path / "numbers"), "I32", 0, numbers.shape)
    wrong: list[int] = []

    def read(first: int) -> None:
        for start in range(first, len(numbers), 5000):
            if not np.array_equal(
                tensor.narrow(0, start, start + 3000).read(), numbers[start : start + 3000]
            ):
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(i * 7,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ModelError, match="empty: the file is empty"):
        BinaryFile(tmp_path / "empty")
