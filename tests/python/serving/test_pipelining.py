"""Requests that are sent before the answer to the one before them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gpt2fast import GPT2
from gpt2fast.serving import Settings, http_protocol
from support.live_server import ENDLESS, LiveServer, Watch, idle, live_server


@pytest.fixture(scope="module")
def live(model: GPT2) -> Iterator[LiveServer]:
    with live_server(model) as found:
        yield found


def completion(**fields: Any) -> bytes:
    body = json.dumps(fields).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
BAD_CHUNK = b"POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnope\r\n"


def waiting(live: LiveServer) -> list[tuple[int, bool]]:
    """Of each connection with requests that wait: how many, and whether it is read no further."""
    connections = list(live.server.server_state.connections)
    return [(len(one.pipeline), one.flow.read_paused) for one in connections if one.pipeline]


def test_a_client_that_leaves_ends_the_first_of_its_requests(live: LiveServer) -> None:
    watch = Watch(live)
    with live.connect() as connection:
        connection.sendall(completion(**ENDLESS) + HEALTH + HEALTH)
        watch.wait_for(lambda stats: stats.running == 1)
    watch.wait_for(lambda stats: idle(stats) and not live.server.server_state.tasks)


def test_a_client_that_leaves_ends_a_request_that_has_begun(live: LiveServer) -> None:
    watch = Watch(live)
    with live.connect() as connection:
        connection.sendall(completion(**ENDLESS))
        watch.wait_for(lambda stats: stats.running == 1)
        connection.sendall(HEALTH)
        watch.wait_for(lambda stats: waiting(live) == [(1, False)])
    watch.wait_for(lambda stats: idle(stats) and not live.server.server_state.tasks)


def test_so_many_requests_are_read_ahead_and_no_more(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "MAX_PIPELINED", 2)
    watch = Watch(live)
    with live.connect() as connection:
        connection.sendall(completion(**ENDLESS, stream=True))  # so that leaving is seen in any case
        watch.wait_for(lambda stats: stats.running == 1)
        for state in ((1, False), (2, True)):
            connection.sendall(HEALTH)
            watch.wait_for(lambda stats, state=state: waiting(live) == [state])
    watch.wait_for(lambda stats: idle(stats) and not live.server.server_state.tasks)


@pytest.mark.parametrize("rest", [b"nope\r\n\r\n", b"\x16\x03\x01", BAD_CHUNK])
def test_what_is_no_request_ends_the_connection_after_the_answers_before_it(
    live: LiveServer, rest: bytes
) -> None:
    with live.connect() as connection:
        connection.sendall(completion(prompt="The", max_tokens=3) + HEALTH + rest + HEALTH)
        first, second = connection.makefile("rb").read().split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200 OK\r\n")
    assert json.loads(first.partition(b"\r\n\r\n")[2])["usage"]["completion_tokens"] == 3
    assert second.startswith(b"200 OK\r\n")
    assert b"connection: close\r\n" in second
    assert second.endswith(b'{"status":"ok"}')


def test_headers_that_do_not_come_break_no_stream_before_them(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[str] = []
    real = http_protocol.LimitedHttp._header_too_slow

    def too_slow(self: http_protocol.LimitedHttp) -> None:
        refused.append("408")
        real(self)

    monkeypatch.setattr(http_protocol.LimitedHttp, "_header_too_slow", too_slow)
    fields = {**ENDLESS, "max_tokens": 5000, "stream": True}
    with live.connect() as connection:
        connection.sendall(completion(**fields))
        Watch(live).wait_for(lambda stats: stats.running == 1)
        monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.01)
        connection.sendall(HEALTH[:10])
        answer = connection.makefile("rb").read()
    assert refused == ["408"]
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_a_request_has_one_answer(model: GPT2) -> None:
    """One that is refused before its body turns out to be none."""
    with live_server(model, Settings(api_keys=("key",))) as live, live.connect() as connection:
        connection.sendall(BAD_CHUNK.removesuffix(b"nope\r\n"))
        answer = connection.makefile("rb")
        assert answer.readline() == b"HTTP/1.1 401 Unauthorized\r\n"
        connection.sendall(b"nope\r\n")
        assert b"HTTP/1.1" not in answer.read()
