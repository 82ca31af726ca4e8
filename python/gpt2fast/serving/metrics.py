"""Metrics for Prometheus, under vLLM's names where it has them, so that its dashboards work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from gpt2fast.inference.statistics import EngineStats

CONTENT_TYPE = CONTENT_TYPE_LATEST
#: Environment variable of prometheus-client with the directory in which several processes keep their numbers.
SHARED_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

# vLLM's begin at 1 ms (first token) and 10 ms (others); a step of a small model takes 0.15 ms.
_TOKEN_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0),
)
_FIRST_TOKEN_SECONDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 40.0, 160.0, 640.0),
)
_REQUEST_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0),
    *(10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0),
)
_LABELS = ("model_name", "engine")


class Metrics:
    """The metrics of a service.

    Parameters
    ----------
    model_name : str
        A label of all of them.
    n_positions : int
        The most tokens of a text, for the buckets.
    """

    def __init__(self, model_name: str, n_positions: int) -> None:
        self._shared = SHARED_DIRECTORY in os.environ
        self._registry = CollectorRegistry()
        self._labels = (model_name, "0")
        self._running = self._gauge("vllm:num_requests_running", "Texts that share the steps.")
        self._waiting = self._gauge("vllm:num_requests_waiting", "Texts that wait for their turn.")
        self._kv_usage = self._gauge("vllm:kv_cache_usage_perc", "Slots of the KV cache in use, 0 to 1.")
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Tokens of prompts.")
        self._output_tokens = self._counter("vllm:generation_tokens", "Tokens generated.")
        self._of_engine = {
            "prefix_queries": self._counter("vllm:prefix_cache_queries", "Tokens looked for in the cache."),
            "prefix_hits": self._counter("vllm:prefix_cache_hits", "Tokens found in the cache."),
            "recomputed": self._counter("vllm:num_preemptions", "Texts that lost their slot for a while."),
            "steps": self._counter("gpt2fast:steps", "Steps of the model."),
            "step_seconds": self._counter("gpt2fast:step_seconds", "Seconds in steps of the model."),
        }
        self._seen = dict.fromkeys(self._of_engine, 0.0)
        self._finished = Counter(
            "vllm:request_success",
            "Texts finished, by reason.",
            (*_LABELS, "finished_reason"),
            registry=self._registry,
        )
        lengths = _one_two_five(n_positions)
        self._prompt_length = self._histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", lengths)
        self._output_length = self._histogram("vllm:request_generation_tokens", "Tokens of a text.", lengths)
        self._n = self._histogram("vllm:request_params_n", "Texts for each prompt.", (1, 2, 5, 10, 20, 50))
        self._max_tokens = self._histogram(
            "vllm:request_params_max_tokens", "The most tokens of a text, as requested.", lengths
        )
        self._first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "Seconds until a request's first token.", _FIRST_TOKEN_SECONDS
        )
        self._between = self._histogram(
            "vllm:inter_token_latency_seconds", "Seconds between a text's tokens.", _TOKEN_SECONDS
        )
        self._per_token = self._histogram(
            "vllm:request_time_per_output_token_seconds", "A request's time by its tokens.", _TOKEN_SECONDS
        )
        self._whole = self._histogram(
            "vllm:e2e_request_latency_seconds", "Seconds of a request for generated text.", _REQUEST_SECONDS
        )
        self._longest = self._histogram(
            "vllm:request_max_num_generation_tokens", "Tokens of a request's longest text.", lengths
        )
        self._queue, self._prefill, self._decode, self._inference = (
            self._histogram(f"vllm:request_{stage}_time_seconds", text, _REQUEST_SECONDS)
            for stage, text in (
                ("queue", "Seconds until a text got its slot."),
                ("prefill", "Seconds from a text's slot to its first token."),
                ("decode", "Seconds from a text's first token to its last."),
                ("inference", "Seconds from a text's slot to its last token."),
            )
        )
        self._http = Counter(
            "http_requests", "Answers.", ("method", "handler", "status"), registry=self._registry
        )
        if not self._shared:
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
            GCCollector(registry=self._registry)

    def state(self, stats: EngineStats) -> None:
        """Record what the model is doing and has done."""
        self._running.set(stats.running)
        self._waiting.set(stats.waiting)
        self._kv_usage.set(stats.slots_used / stats.slots)
        for name, counter in self._of_engine.items():
            value = getattr(stats, name)
            counter.inc(value - self._seen[name])
            self._seen[name] = value

    def prompt(self, tokens: int) -> None:
        """Record that a prompt was read."""
        self._prompt_tokens.inc(tokens)
        self._prompt_length.observe(tokens)

    def first_token(self, seconds: float) -> None:
        """Record when the first token of a request was chosen, or sent in a stream."""
        self._first_token.observe(seconds)

    def next_tokens(self, seconds: float, count: int) -> None:
        """Record that a text gained ``count`` tokens in this time."""
        for _ in range(count):
            self._between.observe(seconds / count)

    def stages(self, queue: float, prefill: float, decode: float) -> None:
        """Record how long a text waited for its slot, for its first token and then for its last."""
        self._queue.observe(queue)
        self._prefill.observe(prefill)
        self._decode.observe(decode)
        self._inference.observe(prefill + decode)

    def text(self, tokens: int, reason: str) -> None:
        """Record that a text was finished, by ``"stop"``, ``"length"`` or ``"abort"``."""
        self._output_tokens.inc(tokens)
        self._output_length.observe(tokens)
        self._finished.labels(*self._labels, reason).inc()

    def request(self, seconds: float, tokens: int, n: int, max_tokens: int) -> None:
        """Record an answered request for generated text; ``tokens`` are those of its longest text."""
        self._whole.observe(seconds)
        self._n.observe(n)
        self._max_tokens.observe(max_tokens)
        self._longest.observe(tokens)
        if tokens:
            self._per_token.observe(seconds / tokens)

    def answer(self, method: str, handler: str, status: int) -> None:
        """Record that a request of any kind was answered."""
        self._http.labels(method, handler, str(status)).inc()

    def exposition(self) -> bytes:
        """All metrics in Prometheus's text format."""
        if not self._shared:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(name, text, _LABELS, registry=self._registry, multiprocess_mode="livesum")
        return gauge.labels(*self._labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, _LABELS, registry=self._registry).labels(*self._labels)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, _LABELS, registry=self._registry, buckets=buckets).labels(*self._labels)


def _one_two_five(highest: int) -> list[float]:
    """1, 2, 5, 10, 20, ... up to ``highest``."""
    steps = (factor * 10**power for power in range(8) for factor in (1, 2, 5))
    return [float(step) for step in steps if step <= highest]
