"""Conversion: any checkpoint into a model directory."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.storage.model_directory import check_precision, no_text

if TYPE_CHECKING:
    from gpt2fast.storage.progress import Progress

__all__ = ["convert"]


def convert(
    source: str | os.PathLike[str] | Checkpoint,
    out: str | os.PathLike[str],
    *,
    precision: str = "int8",
    calibrate: str | os.PathLike[str] | None = None,
    adapter: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    n_head: int | None = None,
    revision: str | None = None,
    token: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Convert a GPT-2 checkpoint into a model directory that loads at once.

    Tensors are streamed: memory stays near the size of a layer's largest matrix, for any size of model.

    Parameters
    ----------
    source : str, path or Checkpoint
        As for :func:`gpt2fast.checkpoints.open_checkpoint`, or its result.
    out : str or path
        The directory to write. It appears whole or not at all.
    precision : str
        ``"fp32"``, ``"bf16"``, ``"int8"``, ``"int4"`` (which keeps the vocabulary table in int8) or
        ``"int4-all"`` (which does not).
    calibrate : str or path, optional
        A UTF-8 text of 1,024 tokens or more, like those that the model will read: weights of int4 are
        rounded by what it shows of the layers' inputs, and not by what the model's own tokens show. At most
        4,096 tokens are read, at equal distances. Only with the precisions of int4.
    adapter, tokenizer, n_head, revision, token : optional
        As for :func:`gpt2fast.checkpoints.open_checkpoint`; not with a Checkpoint.
    overwrite : bool
        Replace ``out`` if it is a model directory.
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)``.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    ModelError
        The source is broken or not a GPT-2.
    FileExistsError
        ``out`` exists and may not be replaced.
    OSError
        There is no room, or no permission to write.
    ValueError
        The text named by ``calibrate`` is too short or not UTF-8, or would have no effect.
    """
    from gpt2fast.export.calibration import read_calibration
    from gpt2fast.export.writer import check_destination, write_model_directory

    precision = check_precision(precision)
    calibration = None if calibrate is None else read_calibration(calibrate, precision)
    destination = Path(out)
    check_destination(destination, overwrite=overwrite)
    if isinstance(source, Checkpoint):
        if any(value is not None for value in (adapter, tokenizer, n_head, revision, token)):
            raise TypeError(
                "adapter, tokenizer, n_head, revision and token can't be given with a checkpoint that is "
                "open already"
            )
    else:
        source = open_checkpoint(
            source, adapter=adapter, tokenizer=tokenizer, n_head=n_head, revision=revision, token=token
        )
    fault = write_model_directory(
        source,
        destination,
        precision=precision,
        calibration=calibration,
        overwrite=overwrite,
        progress=progress,
    )
    if fault is not None:
        warnings.warn(no_text(fault), stacklevel=2)
    return destination
