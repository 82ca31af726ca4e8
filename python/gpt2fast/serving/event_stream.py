"""Server-sent events, as OpenAI's client reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from gpt2fast.serving.errors import ApiError, of_library, unavailable
from gpt2fast.serving.lifecycle import Lifecycle

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx passes each event on at once
]
_DONE = b"data: [DONE]\n\n"

#: The key in a request's state of a function that drops its connection.
ABORT = "gpt2fast.abort"


def event(value: Any) -> bytes:
    """An object as an event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


class EventStream:
    """An answer that is sent while it is made.

    An error before the first event is raised; a later one becomes the last event of the stream.

    Parameters
    ----------
    events : async generator of bytes
        Closed at the end, also after an error.
    lifecycle : Lifecycle
        The service's.
    stalled_seconds : float
        A client that reads nothing for this long counts as gone.
    """

    def __init__(
        self, events: AsyncGenerator[bytes, None], lifecycle: Lifecycle, stalled_seconds: float
    ) -> None:
        self._events = events
        self._lifecycle = lifecycle
        self._stalled_seconds = stalled_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        sender = _Sender(send, _ended_by(scope), self._stalled_seconds)
        async with aclosing(self._events) as events:
            first = await anext(events)
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            try:
                await sender.send(first)
                async for one in events:
                    await sender.send(one)
                await sender.send(_DONE, last=True)
            except asyncio.CancelledError:
                if not self._lifecycle.expired:
                    raise
                ended = unavailable("The server ends; this text was not finished.")
                await sender.send(event(ended.body()), last=True)
            except Exception as error:
                answer = error if isinstance(error, ApiError) else of_library(error)
                failed = answer or unavailable("The server failed to finish this text; its log says why.")
                await sender.send(event(failed.body()), last=True)
                if answer is None:
                    raise


class _Sender:
    """Sends parts of an answer; if one takes too long, the client counts as gone."""

    def __init__(self, send: Send, end: Callable[[], object], seconds: float) -> None:
        self._send = send
        self._end = end
        self._seconds = seconds

    async def send(self, data: bytes, *, last: bool = False) -> None:
        timer = asyncio.get_running_loop().call_later(self._seconds, self._end)
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        finally:
            timer.cancel()


def _ended_by(scope: Scope) -> Callable[[], object]:
    """A function that drops the connection, which ends its work; under other servers it cancels the work."""
    abort: Callable[[], object] | None = scope.get("state", {}).get(ABORT)
    if abort is not None:
        return abort
    task = asyncio.current_task()
    assert task is not None
    return task.cancel
