"""The life of a service: ready, working on requests, and a shutdown that lets requests finish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from starlette.types import Receive

from gpt2fast.serving.errors import ClientGone, unavailable

_Result = TypeVar("_Result")


class Lifecycle:
    """Whether a service is ready or ending, and the requests that it works on.

    Parameters
    ----------
    warm_up : callable
        Awaited once; when it returns, the model answers.
    """

    def __init__(self, warm_up: Callable[[], Awaitable[None]]) -> None:
        self._warm_up = warm_up
        self._warm = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        #: Called with the number of requests in work when it changes.
        self.follow: Callable[[int], None] = lambda count: None
        #: Whether new requests are refused.
        self.ending = False
        #: Whether the time of running requests is over, too.
        self.expired = False

    async def ready(self) -> bool:
        """Whether requests are answered; the first call finds out whether the model works."""
        if not self._warm and not self.ending:
            await self._warm_up()
            self._warm = True
        return self._warm and not self.ending

    async def run(self, receive: Receive, work: Coroutine[None, None, _Result]) -> _Result:
        """The result of ``work``, which is cancelled when the client leaves or the service's time is over.

        Raises
        ------
        ClientGone
            The client left.
        ApiError
            The service shut down before the work was finished.
        """
        loop = asyncio.get_running_loop()
        task: asyncio.Task[_Result] = loop.create_task(work)
        watch = loop.create_task(_disconnect(receive))
        self._add(task)
        try:
            await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
            gone = not task.done()
            if gone:
                task.cancel()
                await asyncio.wait((task,))
            if task.cancelled():
                raise ClientGone if gone else unavailable("The server ends; this request was not finished.")
            return task.result()
        finally:
            watch.cancel()
            task.cancel()  # in case this call itself was cancelled

    def check(self) -> None:
        """Refuse a new request when the service ends."""
        if self.ending:
            raise unavailable("The server ends and takes no more requests.")

    def end(self) -> None:
        """Take no more requests."""
        self.ending = True

    async def finished(self) -> None:
        """Wait until no request is running."""
        await self._idle.wait()

    def expire(self) -> None:
        """End the running requests, with an error that says why."""
        self.ending = self.expired = True
        for task in self._tasks:
            task.cancel()

    def _add(self, task: asyncio.Task[_Result]) -> None:
        self._tasks.add(task)
        self.follow(len(self._tasks))
        self._idle.clear()
        task.add_done_callback(self._remove)

    def _remove(self, task: asyncio.Task[_Result]) -> None:
        self._tasks.discard(task)
        self.follow(len(self._tasks))
        if not self._tasks:
            self._idle.set()


async def _disconnect(receive: Receive) -> None:
    """Return when the client has left; call it when the request's body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
