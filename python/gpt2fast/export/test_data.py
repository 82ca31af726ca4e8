"""Writes and reads sample inputs and outputs beside a model, in the ONNX Model Zoo's form.

``test_data_set_N/input_I.pb`` and ``output_I.pb`` each hold one ``TensorProto``; ``I`` is the index among
the model's inputs or outputs.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, numpy_helper

from gpt2fast._validation import Integer
from gpt2fast.checkpoints import reference
from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.checkpoints.onnx_limits import OnnxLimits
from gpt2fast.errors import ModelError
from gpt2fast.storage.atomic import atomic_directory, write_new
from gpt2fast.storage.files import find_inside, read_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.export.standard import StandardOptions

MAX_SETS = 1000
#: Limits on what is read.
MAX_TENSOR_FILE_BYTES = (1 << 31) - 1
MAX_RANK = 16
MAX_DIMENSION = (1 << 31) - 1

_SET_NAME = re.compile(r"test_data_set_(\d{1,9})")
_FILE_NAME = re.compile(r"(input|output)_(\d{1,9})\.pb")
# Batch, choices, earlier tokens (if there is a past) and tokens of the sets, repeated as needed.
_SHAPES = ((1, 1, 3, 8), (2, 1, 0, 5), (1, 3, 6, 2), (2, 2, 1, 1))

# Data type -> bytes of an element in raw_data, and the field that holds the elements otherwise.
_ELEMENTS: dict[int, tuple[int, str]] = {
    TensorProto.FLOAT: (4, "float_data"),
    TensorProto.DOUBLE: (8, "double_data"),
    TensorProto.FLOAT16: (2, "int32_data"),
    TensorProto.BOOL: (1, "int32_data"),
    TensorProto.INT8: (1, "int32_data"),
    TensorProto.UINT8: (1, "int32_data"),
    TensorProto.INT16: (2, "int32_data"),
    TensorProto.UINT16: (2, "int32_data"),
    TensorProto.INT32: (4, "int32_data"),
    TensorProto.UINT32: (4, "uint64_data"),
    TensorProto.INT64: (8, "int64_data"),
    TensorProto.UINT64: (8, "uint64_data"),
}


def write_test_data(
    checkpoint: Checkpoint,
    directory: Path,
    options: StandardOptions,
    count: int,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write ``count`` sets of random token ids with the outputs of the reference implementation in NumPy.

    Parameters
    ----------
    checkpoint : Checkpoint
        The model.
    directory : Path
        The model file's directory.
    options : StandardOptions
        The model's inputs and outputs.
    count : int
        How many sets, up to ``MAX_SETS``.
    overwrite : bool
        Replace existing sets.

    Returns
    -------
    list of Path
        The directories of the sets.

    Raises
    ------
    FileExistsError
        There are sets that may not be replaced.
    """
    check_sets(directory, count, overwrite=overwrite)
    for old in find_sets(directory):
        shutil.rmtree(old)
    written = []
    for number in range(count):
        inputs, outputs = _make_set(checkpoint, options, number)
        target = directory / f"test_data_set_{number}"
        with atomic_directory(target) as temporary:
            _write_tensors(temporary, "input", _input_names(checkpoint, options), inputs)
            _write_tensors(temporary, "output", _output_names(checkpoint, options), outputs)
        written.append(target)
    return written


def check_sets(directory: Path, count: int, *, overwrite: bool) -> None:
    """Raise ValueError unless there may be so many sets.

    Raise FileExistsError if there are sets that may not be replaced, or that hold other files as well, or if
    ``directory`` is a set itself.
    """
    Integer(0, MAX_SETS)("test_data", count)
    if (directory / "input_0.pb").exists():
        message = "holds input_0.pb, so it is test data itself; name another place for the model"
        raise FileExistsError(errno.EEXIST, message, str(directory))
    for old in find_sets(directory) if directory.is_dir() else ():
        foreign = sorted(name for name in os.listdir(old) if not _FILE_NAME.fullmatch(name))
        if foreign:
            raise FileExistsError(errno.EEXIST, f"holds {foreign[0]!r}, which is not test data", str(old))
        if not overwrite:
            message = "test data is there; --overwrite (overwrite=True) replaces it"
            raise FileExistsError(errno.EEXIST, message, str(old))


def find_sets(directory: Path) -> list[Path]:
    """The sets in a directory, by number; a directory with ``input_0.pb`` in it is a set itself."""
    if (directory / "input_0.pb").exists():
        return [directory]
    found = {}
    for name in os.listdir(directory):
        match = _SET_NAME.fullmatch(name)
        if match and (directory / name).is_dir() and not (directory / name).is_symlink():
            found[int(match[1])] = directory / name
    return [found[number] for number in sorted(found)]


