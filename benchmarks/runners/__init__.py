"""The programs that are compared: one module for each, with the same few names.

``PACKAGES`` are the distributions it needs; ``FORMATS`` maps the names of its weight formats to bits;
``convert(checkpoint, directory, format)`` writes what ``load`` reads; ``load(directory, format, threads,
texts)`` returns a :class:`Runner` for at most so many texts together.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from gpt2fast.evaluation.speed import Arrivals

#: The largest number of texts that are generated together.
MAX_TEXTS = 32

NAMES = (
    "gpt2fast",
    "transformers",
    "ctranslate2",
    "xllamacpp",
    "openvino_genai",
    "contrib_graph",
)


class Runner(Protocol):
    """A loaded model."""

    def generate(self, prompts: list[list[int]], new_tokens: int) -> Arrivals:
        """Continue prompts of one length greedily, past any end-of-text, and say when tokens arrived."""


class RunnerModule(Protocol):
    """What each module here has."""

    PACKAGES: tuple[str, ...]
    FORMATS: Mapping[str, int]

    def convert(self, checkpoint: Path, directory: Path, format: str) -> None:
        """Write the files that ``load`` reads; the directory exists and is empty."""

    def load(self, directory: Path, format: str, threads: int, texts: int) -> Runner:
        """Load what was converted."""


def runner_module(name: str) -> RunnerModule:
    """The module of a name in ``NAMES``."""
    return cast(RunnerModule, import_module(f"benchmarks.runners.{name}"))
