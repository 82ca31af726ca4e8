"""Runs a model's test data through ONNX Runtime and measures the differences."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2fast._validation import Real
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import find_inside, read_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_RTOL = 1e-3
DEFAULT_ATOL = 1e-4
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")

_MAX_MODEL_BYTES = (1 << 31) - 1
_MAX_GRAPH_DEPTH = 16
_ORT_TYPES = {"float": "float32", "double": "float64", "float16": "float16"}
_TOLERANCE = Real(0.0, 1e6)


@dataclass(frozen=True)
class OutputDifference:
    """How far one output of one set is from what it should be.

    Attributes
    ----------
    data_set, output : str
        Names.
    shape : tuple of int
        Of the output.
    absolute : float
        The largest difference of two values; infinite where one is not finite and the other not the same.
    relative : float
        ``absolute`` over the largest expected magnitude.
    passed : bool
        Whether every value is within ``atol + rtol * |expected|``.
    """

    data_set: str
    output: str
    shape: tuple[int, ...]
    absolute: float
    relative: float
    passed: bool


def verify_model(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    rtol: float = DEFAULT_RTOL,
    atol: float = DEFAULT_ATOL,
) -> list[OutputDifference]:
    """Run the test data of a model and compare its outputs.

    Parameters
    ----------
    model : path
        An ``.onnx`` file, or a ``.tar.gz`` archive of one with its data, as the ONNX Model Zoo offers.
    data : path, optional
        A directory with ``test_data_set_N`` in it, or one such set. Default: beside the model.
    rtol, atol : float
        A value passes when ``|got - expected| <= atol + rtol * |expected|``.

    Returns
    -------
    list of OutputDifference
        One for each output of each set.

    Raises
    ------
    ModelError
        Model, archive or data are broken or don't fit each other, or there is no data.
    """
    rtol, atol = _TOLERANCE("rtol", rtol), _TOLERANCE("atol", atol)
    with _model_file(Path(model)) as path:
        from gpt2fast.export.test_data import find_sets

        directory = path.parent if data is None else Path(data)
        if not directory.is_dir():
            raise ModelError(f"{directory}: no such directory")
        sets = find_sets(directory)
        if not sets:
            raise ModelError(f"{directory}: no test_data_set_0, test_data_set_1, ... in it")
        check_external_data(path)
        session = open_session(path)
        return [difference for one in sets for difference in _verify_set(session, one, rtol, atol)]


def open_session(path: Path) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU; ModelError if ONNX Runtime refuses the model."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise ModelError(f"{path}: ONNX Runtime can't load it: {error}") from None


def check_external_data(path: Path) -> None:
    """Raise ModelError unless every external tensor of a model lies in a regular file beside it."""
    from onnx import ModelProto, TensorProto

    model = ModelProto()
    try:
        model.ParseFromString(read_bytes(Path(os.path.realpath(path)), _MAX_MODEL_BYTES))
    except ModelError:
        raise
    except Exception as error:  # protobuf's DecodeError derives from Exception
        raise ModelError(f"{path}: not an ONNX model, or cut short: {error}") from None
    locations = set()
    for tensor in _tensors(model.graph, path):
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            locations.add(entries.get("location", ""))
    for location in sorted(locations):
        if find_inside(path.parent, location.removeprefix("./")) is None:
            raise ModelError(f"{path}: its weights are in {location!r}, which is not beside it")


def _tensors(graph: Any, path: Path, depth: int = 0) -> Iterator[Any]:
    if depth > _MAX_GRAPH_DEPTH:
        raise ModelError(f"{path}: graphs nested more than {_MAX_GRAPH_DEPTH} deep")
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _tensors(inner, path, depth + 1)


@contextmanager
def _model_file(path: Path) -> Iterator[Path]:
    """The ``.onnx`` file itself, unpacked for the time being if it is in an archive."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if not path.name.endswith(ARCHIVE_SUFFIXES):
        yield path
        return
    from gpt2fast.export.archive import unpack_archive

    with tempfile.TemporaryDirectory(prefix="gpt2fast-verify-") as name:
        unpack_archive(Path(os.path.realpath(path)), Path(name))
        # macOS's tar adds "._" companions of files.
        models = [found for found in sorted(Path(name).rglob("*.onnx")) if not found.name.startswith(".")]
        if len(models) != 1:
            raise ModelError(f"{path}: must hold exactly one .onnx file, holds {len(models)}")
        yield models[0]


def _verify_set(session: Any, directory: Path, rtol: float, atol: float) -> Iterator[OutputDifference]:
    from gpt2fast.export.test_data import read_set

    inputs, expected = read_set(directory)
    names = [output.name for output in session.get_outputs()]
    if len(expected) != len(names):
        raise ModelError(f"{directory}: has {len(expected)} outputs; the model has {len(names)}")
    feeds = _feeds(session, inputs, directory)
    try:
        got = session.run(None, feeds)
    except Exception as error:  # as in open_session
        raise ModelError(f"{directory}: ONNX Runtime can't run it: {error}") from None
    for name, one, wanted in zip(names, got, expected, strict=True):
        yield _compare(directory.name, name, np.asarray(one), wanted, rtol, atol)


def _feeds(session: Any, inputs: Sequence[NDArray[Any]], directory: Path) -> dict[str, NDArray[Any]]:
    declared = session.get_inputs()
    if len(inputs) != len(declared):
        raise ModelError(f"{directory}: has {len(inputs)} inputs; the model has {len(declared)}")
    feeds = {}
    for number, (value, wanted) in enumerate(zip(inputs, declared, strict=True)):
        path = directory / f"input_{number}.pb"
        kind = wanted.type.removeprefix("tensor(").removesuffix(")")
        if _ORT_TYPES.get(kind, kind) != value.dtype.name:
            raise ModelError(f"{path}: holds {value.dtype.name}; the model's input {wanted.name!r} is {kind}")
        if not _fits(value.shape, wanted.shape):
            raise ModelError(
                f"{path}: has shape {list(value.shape)}; the model's input {wanted.name!r} has {wanted.shape}"
            )
        feeds[wanted.name] = value
    return feeds


def _fits(shape: tuple[int, ...], declared: Sequence[int | str | None] | None) -> bool:
    if declared is None:
        return True
    same_rank = len(shape) == len(declared)
    return same_rank and all(
        not isinstance(wanted, int) or wanted == size for size, wanted in zip(shape, declared, strict=True)
    )


def _compare(
    data_set: str, name: str, got: NDArray[Any], expected: NDArray[Any], rtol: float, atol: float
) -> OutputDifference:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise ModelError(
            f"{data_set}: the output {name!r} is {got.dtype.name} {list(got.shape)}; the data has "
            f"{expected.dtype.name} {list(expected.shape)}"
        )
    if not got.size:
        return OutputDifference(data_set, name, got.shape, 0.0, 0.0, passed=True)
    first, second = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(first == second, 0.0, np.abs(first - second))
    difference[np.isnan(difference)] = np.inf
    difference[np.isnan(first) & np.isnan(second)] = 0.0
    magnitude = np.where(np.isfinite(second), np.abs(second), 0.0)
    absolute, largest = float(difference.max()), float(magnitude.max())
    relative = absolute / largest if largest else absolute
    passed = bool((difference <= atol + rtol * magnitude).all())
    return OutputDifference(data_set, name, got.shape, absolute, relative, passed)
