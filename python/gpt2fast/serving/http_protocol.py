"""HTTP/1.1 with limits that uvicorn lacks: on the size and time of headers, and on readers that stall.

Clients that offer to upgrade to HTTP/2, as Java's does with each first request, get HTTP/1.1.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gpt2fast.serving.event_stream import ABORT
from gpt2fast.serving.lingering import LingeringTransport

#: The most bytes of a request's line and headers.
MAX_HEADER_BYTES = 64 << 10
#: Seconds within which they must arrive.
HEADER_SECONDS = 10.0
#: Seconds within which the rest of a body must arrive when the answer did not wait for it.
UNREAD_SECONDS = 30.0
#: Seconds within which a client must take some of what is left to send to it.
UNSENT_SECONDS = 30.0
MAX_CONNECTIONS = 4096
#: Requests of a connection that are read while one before them has no answer yet.
MAX_PIPELINED = 16

_ANSWER = (
    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    "connection: close\r\n\r\n{body}"
)
_BODY = '{{"error":{{"message":"{message}","type":"invalid_request_error","param":null,"code":{code}}}}}'


class LimitedHttp(HttpToolsProtocol):
    """uvicorn's protocol, for clients that can't be trusted."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._header_bytes = 0
        self._in_header = True
        self._ended_one = False
        self._header_timer: asyncio.TimerHandle | None = None
        self._in_body = False
        self._body_timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._lingering: LingeringTransport
        #: The requests that have no whole answer yet, in their order.
        self._unanswered: list[RequestResponseCycle] = []
        self._is_deaf = False

    @property
    def in_body(self) -> bool:
        """Whether a part of a request's body has yet to arrive."""
        return self._in_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(transport)
        self.transport = self._lingering = LingeringTransport(transport, self.loop, self._may_get_more)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(
                "503 Service Unavailable", "The server has too many connections.", '"too_many_connections"'
            )
            return
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """A client is gone."""
        self._header_arrived()
        self._body_arrived()
        self._lingering.lost()
        self._end_unanswered()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        if self._is_deaf or self.transport.is_closing():
            self._lingering.discard(len(data))
            return
        self._unset_keepalive_if_required()
        self._ended_one = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        # Of a request that follows another in the same bytes, it isn't known where it begins.
        if self._in_header and not self._ended_one:
            self._header_bytes += len(data)
        if self._in_header and self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(
                "431 Request Header Fields Too Large",
                f"The headers must have at most {MAX_HEADER_BYTES} bytes.",
                '"headers_too_large"',
            )

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse("400 Bad Request", msg, "null")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["state"][ABORT] = self.transport.abort
        self._in_header = True
        self._header_bytes = 0
        self._await_header()

    def on_headers_complete(self) -> None:
        """A request's headers are all there."""
        self._header_arrived()
        self._in_header = False
        if self._is_upgrade():
            return
        super().on_headers_complete()  # which may find that the request is none
        if len(self.pipeline) < MAX_PIPELINED:
            self.flow.resume_reading()  # or it would not be seen that the client leaves
        self._in_body = True
        self._unanswered.append(self.cycle)

    def on_message_complete(self) -> None:
        """A request is all there."""
        self._ended_one = True
        self._body_arrived()
        if not self._is_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is on its way."""
        self._unanswered = [one for one in self._unanswered if not one.response_complete]
        super().on_response_complete()
        self._watch_unsent()
        if self._in_body and self.cycle.response_complete and not self.transport.is_closing():
            self._body_timer = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """No request came for a while."""
        super().timeout_keep_alive_handler()
        self._watch_unsent()

    def _is_upgrade(self) -> bool:
        """Whether the current request asks for another protocol; the parser then does not read its body."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Parse a request again without its header ``Upgrade``, and then what came after its headers."""
        if not self._is_upgrade():
            return
        version = self.parser.get_http_version().encode()
        head = self.parser.get_method() + b" " + self.url + b" HTTP/" + version + b"\r\n"
        kept = [(name, value) for name, value in self.headers if name != b"upgrade"]
        head += b"".join(name + b": " + value + b"\r\n" for name, value in kept)
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + b"\r\n" + rest)

    def _body_arrived(self) -> None:
        self._in_body = False
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _await_header(self) -> None:
        self._header_arrived()
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._header_too_slow)

    def _header_arrived(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _header_too_slow(self) -> None:
        message = f"The headers did not arrive within {HEADER_SECONDS:g} seconds."
        self._refuse("408 Request Timeout", message, "null")

    def _refuse(self, status: str, message: str, code: str) -> None:
        """Answer an error without the application, in its turn, and close the connection."""
        if self._is_deaf or self.transport.is_closing():
            return
        before = [one for one in self._unanswered if not one.more_body]
        if before:  # nothing may come between their answers; the connection ends after them
            before[-1].keep_alive = False
            self._is_deaf = True
            return
        begun = any(one.response_started for one in self._unanswered)
        if not begun and not self._is_answered():
            body = _BODY.format(message=message, code=code)
            self.transport.write(_ANSWER.format(status=status, length=len(body), body=body).encode())
        self._lingering.linger()
        self._watch_unsent()
        self._end_unanswered()

    def _is_answered(self) -> bool:
        """Whether the request whose body arrives has its answer already."""
        return self._in_body and self.cycle.response_complete

    def _end_unanswered(self) -> None:
        """Let the application see that no more of its requests will come, and nothing is sent any more."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    def _may_get_more(self) -> bool:
        return self._in_body or self._is_deaf

    def _watch_unsent(self) -> None:
        """Let a closing connection wait for unsent bytes only as long as the client takes some of them."""
        if self.transport.is_closing():
            self._unsent = self.transport.get_write_buffer_size()
            if self._unsent:
                self.loop.call_later(UNSENT_SECONDS, self._drop_stalled)

    def _drop_stalled(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent >= self._unsent:
            self.transport.abort()
        elif unsent:
            self._watch_unsent()
