"""How event loops hear of calls that have something for them: one file descriptor for each loop.

No call has a thread of its own. The core writes a byte to a pipe when a call becomes ready, the loop reads
which ones did, and wakes their tasks.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary, ref

from gpt2fast._native import core


class Channel:
    """What the engines of this process tell one event loop. Used by that loop's thread alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue = core.ReadyQueue()
        self._events: dict[int, asyncio.Event] = {}
        self._keys = itertools.count(1)
        try:
            loop.add_reader(self.queue.fileno(), self._deliver)
        except NotImplementedError:  # Windows' default loop waits for no file descriptors
            self._start_thread(loop)

    @contextmanager
    def listen(self) -> Iterator[tuple[int, asyncio.Event]]:
        """A key for a call, and the event that is set when the call has something to say."""
        key, event = next(self._keys), asyncio.Event()
        self._events[key] = event
        try:
            yield key, event
        finally:
            del self._events[key]

    def _deliver(self) -> None:
        for key in self.queue.take():
            if (event := self._events.get(key)) is not None:
                event.set()

    def _start_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        delivered, queue, deliver, alive = threading.Event(), self.queue, self._deliver, ref(loop)

        def deliver_and_go_on() -> None:
            deliver()
            delivered.set()

        def work() -> None:
            while True:
                queue.wait()
                loop = alive()
                if loop is None or loop.is_closed():
                    return
                delivered.clear()
                loop.call_soon_threadsafe(deliver_and_go_on)
                del loop
                delivered.wait()

        threading.Thread(target=work, name="gpt2fast-event-loop", daemon=True).start()


_channels: WeakKeyDictionary[asyncio.AbstractEventLoop, Channel] = WeakKeyDictionary()
_lock = threading.Lock()


def channel() -> Channel:
    """The channel of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _channels.get(loop)
    if found is None:
        found = Channel(loop)
        with _lock:
            _channels[loop] = found
    return found
