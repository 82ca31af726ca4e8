"""The service on a port of this machine, behind a gate that holds its streams and answers in its place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

from gpt2fast import GPT2
from gpt2fast.serving import Settings
from support.live_server import live_server

#: A status, headers and a body (bytes, or an object that is sent as JSON).
Answer = tuple[int, dict[str, str], Any]


class Gate:
    """ASGI middleware that interferes with completions.

    Attributes
    ----------
    hold_after : int or None
        A stream waits for ``release`` after so many parts of its body.
    break_after : int or None
        A stream ends without its end after so many parts of its body.
    answers : list of Answer
        Given to the next requests, one each, in place of the service's own.
    requests : list of dict
        The bodies of all requests.
    page_key : str or None
        Sent along with requests for the page and its files, as if the browser knew it.
    abandoned : threading.Event
        Set when the service noticed that a client has gone.
    """

    def __init__(self) -> None:
        self.release = threading.Event()
        self.reset()

    def before(self, app: Any) -> Gate:
        """Stand before an application."""
        self._app = app
        return self

    def reset(self) -> None:
        """Forget everything; what is held goes on."""
        self.release.set()
        self.release = threading.Event()
        self.hold_after: int | None = None
        self.break_after: int | None = None
        self.answers: list[Answer] = []
        self.page_key: str | None = None
        self.requests: list[dict[str, Any]] = []
        self.abandoned = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/v1/completions"):
            if self.page_key and (scope["path"] == "/" or scope["path"].startswith("/static/")):
                key = (b"authorization", f"Bearer {self.page_key}".encode())
                scope = {**scope, "headers": [*scope["headers"], key]}
            await self._app(scope, receive, send)
            return
        body = await _whole_body(receive)
        self.requests.append(json.loads(body))
        if self.answers:
            await _answer(send, *self.answers.pop(0))
            return
        with contextlib.suppress(_BrokenOffError):
            await self._app(scope, self._replayed(body, receive), self._gated(send))

    def _replayed(self, body: bytes, receive: Any) -> Any:
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def next_message() -> Any:
            message = unread.pop() if unread else await receive()
            if message["type"] == "http.disconnect":
                self.abandoned.set()
            return message

        return next_message

    def _gated(self, send: Any) -> Any:
        release, sent = self.release, 0

        async def send_gated(message: Any) -> None:
            nonlocal sent
            if message["type"] == "http.response.body":
                if sent == self.hold_after:
                    await asyncio.get_running_loop().run_in_executor(None, release.wait)
                if sent == self.break_after:
                    raise _BrokenOffError
                sent += 1
            await send(message)

        return send_gated


class _BrokenOffError(BaseException):
    """Passes through the service, which answers exceptions."""


async def _whole_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _answer(send: Any, status: int, headers: dict[str, str], content: Any) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class ServedPage:
    """Where a page is, and the gate before it."""

    url: str
    gate: Gate


@contextmanager
def served_page(model: GPT2, settings: Settings | None = None, prefix: str = "") -> Iterator[ServedPage]:
    """The service of a model, mounted at ``prefix``, until the block is left."""
    gate = Gate()

    def around(app: Starlette) -> Starlette:
        outer = Starlette(routes=[Mount(prefix, app)])
        outer.state = app.state
        outer.add_middleware(gate.before)
        return outer

    with live_server(model, settings or Settings(model_name="tiny"), grace=0, around=around) as live:
        try:
            yield ServedPage(f"{live.url}{prefix}/", gate)
        finally:
            gate.reset()
