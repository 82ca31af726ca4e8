"""Ends connections so that the last answer is not lost.

A system that closes a socket with unread bytes, or gets more of them later, resets the connection, and a
client that sees the reset may not see the answer before it. So only the sending side is closed at first, and
what still arrives is thrown away (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

#: Seconds that a client has to end a connection when its answer has been sent.
LINGER_SECONDS = 5.0
#: The most bytes of it that are read meanwhile.
LINGER_BYTES = 64 << 20


class LingeringTransport(asyncio.Transport):
    """A transport that, when it is closed while the client may send, closes at first its sending side only.

    Parameters
    ----------
    transport : asyncio.Transport
        The connection's own.
    loop : asyncio.AbstractEventLoop
        The event loop.
    unread : callable
        Whether a part of a request has yet to arrive.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, unread: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._unread = unread
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0
        self.abort = transport.abort  # type: ignore[method-assign]
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.get_write_buffer_size = transport.get_write_buffer_size  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]

    def is_closing(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._timer is not None or self._transport.is_closing()

    def write(self, data: Any) -> None:
        """Send; nothing when the sending side has been closed."""
        if self._timer is None:
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection, when what has been written is sent and all of a request has been read."""
        if self._unread():
            self.linger()
        else:
            self._transport.close()

    def linger(self) -> None:
        """Close the sending side, and the rest when the client has, or after some time or many bytes."""
        if self.is_closing():
            return
        self._left = LINGER_BYTES
        self._timer = self._loop.call_later(LINGER_SECONDS, self._transport.close)
        self._transport.write_eof()
        self._transport.resume_reading()

    def discard(self, count: int) -> None:
        """Take note of bytes that arrived after the answer."""
        self._left -= count
        if self._timer is not None and self._left < 0:
            self._transport.close()

    def lost(self) -> None:
        """Take note that the client has ended the connection."""
        if self._timer is not None:
            self._timer.cancel()
