"""``python -m benchmarks.service_http``: what HTTP costs: the server against the same model in this process.

Random weights of 124M's size in int8; both sides take turns. With ``--full`` also 10,000 requests made up
from the schema (needs ``gpt2fast[server-test]``) and a minute of load (needs ``wrk``).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.checkpoints import checkpoint_directory
from benchmarks.report import target_table
from benchmarks.targets import Target
from gpt2fast import GPT2
from gpt2fast._native import core

_IDLE_CONNECTIONS = 500
_IDLE_SECONDS = 3.0
_PROMPT = 16  # tokens
_FIRST_TOKENS = 10  # measured in each turn: the difference is small beside their spread
# Servers, and models in this process, one after another: where a process has its memory makes its steps
# faster or slower by several per cent, which is more than the difference that is sought.
_STARTS = 5


@dataclass
class Served:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    start_seconds: float

    def memory_mb(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def processor_seconds(self) -> float:
        """Processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Parse the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service_http", description=__doc__)
    parser.add_argument("--size", default="124M")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int, default=core.usable_cores())
    parser.add_argument("--clients", type=int, default=32, help="at the same time (default: 32)")
    parser.add_argument("--tokens", type=int, default=64, help="of each text (default: 64)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--full", action="store_true", help="also what tests do in small, in full")
    arguments = parser.parse_args()
    checkpoint = checkpoint_directory(arguments.size, arguments.work.resolve())
    options = ["--precision", arguments.precision, "--threads", str(arguments.threads)]
    starts, delays = [], []
    for _ in range(_STARTS):
        model = GPT2.from_pretrained(checkpoint, precision=arguments.precision, threads=arguments.threads)
        with served(checkpoint, options) as server:
            starts.append(server.start_seconds)
            delays.append(_first_token_delay(model, server, arguments.repeats * _FIRST_TOKENS))
            if len(starts) == _STARTS:
                targets = measure(model, server, arguments.clients, arguments.tokens, arguments.repeats)
    first = "first token over HTTP minus in the process"
    targets.append(Target(first, "2 ms", median(delays) * 1000 / 2, 1, False))
    targets.append(Target("process start to /ready, cached model", "1.2 s", median(starts) / 1.2, 1, False))
    print(target_table(targets))
    if arguments.full:
        folder = "tests/python/serving"
        tests = [f"{folder}/test_openapi.py", f"{folder}/test_load.py", "--timeout=3600"]
        environment = {**os.environ, "GPT2FAST_SERVICE_REQUESTS": "10000", "GPT2FAST_LOAD_SECONDS": "60"}
        subprocess.run([sys.executable, "-m", "pytest", *tests], env=environment, check=True)


@contextmanager
def served(checkpoint: Path, options: list[str]) -> Iterator[Served]:
    """``gpt2fast serve`` with a model that is in the cache."""
    command = [sys.executable, "-m", "gpt2fast", "serve", str(checkpoint), "--port", "0", *options]
    # Modules are compiled once, as pip does it: the first of several starts takes longer.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(checkpoint.parent / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--log-level", "warning", "--served-model-name", "benchmark"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        seconds = time.perf_counter() - started
        assert address is not None
        yield Served(process, int(address[1]), seconds)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def measure(model: GPT2, server: Served, clients: int, tokens: int, repeats: int) -> list[Target]:
    """The server beside the model in this process, in turns."""
    rates = _rates(model, server, clients, tokens, repeats)
    in_process, over_http, streams = (median(values) for values in rates.values())
    memory, processor = asyncio.run(_idle(server))
    idle = f"{_IDLE_CONNECTIONS} idle connections"
    generate = "generate in the process"
    return [
        Target(f"{clients} clients over HTTP, tokens a second", generate, over_http / in_process, 0.9, True),
        Target(f"{clients} streams over HTTP, tokens a second", generate, streams / in_process, 0.75, True),
        Target(f"{idle}: memory", "50 MB", memory / 50, 1, False),
        Target(f"{idle}: processor time", "1 % of a core", processor / 0.01, 1, False),
    ]


