"""A run of the core -> texts: whole results, or chunks as the steps go by."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace

import numpy as np

from gpt2fast._native import core
from gpt2fast.cancellation import Cancellable
from gpt2fast.config import ModelConfig
from gpt2fast.generation import GenerationOptions
from gpt2fast.results import FinishReason, Generation, StreamChunk, TokenLogprobs
from gpt2fast.scoring import token_logprobs
from gpt2fast.tokenizer import IncrementalDecoder, Tokenizer

_FINISH_REASONS: dict[int, FinishReason] = {
    core.FINISH_LENGTH: "length",
    core.FINISH_STOP: "stop",
    core.FINISH_EOS: "eos",
    core.FINISH_TIME: "time",
    core.FINISH_CANCELLED: "cancelled",
    core.FINISH_CONSTRAINT: "constraint",
}
# Numbers of the core; True and False are keys like 1 and 0.
_EARLY_STOPPING: dict[bool | str, int] = {False: 0, True: 1, "never": 2}
# 0 would mean no limit.
_SHORTEST = 1e-9


def finish(
    engine: core.Engine,
    requests: Sequence[core.Request],
    options: GenerationOptions,
    tokenizer: Tokenizer | None,
    config: ModelConfig,
) -> list[Generation]:
    """Generate everything: the results of each prompt one after another."""
    if options.num_beams > 1:
        results = _search_all(engine, requests, options, tokenizer)
    else:
        with closing(engine.start(requests)) as run, _watched(run, options):
            run.finish()
            results = [_result(run, i, request, tokenizer) for i, request in enumerate(requests)]
    if options.best_of is not None:
        results = _best(results, options, options.best_of)
    return _with_prompts(engine, results, options, tokenizer, config) if options.echo else results


def stream(
    engine: core.Engine,
    requests: Sequence[core.Request],
    options: GenerationOptions,
    tokenizer: Tokenizer | None,
) -> Generator[StreamChunk, None, None]:
    """Generate step by step; closing the generator gives the slots back."""
    texts = [_StreamedText(tokenizer, index) for index in range(len(requests))]
    with closing(engine.start(requests)) as run, _watched(run, options):
        if options.echo and tokenizer is not None:
            for index, request in enumerate(requests):
                yield StreamChunk(tokenizer.decode(request.prompt), [], index)
        while not run.done:
            for index in run.advance():
                yield texts[index].next_chunk(run)


def _watched(run: Cancellable, options: GenerationOptions) -> AbstractContextManager[None]:
    return nullcontext() if options.cancel is None else options.cancel.watching(run)


def _search_all(
    engine: core.Engine,
    requests: Sequence[core.Request],
    options: GenerationOptions,
    tokenizer: Tokenizer | None,
) -> list[Generation]:
    """The best texts of each prompt, one search after another; they share the time that there is."""
    results: list[Generation] = []
    end = None if options.max_time is None else time.monotonic() + options.max_time
    flag = core.CancelFlag()
    with _watched(flag, options):
        for request in requests:
            if end is not None:
                request.max_seconds = max(end - time.monotonic(), _SHORTEST)
            results += _search(engine, request, options, tokenizer, flag)
    return results


def _search(
    engine: core.Engine,
    request: core.Request,
    options: GenerationOptions,
    tokenizer: Tokenizer | None,
    flag: core.CancelFlag,
) -> list[Generation]:
    """The best texts of one prompt; fewer than asked for where too few are possible."""
    found = engine.beam_search(
        request,
        num_beams=options.num_beams,
        num_return_sequences=options.num_return_sequences or 1,
        length_penalty=options.length_penalty,
        early_stopping=_EARLY_STOPPING[options.early_stopping],
        cancel=flag,
    )
    return [
        Generation(
            text="" if tokenizer is None else tokenizer.decode(token_ids),
            token_ids=token_ids.tolist(),
            finish_reason=_FINISH_REASONS[reason],
            prompt_token_ids=request.prompt.tolist(),
            score=score,
        )
        for token_ids, score, reason in found
    ]


def _best(results: list[Generation], options: GenerationOptions, best_of: int) -> list[Generation]:
    """Of every ``best_of`` results those with the likeliest tokens, the best first."""
    kept: list[Generation] = []
    for start in range(0, len(results), best_of):
        scored = [replace(one, score=_mean_logprob(one)) for one in results[start : start + best_of]]
        scored.sort(key=lambda one: one.score or 0.0, reverse=True)
        kept += scored[: options.num_return_sequences or 1]
    return kept if options.logprobs is not None else [replace(one, logprobs=None) for one in kept]


def _mean_logprob(result: Generation) -> float:
    if result.logprobs is None or not result.token_ids:
        return 0.0
    return math.fsum(result.logprobs.chosen.tolist()) / len(result.token_ids)


def _with_prompts(
    engine: core.Engine,
    results: list[Generation],
    options: GenerationOptions,
    tokenizer: Tokenizer | None,
    config: ModelConfig,
) -> list[Generation]:
    """The results with their prompts in front; equal prompts are read once."""
    if options.logprobs is not None:
        distinct = {tuple(one.prompt_token_ids): None for one in results}
        prompts = [np.array(ids, np.int32) for ids in distinct]
        top = min(options.logprobs, config.vocab_size)
        values = token_logprobs(engine, prompts, config.n_positions, top=top)
        of_prompt = dict(zip(distinct, values, strict=True))
    echoed = []
    for one in results:
        text = one.text if tokenizer is None else tokenizer.decode(one.prompt_token_ids) + one.text
        logprobs = one.logprobs
        if logprobs is not None:
            own = (logprobs.chosen, logprobs.top_ids, logprobs.top)
            parts = zip(of_prompt[tuple(one.prompt_token_ids)], own, strict=True)
            logprobs = TokenLogprobs(*(np.concatenate(pair) for pair in parts))
        echoed.append(replace(one, text=text, logprobs=logprobs))
    return echoed


class _StreamedText:
    """What has been shown of one text."""

    def __init__(self, tokenizer: Tokenizer | None, index: int) -> None:
        self._tokenizer = tokenizer
        self._decoder = IncrementalDecoder(tokenizer) if tokenizer is not None else None
        self._index = index
        self._tokens = 0
        self._shown_bytes = 0
        self._held_back = b""

    def next_chunk(self, run: core.Run) -> StreamChunk:
        new_ids: list[int] = run.token_ids(self._index)[self._tokens :].tolist()
        self._tokens += len(new_ids)
        reason = _FINISH_REASONS.get(run.finish_reason(self._index))
        text = self._take(new_ids, run.safe_bytes(self._index), last=reason is not None)
        return StreamChunk(text, new_ids, self._index, reason)

    def _take(self, new_ids: list[int], safe_bytes: int, *, last: bool) -> str:
        """The text up to ``safe_bytes``, counted from the output's start, that has not been shown."""
        if self._tokenizer is None or self._decoder is None:
            return ""
        data = self._held_back + self._tokenizer.decode_bytes(new_ids)
        count = max(0, safe_bytes - self._shown_bytes)
        shown, self._held_back = data[:count], data[count:]
        self._shown_bytes += len(shown)
        return self._decoder.feed_bytes(shown, final=last)


def _result(run: core.Run, index: int, request: core.Request, tokenizer: Tokenizer | None) -> Generation:
    token_ids: list[int] = run.token_ids(index).tolist()
    text = ""
    if tokenizer is not None:
        text = tokenizer.decode_bytes(token_ids)[: run.safe_bytes(index)].decode("utf-8", "replace")
    return Generation(
        text=text,
        token_ids=token_ids,
        finish_reason=_FINISH_REASONS[run.finish_reason(index)],
        prompt_token_ids=request.prompt.tolist(),
        seed=request.seed if request.do_sample else None,
        cached_tokens=run.cached_tokens(index),
        logprobs=_logprobs(run, index, request) if request.logprobs >= 0 else None,
    )


def _logprobs(run: core.Run, index: int, request: core.Request) -> TokenLogprobs:
    chosen, top_ids, top = run.logprobs(index)
    shape = (len(chosen), request.logprobs)
    return TokenLogprobs(chosen, top_ids.reshape(shape), top.reshape(shape))
