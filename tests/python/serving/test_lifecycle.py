"""Clients that leave, slow ones, too many of them; and the end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import pytest

from gpt2fast import GPT2
from gpt2fast.serving import Limits, Settings, http_protocol, server
from gpt2fast.serving.lifecycle import Lifecycle
from gpt2fast.serving.short_turns import ShortTurns
from support.live_server import DEADLINE, ENDLESS, LiveServer, Watch, events, idle, live_server

PATH = "/v1/completions"


@pytest.fixture
def live(model: GPT2) -> Iterator[LiveServer]:
    with live_server(model, grace=DEADLINE) as found:  # a busy machine takes long
        yield found


def raw_request(live: LiveServer, body: dict[str, Any], path: str = PATH) -> socket.socket:
    """A connection on which a request has been sent."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    connection = socket.socket()
    connection.settimeout(DEADLINE)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the system takes little unread
    connection.connect(("127.0.0.1", live.port))
    connection.sendall(f"{head}\r\n\r\n".encode() + data)
    return connection


def hold_streams(live: LiveServer) -> threading.Event:
    """What lets streams go on after their first part; they wait for it, however fast the model is."""
    real, go_on = live.service.calls.stream, threading.Event()

    async def held(*arguments: Any) -> Any:
        async with aclosing(real(*arguments)) as chunks:
            async for chunk in chunks:
                yield chunk
                await asyncio.to_thread(go_on.wait, DEADLINE)

    live.service.calls.stream = held  # type: ignore[method-assign]
    return go_on


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_text(live: LiveServer, stream: bool) -> None:
    watch = Watch(live)
    with raw_request(live, {**ENDLESS, "stream": stream}) as connection:
        watch.wait_for(lambda stats: stats.running == 1)
        if stream:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    watch.wait_for(lambda stats: idle(stats) and not live.server.server_state.tasks)
    answers = re.findall(r"^http_requests_total\{.*/completions.*\} (.*)$", live.get("/metrics").text, re.M)
    assert list(map(float, answers)) == [1]


def test_random_disconnects_leave_nothing_behind(live: LiveServer, model: GPT2) -> None:
    watch, rng = Watch(live), random.Random(7)
    expected = model.generate("The", seed=5, max_new_tokens=20).text
    for _ in range(30):
        connections = []
        for _ in range(rng.randrange(1, 5)):
            body = {**ENDLESS, "stream": rng.random() < 0.6, "n": rng.randrange(1, 4)}
            connections.append(raw_request(live, body))
        for connection in connections:
            if rng.random() < 0.5:  # half of them have got something; a reset rather than an end is as good
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            connection.close()
    assert live.get("/health").status_code == 200  # connections before its own have been accepted
    state = live.server.server_state
    watch.wait_for(lambda stats: not state.connections and not state.tasks and idle(stats))
    fields = {"prompt": "The", "seed": 5, "max_tokens": 20}
    assert live.post(PATH, fields).json()["choices"][0]["text"] == expected
    counts = live.get("/metrics").text
    assert 'vllm:num_requests_running{engine="0",model_name="gpt2fast"} 0.0' in counts


def test_one_more_than_may_wait_is_told_to_come_back(model: GPT2) -> None:
    small = GPT2.from_pretrained(threads=1, max_sequences=1)
    with live_server(small, Settings(limits=Limits(waiting=1))) as live:
        watch = Watch(live)
        with raw_request(live, ENDLESS), raw_request(live, ENDLESS):
            watch.wait_for(lambda stats: (stats.running, stats.waiting) == (1, 1))
            refused = live.post(PATH, {"prompt": "a"})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert live.get("/health").status_code == 200
        watch.wait_for(idle)
        assert live.post(PATH, {"prompt": "a"}).status_code == 200


def turn(thread: int) -> int:
    """Nanoseconds of a thread's turn on a core, as it has asked for; Linux shows them."""
    shown = Path(f"/proc/self/task/{thread}/sched")
    found = re.search(r"se\.slice\s*:\s*(\d+)", shown.read_text("utf-8")) if shown.exists() else None
    if found is None:
        pytest.skip("this system has no turns to ask for")
    return int(found[1])


def test_turns_are_short_while_few_requests_are_in_work() -> None:
    def work() -> list[bool]:
        thread = threading.get_native_id()
        turns, before = ShortTurns(thread), (turn(thread), os.getpriority(os.PRIO_PROCESS, thread))
        seen = []
        for count in (0, 1, 2, 3, 2, 1):
            turns.follow(count)
            seen.append(turn(thread))
        turns.follow(3)
        assert (turn(thread), os.getpriority(os.PRIO_PROCESS, thread)) == before
        return [one == before[0] for one in seen]

    with ThreadPoolExecutor(1) as executor:  # the thread of the tests keeps its turns
        assert executor.submit(work).result() == [False, False, False, True, False, False]


