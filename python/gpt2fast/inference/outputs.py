"""Runs the requests of a call in the core, for whole results or chunk by chunk."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

from gpt2fast._native import core
from gpt2fast.inference.cancellation import Cancellable
from gpt2fast.inference.lazy_text import EchoedText, StreamDecoder, StreamPiece, output_text
from gpt2fast.inference.options import GenerationOptions
from gpt2fast.inference.requests import Call
from gpt2fast.inference.results import FinishReason, Generation, StreamChunk, TokenLogprobs, changed
from gpt2fast.loading.loaded_model import LoadedModel

_FINISH_REASONS: dict[int, FinishReason] = {
    core.FINISH_LENGTH: "length",
    core.FINISH_STOP: "stop",
    core.FINISH_EOS: "eos",
    core.FINISH_TIME: "time",
    core.FINISH_CANCELLED: "cancelled",
    core.FINISH_CONSTRAINT: "constraint",
}
# The core's numbers.
_EARLY_STOPPING: dict[bool | str, int] = {False: 0, True: 1, "never": 2}
# The core takes 0 for no limit.
_SHORTEST = 1e-9


def generate(model: LoadedModel, call: Call) -> Generation | list[Generation]:
    """Generate everything: one result, or a list with the results of each prompt one after another."""
    results = _search_all(model, call) if call.options.num_beams > 1 else _finish(model, call)
    if call.options.best_of is not None:
        results = _best(results, call.options, call.options.best_of)
    if call.options.echo:
        results = _with_prompts(model, results, call.options)
    return results[0] if call.single else results


def stream(model: LoadedModel, call: Call) -> Generator[StreamChunk, None, None]:
    """Generate step by step; closing the generator gives the slots back."""
    for name in ("num_beams", "best_of"):
        if (getattr(call.options, name) or 1) > 1:
            raise ValueError(f"{name} chooses whole texts and can't stream; use generate")
    return _chunks(model, call)


def _chunks(model: LoadedModel, call: Call) -> Generator[StreamChunk, None, None]:
    requests, options, tokenizer = call.requests, call.options, model.tokenizer
    decoders = [] if tokenizer is None else [StreamDecoder(tokenizer) for _ in requests]
    latest: list[StreamPiece | None] = [None] * len(requests)
    with closing(model.engine.start(requests)) as run, _watched(run, options):
        if options.echo and tokenizer is not None:
            for index, request in enumerate(requests):
                yield StreamChunk(output_text(tokenizer, request.prompt), [], index)
        while progress := run.advance():
            for index, new_ids, number, safe_bytes in progress:
                reason = _FINISH_REASONS.get(number)
                text: Any = ""
                if decoders:
                    last = reason is not None
                    text = StreamPiece(decoders[index], latest[index], new_ids, safe_bytes, last)
                    latest[index] = text
                yield StreamChunk(text, new_ids, index, reason)


def _finish(model: LoadedModel, call: Call) -> list[Generation]:
    with closing(model.engine.start(call.requests)) as run, _watched(run, call.options):
        run.finish()
        return [_result(model, run, index, request) for index, request in enumerate(call.requests)]


def _result(model: LoadedModel, run: core.Run, index: int, request: core.Request) -> Generation:
    token_ids = run.token_ids(index)
    return Generation(
        text=output_text(model.tokenizer, token_ids, run.safe_bytes(index)),
        token_ids=token_ids,
        finish_reason=_FINISH_REASONS[run.finish_reason(index)],
        prompt_token_ids=request.prompt,
        seed=request.seed if request.do_sample else None,
        cached_tokens=run.cached_tokens(index),
        logprobs=_logprobs(run, index, request) if request.logprobs >= 0 else None,
    )


def _logprobs(run: core.Run, index: int, request: core.Request) -> TokenLogprobs:
    chosen, top_ids, top = run.logprobs(index)
    shape = (len(chosen), request.logprobs)
    return TokenLogprobs(chosen, top_ids.reshape(shape), top.reshape(shape))


def _watched(run: Cancellable, options: GenerationOptions) -> AbstractContextManager[None]:
    return nullcontext() if options.cancel is None else options.cancel.watching(run)


def _search_all(model: LoadedModel, call: Call) -> list[Generation]:
    """The best texts of each prompt, one search after another, within one time limit."""
    results: list[Generation] = []
    max_time = call.options.max_time
    end = None if max_time is None else time.monotonic() + max_time
    flag = core.CancelFlag()
    with _watched(flag, call.options):
        for request in call.requests:
            if end is not None:
                request.max_seconds = max(end - time.monotonic(), _SHORTEST)
            results += _search(model, request, call.options, flag)
    return results


def _search(
    model: LoadedModel, request: core.Request, options: GenerationOptions, flag: core.CancelFlag
) -> list[Generation]:
    """The best texts of one prompt; fewer than requested where too few are possible."""
    found = model.engine.beam_search(
        request,
        num_beams=options.num_beams,
        num_return_sequences=options.num_return_sequences or 1,
        length_penalty=options.length_penalty,
        early_stopping=_EARLY_STOPPING[options.early_stopping],
        cancel=flag,
    )
    return [
        Generation(
            text=output_text(model.tokenizer, token_ids),
            token_ids=token_ids,
            finish_reason=_FINISH_REASONS[reason],
            prompt_token_ids=request.prompt,
            score=score,
        )
        for token_ids, score, reason in found
    ]


def _best(results: list[Generation], options: GenerationOptions, best_of: int) -> list[Generation]:
    """The results with the likeliest tokens among every ``best_of``, the best first."""
    kept: list[Generation] = []
    for start in range(0, len(results), best_of):
        scored = [changed(one, score=_mean_logprob(one)) for one in results[start : start + best_of]]
        scored.sort(key=lambda one: one.score or 0.0, reverse=True)
        kept += scored[: options.num_return_sequences or 1]
    return kept if options.logprobs is not None else [changed(one, logprobs=None) for one in kept]


def _mean_logprob(result: Generation) -> float:
    if result.logprobs is None or not result.token_ids:
        return 0.0
    return math.fsum(result.logprobs.chosen.tolist()) / len(result.token_ids)


def _with_prompts(
    model: LoadedModel, results: list[Generation], options: GenerationOptions
) -> list[Generation]:
    """The results with their prompts prepended; equal prompts are read once."""
    if options.logprobs is not None:
        import numpy as np

        from gpt2fast.inference.scoring import token_logprobs

        distinct = {tuple(one.prompt_token_ids): None for one in results}
        values = token_logprobs(model, list(distinct), top=min(options.logprobs, model.config.vocab_size))
        of_prompt = dict(zip(distinct, values, strict=True))
    echoed = []
    for one in results:
        logprobs = one.logprobs
        if logprobs is not None:
            own = (logprobs.chosen, logprobs.top_ids, logprobs.top)
            parts = zip(of_prompt[tuple(one.prompt_token_ids)], own, strict=True)
            logprobs = TokenLogprobs(*(np.concatenate(pair) for pair in parts))
        text = "" if model.tokenizer is None else EchoedText(model.tokenizer, one)
        echoed.append(changed(one, text=text, logprobs=logprobs))
    return echoed
