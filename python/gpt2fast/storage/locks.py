"""Locks: some that a child made by ``os.fork()`` can use, and one for a file that one process may write."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from weakref import WeakSet


class ForkSafeLock:
    """A lock for ``with``. In a child it is free: the thread that may have held it does not exist there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        with _registering:
            _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Forget who holds it."""
        self._lock = threading.Lock()


_locks: WeakSet[ForkSafeLock] = WeakSet()
_registering = threading.Lock()


def _renew_all() -> None:
    global _registering
    _registering = threading.Lock()
    for lock in _locks:
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


def lock_for_writing(path: Path, stack: ExitStack) -> None:
    """Hold the file ``path``, links resolved, until ``stack`` ends, by a lock in another beside it.

    Raises
    ------
    FileExistsError
        Another process holds it.
    """
    from filelock import FileLock, Timeout

    file = Path(os.path.realpath(path))
    lock = FileLock(file.with_name(f".{file.name}.lock"))
    try:
        stack.enter_context(lock.acquire(timeout=0))
    except Timeout:
        raise FileExistsError(
            errno.EEXIST, "another process is writing it; wait for its end", str(path)
        ) from None
