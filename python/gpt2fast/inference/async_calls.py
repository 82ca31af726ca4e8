"""Generation for asyncio. The event loop stays free, and no call has a thread of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from gpt2fast.inference.event_loops import channel
from gpt2fast.inference.outputs import ChunkReader, check_streamable, results_of, start_stream
from gpt2fast.inference.requests import Call
from gpt2fast.inference.results import Generation, StreamChunk
from gpt2fast.inference.work import watched
from gpt2fast.loading.loaded_model import LoadedModel


def astream(
    model: LoadedModel, call: Call, ended: Callable[[list[Generation]], None] | None = None
) -> AsyncGenerator[StreamChunk, None]:
    """See :meth:`gpt2fast.GPT2.astream`; ``ended`` gets the whole texts after their last chunk."""
    check_streamable(call.options)
    return _chunks(model, call, ended)


async def _chunks(
    model: LoadedModel, call: Call, ended: Callable[[list[Generation]], None] | None
) -> AsyncGenerator[StreamChunk, None]:
    reader = ChunkReader(model, call)
    events = channel()
    with events.listen() as (key, event):
        running = start_stream(model, call, queue=events.queue, key=key)
        events.begin(running)
        try:
            with watched(running, call.options.cancel):
                for chunk in reader.prompts():
                    yield chunk
                while True:
                    event.clear()
                    done = running.done()  # before take(): a call that ends in between has more to take
                    progress = running.take()
                    for one in progress:
                        yield reader.chunk(one)
                    if progress:
                        continue
                    if done:
                        break
                    await event.wait()
            if ended is not None:
                ended(results_of(model, call, running))
        finally:
            running.cancel()
