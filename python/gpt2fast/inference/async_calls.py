"""Generation for asyncio: each call runs on its own thread, so that the event loop stays free.

Cancelling the task ends the run within a step. A model has a thread for each text that it can generate at
once; further calls wait for one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import Any

from gpt2fast.inference import outputs
from gpt2fast.inference.cancellation import CancelToken
from gpt2fast.inference.options import GenerationOptions
from gpt2fast.inference.requests import read_call
from gpt2fast.inference.results import Generation, StreamChunk
from gpt2fast.loading.loaded_model import LoadedModel

# The number of chunks that a stream may be ahead of its reader.
_READ_AHEAD = 16


class AsyncCalls:
    """A model's calls on behalf of event loops; several loops may share it."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._executor = ThreadPoolExecutor(model.engine.max_sequences, thread_name_prefix="gpt2fast")

    async def generate(self, prompts: Any, options: GenerationOptions) -> Generation | list[Generation]:
        """See :meth:`gpt2fast.GPT2.agenerate`."""
        token = CancelToken()

        def work() -> Generation | list[Generation]:
            with _linked(options.cancel, token):
                own = replace(options, cancel=token)
                return outputs.generate(self._model, read_call(self._model, prompts, own))

        future = self._executor.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            token.cancel()
            await _settled(future)
            raise

    async def stream(self, prompts: Any, options: GenerationOptions) -> AsyncGenerator[StreamChunk, None]:
        """See :meth:`gpt2fast.GPT2.astream`; chunks are made a little ahead."""
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[StreamChunk | None] = asyncio.Queue()
        room = threading.Semaphore(_READ_AHEAD)
        closed = threading.Event()
        token = CancelToken()

        def work() -> None:
            with _linked(options.cancel, token):
                own = replace(options, cancel=token)
                with closing(outputs.stream(self._model, read_call(self._model, prompts, own))) as made:
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
