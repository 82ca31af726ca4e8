"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from gpt2fast.serving.chat_template import ChatTemplate
from gpt2fast.serving.errors import bad_request
from gpt2fast.serving.event_stream import EventStream, event
from gpt2fast.serving.generated_text import FINISH_REASONS, TextStream, complete, response
from gpt2fast.serving.logprobs import chat_logprobs
from gpt2fast.serving.plan import Plan, make_plan
from gpt2fast.serving.service import Service

if TYPE_CHECKING:
    from gpt2fast.inference.results import Generation, TokenLogprobs
    from gpt2fast.serving.openai import ChatFields


async def create_chat(service: Service, body: ChatFields) -> Response | EventStream:
    """What comes next in a conversation."""
    given: Any = body
    if given.max_tokens is not None and given.max_completion_tokens is not None:
        raise bad_request("max_tokens contradicts max_completion_tokens; leave one of them out", "max_tokens")
    if given.top_logprobs and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs=true", "top_logprobs")
    max_tokens = given.max_tokens if given.max_completion_tokens is None else given.max_completion_tokens
    top = (given.top_logprobs or 0) if body.logprobs else None
    plan = await make_plan(
        service,
        body,
        [await chat_template(service).prompt(body.messages)],
        prompt_name="messages",
        max_tokens=max_tokens,
        default_max_tokens=service.calls.config.n_positions,
        kind="chatcmpl",
        extra={"logprobs": top},
    )
    if plan.stream:
        limits = service.settings.limits
        return EventStream(_events(service, plan), service.lifecycle, limits.stalled_seconds)
    results, usage = await complete(service, plan)

    def answer() -> dict[str, Any]:
        choices = [_choice(service, plan, index, result) for index, result in results]
        return {**_envelope(service, plan, "chat.completion"), "choices": choices, "usage": usage.answer()}

    return await response(results, answer)


def chat_template(service: Service) -> ChatTemplate:
    """The model's template; without one an error that says what to use."""
    if service.chat_template is None:
        raise bad_request(
            f"The model {service.settings.model_name!r} has no chat template: it continues texts. Use "
            f"/v1/completions with a prompt, or start the server with --chat-template.",
            "messages",
            "no_chat_template",
        )
    return service.chat_template


def _envelope(service: Service, plan: Plan, kind: str) -> dict[str, Any]:
    return {
        "id": plan.id,
        "object": kind,
        "created": plan.created,
        "model": service.settings.model_name,
        "system_fingerprint": service.calls.fingerprint,
    }


def _choice(service: Service, plan: Plan, index: int, result: Generation) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": index,
        "message": {"role": "assistant", "content": result.text, "refusal": None},
        "logprobs": _logprobs(service, plan, result.token_ids, result.logprobs),
        "finish_reason": FINISH_REASONS[result.finish_reason],
    }
    if result.seed is not None:
        choice["seed"] = result.seed
    if plan.with_ids:
        choice["token_ids"] = result.token_ids
        if index == 0:
            choice["prompt_token_ids"] = result.prompt_token_ids
    return choice


def _logprobs(
    service: Service, plan: Plan, token_ids: list[int], logprobs: TokenLogprobs | None
) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    return chat_logprobs(token_ids, logprobs, service.names, plan.options.logprobs or 0)


async def _events(service: Service, plan: Plan) -> AsyncGenerator[bytes, None]:
    """The events of a stream but its last."""
    envelope = _envelope(service, plan, "chat.completion.chunk")
    if plan.include_usage:
        envelope["usage"] = None
    silent = set(range(plan.n))
    texts = TextStream(service, plan)
    async with aclosing(texts.chunks()) as chunks:
        async for chunk in chunks:
            index, reason = chunk.index, FINISH_REASONS[chunk.finish_reason]
            if index in silent:
                silent.discard(index)
                yield event({**envelope, "choices": [_first_delta(plan, index)]})
            if not (chunk.text or reason or chunk.logprobs or plan.with_ids):
                continue  # so far a part of a character, or what may begin a stop string
            choice = {
                "index": index,
                "delta": {"content": chunk.text} if chunk.text else {},
                "logprobs": _logprobs(service, plan, chunk.token_ids, chunk.logprobs),
                "finish_reason": reason,
            }
            if plan.with_ids:
                choice["token_ids"] = chunk.token_ids
            yield event({**envelope, "choices": [choice]})
    if plan.include_usage:
        yield event({**envelope, "choices": [], "usage": texts.usage.answer()})


def _first_delta(plan: Plan, index: int) -> dict[str, Any]:
    delta = {"role": "assistant", "content": ""}
    choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    if plan.with_ids and index == 0:
        choice["prompt_token_ids"] = plan.prompts[0]
    return choice
