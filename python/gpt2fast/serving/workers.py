"""Several processes on one port: each has its own model, whose weights are the same pages of memory."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

LOG = logging.getLogger("gpt2fast.serving")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# prometheus-client's variable. This process doesn't import that package before there are workers.
_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# Processes that may end before they are ready, in a row and with none at work, before the service gives up.
_MOST_FAILURES = 3
# While others are at work, one that ended before it was ready has its successor after these seconds; twice as
# many each time.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
# Seconds that workers have to end, beyond those that requests have to finish.
_LAST_SECONDS = 5.0

#: A worker's work: serves on the socket, calls the function when it is ready.
Work = Callable[[socket.socket, Callable[[], None]], None]


class WorkersFailedError(RuntimeError):
    """Workers ended before they were ready; the log says why."""


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    #: Workers in its place that ended before they were ready, in a row.
    failures: int = 0
    #: It has ended, and another is started at this time.
    next_start: float | None = None


class Supervisor:
    """Starts workers, replaces those that die, and ends them all.

    Parameters
    ----------
    work : callable
        What each worker runs; picklable.
    listeners : list of socket
        One for each worker. They stay open here: clients of a dead worker wait for its replacement.
    grace : float
        Seconds that workers have to end.
    ready : callable
        Called when all are ready for the first time, but for those that fail while others are ready.
    """

    def __init__(
        self, work: Work, listeners: list[socket.socket], grace: float, ready: Callable[[], None]
    ) -> None:
        self._work = work
        self._listeners = listeners
        self._grace = grace
        self._announce: Callable[[], None] | None = ready
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._failures = 0
        self._signals = 0
        self._wake_reader, self._wake_writer = socket.socketpair()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises
        ------
        WorkersFailedError
            None of them is ready, nor comes to be.
        """
        # Where the workers keep their numbers, for whichever is asked for them.
        metrics = tempfile.mkdtemp(prefix="gpt2fast-metrics-")
        os.environ[_METRICS_VARIABLE] = metrics
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        try:
            self._workers = [self._start(listener) for listener in self._listeners]
            while not self._signals:
                self._look()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)
            os.environ.pop(_METRICS_VARIABLE)
            shutil.rmtree(metrics, ignore_errors=True)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._wake_writer.send(b"!")

    def _start(self, listener: socket.socket, failures: int = 0) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._work, listener, theirs))
        process.start()
        theirs.close()
        return _Worker(process, ours, failures=failures)

    def _look(self) -> None:
        """Wait until something happens, and see to it."""
        starts = [worker.next_start for worker in self._workers if worker.next_start is not None]
        running = [worker for worker in self._workers if worker.next_start is None]
        waiting = [worker.pipe for worker in running if not (worker.ready or worker.pipe.closed)]
        sentinels = [worker.process.sentinel for worker in running]
        seconds = max(0.0, min(starts) - time.monotonic()) if starts else None
        happened = wait([*waiting, *sentinels, self._wake_reader], seconds)
        for index, worker in enumerate(self._workers):
            if worker.next_start is not None:
                if time.monotonic() >= worker.next_start:
                    self._workers[index] = self._start(self._listeners[index], worker.failures)
            elif worker.process.sentinel in happened:
                self._replace(index)
            elif worker.pipe in happened and _says_ready(worker):
                worker.ready = True
        self._announce_if_ready()

    def _announce_if_ready(self) -> None:
        settled = all(worker.ready or worker.next_start is not None for worker in self._workers)
        if self._announce is not None and settled and self._ready_workers():
            self._announce()
            self._announce = None

    def _ready_workers(self) -> int:
        return sum(worker.ready and worker.next_start is None for worker in self._workers)

    def _replace(self, index: int) -> None:
        dead = self._workers[index]
        dead.process.join()
        dead.pipe.close()
        _forget_metrics(dead.process.pid or 0)
        if dead.ready:
            LOG.error(
                "worker %s ended with status %s; another takes its place",
                dead.process.pid,
                dead.process.exitcode,
            )
            self._workers[index] = self._start(self._listeners[index])
        else:
            self._retry(index)

    def _retry(self, index: int) -> None:
        """Replace a worker that ended before it was ready: after a while, if others are at work."""
        dead = self._workers[index]
        dead.failures += 1
        others = self._ready_workers()
        self._failures = 0 if others else self._failures + 1
        if self._failures >= _MOST_FAILURES:
            raise WorkersFailedError("the workers end before they are ready; their log says why")
        pause = min(_FIRST_PAUSE * 2 ** (dead.failures - 1), _LONGEST_PAUSE) if others else 0.0
        LOG.error(
            "worker %s ended with status %s before it was ready; another starts in %g s; others at work: %d",
            dead.process.pid,
            dead.process.exitcode,
            pause,
            others,
        )
        listener = self._listeners[index]
        if others and self._listeners.count(listener) == 1:
            with contextlib.suppress(OSError):  # it does not listen
                listener.shutdown(socket.SHUT_RD)  # clients are to reach the others
        dead.next_start = time.monotonic() + pause

    def _end(self) -> None:
        """Let the workers finish; those that don't are killed."""
        passed, end = 0, time.monotonic() + self._grace + _LAST_SECONDS
        alive = [worker.process for worker in self._workers]
        while alive and (left := end - time.monotonic()) > 0:
            while passed < max(self._signals, 1):
                passed += 1
                for process in alive:
                    _pass_on(process, again=passed > 1)
            wait([*(process.sentinel for process in alive), self._wake_reader], left)
            _drain(self._wake_reader)
            alive = [process for process in alive if process.is_alive()]
        for process in alive:
            process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._wake_reader.close()
        self._wake_writer.close()


def _says_ready(worker: _Worker) -> bool:
    """Whether it is; if not, it is about to end: its pipe may be closed before it is seen to be gone."""
    try:
        worker.pipe.recv()
    except (EOFError, OSError):
        worker.pipe.close()
        return False
    return True


def _pass_on(process: SpawnProcess, *, again: bool) -> None:
    """Tell a worker to end; ``again``: at once."""
    if again and sys.platform != "win32" and process.is_alive():
        # Another signal than before: of two that are alike, one is lost while the first is not yet handled.
        os.kill(process.pid or 0, signal.SIGINT)
    else:
        process.terminate()


def _drain(reader: socket.socket) -> None:
    reader.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        reader.recv(64)


def _forget_metrics(pid: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _serve(work: Work, listener: socket.socket, pipe: Connection) -> None:
    """A worker's main function."""
    if sys.platform != "win32":
        os.setpgrp()  # Ctrl-C is for the parent, which passes it on
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    try:
        work(listener, lambda: pipe.send(b"ready"))
    except (OSError, ValueError, RuntimeError, ImportError, MemoryError) as error:
        LOG.error("%s", error)
        sys.exit(1)


def _end_with_parent(pipe: Connection) -> None:
    """A worker doesn't outlive its parent, however that ended."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        signal.raise_signal(signal.SIGTERM)