def read_set(directory: Path) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Inputs and outputs of a set, each in the order of their numbers.

    Raises
    ------
    ModelError
        A file is missing among the numbers or doesn't hold a tensor.
    """
    return _read_tensors(directory, "input"), _read_tensors(directory, "output")


def read_tensor(path: Path) -> NDArray[Any]:
    """The tensor in a ``.pb`` file; its sizes are checked before any memory is allocated.

    Raises
    ------
    ModelError
        The file is too large, not a TensorProto, or its shape and values contradict each other.
    """
    data = read_bytes(path, MAX_TENSOR_FILE_BYTES)
    OnnxLimits(str(path), "a TensorProto").check(data, TensorProto)
    try:
        tensor = TensorProto.FromString(data)
    except Exception as error:  # protobuf's DecodeError derives from Exception
        raise ModelError(f"{path}: not a TensorProto, or cut short: {error}") from None
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ModelError(f"{path}: keeps its values in another file; test data must hold them itself")
    if tensor.data_type not in _ELEMENTS:
        raise ModelError(f"{path}: unsupported data type {tensor.data_type}; is it a TensorProto?")
    shape = list(tensor.dims)
    if len(shape) > MAX_RANK or not all(0 <= size <= MAX_DIMENSION for size in shape):
        raise ModelError(f"{path}: impossible shape {str(shape)[:80]}")
    item_bytes, name = _ELEMENTS[tensor.data_type]
    count = math.prod(shape)
    stored = len(tensor.raw_data) / item_bytes if tensor.HasField("raw_data") else len(getattr(tensor, name))
    if stored != count:
        raise ModelError(f"{path}: the shape {shape} needs {count} values; it holds {stored:g}")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{path}: {error}") from None


def _read_tensors(directory: Path, kind: str) -> list[NDArray[Any]]:
    matches = [_FILE_NAME.fullmatch(name) for name in os.listdir(directory)]
    numbers = sorted(int(match[2]) for match in matches if match and match[1] == kind)
    if not numbers or numbers != list(range(len(numbers))):
        raise ModelError(f"{directory}: needs {kind}_0.pb, {kind}_1.pb, ... without a gap; has {numbers[:9]}")
    tensors = []
    for number in numbers:
        path = find_inside(directory, f"{kind}_{number}.pb")
        if path is None:
            raise ModelError(f"{directory}: {kind}_{number}.pb is written with leading zeros")
        tensors.append(read_tensor(path))
    return tensors


def _write_tensors(directory: Path, kind: str, names: Sequence[str], arrays: Sequence[NDArray[Any]]) -> None:
    for number, (name, array) in enumerate(zip(names, arrays, strict=True)):
        tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        write_new(directory / f"{kind}_{number}.pb", tensor.SerializeToString(deterministic=True))


def _input_names(checkpoint: Checkpoint, options: StandardOptions) -> list[str]:
    layers = range(checkpoint.config.n_layer) if options.past else ()
    return [options.input_name, *map(options.past_name, layers)]


def _output_names(checkpoint: Checkpoint, options: StandardOptions) -> list[str]:
    return [options.output_name, *map(options.present_name, range(checkpoint.config.n_layer))]


def _make_set(
    checkpoint: Checkpoint, options: StandardOptions, number: int
) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    config = checkpoint.config
    batch, choices, earlier, tokens = _SHAPES[number % len(_SHAPES)]
    tokens = min(tokens, config.n_positions)
    earlier = min(earlier, config.n_positions - tokens) if options.past else 0
    shape = (batch, choices, earlier + tokens) if options.is_zoo else (batch * choices, earlier + tokens)
    ids = np.random.default_rng(number).integers(0, config.vocab_size, shape, dtype=np.int64)
    rows = ids.reshape(-1, shape[-1])
    past = [np.zeros((2, len(rows), config.n_head, 0, config.head_dim), np.float32)] * config.n_layer
    if earlier:
        _, before = reference.forward(checkpoint, rows[:, :earlier])
        past = [layer.astype(np.float32) for layer in before]
    hidden, present = reference.forward(checkpoint, rows[:, earlier:], past)
    first = hidden if options.head == "hidden" else reference.logits(checkpoint, hidden)
    outputs = [first.reshape(*shape[:-1], tokens, first.shape[-1]), *present]
    inputs: list[NDArray[Any]] = [ids[..., earlier:], *(past if options.past else ())]
    return inputs, [output.astype(np.float32) for output in outputs]
