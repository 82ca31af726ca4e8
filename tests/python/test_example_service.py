"""The example of a web service, as a server calls it: answers, refusals, clients that leave."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import async_service

from gpt2fast import GPT2
from support.event_loops import ENDLESS
from support.processes import SECONDS

# The embedded model's own defaults draw texts, which can't be compared.
async_service.model.close()
async_service.model = GPT2.from_pretrained(max_waiting=async_service.WAITING, generation_config=None)


class Client:
    """One request. It leaves when it has received so many parts of the answer's body, or at the end."""

    def __init__(self, path: str, fields: Any, *, parts: float = float("inf")) -> None:
        self.status = 0
        self.body = b""
        self._body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        self._path = path
        self._parts = parts
        self._gone = asyncio.Event()
        self._sent = False

    def leave(self) -> None:
        self._gone.set()

    async def ask(self) -> Client:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "headers": [],
        }
        await async_service.app(scope, self._receive, self._send)
        return self

    async def _receive(self) -> dict[str, Any]:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
        self._parts -= "body" in message
        if self._parts <= 0:
            self.leave()


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), SECONDS))  # type: ignore[arg-type]


def expected(prompt: str, tokens: int) -> str:
    return async_service.model.generate(prompt, max_new_tokens=tokens).text


def test_answers_whole_and_in_parts() -> None:
    async def main() -> None:
        fields = {"prompt": "The wolf", "max_new_tokens": 20}
        whole, parts, short = await asyncio.gather(
            Client("/generate", fields).ask(),
            Client("/stream", fields).ask(),
            Client("/generate", {"prompt": "Once"}).ask(),
        )
        assert (whole.status, parts.status, short.status) == (200, 200, 200)
        assert json.loads(whole.body) == {"text": expected("The wolf", 20), "finish_reason": "length"}
        assert parts.body.decode() == expected("The wolf", 20)
        assert json.loads(short.body)["text"] == expected("Once", 40)

    run(main)


@pytest.mark.parametrize("path", ["/generate", "/stream"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (b"words", "send a JSON object with a prompt"),
        ([1], "send a JSON object with a prompt"),
        ({"prompt": 5}, "prompt must be text, and max_new_tokens an integer"),
        ({"prompt": "a", "max_new_tokens": 5000}, "n_positions"),
    ],
)
def test_refusals(path: str, fields: Any, message: str) -> None:
    async def main() -> None:
        refused = await Client(path, fields).ask()
        assert refused.status == 400
        assert message in refused.body.decode()

    run(main)


@pytest.mark.parametrize("path", ["/generate", "/stream"])
def test_a_client_that_leaves_ends_its_text(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    model = async_service.model
    endless = {name: value for name, value in ENDLESS.items() if name != "max_new_tokens"}
    for method in ("agenerate", "astream"):  # no text ends before its client leaves
        monkeypatch.setattr(model, method, partial(getattr(model, method), **endless))

    async def main() -> None:
        before = model.stats().cancelled
        client = Client(path, {"prompt": "Once", "max_new_tokens": ENDLESS["max_new_tokens"]}, parts=3)
        asking = asyncio.create_task(client.ask())
        if path == "/generate":  # it sends nothing before the end
            await Client("/stream", {"prompt": "Twice", "max_new_tokens": 5}).ask()
            assert model.stats().running == 1
            client.leave()
        await asking
        await model.agenerate("Twice", max_new_tokens=1)  # a step later
        stats = model.stats()
        assert (stats.cancelled - before, stats.running) == (1, 0)
        assert client.status == (499 if path == "/generate" else 200)

    run(main)


def test_one_too_many_is_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    small = async_service.GPT2.from_pretrained(max_sequences=1, max_waiting=0)
    monkeypatch.setattr(async_service, "model", small)

    async def main() -> None:
        chunks = small.astream("Once", **ENDLESS)
        await anext(chunks)
        assert small.stats().running == 1
        for path in ("/generate", "/stream"):
            refused = await Client(path, {"prompt": "Twice"}).ask()
            assert refused.status == 429
            assert "wait" in refused.body.decode()
        await chunks.aclose()

    run(main)
