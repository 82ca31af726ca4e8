"""CTranslate2."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.runners import Runner

if TYPE_CHECKING:
    from gpt2fast.evaluation.speed import Arrivals

PACKAGES = ("ctranslate2",)
FORMATS = {"int8": 8}
# It sorts texts by length before it cuts them into batches.
_SCORED_TOGETHER = 8


def convert(checkpoint: Path, directory: Path, format: str) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(checkpoint)).convert(str(directory), quantization=format, force=True)


def load(directory: Path, format: str, threads: int, texts: int) -> Runner:
    import ctranslate2

    model = ctranslate2.Generator(str(directory), compute_type=format, intra_threads=threads, inter_threads=1)
    tokens = json.loads((directory / "vocabulary.json").read_text("utf-8"))
    return _Runner(model, tokens)


class _Runner:
    def __init__(self, model: Any, tokens: list[str]) -> None:
        self._model = model
        self._tokens = tokens

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Arrivals:
        texts = [[self._tokens[token] for token in prompt] for prompt in prompts]
        arrivals: Arrivals = [[] for _ in prompts]

        def record(result: Any) -> bool:
            arrivals[result.batch_id].append(time.perf_counter() - start)
            return False

        start = time.perf_counter()
        self._model.generate_batch(
            texts,
            max_length=new_tokens,
            min_length=new_tokens,
            include_prompt_in_result=False,
            callback=record,
        )
        return arrivals

    def score_seconds(self, texts: list[list[int]]) -> float:
        tokens = [[self._tokens[token] for token in text] for text in texts]
        start = time.perf_counter()
        for result in self._model.score_batch(tokens, max_batch_size=_SCORED_TOGETHER):
            result.log_probs  # noqa: B018 - made when asked for
        return time.perf_counter() - start
