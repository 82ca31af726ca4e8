"""The user's cache of converted models: each is made once, under a lock, then found without reading weights.

In the cache's root, ``models/NAME-PRECISION-KEY`` are model directories, ``sources/`` records what the
files of a source looked like (sizes, times, inodes) when they were hashed, and ``locks/`` has a lock for
each model directory. A model's key is a hash of the source's content, so an old conversion never serves a
changed source.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.checkpoints import locate_with_adapter
from gpt2fast.errors import ModelError
from gpt2fast.storage.cache_root import CACHE_VARIABLE, cache_root
from gpt2fast.storage.files import read_json_object
from gpt2fast.storage.model_directory import (
    FORMAT_VERSION,
    METADATA_NAME,
    check_precision,
    is_complete,
    stored_warnings,
)

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import Checkpoint
    from gpt2fast.export.calibration import CalibrationText
    from gpt2fast.storage.progress import Progress

# A file that changes within a tick of its file system's clock after it was hashed looks unchanged. Clocks
# tick every few milliseconds, or in whole seconds (two on FAT).
_FINE_TICK_NS = 100_000_000
_COARSE_TICK_NS = 2_100_000_000
_MAX_RECORD_BYTES = 16 << 20
_KEY_DIGITS = 24
# The name of a directory being written, with the model's name in it (see storage.atomic.temporary_name).
_TEMPORARY = re.compile(r"\.(.+)\.tmp-[0-9a-f]+")

_Snapshot = list[list[Any]]


def cached_conversion(
    source: str | os.PathLike[str],
    precision: str,
    progress: Progress | None = None,
    *,
    calibration: CalibrationText | None = None,
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """The model directory that a source converts to; converts it now if that has not been done before.

    A source on this machine is found without being read if its files, and those beside them, look as they
    did (size, times, inode); otherwise its content is hashed. Processes that need the same model wait for
    the one that converts it.

    Parameters
    ----------
    source, adapter, revision, token
        As for :func:`gpt2fast.checkpoints.open_checkpoint`.
    precision : str
        One of :data:`gpt2fast.storage.model_directory.PRECISIONS`.
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)`` during a conversion.
    calibration : CalibrationText, optional
        Part of the key: each text has a conversion of its own.

    Raises
    ------
    ModelError
        The source is broken or not a GPT-2, or it changed while it was being read.
    OSError
        The cache can't be written, or is full; the message says what to do.
    ValueError
        The calibration text is too short, or the source has no tokenizer for it.
    """
    precision = check_precision(precision)
    path, adapter_path = locate_with_adapter(source, adapter, revision=revision, token=token)
    root = cache_root()
    record = root / "sources" / f"{_source_key(path, adapter_path)}.json"
    snapshot = _snapshot(path, adapter_path)
    settled = _is_settled(snapshot)
    known = _recorded_fingerprint(record, snapshot)
    named = adapter_path or path
    if known is not None and is_complete(found := _model_path(root, named, precision, known, calibration)):
        # Opening the checkpoint, which is left out here, would have said the same.
        for text in stored_warnings(read_json_object(found / METADATA_NAME)):
            warnings.warn(text, stacklevel=2)
        return found

    from gpt2fast.checkpoints import open_checkpoint

    checkpoint = open_checkpoint(path, adapter=adapter_path)
    model = _model_path(root, named, precision, checkpoint.fingerprint, calibration)

    def confirm() -> None:
        if _snapshot(path, adapter_path) == snapshot:
            return
        if open_checkpoint(path, adapter=adapter_path).fingerprint != checkpoint.fingerprint:
            raise ModelError(f"{path}: the model's files changed while they were being converted")

    if not is_complete(model):
        with _explained(root, source):
            _convert(checkpoint, model, precision, calibration, root / "locks", confirm, progress)
    if settled:
        _write_record(record, snapshot, checkpoint.fingerprint)
    return model


def _model_path(
    root: Path, source: Path, precision: str, fingerprint: str, calibration: CalibrationText | None
) -> Path:
    if calibration is not None:
        fingerprint = calibration.fingerprint(fingerprint)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in source.resolve().name)[:48].lstrip(".")
    key = hashlib.sha256(f"{FORMAT_VERSION} {precision} {fingerprint}".encode()).hexdigest()
    return root / "models" / f"{name}-{precision}-{key[:_KEY_DIGITS]}"


def _source_key(path: Path, adapter: Path | None) -> str:
    key = os.fsencode(os.path.abspath(path))
    if adapter is not None:
        key += b"\0" + os.fsencode(os.path.abspath(adapter))
    return hashlib.sha256(key).hexdigest()[:_KEY_DIGITS]


def _snapshot(path: Path, adapter: Path | None) -> _Snapshot:
    """The state of all files that a conversion may read: those in the directory, or beside the file."""
    state: _Snapshot = [[path.name]]
    for folder in (path if path.is_dir() else path.parent, adapter):
        if folder is not None:
            state.extend(sorted(_files(folder)))
    return state


def _files(folder: Path) -> Iterator[list[Any]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # a file that has just been removed
                if entry.is_file():
                    stat = entry.stat()
                    times = (stat.st_mtime_ns, stat.st_ctime_ns)
                    yield [entry.name, stat.st_size, *times, stat.st_ino]


def _is_settled(snapshot: _Snapshot) -> bool:
    """Whether every file is so old that any later change shows in its times."""
    now = time.time_ns()
    for _, _, modified, changed, _ in snapshot[1:]:
        newest = max(modified, changed)
        if now - newest < (_FINE_TICK_NS if newest % 1_000_000_000 else _COARSE_TICK_NS):
            return False
    return True


def _recorded_fingerprint(record: Path, snapshot: _Snapshot) -> str | None:
    """The recorded fingerprint of a source, if it looks as it did when it was hashed."""
    try:
        values = read_json_object(record, _MAX_RECORD_BYTES)
    except (OSError, ModelError):
        return None
    fingerprint = values.get("fingerprint")
    return fingerprint if values.get("snapshot") == snapshot and isinstance(fingerprint, str) else None


def _write_record(record: Path, snapshot: _Snapshot, fingerprint: str) -> None:
    """Record a source; without a record (in a read-only cache) it is hashed again next time."""
    temporary = record.with_name(f"{record.name}.tmp-{secrets.token_hex(8)}")
    with suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps({"fingerprint": fingerprint, "snapshot": snapshot}), "utf-8")
            os.replace(temporary, record)
        finally:
            temporary.unlink(missing_ok=True)


def _convert(
    checkpoint: Checkpoint,
    model: Path,
    precision: str,
    calibration: CalibrationText | None,
    locks: Path,
    confirm: Callable[[], None],
    progress: Progress | None,
) -> None:
    from filelock import FileLock

    from gpt2fast.export.writer import write_model_directory

    locks.mkdir(parents=True, exist_ok=True)
    model.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(model.parent, locks)
    with FileLock(locks / f"{model.name}.lock"):
        # Another process may have made it while this one waited.
        if is_complete(model):
            return
        if model.exists():
            shutil.rmtree(model)
        write_model_directory(
            checkpoint,
            model,
            precision=precision,
            calibration=calibration,
            confirm=confirm,
            progress=progress,
        )


def _remove_leftovers(models: Path, locks: Path) -> None:
    """Delete temporary directories of processes that were killed: those whose lock is free."""
    from filelock import FileLock, Timeout

    for path in models.iterdir():
        temporary = _TEMPORARY.fullmatch(path.name)
        if temporary is not None:
            with suppress(Timeout), FileLock(locks / f"{temporary[1]}.lock", timeout=0):
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _explained(root: Path, source: str | os.PathLike[str]) -> Iterator[None]:
    """Add what to do to the errors of a cache that can't be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOSPC,
            errno.EDQUOT,
            errno.ENOTDIR,
        ):
            raise
        raise OSError(
            error.errno,
            f"can't write to the cache of converted models in {root} ({error.strerror}); set "
            f"{CACHE_VARIABLE} to another directory, or run 'gpt2fast convert {os.fspath(source)} DIRECTORY' "
            f"and load that",
        ) from error
