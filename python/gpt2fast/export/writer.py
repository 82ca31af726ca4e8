"""Writes a model directory so that it appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gpt2fast.errors import ModelError
from gpt2fast.export.graph import build_graph
from gpt2fast.export.quantize import StoredTensor, layout, stored_chunks
from gpt2fast.export.tokenizer_json import tokenizer_json
from gpt2fast.graph_check import WEIGHTS_NAME
from gpt2fast.model_directory import (
    CONFIG_NAME,
    FILE_NAMES,
    FORMAT_VERSION,
    METADATA_NAME,
    MODEL_NAME,
    TOKENIZER_NAME,
    is_model_directory,
)

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import Checkpoint
    from gpt2fast.progress import Progress

_TEMPORARY = ".tmp-"
# Room for the small files beside the weights.
_SPARE_BYTES = 16 << 20


def write_model_directory(
    checkpoint: Checkpoint,
    out: Path,
    *,
    precision: str,
    overwrite: bool = False,
    confirm: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Convert a checkpoint into the directory ``out``.

    All is written to a temporary directory beside ``out``, synced, and renamed; an error or an interrupt on
    the way leaves what was there before. ``confirm`` is called when all is written and may yet raise.

    Raises
    ------
    FileExistsError
        ``out`` exists and may not be replaced.
    OSError
        There is no room, or no permission to write.
    ModelError
        A tensor or the tokenizer can't be converted.
    """
    out = Path(os.path.realpath(out))
    check_destination(out, overwrite=overwrite)
    tokenizer_text = tokenizer_json(checkpoint)
    tensors = layout(checkpoint.config, precision)
    total = tensors[-1].offset + tensors[-1].length
    out.parent.mkdir(parents=True, exist_ok=True)
    _check_room(out.parent, total + len(tokenizer_text or "") + _SPARE_BYTES)
    temporary = _temporary_beside(out)
    temporary.mkdir()
    try:
        _write_text(temporary / CONFIG_NAME, checkpoint.config.to_json())
        if tokenizer_text is not None:
            _write_text(temporary / TOKENIZER_NAME, tokenizer_text)
        graph = build_graph(checkpoint.config, tensors, half_cache=precision != "fp32")
        _write(temporary / MODEL_NAME, graph.SerializeToString(deterministic=True))
        with (temporary / WEIGHTS_NAME).open("xb") as file:
            _write_weights(file, checkpoint, tensors, progress)
            _sync(file)
        _write_text(temporary / METADATA_NAME, _metadata(checkpoint, precision, total))
        _sync_directory(temporary)
        if confirm is not None:
            confirm()
        _replace(out, temporary)
    except OSError as error:
        if error.filename is None:  # of a write: a full disk shows here
            error.filename = str(out)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def owner_of_temporary(name: str) -> str | None:
    """The name of the model directory that a temporary directory is for, or None if ``name`` is not one's."""
    owner, mark, _ = name.removeprefix(".").rpartition(_TEMPORARY)
    return owner if mark and name.startswith(".") else None


def _temporary_beside(out: Path) -> Path:
    return out.with_name(f".{out.name}{_TEMPORARY}{secrets.token_hex(8)}")


def check_destination(out: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError unless ``out`` is free, empty, or a model directory that may be replaced."""
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise FileExistsError(errno.EEXIST, "the output directory exists and is a file", str(out))
    names = sorted(os.listdir(out))
    foreign = [name for name in names if name not in FILE_NAMES]
    if foreign or (names and not is_model_directory(out)):
        found = (foreign or names)[0]
        raise FileExistsError(
            errno.EEXIST,
            f"not empty and not (only) a converted model: it holds {found!r}; name another",
            str(out),
        )
    if names and not overwrite:
        raise FileExistsError(
            errno.EEXIST, "holds a converted model; pass overwrite=True to replace it", str(out)
        )


def _check_room(parent: Path, needed: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the model needs {needed >> 20} MiB, and only {free >> 20} MiB are free",
            str(parent),
        )


def _write_weights(
    file: BinaryIO, checkpoint: Checkpoint, tensors: Sequence[StoredTensor], progress: Progress | None
) -> None:
    total = tensors[-1].offset + tensors[-1].length
    for stored in tensors:
        file.seek(stored.offset)
        try:
            for chunk in stored_chunks(stored, checkpoint.tensors[stored.name]):
                file.write(chunk.data)
                if progress is not None:
                    progress(file.tell(), total)
        except ModelError as error:
            raise ModelError(f"{checkpoint.source}: {error}") from None
        if file.tell() != stored.offset + stored.length:
            raise RuntimeError(
                f"{stored.name}: packed to {file.tell() - stored.offset} bytes, not {stored.length}"
            )


def _metadata(checkpoint: Checkpoint, precision: str, weights_bytes: int) -> str:
    import gpt2fast

    values = {
        "format_version": FORMAT_VERSION,
        "precision": precision,
        "source": checkpoint.source,
        "fingerprint": checkpoint.fingerprint,
        "weights_bytes": weights_bytes,
        "gpt2fast_version": gpt2fast.__version__,
    }
    return json.dumps(values, indent=2) + "\n"


def _replace(out: Path, temporary: Path) -> None:
    if not os.path.lexists(out):
        os.rename(temporary, out)
    else:
        old = _temporary_beside(out)
        os.rename(out, old)
        try:
            os.rename(temporary, out)
        except BaseException:
            os.rename(old, out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync_directory(out.parent)


def _write_text(path: Path, text: str) -> None:
    _write(path, text.encode("utf-8"))


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    if os.name != "posix":  # elsewhere a directory can't be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