def _rates(model: GPT2, server: Served, clients: int, tokens: int, repeats: int) -> dict[str, list[float]]:
    """Tokens a second of each way; the first turn warms up and does not count."""
    generator = np.random.default_rng(1)
    ways: dict[str, Callable[[list[list[int]]], float]] = {
        "in the process": lambda prompts: _in_process(model, prompts, tokens),
        "over HTTP": lambda prompts: _over_http(server, prompts, tokens, stream=False),
        "streams": lambda prompts: _over_http(server, prompts, tokens, stream=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            rate = way(_prompts(model, generator, clients, _PROMPT))
            if repeat > 0:
                rates[name].append(rate)
    return rates


def _first_token_delay(model: GPT2, server: Served, repeats: int) -> float:
    """Seconds by which the median first token comes later over HTTP; one client, prompts that are new."""
    generator = np.random.default_rng(2)
    seconds: list[tuple[float, float]] = []
    for _ in range(repeats + 1):
        own, sent = _prompts(model, generator, 2, _PROMPT)
        seconds.append((_first_token(model, own), _first_byte(server, sent)))
    in_process, over_http = (median(values) for values in zip(*seconds[1:], strict=True))
    return over_http - in_process


def _prompts(model: GPT2, generator: np.random.Generator, count: int, length: int) -> list[list[int]]:
    """Such as none was read before: nothing of them is in the prefix cache."""
    prompts: list[list[int]] = generator.integers(0, model.config.vocab_size, (count, length)).tolist()
    return prompts


def _in_process(model: GPT2, prompts: list[list[int]], tokens: int) -> float:
    started = time.perf_counter()
    results = model.generate(prompts, max_new_tokens=tokens, eos_token_id=[])
    assert all(len(result.token_ids) == tokens for result in results)
    return len(prompts) * tokens / (time.perf_counter() - started)


def _first_token(model: GPT2, prompt: list[int]) -> float:
    started = time.perf_counter()
    stream = model.stream(prompt, max_new_tokens=2, eos_token_id=[])
    next(stream)
    seconds = time.perf_counter() - started
    stream.close()
    return seconds


def _over_http(server: Served, prompts: list[list[int]], tokens: int, *, stream: bool) -> float:
    """Tokens a second of as many clients as prompts, each with a connection that it keeps."""
    return asyncio.run(_ask_all(server, prompts, tokens, stream=stream))


async def _ask_all(server: Served, prompts: list[list[int]], tokens: int, *, stream: bool) -> float:
    connections = [await asyncio.open_connection("127.0.0.1", server.port) for _ in prompts]
    requests = [_request(prompt, tokens, stream=stream) for prompt in prompts]
    started = time.perf_counter()
    asked = [
        _ask(reader, writer, request, stream=stream)
        for (reader, writer), request in zip(connections, requests, strict=True)
    ]
    counts = await asyncio.gather(*asked)
    seconds = time.perf_counter() - started
    assert counts == [tokens] * len(prompts)
    for _, writer in connections:
        writer.close()
    return len(prompts) * tokens / seconds


def _request(prompt: list[int], tokens: int, *, stream: bool) -> bytes:
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "eos_token_id": []}
    if stream:
        body["stream"] = True
        body["return_token_ids"] = True  # an event for each token, whether it has a text or not
    data = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, *, stream: bool
) -> int:
    """How many tokens an answer says that it has."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    if stream:
        return (await reader.readuntil(b"data: [DONE]\n\n")).count(b'"token_ids":[')
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    answer = json.loads(await reader.readexactly(length))
    count: int = answer["usage"]["completion_tokens"]
    return count


def _first_byte(server: Served, prompt: list[int]) -> float:
    async def ask() -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        request = _request(prompt, 2, stream=True)
        started = time.perf_counter()
        writer.write(request)
        await reader.readuntil(b"data: {")
        seconds = time.perf_counter() - started
        await reader.readuntil(b"data: [DONE]\n\n")
        writer.close()
        return seconds

    return asyncio.run(ask())


async def _idle(server: Served) -> tuple[float, float]:
    """Megabytes and share of a core that connections cost which say nothing."""
    memory = server.memory_mb()
    writers = []
    for _ in range(_IDLE_CONNECTIONS):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"}")
        writers.append(writer)
    processor = server.processor_seconds()
    await asyncio.sleep(_IDLE_SECONDS)
    used = (server.processor_seconds() - processor) / _IDLE_SECONDS
    grown = server.memory_mb() - memory
    for writer in writers:
        writer.close()
    return grown, used


if __name__ == "__main__":
    main()
