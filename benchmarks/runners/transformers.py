"""Hugging Face transformers, on torch."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.runners import Runner

if TYPE_CHECKING:
    from gpt2fast.evaluation.speed import Arrivals

PACKAGES = ("transformers", "torch")
FORMATS = {"fp32": 32}
# Texts of nearly one length share a batch, so that little of it is padding.
_SCORED_TOGETHER = 8


def convert(checkpoint: Path, directory: Path, format: str) -> None:
    directory.rmdir()
    shutil.copytree(checkpoint, directory)


def load(directory: Path, format: str, threads: int, texts: int) -> Runner:
    import torch
    from transformers import GPT2LMHeadModel

    torch.set_num_threads(threads)
    return _Runner(GPT2LMHeadModel.from_pretrained(directory).eval())


class _Runner:
    def __init__(self, model: Any) -> None:
        self._model = model

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Arrivals:
        import torch

        times: list[float] = []

        def record(token_ids: Any, scores: Any, **_: Any) -> Any:
            times.append(time.perf_counter() - start)
            return torch.zeros(len(prompts), dtype=torch.bool)

        ids = torch.tensor(prompts)
        start = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                pad_token_id=0,
                stopping_criteria=[record],
            )
        return [list(times) for _ in prompts]

    def score_seconds(self, texts: list[list[int]]) -> float:
        import torch

        start = time.perf_counter()
        in_order = sorted(texts, key=len)
        with torch.inference_mode():
            for begin in range(0, len(in_order), _SCORED_TOGETHER):
                rows = [torch.tensor(text) for text in in_order[begin : begin + _SCORED_TOGETHER]]
                ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
                lengths = torch.tensor([len(row) for row in rows])
                mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
                logits = self._model(ids, attention_mask=mask).logits[:, :-1]
                torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).tolist()
        return time.perf_counter() - start
