"""The programs that are compared: one module for each, with the same few names.

``PACKAGES`` are the distributions it needs; ``FORMATS`` maps the names of its weight formats to bits;
``convert(checkpoint, directory, format)`` writes what ``load`` reads; ``load(directory, format, threads,
texts)`` returns a :class:`Runner` for at most so many texts together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from gpt2fast.evaluation.speed import Arrivals

#: The largest number of texts that are generated together.
MAX_TEXTS = 32

#: Those that are :class:`ScoringRunner`.
SCORING = ("gpt2fast", "transformers", "ctranslate2")

NAMES = (
    "gpt2fast",
    "transformers",
    "ctranslate2",
    "xllamacpp",
    "openvino_genai",
    "contrib_graph",
)


Received = Callable[[], None]

#: Seconds from the beginning, the prompt, the number of new tokens.
Request = tuple[float, list[int], int]


class Runner(Protocol):
    """A loaded model."""

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Arrivals:
        """Continue prompts of one length greedily, past any end-of-text, and say when tokens arrived."""


class ScoringRunner(Runner, Protocol):
    """One that gives log-probabilities of texts."""

    def score_seconds(self, texts: list[list[int]]) -> float:
        """How long the log-probabilities of every text's tokens take, the texts in one call."""


class ServingRunner(Runner, Protocol):
    """One that takes requests at any time and lets them share its steps."""

    def serve(self, requests: list[Request]) -> Arrivals:
        """Make each request at its time; say when, counted from the first, its tokens arrived."""


class RunnerModule(Protocol):
    """What each module here has."""

    PACKAGES: tuple[str, ...]
    FORMATS: Mapping[str, int]

    def convert(self, checkpoint: Path, directory: Path, format: str) -> None:
        """Write the files that ``load`` reads; the directory exists and is empty."""

    def load(self, directory: Path, format: str, threads: int, texts: int) -> Runner:
        """Load what was converted."""


def serve_in_threads(
    requests: list[Request], serve_one: Callable[[list[int], int, Received], None]
) -> Arrivals:
    """Make each request in a thread of its own, at its time; ``Received`` is called with each token."""
    arrivals: Arrivals = [[] for _ in requests]
    start = time.perf_counter()

    def work(request: Request, times: list[float]) -> None:
        seconds, prompt, new_tokens = request
        time.sleep(max(0.0, start + seconds - time.perf_counter()))
        serve_one(prompt, new_tokens, lambda: times.append(time.perf_counter() - start))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(requests, arrivals, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return arrivals


def runner_module(name: str) -> RunnerModule:
    """The module of a name in ``NAMES``."""
    return cast(RunnerModule, import_module(f"benchmarks.runners.{name}"))
