"""Requests as long as may be: they hold up nobody else, and ask for no more work than their limits allow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest

from gpt2fast import GPT2, GenerationOptions
from gpt2fast.serving import Limits, Settings, model_calls, request_body
from gpt2fast.serving.model_calls import ModelCalls
from support.live_server import LiveServer, live_server

Post = Callable[..., Any]

COMPLETIONS = "/v1/completions"
LONG_TEXT = "a b " * 20_000
LONG_IDS = [5] * 40_000
BRIEF = {"max_tokens": 1}


@pytest.mark.parametrize(
    ("owner", "name", "path", "fields", "status"),
    [
        (request_body, "_checked", "/tokenize", {"prompt": LONG_TEXT}, 200),
        (ModelCalls, "_token_ids", "/tokenize", {"prompt": LONG_TEXT}, 200),
        (ModelCalls, "_token_ids", COMPLETIONS, {"prompt": LONG_IDS, **BRIEF}, 400),
        (ModelCalls, "_decode", "/detokenize", {"tokens": LONG_IDS}, 200),
        (model_calls, "choose_options", COMPLETIONS, {"suppress_tokens": LONG_IDS, **BRIEF}, 200),
        (model_calls, "choose_options", COMPLETIONS, {"bad_words": [LONG_TEXT], **BRIEF}, 200),
        (model_calls, "read_call", COMPLETIONS, {"suppress_tokens": LONG_IDS, **BRIEF}, 200),
        (
            orjson,
            "dumps",
            COMPLETIONS,
            {"prompt": [[5] * 200] * 2, "max_tokens": 0, "echo": True, "logprobs": 60},
            200,
        ),
    ],
)
def test_what_takes_long_is_done_beside_the_event_loop(
    server: LiveServer,
    post: Post,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    path: str,
    fields: dict[str, Any],
    status: int,
) -> None:
    threads: list[threading.Thread] = []
    real = getattr(owner, name)

    def watched(*arguments: Any, **named: Any) -> Any:
        threads.append(threading.current_thread())
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, watched)
    post(path, status, **fields)
    assert threads
    assert server.thread not in threads


def test_too_many_prompts_are_refused_before_they_are_read(
    server: LiveServer, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(server.service.calls, "_token_ids", read)
    error = post(COMPLETIONS, 400, prompt=[""] * 2049)["error"]
    assert error["param"] == "prompt"
    assert error["message"] == "prompt must have at most 2048 entries on this server, got 2049"


@pytest.mark.parametrize(
    ("path", "fields", "param", "message"),
    [
        (COMPLETIONS, {"bad_words": ["a"] * 2049}, "bad_words", "at most 2048 entries"),
        (
            COMPLETIONS,
            {"prompt": [[5] * 500] * 50, "max_tokens": 0, "echo": True, "logprobs": 100},
            "logprobs",
            "logprobs=100 for 25000 tokens are 2525000 values, more than 2097152",
        ),
        (
            "/v1/score",
            {"input": [5] * 4000, "stride": 1},
            "stride",
            "stride=1 makes windows of 1785856 tokens together",
        ),
        ("/v1/rank", {"prompt": "a", "choices": [[5] * 150_000] * 2}, "choices", "262144 tokens together"),
        (COMPLETIONS, {"regex": "a" * 65_537}, "regex", "at most 65536 characters on this server, got 65537"),
        (COMPLETIONS, {"choices": ["a" * 40_000, "b" * 40_000]}, "choices", "got 80000"),
    ],
)
def test_work_that_multiplies_is_limited(
    post: Post, path: str, fields: dict[str, Any], param: str, message: str
) -> None:
    error = post(path, 400, **fields)["error"]
    assert error["param"] == param
    assert message in error["message"]


def test_a_long_text_may_be_scored_with_a_stride(post: Post) -> None:
    whole = post("/v1/score", input=[5] * 600, stride=88)
    assert len(whole["data"][0]["token_ids"]) == 600


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/score", {"input": [5] * 20_000}),
        ("/v1/embeddings", {"input": [[5] * 500] * 40}),
        ("/v1/rank", {"prompt": "a", "choices": [[5] * 400] * 50}),
        (COMPLETIONS, {"regex": "[a-z]*"}),
    ],
)
def test_time_is_limited_where_no_text_could_end(model: GPT2, path: str, fields: dict[str, Any]) -> None:
    settings = Settings(limits=Limits(seconds=1e-5))
    with live_server(model, settings) as live, httpx.Client(base_url=live.url, timeout=120) as client:
        response = client.post(path, json=fields)
        assert response.status_code == 503
        assert "took more than 1e-05 seconds, waiting included" in response.json()["error"]["message"]
        assert client.get("/health").status_code == 200


def test_constraints_are_compiled_in_turn(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at a time; one whose client left while it waited is never begun."""
    begun, go_on = threading.Semaphore(0), threading.Event()
    calls: list[Any] = []

    def read(*_: Any, **__: Any) -> None:
        calls.append(1)
        begun.release()
        assert go_on.wait(120)

    monkeypatch.setattr(model_calls, "read_call", read)

    async def work() -> None:
        service = ModelCalls(model, Limits())
        options = GenerationOptions(regex="a")
        tasks = [asyncio.create_task(service._read([[5]], options)) for _ in range(4)]
        for _ in range(2):
            await asyncio.to_thread(begun.acquire)
        tasks[2].cancel()
        await asyncio.wait(tasks[2:3])
        assert len(calls) == 2
        go_on.set()
        await asyncio.wait(tasks)

    asyncio.run(work())
    assert len(calls) == 3
