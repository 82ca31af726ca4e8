"""The user's cache of converted models: each made once, under a lock, then found without reading weights.

Below the cache's root, ``models/NAME-PRECISION-KEY`` are model directories, ``sources/`` remembers what the
files of a source looked like (sizes, times, inodes) when they were hashed, and ``locks/`` has a lock per
model directory. A model's key is a hash over the source's content, so a changed source can never be served by
an old conversion.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.checkpoints import locate
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import read_json_object
from gpt2fast.storage.model_directory import FORMAT_VERSION, PRECISIONS, is_complete

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import Checkpoint
    from gpt2fast.storage.progress import Progress

CACHE_VARIABLE = "GPT2FAST_CACHE"

# A file changed within the tick of its file system's clock after it was hashed would look unchanged. Clocks
# tick every few milliseconds, or in whole seconds (two on FAT).
_FINE_TICK_NS = 100_000_000
_COARSE_TICK_NS = 2_100_000_000
_MAX_RECORD_BYTES = 16 << 20
_KEY_DIGITS = 24
# A directory being written: the model's name between marks (see storage.atomic.temporary_name).
_TEMPORARY = re.compile(r"\.(.+)\.tmp-[0-9a-f]+")

_Snapshot = list[list[Any]]


def cache_root() -> Path:
    """Where converted models are kept: ``GPT2FAST_CACHE``, else the user's cache directory."""
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        return Path(override)
    from platformdirs import user_cache_path

    return user_cache_path("gpt2fast", appauthor=False)


def cached_conversion(
    source: str | os.PathLike[str],
    precision: str,
    progress: Progress | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Path:
    """The model directory that a source converts to, converted now if it has not been before.

    A source on this machine whose files look as they did (size, times, inode of everything beside them too)
    is found without being read; otherwise its content is hashed. Processes that want the same model wait for
    the one that makes it.

    Parameters
    ----------
    source, revision, token
        As :func:`gpt2fast.checkpoints.open_checkpoint` takes them.
    precision : str
        One of :data:`gpt2fast.storage.model_directory.PRECISIONS`.
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)`` during a conversion.

    Raises
    ------
    ModelError
        The source is not what it should be, or changed while it was being read.
    OSError
        The cache can't be written, or is full; the message says what can be done.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    path = locate(source, revision=revision, token=token)
    root = cache_root()
    record = root / "sources" / f"{_source_key(path)}.json"
    snapshot = _snapshot(path)
    settled = _is_settled(snapshot)
    known = _recorded_fingerprint(record, snapshot)
    if known is not None and is_complete(found := _model_path(root, path, precision, known)):
        return found

    from gpt2fast.checkpoints import open_checkpoint

    checkpoint = open_checkpoint(path)
    model = _model_path(root, path, precision, checkpoint.fingerprint)

    def confirm() -> None:
        if _snapshot(path) != snapshot and open_checkpoint(path).fingerprint != checkpoint.fingerprint:
            raise ModelError(f"{path}: the model's files changed while they were being converted")

    if not is_complete(model):
        with _explained(root, source):
            _convert(checkpoint, model, precision, root / "locks", confirm, progress)
    if settled:
        _write_record(record, snapshot, checkpoint.fingerprint)
    return model


def _model_path(root: Path, source: Path, precision: str, fingerprint: str) -> Path:
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in source.resolve().name)[:48].lstrip(".")
    key = hashlib.sha256(f"{FORMAT_VERSION} {precision} {fingerprint}".encode()).hexdigest()
    return root / "models" / f"{name}-{precision}-{key[:_KEY_DIGITS]}"


def _source_key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:_KEY_DIGITS]


def _snapshot(path: Path) -> _Snapshot:
    """What a conversion may read looks like: the files of the directory, or all those beside the file."""
    with os.scandir(path if path.is_dir() else path.parent) as entries:
        files = sorted((entry.name, entry.stat()) for entry in entries if entry.is_file())
    state: _Snapshot = [[path.name]]
    for name, stat in files:
        state.append([name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino])
    return state


def _is_settled(snapshot: _Snapshot) -> bool:
    """Whether every file is old enough for any change from now on to show in its times."""
    now = time.time_ns()
    for _, _, modified, changed, _ in snapshot[1:]:
        newest = max(modified, changed)
        if now - newest < (_FINE_TICK_NS if newest % 1_000_000_000 else _COARSE_TICK_NS):
            return False
    return True


def _recorded_fingerprint(record: Path, snapshot: _Snapshot) -> str | None:
    """The fingerprint of a source that still looks as it did when it was hashed."""
    try:
        values = read_json_object(record, _MAX_RECORD_BYTES)
    except (OSError, ModelError):
        return None
    fingerprint = values.get("fingerprint")
    return fingerprint if values.get("snapshot") == snapshot and isinstance(fingerprint, str) else None


def _write_record(record: Path, snapshot: _Snapshot, fingerprint: str) -> None:
    """Remember a source; without it (in a read-only cache, say) the source is hashed again next time."""
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
        if is_complete(model):  # another process made it while this one waited
            return
        if model.exists():
            shutil.rmtree(model)
        write_model_directory(checkpoint, model, precision=precision, confirm=confirm, progress=progress)


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
    """Say of a cache that can't be written what can be done."""
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
