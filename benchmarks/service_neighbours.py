"""The same texts for gpt2fast and for others while neighbours keep the processors busy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from benchmarks.comparison import Comparison, Log, Results
from benchmarks.systems import OURS, of_bits
from benchmarks.targets import Target
from gpt2fast.config import ModelConfig
from gpt2fast.evaluation.speed import Case, Timing

_RUNNERS = (OURS, "xllamacpp", "ctranslate2", "openvino_genai")
_BITS = 8
_NEIGHBOURS = (0, 1, 3)
_CASES = [Case("128 tokens", 1, 128, 32), Case("512 tokens", 1, 512, 4)]
_WHATS = ("first token of 128", "first token of 512", "a token after 128")
_BOUND = 1.3


def beside_neighbours(
    checkpoint: Path, work: Path, threads: int, repeats: int, log: Log
) -> tuple[list[Target], str]:
    """How far gpt2fast is ahead of the best other program, with no, one and three spinning processes.

    Parameters
    ----------
    checkpoint : Path
        What every program converts, below ``work``.
    threads : int
        For each program.
    repeats : int
        Turns that count, after one that does not.

    Returns
    -------
    list of Target
        The ratios.
    str
        A line for each number of neighbours and program: medians in milliseconds a prompt and a token.
    """
    directories = of_bits(_BITS, _RUNNERS, threads, checkpoint, work)
    config = ModelConfig.from_dict(json.loads((checkpoint / "config.json").read_text("utf-8")))
    targets: list[Target] = []
    lines: list[str] = []
    results = Results()
    with Comparison(directories, config.vocab_size, work, results, log) as comparison:
        for neighbours in _NEIGHBOURS:
            results.timings.clear()
            with _spinning(neighbours):
                comparison.run_cases(_CASES, repeats)
            taken = {system: _milliseconds(cases) for system, cases in results.timings.items()}
            for system, values in taken.items():
                lines.append(f"{neighbours} neighbours, {system}: {', '.join(f'{ms:.1f}' for ms in values)}")
            targets += _targets(taken, neighbours)
    return targets, "\n".join(lines)


def _milliseconds(cases: dict[str, list[Timing]]) -> list[float]:
    short, long = (cases[case.name] for case in _CASES)
    return [
        median(timing.first_token_ms for timing in short),
        median(timing.first_token_ms for timing in long),
        # By the mean of a text: the median between its tokens would not see the turns of a neighbour.
        median(1000 / timing.tokens_per_second for timing in short),
    ]


def _targets(taken: dict[str, list[float]], neighbours: int) -> Iterator[Target]:
    ours = next(system for system in taken if system.startswith(OURS))
    peers = [system for system in taken if system != ours]
    for index, what in enumerate(_WHATS):
        least, best = min((taken[peer][index], peer) for peer in peers)
        ratio = least / taken[ours][index]
        yield Target(f"{what}, {neighbours} spinning neighbours", best, ratio, _BOUND, at_least=True)


@contextmanager
def _spinning(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
