"""OpenVINO GenAI: its continuous-batching pipeline, the one behind its other pipelines too."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.runners import Request, Runner

if TYPE_CHECKING:
    from gpt2fast.evaluation.speed import Arrivals

PACKAGES = ("openvino-genai", "optimum-intel", "nncf")
FORMATS = {"int8": 8, "int4": 4}
_CACHE_GIGABYTES = 1


def convert(checkpoint: Path, directory: Path, format: str) -> None:
    from optimum.intel import OVWeightQuantizationConfig
    from optimum.intel.openvino import OVModelForCausalLM
    from transformers import AutoTokenizer

    quantization = OVWeightQuantizationConfig(bits=int(format.removeprefix("int")))
    model = OVModelForCausalLM.from_pretrained(
        checkpoint, export=True, compile=False, quantization_config=quantization
    )
    model.save_pretrained(directory)
    _write_tokenizer(AutoTokenizer.from_pretrained(checkpoint), directory)


def _write_tokenizer(tokenizer: Any, directory: Path) -> None:
    import openvino
    from openvino_tokenizers import convert_tokenizer

    names = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
    for name, model in zip(names, convert_tokenizer(tokenizer, with_detokenizer=True), strict=True):
        openvino.save_model(model, directory / name)


def load(directory: Path, format: str, threads: int, texts: int) -> Runner:
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = _CACHE_GIGABYTES
    scheduler.max_num_seqs = texts
    scheduler.enable_prefix_caching = False
    return _Runner(
        openvino_genai.ContinuousBatchingPipeline(
            str(directory), scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}
        )
    )


class _Runner:
    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._requests = 0

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Arrivals:
        return self.serve([(0.0, prompt, new_tokens) for prompt in prompts])

    def serve(self, requests: list[Request]) -> Arrivals:
        arrivals: Arrivals = [[] for _ in requests]
        later = sorted(range(len(requests)), key=lambda index: requests[index][0], reverse=True)
        handles: dict[int, Any] = {}
        start = time.perf_counter()
        while later or self._pipeline.has_non_finished_requests():
            now = time.perf_counter() - start
            while later and requests[later[-1]][0] <= now:
                index = later.pop()
                handles[index] = self._add(*requests[index][1:])
            if not self._pipeline.has_non_finished_requests():
                time.sleep(max(0.0, requests[later[-1]][0] - now))
                continue
            self._pipeline.step()
            now = time.perf_counter() - start
            for index, handle in handles.items():
                if handle.can_read():
                    for output in handle.read().values():
                        arrivals[index].extend([now] * len(output.generated_ids))
        return arrivals

    def _add(self, prompt: list[int], new_tokens: int) -> Any:
        import numpy as np
        import openvino
        import openvino_genai

        config = openvino_genai.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        self._requests += 1
        return self._pipeline.add_request(
            self._requests, openvino.Tensor(np.array([prompt], dtype=np.int64)), config
        )
