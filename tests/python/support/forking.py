"""Children of this process: each is waited for, and killed if it hangs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from support.processes import SECONDS


def forked(
    work: Callable[[], object], *, exit: Callable[[int], object] = sys.exit, seconds: float = SECONDS / 2
) -> int:
    """The exit status of a child that does some work and ends by ``exit(0)``; -9 if it hangs."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except Exception:
            traceback.print_exc()
            os._exit(1)
        exit(0)
    statuses: list[int] = []
    waiter = threading.Thread(target=lambda: statuses.append(os.waitpid(child, 0)[1]))
    waiter.start()
    waiter.join(seconds)
    if not statuses:
        os.kill(child, signal.SIGKILL)
        waiter.join()
    return os.waitstatus_to_exitcode(statuses[0])


def send_text(sender: Connection, model: Any, prompt: str) -> None:
    """Work for a process of ``multiprocessing``: the text that the model generates there."""
    sender.send(model.generate(prompt, max_new_tokens=20).text)
