"""llama.cpp's own calls, through llama-cpp-python, which is compiled for the machine when it is installed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gguf_checkpoint import write_gguf
from benchmarks.runners import MAX_TEXTS, Runner
from gpt2fast.benchmark import Arrivals

PACKAGES = ("llama-cpp-python", "gguf")
FORMATS = {"Q8_0": 8, "Q4_0": 4}
_FILE_NAME = "model.gguf"
_BATCH_TOKENS = 2048


def convert(checkpoint: Path, directory: Path, format: str) -> None:
    write_gguf(checkpoint, directory / _FILE_NAME, format)


def load(directory: Path, format: str, threads: int) -> Runner:
    import llama_cpp

    llama_cpp.llama_backend_init()
    model_parameters = llama_cpp.llama_model_default_params()
    model_parameters.n_gpu_layers = 0
    path = str(directory / _FILE_NAME).encode()
    model = llama_cpp.llama_model_load_from_file(path, model_parameters)
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = MAX_TEXTS * llama_cpp.llama_model_n_ctx_train(model)
    parameters.n_seq_max = MAX_TEXTS
    parameters.n_batch = _BATCH_TOKENS
    parameters.n_threads = threads
    parameters.n_threads_batch = threads
    vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    return _Runner(llama_cpp.llama_init_from_model(model, parameters), vocab_size)


class _Runner:
    def __init__(self, context: Any, vocab_size: int) -> None:
        import llama_cpp

        self._context = context
        self._vocab_size = vocab_size
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS, 0, 1)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Arrivals:
        import llama_cpp

        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        arrivals: Arrivals = [[] for _ in prompts]
        start = time.perf_counter()
        newest = self._read_prompts(prompts, arrivals, start)
        for position in range(len(prompts[0]), len(prompts[0]) + new_tokens - 1):
            self._batch.n_tokens = 0
            for text, token in enumerate(newest):
                self._add(token, position, text, wanted=True)
            newest = self._decode(list(range(len(newest))))
            for times in arrivals:
                times.append(time.perf_counter() - start)
        return arrivals

    def _read_prompts(self, prompts: list[list[int]], arrivals: Arrivals, start: float) -> list[int]:
        """The first token of each text; as many whole prompts at once as a batch holds."""
        chosen: list[int] = []
        together = max(1, _BATCH_TOKENS // len(prompts[0]))
        for first in range(0, len(prompts), together):
            group = prompts[first : first + together]
            self._batch.n_tokens = 0
            for text, prompt in enumerate(group, first):
                for position, token in enumerate(prompt):
                    self._add(token, position, text, wanted=position == len(prompt) - 1)
            chosen += self._decode([len(group[0]) * (i + 1) - 1 for i in range(len(group))])
            for times in arrivals[first : first + together]:
                times.append(time.perf_counter() - start)
        return chosen

    def _add(self, token: int, position: int, text: int, *, wanted: bool) -> None:
        batch, index = self._batch, self._batch.n_tokens
        batch.token[index] = token
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = text
        batch.logits[index] = wanted
        batch.n_tokens = index + 1

    def _decode(self, rows: list[int]) -> list[int]:
        """The best next token after each of these tokens of the batch."""
        import llama_cpp

        if llama_cpp.llama_decode(self._context, self._batch) != 0:
            raise RuntimeError("llama_decode failed")
        logits = [llama_cpp.llama_get_logits_ith(self._context, row) for row in rows]
        return [int(np.ctypeslib.as_array(row, (self._vocab_size,)).argmax()) for row in logits]
