"""llama.cpp's server, through the xllamacpp wheel (built for AVX2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gguf_checkpoint import write_gguf
from benchmarks.runners import Received, Request, Runner, serve_in_threads

if TYPE_CHECKING:
    from gpt2fast.evaluation.speed import Arrivals

PACKAGES = ("xllamacpp", "gguf")
FORMATS = {"Q8_0": 8, "Q4_0": 4}
_FILE_NAME = "model.gguf"


def convert(checkpoint: Path, directory: Path, format: str) -> None:
    write_gguf(checkpoint, directory / _FILE_NAME, format)


def load(directory: Path, format: str, threads: int, texts: int) -> Runner:
    import gguf
    import xllamacpp

    fields = gguf.GGUFReader(directory / _FILE_NAME).fields
    positions = int(fields["gpt2.context_length"].contents())
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(directory / _FILE_NAME)
    parameters.n_parallel = texts
    parameters.n_ctx = texts * positions
    parameters.kv_unified = False
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.cache_ram_mib = 0
    parameters.n_gpu_layers = 0
    parameters.verbosity = 0
    parameters.warmup = False
    return _Runner(xllamacpp.Server(parameters))


class _Runner:
    def __init__(self, server: Any) -> None:
        self._server = server

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Arrivals:
        return self.serve([(0.0, prompt, new_tokens) for prompt in prompts])

    def serve(self, requests: list[Request]) -> Arrivals:
        return serve_in_threads(requests, self._complete)

    def _complete(self, prompt: list[int], new_tokens: int, received: Received) -> None:
        def record(chunk: Any) -> bool:
            # The last chunk says why the text ended and has no token.
            if chunk["choices"][0]["finish_reason"] is None:
                received()
            return False

        request = {
            "prompt": prompt,
            "n_predict": new_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": False,
            "stream": True,
        }
        self._server.handle_completions(request, record)
