"""Clients that send more than is read: the answer reaches them all the same."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from gpt2fast import GPT2
from gpt2fast.serving import Limits, Settings, http_protocol, lingering
from support.live_server import LiveServer, live_server

PART = b" " * (1 << 20)
#: More than the buffers of both ends of a connection hold.
PARTS = 32
POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % (len(PART) * PARTS)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(PART) * PARTS)


@pytest.fixture(scope="module")
def live(model: GPT2) -> Iterator[LiveServer]:
    settings = Settings(api_keys=("key",), limits=Limits(body_bytes=1000))
    with live_server(model, settings) as found:
        yield found


def send_all(connection: socket.socket, head: bytes) -> None:
    """Send a head and what is announced by it; raises where the connection has been reset."""
    connection.sendall(head)
    for _ in range(PARTS):
        connection.sendall(PART)


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b" ")


def answer(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(1 << 16):
        found += data
    return found


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (POST + b"Authorization: Bearer key\r\n" + LENGTH, 413),
        (POST + b"Authorization: Bearer key\r\n" + CHUNKED, 413),
        (POST + b"Connection: close\r\n" + LENGTH, 401),
        (POST.replace(b"1.1", b"1.0") + LENGTH, 401),
        (b"GET /health HTTP/1.1\r\nX: ", 431),
        (b"\x16\x03\x01", 400),
    ],
)
def test_a_client_that_sends_all_before_it_reads_gets_its_answer(
    live: LiveServer, head: bytes, status: int
) -> None:
    with live.connect() as connection:
        send_all(connection, head)
        found = answer(connection)
    assert found.startswith(b"HTTP/1.1 %d " % status)
    assert found.count(b"HTTP/1.1") == 1
    assert found.endswith(b"}}")


def test_a_client_that_does_not_stop_is_dropped(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LINGER_BYTES", len(PART))
    with live.connect() as connection, pytest.raises(ConnectionError):
        send_all(connection, POST + b"Connection: close\r\n" + LENGTH)


@pytest.mark.parametrize("head", [POST + b"Connection: close\r\n" + LENGTH, b"\x16\x03\x01"])
def test_a_client_that_does_not_leave_is_dropped(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(lingering, "LINGER_SECONDS", 0.1)
    with live.connect() as connection:
        connection.sendall(head)
        assert answer(connection).startswith(b"HTTP/1.1 40")
        with pytest.raises(ConnectionError):
            send_for_ever(connection)  # until the server has closed its reading side, too


def test_one_connection_too_many_gets_its_answer(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "MAX_CONNECTIONS", 0)
    with live.connect() as connection:
        found = connection.recv(1 << 16)
        send_all(connection, POST + LENGTH)
        assert (found + answer(connection)).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"])
@pytest.mark.parametrize("target", [b"/" + b"a" * 70_000, b"http://[::1"])
def test_an_address_that_is_none_is_refused(live: LiveServer, before: bytes, target: bytes) -> None:
    with closing(live.connect()) as connection:
        if before:
            connection.sendall(before)
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 4")


def test_what_follows_the_last_answer_is_no_request(live: LiveServer) -> None:
    with closing(live.connect()) as connection:
        connection.sendall(POST + b"Connection: close\r\n" + b"Content-Length: 10\r\n\r\n")
        assert answer(connection).startswith(b"HTTP/1.1 401")
        connection.sendall(b" " * 10 + b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection) == b""
