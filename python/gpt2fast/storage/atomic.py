"""Files and directories that appear whole or not at all: written under another name, synced, renamed."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gpt2fast.storage.files import errors_of
from gpt2fast.storage.set_aside import restore_set_aside, set_aside_name

#: How often a directory is exchanged while others do the same, and what such an exchange ends with.
_ATTEMPTS = 100
_OVERTAKEN = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError unless the file ``path`` is free, or a regular file that may be replaced."""
    if not os.path.lexists(path):
        return
    if path.is_dir() or not path.is_file():
        raise FileExistsError(errno.EEXIST, "exists and is not a regular file; name another", str(path))
    if not overwrite:
        raise FileExistsError(errno.EEXIST, "exists; --overwrite (overwrite=True) replaces it", str(path))


def check_room(parent: Path, needed: int) -> None:
    """Raise OSError unless ``needed`` bytes are free where the directory ``parent`` lies."""
    free = shutil.disk_usage(parent).free
    if free < needed:
        message = f"{needed >> 20} MiB are needed, and only {free >> 20} MiB are free"
        raise OSError(errno.ENOSPC, message, str(parent))


def temporary_name(path: Path) -> Path:
    """A free name beside ``path``."""
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(8)}")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces ``path`` when the block ends without an error.

    Errors of writing, which name no file, name ``path``.
    """
    temporary = temporary_name(path)
    try:
        with errors_of(path):
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A new directory that replaces ``path`` when the block ends without an error.

    What was at ``path`` before is removed, so the caller first checks that this is allowed. Not every
    system can exchange two directories: the old one is set aside first, and if the process is killed before
    the new one is in place, whoever looks for ``path`` next puts it back (:func:`restore_set_aside`).
    Errors of writing, which name no file, name ``path``.
    """
    temporary = temporary_name(path)
    temporary.mkdir()
    try:
        with errors_of(path):
            yield temporary
            sync_directory(temporary)
            _take_place(temporary, path)
            sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(new: Path, path: Path) -> None:
    restore_set_aside(path)
    for attempt in range(_ATTEMPTS):
        try:
            _exchange(new, path)
            return
        except OSError as error:
            # Between two of the names, others put the old one back, or replaced it, too.
            if error.errno not in _OVERTAKEN or attempt + 1 == _ATTEMPTS or not new.exists():
                raise


def _exchange(new: Path, path: Path) -> None:
    aside = set_aside_name(path)
    if path.exists():
        # Left by a process that was killed when the new one was in place.
        _remove_set_aside(aside)
        os.rename(path, aside)
    try:
        os.rename(new, path)
    except BaseException:
        restore_set_aside(path)
        raise
    _remove_set_aside(aside)


def _remove_set_aside(aside: Path) -> None:
    """Rename it first, so that a directory that is half removed is never put back."""
    if aside.exists():
        doomed = temporary_name(aside)
        with suppress(FileNotFoundError):  # another process was faster
            os.rename(aside, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def write_new(path: Path, data: bytes) -> None:
    """Write and sync a file that must not exist yet."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make renames inside a directory last."""
    if os.name != "posix":  # elsewhere a directory can't be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
