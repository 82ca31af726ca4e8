"""A token with which another thread ends a generation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol


class Cancellable(Protocol):
    """Work that a token can end."""

    def cancel(self) -> None:
        """End within a step; from any thread, at any time."""
        ...


class CancelToken:
    """Ends every generation that has it, at once or as soon as it starts; from any thread.

    Unfinished texts keep what they have and get the finish reason ``"cancelled"``. It takes effect between
    two layers of a step, in the middle of a long prompt too. A token stays cancelled.

    Examples
    --------
    >>> token = CancelToken()
    >>> timer = threading.Timer(2.0, token.cancel)
    >>> model.generate("Once", cancel=token)  # doctest: +SKIP
    """

    def __init__(self) -> None:
        # Reentrant: a signal handler may call cancel() while its thread holds the lock.
        self._lock = threading.RLock()
        self._cancelled = False
        self._running: list[Cancellable] = []

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a CancelToken can't be pickled or copied: it ends the calls that have this very object, in this "
            "process; make a new one, and tell another process by a message to cancel its own"
        )

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """End all work that has this token, now and later."""
        with self._lock:
            self._cancelled = True
            # A copy: what the garbage collector ends meanwhile leaves the list.
            for run in list(self._running):
                run.cancel()

    @contextmanager
    def watching(self, run: Cancellable) -> Iterator[None]:
        """Let :meth:`cancel` reach ``run`` while the block runs."""
        with self._lock:
            self._running.append(run)
            if self._cancelled:
                run.cancel()
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(run)
