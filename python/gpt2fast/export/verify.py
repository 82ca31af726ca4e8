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
from gpt2fast.checkpoints.onnx_session import Session, open_session
from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT_RTOL = 1e-3
DEFAULT_ATOL = 1e-4
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")

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
        The output's shape.
    absolute : float
        The largest difference of two values; infinite if one is not finite and the other is not the same.
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
        An ``.onnx`` file, or a ``.tar.gz`` archive of one with its data, as in the ONNX Model Zoo.
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
        with open_session(path) as session:
            return [difference for one in sets for difference in _verify_set(session, one, rtol, atol)]


@contextmanager
def _model_file(path: Path) -> Iterator[Path]:
    """The ``.onnx`` file, unpacked temporarily if it is in an archive."""
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


def _verify_set(session: Session, directory: Path, rtol: float, atol: float) -> Iterator[OutputDifference]:
    from gpt2fast.export.test_data import read_set

    inputs, expected = read_set(directory)
    names = session.output_names
    if len(expected) != len(names):
        raise ModelError(f"{directory}: has {len(expected)} outputs; the model has {len(names)}")
    feeds = _feeds(session, inputs, directory)
    got = session.run(feeds, directory)
    for name, one, wanted in zip(names, got, expected, strict=True):
        yield _compare(directory.name, name, one, wanted, rtol, atol)


def _feeds(session: Session, inputs: Sequence[NDArray[Any]], directory: Path) -> dict[str, NDArray[Any]]:
    declared = session.inputs
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
