"""The project itself."""

from __future__ import annotations

from pathlib import Path

from benchmarks.runners import Runner
from gpt2fast import GPT2
from gpt2fast.evaluation.speed import Arrivals, draft_step_ms, token_arrivals

PACKAGES = ("onnxruntime",)
FORMATS = {"fp32": 32, "bf16": 16, "int8": 8, "int4": 4}


def convert(checkpoint: Path, directory: Path, format: str) -> None:
    from gpt2fast.checkpoints import open_checkpoint
    from gpt2fast.export.writer import write_model_directory

    directory.rmdir()
    write_model_directory(open_checkpoint(checkpoint), directory, precision=format)


def load(directory: Path, format: str, threads: int, texts: int) -> Runner:
    return _Runner(
        GPT2.from_pretrained(directory, threads=threads, max_sequences=texts, prefix_cache_bytes=0)
    )


class _Runner:
    def __init__(self, model: GPT2) -> None:
        self._model = model

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Arrivals:
        return token_arrivals(self._model, prompts, new_tokens)

    def draft_step_ms(self, context: int, drafts: int, steps: int, first_token: int) -> float:
        return draft_step_ms(self._model, context, drafts, steps, first_token)
