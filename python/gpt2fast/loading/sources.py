"""Finds the model directory for whatever a user names; converts checkpoints first."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal, TypeAlias

from gpt2fast.storage.model_directory import (
    ModelDirectory,
    check_precision,
    is_model_directory,
    open_model_directory,
)

Precision: TypeAlias = Literal["fp32", "bf16", "int8", "int4", "int4-all"]

DEFAULT_PRECISION: Precision = "int8"


def embedded_model() -> Path:
    """The checkpoint of the small model that comes with the package."""
    return Path(__file__).parents[1] / "data" / "tiny"


def find_model_directory(
    source: str | os.PathLike[str] | None,
    precision: Precision | None = None,
    *,
    calibrate: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> ModelDirectory:
    """The model directory of a source, made in the cache first if the source is a checkpoint.

    Parameters and errors are those of :meth:`gpt2fast.GPT2.from_pretrained`.
    """
    chosen = None if precision is None else check_precision(precision)
    source = embedded_model() if source is None else source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a path, the id of a model on the hub, or None, got {source!r}")
    if not os.fspath(source):
        raise ValueError("source must name a directory, a file or a model of the hub, got ''")
    if not is_model_directory(source):
        return _convert(source, chosen or DEFAULT_PRECISION, calibrate, adapter, revision, token)
    if calibrate is not None:
        raise ValueError(
            f"calibrate={str(calibrate)!r}, but {source} is a converted model; a text takes effect when the "
            f"original checkpoint is converted"
        )
    if adapter is not None:
        raise ValueError(
            f"adapter={os.fspath(adapter)!r}, but {source} is a converted model; an adapter is merged into "
            f"the original checkpoint"
        )
    directory = open_model_directory(source)
    if chosen is not None and chosen != directory.precision:
        raise ValueError(
            f"precision={chosen!r}, but the model directory {source} holds {directory.precision!r}; leave "
            f"precision out, or convert the original checkpoint again"
        )
    for text in directory.warnings:
        warnings.warn(text, stacklevel=2)
    return directory


def _convert(
    source: str | os.PathLike[str],
    precision: str,
    calibrate: str | os.PathLike[str] | None,
    adapter: str | os.PathLike[str] | None,
    revision: str | None,
    token: str | None,
) -> ModelDirectory:
    # The converter's imports are slow; a model directory needs none of them.
    from gpt2fast.loading.conversion_cache import cached_conversion
    from gpt2fast.storage.progress import progress_bar

    calibration = None
    if calibrate is not None:
        from gpt2fast.export.calibration import read_calibration

        calibration = read_calibration(calibrate, precision)
    with progress_bar(f"Converting {Path(source).name}") as progress:
        path = cached_conversion(
            source,
            precision,
            progress,
            calibration=calibration,
            adapter=adapter,
            revision=revision,
            token=token,
        )
    return open_model_directory(path)