def test_the_number_of_requests_in_work_is_followed() -> None:
    counts: list[int] = []

    async def nothing() -> None:
        pass

    async def receive() -> Any:
        await asyncio.Future()

    async def work() -> None:
        lifecycle = Lifecycle(nothing)
        lifecycle.follow = counts.append
        await asyncio.gather(*(lifecycle.run(receive, nothing()) for _ in range(2)))
        await lifecycle.finished()

    asyncio.run(work())
    assert counts == [1, 2, 1, 0]


def test_a_thread_that_is_gone_asks_for_nothing() -> None:
    turns = ShortTurns(2**31 - 1)
    for count in (0, 3, 0):
        turns.follow(count)  # the system refuses


def test_texts_end_after_the_time_that_they_may_take(model: GPT2) -> None:
    seconds, tokens = 0.1, 0
    while tokens == 0:  # a busy machine may get to none in so short a time
        seconds *= 2
        with live_server(model, Settings(limits=Limits(seconds=seconds))) as live:
            answer = live.post(PATH, ENDLESS).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        tokens = answer["usage"]["completion_tokens"]
    assert tokens < ENDLESS["max_tokens"]


class TestTheEnd:
    """SIGTERM: what is in work is finished, as long as there is time; nothing new begins."""

    def test_work_is_finished_and_new_work_refused(self, live: LiveServer) -> None:
        go_on = hold_streams(live)
        fields = {**ENDLESS, "max_tokens": 30, "stream": True}
        with httpx.stream("POST", live.url + PATH, json=fields, timeout=DEADLINE) as response:
            chunks = events(response.iter_lines())
            next(chunks)
            live.end()
            while live.get("/ready").status_code == 200:
                pass
            refused = live.post(PATH, {"prompt": "a"})
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            assert refused.json()["error"]["code"] == "service_unavailable"
            assert live.get("/health").status_code == 200
            go_on.set()
            *_, last = chunks
        assert last["choices"][0]["finish_reason"] == "length"
        live.thread.join(DEADLINE)
        assert not live.thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            live.get("/health")

    def test_a_body_that_comes_after_it_is_refused(
        self, model: GPT2, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server, "_LAST_SECONDS", DEADLINE)  # for the body to come
        body = json.dumps(ENDLESS).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        head += b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        with live_server(model) as live:
            with live.connect() as connection:
                connection.sendall(head)
                answer = connection.makefile("rb")
                assert answer.readline() == b"HTTP/1.1 100 Continue\r\n"  # it waits for the body
                live.end()
                Watch(live).wait_for(lambda _: live.service.lifecycle.ending)
                connection.sendall(body)
                assert answer.readline() == b"\r\n"
                assert answer.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
                assert b"takes no more requests" in answer.read()
            live.thread.join(DEADLINE)
            assert not live.thread.is_alive()

    def test_a_second_signal_ends_what_is_in_work(self, live: LiveServer) -> None:
        with raw_request(live, ENDLESS) as connection:
            Watch(live).wait_for(lambda stats: stats.running == 1)
            live.end()
            live.end()
            assert connection.recv(100).startswith(b"HTTP/1.1 503")

    def test_what_takes_too_long_gets_an_error(self, model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "_LAST_SECONDS", DEADLINE)  # for a busy machine to read what has come
        with live_server(model, grace=0.2) as live:
            watch = Watch(live)
            whole = raw_request(live, ENDLESS)
            with httpx.stream(
                "POST", live.url + PATH, json={**ENDLESS, "stream": True}, timeout=DEADLINE
            ) as response:
                chunks = events(response.iter_lines())
                next(chunks)
                watch.wait_for(lambda stats: stats.running == 2)
                live.end()
                *_, last = chunks
            assert last["error"]["code"] == "service_unavailable"
            with whole, whole.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
                assert b"was not finished" in answer.read()
            live.thread.join(DEADLINE)
            assert not live.thread.is_alive()


