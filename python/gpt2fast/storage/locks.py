"""Locks that a child made by ``os.fork()`` can use, whoever held them in the parent."""

from __future__ import annotations

import os
import threading
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
