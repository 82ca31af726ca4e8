"""From the core's results to whole texts, or chunks of texts as they are made."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from gpt2fast._native import core
from gpt2fast.inference.lazy_text import StreamDecoder, StreamPiece, output_text
from gpt2fast.inference.options import GenerationOptions
from gpt2fast.inference.requests import Call
from gpt2fast.inference.results import FinishReason, Generation, StreamChunk, TokenLogprobs, changed
from gpt2fast.inference.work import watched
from gpt2fast.loading.loaded_model import LoadedModel

if TYPE_CHECKING:
    from gpt2fast.inference.work import Work

_FINISH_REASONS: dict[core.FinishReason, FinishReason] = {
    core.FinishReason.LENGTH: "length",
    core.FinishReason.STOP: "stop",
    core.FinishReason.EOS: "eos",
    core.FinishReason.TIME: "time",
    core.FinishReason.CANCELLED: "cancelled",
    core.FinishReason.CONSTRAINT: "constraint",
}


def generation(model: LoadedModel, call: Call) -> Work[Generation | list[Generation]]:
    """Generate everything: one result, or a list with the results of each prompt one after another."""
    running = yield partial(_start, model, call)
    results = results_of(model, call, running)
    if call.options.best_of is not None:
        results = _best(results, call.options, call.options.best_of)
    if call.options.echo and call.options.logprobs is not None:
        results = yield from _with_prompts(model, results, call.options)
    return results[0] if call.single else results


def results_of(model: LoadedModel, call: Call, running: core.GenerationCall) -> list[Generation]:
    """The texts of a call that is done, those of each prompt one after another."""
    return [
        _result(model, call, request, *values)
        for request, texts in zip(call.requests, running.results(), strict=True)
        for values in texts
    ]


def stream(model: LoadedModel, call: Call) -> Generator[StreamChunk, None, None]:
    """Generate step by step; closing the generator gives the slots back."""
    check_streamable(call.options)
    return _chunks(model, call, ChunkReader(model, call))


def check_streamable(options: GenerationOptions) -> None:
    """Raise ValueError for options that choose among whole texts."""
    for name in ("num_beams", "best_of"):
        if (getattr(options, name) or 1) > 1:
            raise ValueError(f"{name} chooses whole texts and can't stream; use generate")


def start_stream(model: LoadedModel, call: Call, **notify: Any) -> core.GenerationCall:
    """Start a call that reports tokens as they are chosen; ``notify`` is as for ``Engine.generate``."""
    return _start(model, call, streamed=True, **notify)


class ChunkReader:
    """Makes chunks of what a streamed call reports."""

    def __init__(self, model: LoadedModel, call: Call) -> None:
        self._call = call
        self._tokenizer = model.tokenizer
        self._decoders: list[StreamDecoder] = []
        self._latest: list[StreamPiece | None] = [None] * len(call.requests)
        if self._tokenizer is not None:
            self._tokenizer.check_streamable()
            prompts = [request.prompt if call.options.echo else () for request in call.requests]
            self._decoders = [StreamDecoder(self._tokenizer, prompt) for prompt in prompts]

    def prompts(self) -> Iterator[StreamChunk]:
        """The chunks before the first token: with ``echo``, the prompts."""
        if not self._call.options.echo:
            return
        for index, decoder in enumerate(self._decoders):
            # A piece without tokens: its text is that of the prompt, with which the decoder begins.
            piece: Any = StreamPiece(decoder, None, [], None, False)
            self._latest[index] = piece
            yield StreamChunk(piece, [], index)

    def chunk(self, progress: core.Progress) -> StreamChunk:
        """What one text has gained."""
        index, new_ids, finished, safe_bytes, logprobs = progress
        reason = _FINISH_REASONS.get(finished)
        text: Any = ""
        if self._decoders:
            last = reason is not None
            text = StreamPiece(self._decoders[index], self._latest[index], new_ids, safe_bytes, last)
            self._latest[index] = text
        return StreamChunk(text, new_ids, index, reason, _token_logprobs(self._call, new_ids, logprobs))


def _chunks(model: LoadedModel, call: Call, reader: ChunkReader) -> Generator[StreamChunk, None, None]:
    running = start_stream(model, call)
    try:
        with watched(running, call.options.cancel):
            yield from reader.prompts()
            while progress := running.next():
                for one in progress:
                    yield reader.chunk(one)
    finally:
        running.close()


def _start(model: LoadedModel, call: Call, **how: Any) -> core.GenerationCall:
    options = call.options
    # A token that is cancelled already ends the texts before the engine's threads begin with them.
    return model.engine.generate(
        call.requests,
        call.shared,
        priority=options.priority,
        max_seconds=options.max_time or 0.0,
        cancelled=options.cancel is not None and options.cancel.cancelled,
        **how,
    )


def _result(
    model: LoadedModel,
    call: Call,
    request: core.Request,
    token_ids: list[int],
    finished: core.FinishReason,
    kept_bytes: int | None,
    cached_tokens: int,
    logprobs: core.LogprobArrays | None,
    score: float,
    started_seconds: float,
    first_token_seconds: float,
    last_token_seconds: float,
) -> Generation:
    beams = call.options.num_beams > 1
    return Generation(
        text=output_text(
            model.tokenizer, token_ids, kept_bytes, request.prompt if call.options.echo else None
        ),
        token_ids=token_ids,
        finish_reason=_FINISH_REASONS[finished],
        prompt_token_ids=request.prompt,
        seed=request.seed if call.shared.do_sample and not beams else None,
        cached_tokens=cached_tokens,
        logprobs=_token_logprobs(call, token_ids, logprobs),
        score=score if beams else None,
        started_seconds=started_seconds or None,
        first_token_seconds=first_token_seconds or None,
        last_token_seconds=last_token_seconds or None,
    )


def _token_logprobs(
    call: Call, token_ids: list[int], arrays: core.LogprobArrays | None
) -> TokenLogprobs | None:
    """The log-probabilities of these tokens, if the caller or ``best_of`` needs them."""
    top = call.shared.logprobs
    if top < 0:
        return None
    if arrays is None:
        import numpy as np

        return TokenLogprobs(
            np.empty(0, np.float32), np.empty((0, top), np.int32), np.empty((0, top), np.float32)
        )
    chosen, top_ids, values = arrays
    return TokenLogprobs(chosen, top_ids.reshape(len(token_ids), top), values.reshape(len(token_ids), top))


def _best(results: list[Generation], options: GenerationOptions, best_of: int) -> list[Generation]:
    """The results with the likeliest tokens among every ``best_of``, the best first.

    Those that ended before their first token come last: nothing is known of them.
    """
    kept: list[Generation] = []
    for start in range(0, len(results), best_of):
        scored = [changed(one, score=_mean_logprob(one)) for one in results[start : start + best_of]]
        scored.sort(key=lambda one: -math.inf if one.score is None else one.score, reverse=True)
        kept += scored[: options.num_return_sequences or 1]
    return kept if options.logprobs is not None else [changed(one, logprobs=None) for one in kept]


def _mean_logprob(result: Generation) -> float | None:
    if result.logprobs is None or not result.token_ids:
        return None
    return math.fsum(result.logprobs.chosen.tolist()) / len(result.token_ids)


def _with_prompts(
    model: LoadedModel, results: list[Generation], options: GenerationOptions
) -> Work[list[Generation]]:
    """The results with the log-probabilities of their prompts in front; equal prompts are read once."""
    import numpy as np

    from gpt2fast.inference.scoring import token_logprobs

    distinct = {tuple(one.prompt_token_ids): None for one in results}
    top = min(options.logprobs or 0, model.config.vocab_size)
    values = yield from token_logprobs(model, list(distinct), top=top)
    of_prompt = {
        ids: (value.chosen, value.top_ids, value.top) for ids, value in zip(distinct, values, strict=True)
    }
    echoed = []
    for one in results:
        if one.logprobs is None:
            echoed.append(one)
            continue
        own = (one.logprobs.chosen, one.logprobs.top_ids, one.logprobs.top)
        parts = zip(of_prompt[tuple(one.prompt_token_ids)], own, strict=True)
        echoed.append(changed(one, logprobs=TokenLogprobs(*(np.concatenate(pair) for pair in parts))))
    return echoed
