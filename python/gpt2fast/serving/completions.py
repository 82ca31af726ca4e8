"""``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from gpt2fast.serving.errors import bad_request
from gpt2fast.serving.event_stream import EventStream, event
from gpt2fast.serving.generated_text import FINISH_REASONS, TextStream, complete, response
from gpt2fast.serving.logprobs import completion_logprobs
from gpt2fast.serving.plan import DEFAULT_MAX_TOKENS, Plan, make_plan
from gpt2fast.serving.service import Service

if TYPE_CHECKING:
    from gpt2fast.inference.results import Generation, StreamChunk, TokenLogprobs
    from gpt2fast.serving.openai import CompletionFields
    from gpt2fast.serving.token_names import TokenOffsets


async def create_completion(service: Service, body: CompletionFields) -> Response | EventStream:
    """Texts that continue prompts."""
    if body.suffix is not None:
        raise bad_request("suffix is not supported: GPT-2 continues texts and can't fill in", "suffix")
    given: Any = body
    service.check_count(len(given.prompt), "prompt")
    plan = await make_plan(
        service,
        body,
        await service.calls.token_ids(given.prompt, "prompt"),
        prompt_name="prompt",
        max_tokens=given.max_tokens,
        default_max_tokens=DEFAULT_MAX_TOKENS,
        kind="cmpl",
        extra={"logprobs": given.logprobs, "echo": body.echo},
    )
    if plan.stream:
        limits = service.settings.limits
        return EventStream(_events(service, plan), service.lifecycle, limits.stalled_seconds)
    results, usage = await complete(service, plan)

    def answer() -> dict[str, Any]:
        choices = [_choice(service, plan, index, result) for index, result in results]
        return {**_envelope(service, plan), "choices": choices, "usage": usage.answer()}

    return await response(results, answer)


def _envelope(service: Service, plan: Plan) -> dict[str, Any]:
    return {
        "id": plan.id,
        "object": "text_completion",
        "created": plan.created,
        "model": service.settings.model_name,
        "system_fingerprint": service.calls.fingerprint,
    }


def _choice(service: Service, plan: Plan, index: int, result: Generation) -> dict[str, Any]:
    ids = [*result.prompt_token_ids, *result.token_ids] if plan.options.echo else result.token_ids
    choice: dict[str, Any] = {
        "text": result.text,
        "index": index,
        "logprobs": _logprobs(service, plan, ids, result.logprobs, None),
        "finish_reason": FINISH_REASONS[result.finish_reason],
    }
    if result.seed is not None:
        choice["seed"] = result.seed
    if plan.with_ids:
        choice["token_ids"] = result.token_ids
        if index % plan.n == 0:
            choice["prompt_token_ids"] = result.prompt_token_ids
    return choice


def _logprobs(
    service: Service,
    plan: Plan,
    ids: list[int],
    logprobs: TokenLogprobs | None,
    offsets: TokenOffsets | None,
) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    names = service.names
    return completion_logprobs(ids, logprobs, names, offsets or names.offsets(), with_ids=plan.with_ids)


async def _events(service: Service, plan: Plan) -> AsyncGenerator[bytes, None]:
    """The events of a stream but its last; with ``echo``, those of the prompts come first."""
    envelope = _envelope(service, plan)
    if plan.include_usage:
        envelope["usage"] = None
    stream_logprobs = _StreamLogprobs(service, plan)
    await stream_logprobs.read_prompts()
    unnamed = {position * plan.n: prompt for position, prompt in enumerate(plan.prompts) if plan.with_ids}
    texts = TextStream(service, plan)
    async with aclosing(texts.chunks()) as chunks:
        async for chunk in chunks:
            reason = FINISH_REASONS[chunk.finish_reason]
            logprobs = stream_logprobs.of(chunk)
            if not (chunk.text or reason or logprobs or plan.with_ids):
                continue  # so far a part of a character, or what may begin a stop string
            choice: dict[str, Any] = {
                "text": chunk.text,
                "index": chunk.index,
                "logprobs": logprobs,
                "finish_reason": reason,
            }
            if plan.with_ids:
                choice["token_ids"] = chunk.token_ids
                if chunk.index in unnamed:
                    choice["prompt_token_ids"] = unnamed.pop(chunk.index)
            yield event({**envelope, "choices": [choice]})
    if plan.include_usage:
        yield event({**envelope, "choices": [], "usage": texts.usage.answer()})


class _StreamLogprobs:
    """The object ``logprobs`` of each chunk of a stream; an echoed prompt's comes with its text's first."""

    def __init__(self, service: Service, plan: Plan) -> None:
        self._service = service
        self._plan = plan
        count = 0 if plan.options.logprobs is None else len(plan.prompts) * plan.n
        self._offsets = [service.names.offsets() for _ in range(count)]
        self._unsent: dict[int, Generation] = {}

    async def read_prompts(self) -> None:
        """Read those of the prompts, if they are to be echoed."""
        plan = self._plan
        if plan.options.echo and plan.options.logprobs is not None:
            echoed = await self._service.calls.echoed(plan.prompts, plan.options)
            for position, (prompt,) in enumerate(echoed):
                self._unsent |= dict.fromkeys(range(position * plan.n, (position + 1) * plan.n), prompt)

    def of(self, chunk: StreamChunk) -> dict[str, Any] | None:
        """Those of a chunk's tokens, or of the prompt that it is."""
        if not self._offsets:
            return None
        ids, logprobs = chunk.token_ids, chunk.logprobs
        if prompt := self._unsent.pop(chunk.index, None):
            ids, logprobs = prompt.prompt_token_ids, prompt.logprobs
        return _logprobs(self._service, self._plan, ids, logprobs, self._offsets[chunk.index])
