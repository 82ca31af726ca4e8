"""Hostile and impatient clients of one service, more of them than it has places, beside honest ones.

``python -m tests.campaign.service_worker COUNT SEED``: COUNT requests of each client; prints a JSON line.
Loopback only.
"""

from __future__ import annotations

import collections
import json
import os
import random
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

from support.live_server import command

_CLIENTS = 10
_TIMEOUT = 120.0
#: Server errors that are no fault: there is no place.
_FULL = 503
_STATUS = re.compile(rb"^HTTP/1\.1 (\d{3})")
_PROMPT = [5, 6, 7]

Attack = Callable[[random.Random, int], bytes]


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A request as it goes over the wire."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        "Connection: close",
    ]
    lines += [f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def completion(generator: random.Random, **changes: Any) -> bytes:
    """A request for a text."""
    tokens = generator.randrange(1, 40)
    values = {"prompt": _PROMPT, "max_tokens": tokens, "seed": 1, "stream": generator.random() < 0.5}
    return post("/v1/completions", json.dumps({**values, **changes}).encode())


_WRONG_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        10**30,
        10**400,
        1.5,
        1e308,
        "",
        "x",
        "\x00",
        "\ud800",
        "x" * 100_000,
        [],
        [[]],
        {},
        [None],
        [-1],
    ),
    *([2**63], [[1], "x"], {"a": {"b": []}}, [1] * 5000, "a" * 3000, ["a"] * 3000),
)
_FIELDS = (
    *(
        "prompt",
        "max_tokens",
        "n",
        "best_of",
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "logprobs",
        "logit_bias",
    ),
    *("stream", "seed", "echo", "suffix", "user", "model", "priority", "stream_options", "messages", "input"),
)


def wrong_value(generator: random.Random) -> bytes:
    """A request with a field of another kind or size."""
    path = generator.choice(
        (
            "/v1/completions",
            "/v1/chat/completions",
            "/v1/embeddings",
            "/v1/score",
            "/v1/rank",
            "/tokenize",
            "/detokenize",
        )
    )
    values: dict[str, Any] = {
        "prompt": _PROMPT,
        "input": "a",
        "text": "a",
        "choices": ["a", "b"],
        "max_tokens": 2,
    }
    values[generator.choice(_FIELDS)] = generator.choice(_WRONG_VALUES)
    body = json.dumps(values).encode("utf-8", "surrogatepass")
    if generator.random() < 0.2:
        body = body[: generator.randrange(len(body))]
    return post(path, body)


