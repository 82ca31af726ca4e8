"""How event loops learn which calls have news for them: one file descriptor for each loop.

No call has a thread of its own. The core writes a byte to a pipe when a call becomes ready, the loop reads
which ones did, and wakes their tasks.

Tasks that wait refer to their loop, and a loop may be closed while they do. So only the loop itself keeps its
channel, until it is closed: garbage then takes loop, channel and tasks, and their calls end.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary, WeakMethod, finalize, ref

from gpt2fast._native import core
from gpt2fast.storage.locks import ForkSafeLock

# Seconds after which a loop runs what it only has to hold.
_NEVER = 1e9


class Channel:
    """Notifications from the engines of this process to one event loop. Used by that loop's thread alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue = core.ReadyQueue()
        self._events: dict[int, asyncio.Event] = {}
        self._keys = itertools.count(1)
        self._held: list[core.Call] = []
        try:
            loop.add_reader(self.queue.fileno(), self._deliver)
        except (NotImplementedError, RuntimeError):  # Windows' default loop can't wait for file descriptors
            self._start_thread(loop)

    @contextmanager
    def listen(self) -> Iterator[tuple[int, asyncio.Event]]:
        """A key for a call, and the event that is set when the call has news."""
        key, event = next(self._keys), asyncio.Event()
        self._events[key] = event
        try:
            yield key, event
        finally:
            del self._events[key]

    def begin(self, call: core.Call) -> None:
        """Begin a call when the loop has run what is ready now, with all others that are made meanwhile.

        A task that starts many others so has them share steps from the first one on.
        """
        if not self._held:
            asyncio.get_running_loop().call_soon(self._begin_all)
        self._held.append(call)

    def _begin_all(self) -> None:
        held, self._held = self._held, []
        for call in held:
            call.begin()

    def _deliver(self) -> None:
        self._wake(self.queue.take())

    def _wake(self, keys: list[int]) -> None:
        for key in keys:
            if (event := self._events.get(key)) is not None:
                event.set()

    def _start_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a thread wait for the calls; it ends with the loop."""
        loop.call_later(_NEVER, self._wake, [])
        queue, alive, method = self.queue, ref(loop), WeakMethod(self._wake)
        finalize(loop, queue.close).atexit = False

        def work() -> None:
            while True:
                queue.wait()
                keys, loop, wake = queue.take(), alive(), method()
                if loop is None or wake is None or not keys:
                    return
                try:
                    loop.call_soon_threadsafe(wake, keys)
                except RuntimeError:  # the loop is closed
                    return
                del loop, wake

        threading.Thread(target=work, name="gpt2fast-event-loop", daemon=True).start()


_channels: WeakKeyDictionary[asyncio.AbstractEventLoop, ref[Channel]] = WeakKeyDictionary()
_lock = ForkSafeLock()
_interpreter_ends = False


def channel() -> Channel:
    """The channel of the running event loop."""
    loop = asyncio.get_running_loop()
    known = _channels.get(loop)
    found = None if known is None else known()
    if found is None:
        found = Channel(loop)
        with _lock:
            _channels[loop] = ref(found)
            if _interpreter_ends:  # on a daemon thread
                found.queue.close()
    return found


@atexit.register
def _end_waits() -> None:
    """Let no thread wait in the core when the interpreter ends."""
    global _interpreter_ends
    with _lock:
        _interpreter_ends = True
        for known in list(_channels.values()):
            if (one := known()) is not None:
                one.queue.close()