class TestSlowAndStrange:
    """Connections that are no good clients."""

    def talk(self, live: LiveServer, *parts: bytes) -> bytes:
        """What is answered until the connection is closed."""
        answer = b""
        with live.connect() as connection:
            with suppress(ConnectionError):  # it may be closed before it has taken all
                for part in parts:
                    connection.sendall(part)
            with suppress(ConnectionResetError):
                while data := connection.recv(1 << 16):
                    answer += data
        return answer

    def test_headers_that_do_not_come(self, live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_protocol, "HEADER_SECONDS", 0.1)
        assert self.talk(live).startswith(b"HTTP/1.1 408")
        assert self.talk(live, b"GET /health HTTP/1.1\r\nHost: ").startswith(b"HTTP/1.1 408")

    def test_a_body_that_does_not_come(self, model: GPT2) -> None:
        with live_server(model, Settings(limits=Limits(body_seconds=0.1))) as live:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            answer = self.talk(live, head + b"Content-Length: 100\r\n\r\n{")
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"did not arrive within 0.1 seconds" in answer

    def test_bodies_that_arrive_at_once_are_bounded(self, model: GPT2) -> None:
        limits = Limits(body_bytes=1000, body_seconds=2 * DEADLINE)
        with live_server(model, Settings(limits=limits)) as live:
            head = b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            begun = head + b"Content-Length: 1000\r\n\r\n" + b" " * 990
            connections = [live.connect() for _ in range(64)]
            for connection in connections:
                connection.sendall(begun)
            body = {"prompt": "a" * 900}
            while (refused := live.post("/tokenize", body)).status_code == 200:
                pass  # not all have arrived
            assert refused.status_code == 429
            for connection in connections:
                connection.close()
            while live.post("/tokenize", body).status_code == 429:
                pass  # not all are known to be gone

    @pytest.mark.parametrize("path", [b"/nope", b"/v1/models", b"/health"])
    def test_a_body_that_nobody_reads_does_not_keep_a_connection(
        self, live: LiveServer, monkeypatch: pytest.MonkeyPatch, path: bytes
    ) -> None:
        monkeypatch.setattr(http_protocol, "UNREAD_SECONDS", 0.1)
        head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" % path
        answer = self.talk(live, head + b"{")
        assert answer.startswith(b"HTTP/1.1 40")
        whole = head.replace(b"100", b"1") + b"{"  # the next request may follow
        ended = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert self.talk(live, whole, ended).endswith(b'{"status":"ok"}')

    @pytest.mark.parametrize("chunked", [False, True])
    @pytest.mark.parametrize("cut", [1, 60, 200, 250, None])
    def test_a_client_that_would_rather_have_another_protocol_gets_this_one(
        self, live: LiveServer, chunked: bool, cut: int | None
    ) -> None:
        """As Java's client asks with each first request."""
        body = b'{"prompt": "The", "max_tokens": 2}'
        framing, sent = b"Content-Length: %d" % len(body), body
        if chunked:
            framing, sent = b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        head = b"POST /v1/completions HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: a\r\n"
        head += b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\nUpgrade: h2c\r\n"
        data = head + b"Content-Type: application/json\r\n" + framing + b"\r\n\r\n" + sent
        ended = b"GET /health HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: close, Upgrade\r\n\r\n"
        first, second = self.talk(live, data[:cut], data[cut:] if cut else b"", ended).split(b"HTTP/1.1 ")[1:]
        assert first.startswith(b"200")
        assert b'"completion_tokens":2' in first
        assert second.startswith(b"200")
        assert second.endswith(b'{"status":"ok"}')

    def test_headers_are_told_from_the_body_before_them(self, live: LiveServer) -> None:
        head = b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        body = b'{"prompt": ""%s}' % (b" " * (http_protocol.MAX_HEADER_BYTES + 1))
        data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        with live.connect() as connection:
            connection.sendall(data + b"GET /health HTTP/1.1\r\nHost: a\r\n")
            answer = connection.makefile("rb")
            assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
            connection.sendall(b"Connection: close\r\n\r\n")
            assert answer.read().endswith(b'{"status":"ok"}')

    @pytest.mark.parametrize("count", [1, 1000])
    def test_giant_headers(self, live: LiveServer, count: int) -> None:
        size = (http_protocol.MAX_HEADER_BYTES + 10_000) // count
        headers = b"".join(b"X-%d: %s\r\n" % (index, b"a" * size) for index in range(count))
        assert self.talk(live, b"GET /health HTTP/1.1\r\n" + headers).startswith(b"HTTP/1.1 431")
        assert live.get("/health").status_code == 200

    @pytest.mark.parametrize(
        "data",
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nnope\r\n",
        ],
    )
    def test_what_is_no_http(self, live: LiveServer, data: bytes) -> None:
        answer = self.talk(live, data)
        assert answer.startswith(b"HTTP/1.1 400"), answer
        assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"

    def test_clients_that_take_nothing_are_dropped(
        self, model: GPT2, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost: Queue[object] = Queue()
        real = http_protocol.LimitedHttp.connection_lost

        def connection_lost(self: http_protocol.LimitedHttp, exc: Exception | None) -> None:
            real(self, exc)
            lost.put(self)

        monkeypatch.setattr(http_protocol.LimitedHttp, "connection_lost", connection_lost)
        monkeypatch.setattr(http_protocol, "UNSENT_SECONDS", 0.1)
        limits = Limits(stalled_seconds=0.1)
        with live_server(model, Settings(limits=limits), keep_alive=1) as live:
            watch = Watch(live)
            whole = {"prompt": "Once " * 400, "max_tokens": 1, "echo": True, "logprobs": 100, "n": 12}
            streamed = {**ENDLESS, "stream": True, "logprobs": 100}
            stalled = [raw_request(live, body) for body in (whole, streamed)]
            for _ in stalled:
                lost.get(timeout=DEADLINE)
            for connection in stalled:
                connection.close()
            watch.wait_for(idle)
