"""A run of the core -> texts: whole results, or chunks as the steps go by."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING, Any, cast

from gpt2fast._native import core
from gpt2fast.config import ModelConfig
from gpt2fast.inference.cancellation import Cancellable
from gpt2fast.inference.options import GenerationOptions
from gpt2fast.inference.results import (
    FinishReason,
    Generation,
    StreamChunk,
    TokenLogprobs,
    UnreadText,
    changed,
)
from gpt2fast.text.lazy_tokenizer import LazyTokenizer

if TYPE_CHECKING:
    from gpt2fast.text.tokenizer import IncrementalDecoder

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
    tokenizer: LazyTokenizer | None,
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
    tokenizer: LazyTokenizer | None,
) -> Generator[StreamChunk, None, None]:
    """Generate step by step; closing the generator gives the slots back."""
    decoders = [] if tokenizer is None else [_StreamDecoder(tokenizer) for _ in requests]
    latest: list[_Piece | None] = [None] * len(requests)
    with closing(engine.start(requests)) as run, _watched(run, options):
        if options.echo and tokenizer is not None:
            for index, request in enumerate(requests):
                yield StreamChunk(_text(tokenizer, request.prompt), [], index)
        while progress := run.advance():
            for index, new_ids, number, safe_bytes in progress:
                reason = _FINISH_REASONS.get(number)
                text: Any = ""
                if decoders:
                    last = reason is not None
                    text = _Piece(decoders[index], latest[index], new_ids, safe_bytes, last)
                    latest[index] = text
                yield StreamChunk(text, new_ids, index, reason)


def _watched(run: Cancellable, options: GenerationOptions) -> AbstractContextManager[None]:
    return nullcontext() if options.cancel is None else options.cancel.watching(run)


def _search_all(
    engine: core.Engine,
    requests: Sequence[core.Request],
    options: GenerationOptions,
    tokenizer: LazyTokenizer | None,
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
    tokenizer: LazyTokenizer | None,
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
            text=_text(tokenizer, token_ids),
            token_ids=token_ids,
            finish_reason=_FINISH_REASONS[reason],
            prompt_token_ids=request.prompt,
            score=score,
        )
        for token_ids, score, reason in found
    ]


def _best(results: list[Generation], options: GenerationOptions, best_of: int) -> list[Generation]:
    """Of every ``best_of`` results those with the likeliest tokens, the best first."""
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
    engine: core.Engine,
    results: list[Generation],
    options: GenerationOptions,
    tokenizer: LazyTokenizer | None,
    config: ModelConfig,
) -> list[Generation]:
    """The results with their prompts in front; equal prompts are read once."""
    if options.logprobs is not None:
        import numpy as np

        from gpt2fast.inference.scoring import token_logprobs

        distinct = {tuple(one.prompt_token_ids): None for one in results}
        top = min(options.logprobs, config.vocab_size)
        values = token_logprobs(engine, list(distinct), config.n_positions, top=top)
        of_prompt = dict(zip(distinct, values, strict=True))
    echoed = []
    for one in results:
        logprobs = one.logprobs
        if logprobs is not None:
            own = (logprobs.chosen, logprobs.top_ids, logprobs.top)
            parts = zip(of_prompt[tuple(one.prompt_token_ids)], own, strict=True)
            logprobs = TokenLogprobs(*(np.concatenate(pair) for pair in parts))
        text = "" if tokenizer is None else _EchoedText(tokenizer, one)
        echoed.append(changed(one, text=text, logprobs=logprobs))
    return echoed


class _OutputText(UnreadText):
    """The text of an output, or as much of it as is kept."""

    __slots__ = ("_kept_bytes", "_token_ids", "_tokenizer")

    def __init__(self, tokenizer: LazyTokenizer, token_ids: list[int], kept_bytes: int | None = None) -> None:
        self._tokenizer = tokenizer
        # Of its own, as the result's list may be changed before the text is read.
        self._token_ids = tuple(token_ids)
        self._kept_bytes = kept_bytes

    def decode(self) -> str:
        data = self._tokenizer.get().decode_bytes(self._token_ids)
        return data[: self._kept_bytes].decode("utf-8", "replace")

    def at_hand(self) -> bool:
        return self._tokenizer.is_loaded


class _EchoedText(UnreadText):
    """A prompt's text and that of the result that it leads to."""

    __slots__ = ("_prompt", "_result")

    def __init__(self, tokenizer: LazyTokenizer, result: Generation) -> None:
        self._prompt = _OutputText(tokenizer, result.prompt_token_ids)
        self._result = result

    def decode(self) -> str:
        return self._prompt.decode() + self._result.text

    def at_hand(self) -> bool:
        return self._prompt.at_hand()


