"""Runs workers: each in its own process, which is stopped while it is another's turn."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_SECONDS = 300.0


class WorkerError(RuntimeError):
    """A worker failed; the message is the last line that it wrote."""


class Worker:
    """A process that runs ``benchmarks.worker``; a context manager that ends it."""

    def __init__(self, *arguments: str, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._pending = b""
        self.started = time.perf_counter()
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=_ROOT,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def pause(self) -> None:
        """Stop the process with all its threads: those of some pools spin for a while after their work."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process run again."""
        os.kill(self._process.pid, signal.SIGCONT)

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method of the runner, which may be paused, and pause it again."""
        self.resume()
        try:
            self.send({"call": method, **arguments})
            answer = self.receive()
        finally:
            self.pause()
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["result"]

    def send(self, message: dict[str, Any]) -> None:
        """Write one line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None

    def receive(self) -> dict[str, Any]:
        """Read one line.

        Raises
        ------
        WorkerError
            The process ended, or has nothing to say for a long time.
        """
        assert self._process.stdout is not None
        end = time.monotonic() + _TIMEOUT_SECONDS
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise WorkerError(f"no answer within {_TIMEOUT_SECONDS:.0f} seconds")
            data = os.read(self._process.stdout.fileno(), 1 << 20)
            if not data:
                raise WorkerError(self._last_words())
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def wait(self) -> None:
        """Wait until the process ends by itself, successfully."""
        if self._process.wait() != 0:
            raise WorkerError(self._last_words())

    def _last_words(self) -> str:
        lines = self._log.read_text("utf-8", "replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return words[-1][:200] if words else f"ended with {self._process.wait()} and said nothing"
