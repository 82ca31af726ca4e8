"""Runs the application on sockets: uvicorn with our limits, and a shutdown that lets requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from gpt2fast.serving.http_protocol import LimitedHttp
from gpt2fast.serving.lifecycle import Lifecycle
from gpt2fast.serving.openai import build_validators
from gpt2fast.serving.service import Service

BACKLOG = 2048
# Seconds for what is left to do when all requests have been answered or ended.
_LAST_SECONDS = 2
# Seconds between two looks at the connections meanwhile.
_TICK = 0.01


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket bound to an address; with ``shared``, on Linux, others may be bound to it and get their share.

    Raises
    ------
    OSError
        The address is taken or isn't this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # SO_REUSEADDR would let it take an address that another program uses.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except (OSError, OverflowError):
        bound.close()
        raise
    bound.set_inheritable(True)
    return bound


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT; then running requests may finish, and new ones are answered with 503.

    A second signal ends the service at once.

    Parameters
    ----------
    app : Starlette
        Made by :func:`gpt2fast.serving.create_app`.
    grace : float
        Seconds that requests have to finish.
    keep_alive : int
        Seconds that a connection may wait for its next request.
    ready : callable
        Called when requests are answered.
    """

    def __init__(
        self, app: Starlette, *, grace: float, keep_alive: int, ready: Callable[[], None] = lambda: None
    ) -> None:
        config = uvicorn.Config(
            app,
            http=LimitedHttp,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=keep_alive,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        super().__init__(config)
        self._service: Service = app.state.service
        self._lifecycle = self._service.lifecycle
        self._grace = grace
        self._ready = ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signalled = asyncio.Event()
        self._again = asyncio.Event()
        self._signals = 0

    async def main_loop(self) -> None:
        """Wait for a signal, then for the running requests."""
        self._loop = asyncio.get_running_loop()
        if self.should_exit:  # a signal came just now
            return
        self._ready()
        thread = threading.get_native_id()
        prepared = self._loop.run_in_executor(None, _prepare, self._lifecycle, thread)
        while not self._signalled.is_set():
            await self.on_tick(0)  # updates the header Date
            self._service.observe()  # for /metrics of the other workers
            await _until(self._signalled, 1.0)
        self._lifecycle.end()
        done = asyncio.ensure_future(self._lifecycle.finished())
        again = asyncio.ensure_future(self._again.wait())
        await asyncio.wait((done, again), timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        self._lifecycle.expire()
        await asyncio.wait((done,), timeout=_LAST_SECONDS)
        done.cancel()
        await prepared
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._bodies_arrived(), _LAST_SECONDS)
        self.should_exit = True

    async def _bodies_arrived(self) -> None:
        """Wait for the rest of the refused requests; closing before it would reset what answers them."""
        connections = self.server_state.connections
        while any(isinstance(one, LimitedHttp) and one.in_body for one in connections):
            await asyncio.sleep(_TICK)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close everything."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):  # clients that read nothing
            connection.transport.abort()
        await asyncio.sleep(0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._loop is None:  # nothing has started yet
            self.should_exit = True
            return
        self._signals += 1  # here, as the loop may be late to set the event of the first
        event = self._signalled if self._signals == 1 else self._again
        self._loop.call_soon_threadsafe(event.set)
        if sig == signal.SIGINT and event is self._again:
            self.force_exit = True


def _prepare(lifecycle: Lifecycle, thread: int) -> None:
    """Prepare what only some requests need, so that none waits for it; ``thread`` is the event loop's."""
    from gpt2fast.inference import scoring  # noqa: F401 - imports NumPy, too
    from gpt2fast.serving.short_turns import ShortTurns

    turns = ShortTurns(thread)
    turns.follow(0)
    lifecycle.follow = turns.follow

    build_validators()


async def _until(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
