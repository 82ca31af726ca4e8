"""A run of the core -> texts: whole results, or chunks as the steps go by."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from gpt2fast._native import core
from gpt2fast.generation import FinishReason, Generation, StreamChunk, TokenLogprobs
from gpt2fast.tokenizer import IncrementalDecoder, Tokenizer

_FINISH_REASONS: dict[int, FinishReason] = {
    core.FINISH_LENGTH: "length",
    core.FINISH_STOP: "stop",
    core.FINISH_EOS: "eos",
    core.FINISH_TIME: "time",
    core.FINISH_CANCELLED: "cancelled",
    core.FINISH_CONSTRAINT: "constraint",
}


def finish(
    engine: core.Engine, requests: Sequence[core.Request], tokenizer: Tokenizer | None
) -> list[Generation]:
    """Generate everything; one result for each request."""
    with closing(engine.start(requests)) as run:
        run.finish()
        return [_result(run, i, request, tokenizer) for i, request in enumerate(requests)]


def stream(
    engine: core.Engine, requests: Sequence[core.Request], tokenizer: Tokenizer | None
) -> Generator[StreamChunk, None, None]:
    """Generate step by step; closing the generator gives the slots back."""
    texts = [_StreamedText(tokenizer, index) for index in range(len(requests))]
    with closing(engine.start(requests)) as run:
        while not run.done:
            for index in run.advance():
                yield texts[index].next_chunk(run)


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
        logprobs=TokenLogprobs(*run.logprobs(index)) if request.logprobs >= 0 else None,
    )
