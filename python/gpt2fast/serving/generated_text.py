"""Runs a plan, whole or as a stream, and counts its tokens. Each interface puts them into its own form."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from gpt2fast.serving.plan import Plan
from gpt2fast.serving.service import Service

if TYPE_CHECKING:
    from gpt2fast.inference.results import Generation, StreamChunk

# The library's finish reasons -> OpenAI's.
FINISH_REASONS = {
    None: None,
    "length": "length",
    "time": "length",
    "stop": "stop",
    "eos": "stop",
    "constraint": "stop",
    "cancelled": "stop",
}

# Answers of fewer tokens and log-probabilities are put together while the event loop waits.
_SHORT = 20_000


@dataclass
class Usage:
    """Tokens of a request.

    Attributes
    ----------
    prompt, completion : int
        Tokens read, and tokens generated.
    cached : int or None
        Tokens of the prompt that were taken from the cache; None while that is not known.
    """

    prompt: int
    completion: int = 0
    cached: int | None = None

    def answer(self) -> dict[str, Any]:
        """The object ``usage`` of an answer."""
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }
        if self.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached}
        return usage


async def complete(service: Service, plan: Plan) -> tuple[list[tuple[int, Generation]], Usage]:
    """The texts, each with its place among the choices (prompt by prompt), and the tokens used."""
    before = time.perf_counter() - plan.started
    groups = await service.calls.complete(plan.prompts, plan.options)
    usage = Usage(prompt=0, cached=0)
    found = []
    first_tokens = [one.first_token_seconds for group in groups for one in group]
    if begun := [seconds for seconds in first_tokens if seconds is not None]:
        service.metrics.first_token(before + min(begun))
    for position, group in enumerate(groups):
        tokens, cached = len(group[0].prompt_token_ids), group[0].cached_tokens
        usage.prompt += tokens
        usage.cached = (usage.cached or 0) + cached
        service.metrics.prompt(tokens)
        for number, result in enumerate(group):
            usage.completion += len(result.token_ids)
            service.metrics.text(len(result.token_ids), FINISH_REASONS[result.finish_reason] or "")
            if result.first_token_seconds is not None and result.last_token_seconds is not None:
                rest = result.last_token_seconds - result.first_token_seconds
                service.metrics.next_tokens(rest, len(result.token_ids) - 1)
            _count_stages(service, before, result)
            found.append((position * plan.n + number, result))
    longest = max(len(result.token_ids) for _, result in found)
    _count_request(service, plan, longest)
    return found, usage


async def response(results: list[tuple[int, Generation]], make: Callable[[], dict[str, Any]]) -> Response:
    """The answer that ``make`` puts together of texts: in a thread, where that takes long."""
    size = sum(len(result.token_ids) for _, result in results)
    size += sum(result.logprobs.top.size for _, result in results if result.logprobs is not None)

    def body() -> bytes:
        return orjson.dumps(make())

    data = await asyncio.to_thread(body) if size > _SHORT else body()
    return Response(data, media_type="application/json")


class TextStream:
    """The texts of a plan as they are made.

    Parameters
    ----------
    service : Service
        Runs the plan.
    plan : Plan
        What to run.
    """

    def __init__(self, service: Service, plan: Plan) -> None:
        self._service = service
        self._plan = plan
        for prompt in plan.prompts:
            service.metrics.prompt(len(prompt))
        self.usage = Usage(prompt=sum(map(len, plan.prompts)))
        self._before = 0.0

    async def chunks(self) -> AsyncGenerator[StreamChunk, None]:
        """All chunks, counted."""
        plan, service = self._plan, self._service
        self._before = time.perf_counter() - plan.started
        tokens = [0] * (len(plan.prompts) * plan.n)
        with self._finished_or_aborted(tokens) as unfinished:
            last = [plan.started] * len(tokens)
            async with aclosing(service.calls.stream(plan.prompts, plan.options, self._ended)) as chunks:
                async for chunk in chunks:
                    index, count = chunk.index, len(chunk.token_ids)
                    self._clock(count, tokens, last, index)
                    if chunk.finish_reason is not None:
                        unfinished.discard(index)
                        service.metrics.text(tokens[index], FINISH_REASONS[chunk.finish_reason] or "")
                    yield chunk

    def _ended(self, results: list[Generation]) -> None:
        self.usage.cached = sum(first.cached_tokens for first in results[:: self._plan.n])
        for result in results:
            _count_stages(self._service, self._before, result)

    def _clock(self, count: int, tokens: list[int], last: list[float], index: int) -> None:
        now = time.perf_counter()
        if count and not self.usage.completion:
            self._service.metrics.first_token(now - self._plan.started)
        elif count and tokens[index]:
            self._service.metrics.next_tokens(now - last[index], count)
        last[index] = now
        tokens[index] += count
        self.usage.completion += count

    @contextmanager
    def _finished_or_aborted(self, tokens: list[int]) -> Iterator[set[int]]:
        unfinished = set(range(len(tokens)))
        try:
            yield unfinished
        finally:
            for index in unfinished:
                self._service.metrics.text(tokens[index], "abort")
            _count_request(self._service, self._plan, max(tokens))


def _count_stages(service: Service, before: float, result: Generation) -> None:
    """Count how long a text took to begin, to its first token and to its last; a search has none of these."""
    started, first, last = result.started_seconds, result.first_token_seconds, result.last_token_seconds
    if started is not None and first is not None and last is not None:
        service.metrics.stages(before + started, first - started, last - first)


def _count_request(service: Service, plan: Plan, tokens: int) -> None:
    seconds = time.perf_counter() - plan.started
    service.metrics.request(seconds, tokens, plan.n, plan.options.max_new_tokens)
