"""Servers for tests: on a thread of this process, or as the command in another."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette

from gpt2fast import GPT2
from gpt2fast.serving import Settings, create_app
from gpt2fast.serving.server import Server, listen
from gpt2fast.serving.service import Service

if TYPE_CHECKING:
    import httpx

# Long enough for a machine with other work; nothing waits for it where all is well.
DEADLINE = 120
#: Goes on until it is ended.
ENDLESS: dict[str, Any] = {
    "prompt": "Once",
    "max_tokens": 80_000,
    "overflow": "slide",
    "eos_token_id": [],
    "seed": 1,
}


@dataclass
class _Server:
    url: str

    def get(self, path: str, **options: Any) -> httpx.Response:
        """The answer to a request on a connection of its own, however busy the machine is."""
        import httpx

        return httpx.get(self.url + path, timeout=DEADLINE, **options)

    def post(self, path: str, fields: Any, **options: Any) -> httpx.Response:
        """The answer to a request with these fields."""
        import httpx

        return httpx.post(self.url + path, json=fields, timeout=DEADLINE, **options)


@dataclass
class LiveServer(_Server):
    """A server on a thread."""

    service: Service
    server: Server
    thread: threading.Thread

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE)

    def end(self) -> None:
        """What SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)


class Watch:
    """Lets a test wait for what a model's work comes to."""

    def __init__(self, live: LiveServer) -> None:
        self._calls = live.service.calls

    def wait_for(self, condition: Callable[[Any], bool]) -> None:
        end = time.monotonic() + DEADLINE
        turn = threading.Event()
        while not condition(stats := self._calls.stats()):
            assert time.monotonic() < end, stats
            turn.wait(0.005)  # the server's thread goes on


def idle(stats: Any) -> bool:
    return (stats.running, stats.waiting) == (0, 0)


@contextmanager
def live_server(
    model: GPT2,
    settings: Settings | None = None,
    *,
    grace: float = 20,
    keep_alive: int = 75,
    around: Callable[[Starlette], Starlette] = lambda app: app,
) -> Iterator[LiveServer]:
    """A server of what ``around`` makes of the application, on a free port; ended when the block is left."""
    app = around(create_app(model, settings))
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    ready = threading.Event()
    server = Server(app, grace=grace, keep_alive=keep_alive, ready=ready.set)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert ready.wait(DEADLINE)
        yield LiveServer(f"http://127.0.0.1:{port}", app.state.service, server, thread)
    finally:
        with suppress(RuntimeError):  # the test has ended it
            for _ in range(2):  # what is in work need not finish
                server.handle_exit(signal.SIGTERM, None)
        thread.join(DEADLINE)
        assert not thread.is_alive()


@dataclass
class Command(_Server):
    """``gpt2fast serve`` in a process of its own."""

    process: subprocess.Popen[str]
    first_lines: list[str]
    log: list[str] = field(default_factory=list)
    _grown: threading.Condition = field(default_factory=threading.Condition)

    def follow(self) -> None:
        """Read the log until it ends."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._grown:
                self.log.append(line)
                self._grown.notify_all()

    def wait_for_log(self, pattern: str, count: int = 1) -> list[re.Match[str]]:
        """The first matches in the log, when there are so many."""

        def found() -> list[re.Match[str]]:
            return [match for line in self.log if (match := re.search(pattern, line))]

        with self._grown:
            assert self._grown.wait_for(lambda: len(found()) >= count, DEADLINE), "".join(self.log)
        return found()


@contextmanager
def command(*arguments: str, **environment: str) -> Iterator[Command]:
    """``gpt2fast serve`` with arguments on a free port; killed when the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gpt2fast", "serve", "--port", "0", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of processes of its own
    )
    assert process.stdout is not None
    served = Command("", process, [])
    reader = threading.Thread(target=served.follow)
    reader.start()
    try:
        while len(served.first_lines) < 4 and (line := process.stdout.readline()):
            served.first_lines.append(line.rstrip("\n"))
        address = re.search(r"http://[\d.]+:\d+", " ".join(served.first_lines))
        assert address is not None, "".join(served.log)
        served.url = address[0]
        yield served
    finally:
        process.kill()
        process.wait(DEADLINE)
        reader.join(DEADLINE)
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()


def events(lines: Iterator[str]) -> Iterator[Any]:
    """The data of server-sent events, parsed, without the last, ``[DONE]``."""
    import json

    for line in lines:
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))