def malformed(generator: random.Random) -> bytes:
    """Bytes that are no request, or hardly one."""
    chunked = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b'{"prompt":[1],"max_tokens":1}'
    return generator.choice(
        (
            lambda: generator.randbytes(generator.choice((1, 50, 5000))),
            lambda: b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            lambda: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
            lambda: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
            lambda: chunked + b"ffffffffffffffff\r\nx",
            lambda: chunked + b"-1\r\nx\r\n0\r\n\r\n",
            lambda: chunked + b"%x\r\n" % len(body) + body,
            lambda: chunked + b"2\r\nxxxx\r\n0\r\n\r\n",
            lambda: chunked + b"1;" + b"e" * 100_000 + b"\r\nx\r\n0\r\n\r\n",
            lambda: post("/v1/completions", body, "Content-Length: 3"),
            lambda: post("/v1/completions", body, "Transfer-Encoding: chunked"),
            lambda: b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n" + body,
            lambda: (
                b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999\r\n\r\n" + body
            ),
            lambda: (
                b"POST /tokenize HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
            ),
            lambda: b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
            lambda: b"GET /%zz?%ff=%00 HTTP/1.1\r\nHost: a\r\n\r\n",
            lambda: (
                b"GET http://other/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            ),
            lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            lambda: b"GET / HTTP/9.9\r\n\r\n",
            lambda: b"GET /health HTTP/1.1\r\n folded: x\r\n\r\n",
            lambda: (
                generator.choice((b"DELETE", b"TRACE", b"CONNECT", b"OPTIONS", b"\xff"))
                + b" / HTTP/1.1\r\nHost: a\r\n\r\n"
            ),
            lambda: post("/v1/completions", b"[" * 50_000),
            lambda: post("/v1/completions", b"\xff\xfe" + body),
        )
    )()


class Client:
    """One client, with requests of all kinds one after another."""

    def __init__(self, port: int, pid: int, seed: str) -> None:
        self.statuses: collections.Counter[int] = collections.Counter()
        self.findings: list[str] = []
        self._port, self._pid = port, pid
        self._generator = random.Random(seed)

    def run(self, count: int, answer: Any) -> None:
        """Make ``count`` requests; honest ones get the answer, or the one that there is no place."""
        for _ in range(count):
            kind = self._generator.choice(("honest", "leaves", "slow", "wrong", "malformed", "half closed"))
            try:
                self._request(kind, answer)
            except ConnectionError as error:  # the service may hang up on what is no request
                if kind == "honest":
                    self.findings.append(f"an honest client was left alone: {error!r}")
            except TimeoutError:
                self.findings.append(f"{kind}: no answer in {_TIMEOUT} s")

    def _request(self, kind: str, answer: Any) -> None:
        generator = self._generator
        with socket.create_connection(("127.0.0.1", self._port), timeout=_TIMEOUT) as connection:
            if kind == "honest":
                connection.sendall(completion(generator, max_tokens=8, stream=False))
                status, body = self._response(connection)
                if status == 200 and json.loads(body)["choices"][0]["text"] != answer:
                    self.findings.append("an honest client got another text")
                elif status not in (200, _FULL, 429):
                    self.findings.append(f"an honest client got {status}: {body[:200]!r}")
                return
            if kind in ("leaves", "slow"):
                data = completion(generator)
                cut = generator.randrange(1, len(data)) if kind == "slow" else len(data)
                connection.sendall(data[:cut])
                if kind == "slow":
                    connection.sendall(data[cut:])
                if generator.random() < 0.5:
                    connection.recv(20)
                return  # without the rest
            connection.sendall(wrong_value(generator) if kind != "malformed" else malformed(generator))
            connection.shutdown(socket.SHUT_WR)
            if kind != "half closed":
                self._response(connection)

    def _response(self, connection: socket.socket) -> tuple[int, bytes]:
        data = b""
        while chunk := connection.recv(1 << 16):
            data += chunk
            head, blank, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if blank and length and len(body) >= int(length[1]):
                break
        found = _STATUS.match(data)
        status = int(found[1]) if found else 0
        self.statuses[status] += 1
        if status >= 500 and status != _FULL:
            self.findings.append(f"status {status}: {data[-300:]!r}")
        return status, data.partition(b"\r\n\r\n")[2]


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def ask(url: str) -> Any:
    """The text that an honest client gets when nobody else is there."""
    body = json.dumps({"prompt": _PROMPT, "max_tokens": 8, "seed": 1}).encode()
    request = Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=_TIMEOUT) as response:
        return json.load(response)["choices"][0]["text"]


def settled(url: str, pid: int, before: int) -> str:
    """What is still held when all clients are gone."""
    fault, end = "none", time.monotonic() + _TIMEOUT
    while fault and time.monotonic() < end:
        with urlopen(f"{url}/metrics", timeout=_TIMEOUT) as response:
            metrics = response.read().decode()
        busy = re.findall(r"(?m)^vllm:num_requests_(?:running|waiting)\S* (\S+)$", metrics)
        more = descriptors(pid) - before
        fault = f"{busy} texts run or wait" if any(map(float, busy)) else ""
        fault = fault or (f"{more} descriptors are left open" if more > 2 else "")
        if fault:
            time.sleep(0.1)
    return fault


def main(count: int, seed: int) -> dict[str, Any]:
    """Let the clients at a service."""
    places = ("--max-sequences", "3", "--max-waiting", "2", "--threads", "1")
    with command(*places) as served:
        answer = ask(served.url)
        pid, port = served.process.pid, int(served.url.rpartition(":")[2])
        before = descriptors(pid)
        clients = [Client(port, pid, f"{seed} {number}") for number in range(_CLIENTS)]
        threads = [threading.Thread(target=client.run, args=(count, answer)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        findings = [finding for client in clients for finding in client.findings]
        if served.process.poll() is not None:
            findings.append(
                f"the service ended with {served.process.returncode}: {''.join(served.log[-20:])}"
            )
        else:
            findings += filter(None, [settled(served.url, pid, before)])
            if ask(served.url) != answer:
                findings.append("another text afterwards")
        findings += [line for line in served.log if "Traceback" in line]
    statuses = sum((client.statuses for client in clients), collections.Counter())
    shown = {str(status): number for status, number in sorted(statuses.items())}
    return {"part": "clients", "requests": count * _CLIENTS, "statuses": shown, "findings": findings[:20]}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