class _Piece(UnreadText):
    """What a step added to a text: that up to ``safe_bytes``, counted from the output's start.

    It knows the piece before it and no later one, nor does the decoder: a stream whose text nobody reads
    makes no cycle.
    """

    __slots__ = ("_decoder", "before", "last", "safe_bytes", "text", "token_ids")

    def __init__(
        self,
        decoder: _StreamDecoder,
        before: _Piece | None,
        token_ids: list[int],
        safe_bytes: int | None,
        last: bool,
    ) -> None:
        self._decoder = decoder
        self.before = before  # until this one is decoded
        self.token_ids = tuple(token_ids)  # of its own, as an output's
        self.safe_bytes = safe_bytes
        self.last = last
        self.text: str | None = None  # until it is decoded

    def decode(self) -> str:
        return self._decoder.text_of(self)

    def at_hand(self) -> bool:
        return self._decoder.tokenizer.is_loaded


class _StreamDecoder:
    """The pieces of one text, decoded in their order when the text of one is first read."""

    def __init__(self, tokenizer: LazyTokenizer) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._decoder: IncrementalDecoder | None = None
        self._shown_bytes = 0
        self._held_back = b""

    def text_of(self, piece: _Piece) -> str:
        with self._lock:
            waiting = []
            unread: _Piece | None = piece
            while unread is not None and unread.text is None:
                waiting.append(unread)
                unread = unread.before
            for one in reversed(waiting):
                one.text, one.before = self._decoded(one), None
        return cast("str", piece.text)

    def _decoded(self, piece: _Piece) -> str:
        tokenizer = self.tokenizer.get()
        if self._decoder is None:
            from gpt2fast.text.tokenizer import IncrementalDecoder

            self._decoder = IncrementalDecoder(tokenizer)
        data = self._held_back + tokenizer.decode_bytes(piece.token_ids)
        count = len(data) if piece.safe_bytes is None else max(0, piece.safe_bytes - self._shown_bytes)
        shown, self._held_back = data[:count], data[count:]
        self._shown_bytes += len(shown)
        return self._decoder.feed_bytes(shown, final=piece.last)


def _result(run: core.Run, index: int, request: core.Request, tokenizer: LazyTokenizer | None) -> Generation:
    token_ids = run.token_ids(index)
    return Generation(
        text=_text(tokenizer, token_ids, run.safe_bytes(index)),
        token_ids=token_ids,
        finish_reason=_FINISH_REASONS[run.finish_reason(index)],
        prompt_token_ids=request.prompt,
        seed=request.seed if request.do_sample else None,
        cached_tokens=run.cached_tokens(index),
        logprobs=_logprobs(run, index, request) if request.logprobs >= 0 else None,
    )


def _text(tokenizer: LazyTokenizer | None, token_ids: list[int], kept_bytes: int | None = None) -> str:
    """The text of an output for a result; none without a tokenizer."""
    return "" if tokenizer is None else cast("str", _OutputText(tokenizer, token_ids, kept_bytes))


def _logprobs(run: core.Run, index: int, request: core.Request) -> TokenLogprobs:
    chosen, top_ids, top = run.logprobs(index)
    shape = (len(chosen), request.logprobs)
    return TokenLogprobs(chosen, top_ids.reshape(shape), top.reshape(shape))
