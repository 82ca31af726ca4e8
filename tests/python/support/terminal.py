"""Runs a program at a pseudo-terminal: types keys, waits for what is shown."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Sequence

from support.processes import SECONDS

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


class Terminal:
    """A program with a terminal for its standard streams; ended at the end of a ``with`` block.

    Attributes
    ----------
    shown : str
        What it has shown so far and :meth:`wait_for` has not passed.
    """

    def __init__(self, command: Sequence[str], **environment: str) -> None:
        self._master, slave = os.openpty()

        def take_terminal() -> None:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell's background job ignores

        try:
            self._program = subprocess.Popen(
                command,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
                preexec_fn=take_terminal,
                # A dumb terminal gets no sequences that move the cursor.
                env={**os.environ, "TERM": "dumb", "PYTHONUTF8": "1", **environment},
            )
        finally:
            os.close(slave)
        self.shown = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self._program.poll() is None:
            self._program.kill()
        self._program.wait()
        os.close(self._master)

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._master, keys.encode())

    def interrupt(self, text: str) -> str:
        """Press Ctrl-C until ``text`` is shown, and return what is shown up to and with it.

        Python notices a signal at a prompt only while readline waits for keys, not just before.
        """
        for _ in range(10):
            self.type(CTRL_C)
            try:
                return self.wait_for(text, seconds=SECONDS / 20)
            except AssertionError:
                continue
        return self.wait_for(text)

    def wait_for(self, text: str, *, seconds: float = SECONDS) -> str:
        """What is shown up to and with ``text``; AssertionError if it does not come in time."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} was not shown: {self.shown!r}"
            self._read(text)
        before, found, self.shown = self.shown.partition(text)
        return before + found

    def _read(self, wanted: str) -> None:
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # Linux's way to say that the program has closed it
            data = b""
        assert data, f"the program ended before {wanted!r}: {self.shown!r}"
        self.shown += data.decode("utf-8", "replace").replace("\r\n", "\n")

    def end(self) -> int:
        """Wait for the program's end; its exit status."""
        return self._program.wait(SECONDS)
