"""Generation for asyncio: each call runs on a thread of its own, so that the event loop stays free.

Cancelling the task ends the run within a step. A model has as many threads as texts that it generates at
once; more calls wait for one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

from gpt2fast.inference.cancellation import CancelToken
from gpt2fast.inference.options import GenerationOptions

T = TypeVar("T")

# Items that a stream may be ahead of its reader.
_READ_AHEAD = 16


class AsyncCalls:
    """A model's calls on behalf of event loops; several loops may share it.

    Parameters
    ----------
    max_calls : int
        How many calls run at once.
    """

    def __init__(self, max_calls: int) -> None:
        self._executor = ThreadPoolExecutor(max_calls, thread_name_prefix="gpt2fast")

    async def generate(self, function: Callable[[GenerationOptions], T], options: GenerationOptions) -> T:
        """The result of ``function(options)``, which is ended when the task is cancelled."""
        token = CancelToken()

        def work() -> T:
            with _linked(options.cancel, token):
                return function(replace(options, cancel=token))

        future = self._executor.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            token.cancel()
            await _settled(future)
            raise

    async def stream(
        self, function: Callable[[GenerationOptions], Generator[T, None, None]], options: GenerationOptions
    ) -> AsyncGenerator[T, None]:
        """The items of ``function(options)``, made a little ahead; closing the generator ends it."""
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[T | None] = asyncio.Queue()
        room = threading.Semaphore(_READ_AHEAD)
        closed = threading.Event()
        token = CancelToken()

        def work() -> None:
            with _linked(options.cancel, token), closing(function(replace(options, cancel=token))) as made:
                for item in made:
                    loop.call_soon_threadsafe(items.put_nowait, item)
                    room.acquire()
                    if closed.is_set():
                        return

        future = self._executor.submit(work)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(items.put_nowait, None))
        try:
            while (item := await items.get()) is not None:
                room.release()
                yield item
            future.result()
        finally:
            closed.set()
            token.cancel()
            room.release()
            await _settled(future)


def _linked(outer: CancelToken | None, inner: CancelToken) -> AbstractContextManager[None]:
    """While inside, cancelling ``outer`` cancels ``inner``."""
    return nullcontext() if outer is None else outer.watching(inner)


async def _settled(future: Future[Any]) -> None:
    """Wait for the thread to be done with a cancelled call, so that its slots are free afterwards."""
    if not future.cancel():
        await asyncio.gather(asyncio.wrap_future(future), return_exceptions=True)
