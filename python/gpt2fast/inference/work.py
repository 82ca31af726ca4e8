"""How a caller waits for its calls in the engine: a thread blocks, an event loop is notified.

Each piece of work is written once, as a generator of calls. It yields a function that starts a call, and is
resumed with that call when it is done. :func:`run` and :func:`arun` drive it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from gpt2fast._native import core
from gpt2fast.inference.cancellation import Cancellable

if TYPE_CHECKING:
    from gpt2fast.inference.cancellation import CancelToken

T = TypeVar("T")

#: Starts a call; the keyword arguments ``queue`` and ``key`` say which event loop to notify.
Start: TypeAlias = Callable[..., core.Call]
#: A piece of work: yields starts, receives the calls when they are done, returns its result.
Work: TypeAlias = Generator[Start, Any, T]


def run(work: Work[T], cancel: CancelToken | None = None) -> T:
    """Do a piece of work, the calling thread waiting for each of its calls."""
    call: Any = None
    while True:
        try:
            start = work.send(call)
        except StopIteration as end:
            result: T = end.value
            return result
        call = start()
        with watched(call, cancel):
            try:
                call.wait()
            except StopIteration as error:  # which would end the caller's own iteration without a word
                raise RuntimeError("a logits processor raised StopIteration") from error


async def arun(work: Work[T], cancel: CancelToken | None = None) -> T:
    """Do a piece of work without holding up the running event loop; cancelling the task cancels the call."""
    from gpt2fast.inference.event_loops import channel

    events = channel()
    call: Any = None
    while True:
        try:
            start = work.send(call)
        except StopIteration as end:
            result: T = end.value
            return result
        with events.listen() as (key, event):
            call = start(queue=events.queue, key=key)
            events.begin(call)
            try:
                with watched(call, cancel):
                    while not call.done():
                        await event.wait()
                        event.clear()
            except BaseException:
                call.cancel()
                raise


def watched(call: Cancellable, cancel: CancelToken | None) -> AbstractContextManager[None]:
    """Let the token, if there is one, cancel the call while the block runs."""
    return nullcontext() if cancel is None else cancel.watching(call)
