"""The plan of a request for generated text: prompts and options, checked before any work."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpt2fast.inference.options import CONSTRAINTS, GenerationOptions
from gpt2fast.serving.errors import bad_request
from gpt2fast.serving.openai import GenerationRequest, ResponseFormat
from gpt2fast.serving.service import Service
from gpt2fast.serving.settings import Limits

#: The default of OpenAI's completions.
DEFAULT_MAX_TOKENS = 16

#: Log-probabilities that a request may ask for, for each token that it may have.
LOGPROBS_PER_TOKEN = 8


@dataclass(frozen=True)
class Plan:
    """A request that may run.

    Attributes
    ----------
    prompts : list of list of int
        What the model reads.
    options : GenerationOptions
        How to generate.
    n : int
        Texts of each prompt.
    stream, include_usage, with_ids : bool
        What the answer holds, and how it is sent.
    id : str
        The answer's id.
    started : float
        When the request came, on ``time.perf_counter``'s clock.
    created : int
        The same, in seconds since 1970.
    """

    prompts: list[list[int]]
    options: GenerationOptions
    n: int
    stream: bool
    include_usage: bool
    with_ids: bool
    id: str
    started: float
    created: int


async def make_plan(
    service: Service,
    body: GenerationRequest,
    prompts: list[list[int]],
    *,
    prompt_name: str,
    max_tokens: int | None,
    default_max_tokens: int,
    kind: str,
    extra: dict[str, Any],
) -> Plan:
    """The plan of a request.

    Parameters
    ----------
    service : Service
        Runs the plan.
    body : GenerationRequest
        The request.
    prompts : list of list of int
        What to continue, none empty.
    prompt_name : str
        The name of the prompts in errors.
    max_tokens : int or None
        As requested. None: ``default_max_tokens``, or as many as there is room for.
    default_max_tokens : int
        See ``max_tokens``.
    kind : str
        The beginning of the answer's id.
    extra : dict
        Options of this route, by the library's names.

    Raises
    ------
    ApiError, TypeError, ValueError
        A field is wrong, or exceeds a limit.
    """
    limits, n_positions = service.settings.limits, service.calls.config.n_positions
    if max_tokens is None:
        max_tokens = max(1, min(default_max_tokens, n_positions - max(map(len, prompts))))
    stream = bool(body.stream)
    if body.stream_options is not None and not stream:
        raise bad_request("stream_options is for streams only: give stream=true", "stream_options")
    values = body.options()
    n = values.pop("n", None) or 1
    values.pop("max_tokens", None)
    if "stop" in values:
        values["stop_strings"] = values.pop("stop")
    values.update({name: value for name, value in extra.items() if value is not None})
    values["max_new_tokens"] = max_tokens
    _choose_copies(values, n)
    _constrain(values, body.response_format)
    values["max_time"] = min(values.get("max_time", limits.seconds), limits.seconds)
    options = await service.calls.options(values)
    service.check_count(len(options.bad_words), "bad_words")
    _check_stream(stream, options)
    _check_limits(prompts, options, limits)
    room = n_positions - max_tokens
    if options.overflow == "truncate" and room > 0:
        prompts = [prompt if len(prompt) <= room + 1 else prompt[-room:] for prompt in prompts]
    elif options.overflow != "slide":
        _check_context(prompts, max_tokens, n_positions, prompt_name)
    return Plan(
        prompts=prompts,
        options=options,
        n=n,
        stream=stream,
        include_usage=body.stream_options is not None and bool(body.stream_options.include_usage),
        with_ids=bool(body.return_token_ids),
        id=f"{kind}-{os.urandom(16).hex()}",
        started=time.perf_counter(),
        created=int(time.time()),
    )


def _choose_copies(values: dict[str, Any], n: int) -> None:
    """Set how many texts each prompt gets; by default they are drawn, as OpenAI's are."""
    best_of = values.pop("best_of", None)
    if best_of is not None and best_of < n:
        raise bad_request(f"best_of ({best_of}) must be at least n ({n})", "best_of")
    if values.setdefault("num_beams", 1) == 1 and values.get("temperature") != 0:
        values.setdefault("do_sample", True)
    values["num_return_sequences"] = n
    if best_of is not None and best_of > n:
        values["best_of"] = best_of


def _constrain(values: dict[str, Any], wanted: ResponseFormat | None) -> None:
    """Turn OpenAI's ``response_format`` into a constraint of the library."""
    if wanted is None or wanted.type == "text":
        return
    given = next((name for name in CONSTRAINTS if name in values), None)
    if given is not None:
        raise bad_request(f"response_format contradicts {given}; leave one of them out", "response_format")
    if wanted.type == "json_object":
        values["json_schema"] = {"type": "object"}
    elif wanted.json_schema is None:
        raise bad_request("response_format.json_schema is missing", "response_format.json_schema")
    else:
        values["json_schema"] = wanted.json_schema.schema_


def _check_stream(stream: bool, options: GenerationOptions) -> None:
    for name in ("num_beams", "best_of"):
        if stream and (getattr(options, name) or 1) > 1:
            raise bad_request(f"{name} chooses whole texts and can't stream; leave out stream", name)


def _check_limits(prompts: Sequence[list[int]], options: GenerationOptions, limits: Limits) -> None:
    """Check what the fields alone don't tell; each integer is in its range, see ``fields``."""
    for name in CONSTRAINTS:
        value: str | Sequence[str] = getattr(options, name) or ""
        size = len(value) if isinstance(value, str) else sum(map(len, value))
        if size > limits.grammar:
            raise bad_request(
                f"{name} must have at most {limits.grammar} characters on this server, got {size}", name
            )
    each = max(options.num_return_sequences or 1, options.best_of or 1, options.num_beams)
    tokens = each * sum(len(prompt) + options.max_new_tokens for prompt in prompts)
    if tokens > limits.tokens:
        raise bad_request(
            f"all texts of a request may have {limits.tokens} tokens together on this server, prompts "
            f"included; this one asks for {tokens}",
            "max_tokens",
        )
    if options.logprobs is not None:
        reported = tokens if options.echo else each * len(prompts) * options.max_new_tokens
        values, most = reported * (options.logprobs + 1), limits.tokens * LOGPROBS_PER_TOKEN
        if values > most:
            raise bad_request(
                f"logprobs={options.logprobs} for {reported} tokens are {values} values, more than {most} on "
                f"this server; ask for fewer, or for fewer tokens",
                "logprobs",
            )


def _check_context(prompts: Sequence[list[int]], max_tokens: int, n_positions: int, prompt_name: str) -> None:
    for tokens in map(len, prompts):
        # The last token is not read, so it needs no position.
        if tokens + max_tokens > n_positions + (max_tokens > 0):
            raise bad_request(
                f"This model's maximum context length is {n_positions} tokens, but this request has "
                f"{tokens} in its prompt and asks for {max_tokens} more, {tokens + max_tokens} in all. "
                f"Shorten the prompt, ask for fewer, or give overflow='truncate' (keep the newest) or "
                f"'slide' (also drop old text as the output grows).",
                prompt_name,
                "context_length_exceeded",
            )
