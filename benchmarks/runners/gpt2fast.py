"""gpt2fast itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.runners import Request, Runner
from gpt2fast import GPT2
from gpt2fast.loading.loaded_model import MAX_DECODE_SLOWDOWN

if TYPE_CHECKING:
    from gpt2fast.evaluation.speed import Arrivals

PACKAGES = ("onnxruntime",)
FORMATS = {"fp32": 32, "bf16": 16, "int8": 8, "int4": 4, "int4-all": 4}


def convert(checkpoint: Path, directory: Path, format: str) -> None:
    from gpt2fast.checkpoints import open_checkpoint
    from gpt2fast.export.writer import write_model_directory

    directory.rmdir()
    write_model_directory(open_checkpoint(checkpoint), directory, precision=format)


def load(directory: Path, format: str, threads: int, texts: int) -> Runner:
    # With prefix_cache_bytes=0 every text's keys and values would get memory from the system anew. Requests
    # ask that no prompt be reused. All prompts are read before texts go on, as the other programs do: texts
    # are timed while all of them are written.
    return _Runner(
        GPT2.from_pretrained(
            directory, threads=threads, max_sequences=texts, decode_slowdown=MAX_DECODE_SLOWDOWN
        )
    )


class _Runner:
    def __init__(self, model: GPT2) -> None:
        self._model = model

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Arrivals:
        # As a user would: no more is imported than that, since the process's memory is measured.
        arrivals: Arrivals = [[] for _ in prompts]
        options = {"max_new_tokens": new_tokens, "eos_token_id": [], "use_prefix_cache": False}
        start = time.perf_counter()
        for chunk in self._model.stream(prompts, **options):
            now = time.perf_counter() - start
            arrivals[chunk.index].extend([now] * len(chunk.token_ids))
        return arrivals

    def score_seconds(self, texts: list[list[int]]) -> float:
        start = time.perf_counter()
        self._model.score(texts)
        return time.perf_counter() - start

    def serve(self, requests: list[Request]) -> Arrivals:
        # Tasks, as a service has them. A thread for each stream would wake up for each token.
        arrivals: Arrivals = [[] for _ in requests]
        options = {"eos_token_id": [], "use_prefix_cache": False}
        start = time.perf_counter()

        async def complete(request: Request, times: list[float]) -> None:
            seconds, prompt, new_tokens = request
            await asyncio.sleep(max(0.0, start + seconds - time.perf_counter()))
            async for chunk in self._model.astream(prompt, max_new_tokens=new_tokens, **options):
                times += [time.perf_counter() - start] * len(chunk.token_ids)

        async def complete_all() -> None:
            await asyncio.gather(*map(complete, requests, arrivals))

        asyncio.run(complete_all())
        return arrivals

    def draft_step_ms(self, context: int, drafts: int, steps: int, first_token: int) -> float:
        from gpt2fast.evaluation.speed import draft_step_ms

        return draft_step_ms(self._model.loaded, context, drafts, steps, first_token)
