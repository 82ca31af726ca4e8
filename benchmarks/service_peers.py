"""The same requests for gpt2fast and for programs with continuous batching, which take turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.processes import Worker
from benchmarks.runners import Request
from benchmarks.systems import OURS, System, of_bits
from benchmarks.targets import Target
from gpt2fast.config import ModelConfig

_RUNNERS = (OURS, "xllamacpp", "openvino_genai")
_BITS = 8
_AT_ONCE, _STREAMS, _LONG_PROMPTS = 32, 4, 4
_PROMPT, _LONG, _NEW_TOKENS = 64, 900, 48
_FIRST, _EVERY = 0.25, 0.5  # seconds before the first long prompt, and from one to the next


def beside_peers(checkpoint: Path, work: Path, threads: int, repeats: int) -> list[Target]:
    """Tokens a second of many requests at once, and how even streams are beside long prompts.

    Parameters
    ----------
    checkpoint : Path
        What every program converts, below ``work``.
    threads : int
        For each program.
    repeats : int
        Turns that count, after one that does not.
    """
    directories = of_bits(_BITS, _RUNNERS, threads, checkpoint, work)
    config = ModelConfig.from_dict(json.loads((checkpoint / "config.json").read_text("utf-8")))
    rates: dict[str, list[float]] = {one.name: [] for one in directories}
    gaps: dict[str, list[float]] = {one.name: [] for one in directories}
    with ExitStack() as stack:
        workers = {
            one: stack.enter_context(_started(one, directory, work)) for one, directory in directories.items()
        }
        for repeat in range(repeats + 1):
            for one, worker in workers.items():
                rate, gap = _measure(worker, config, seed=repeat)
                if repeat > 0:
                    rates[one.name].append(rate)
                    gaps[one.name].append(gap)
    return list(_targets(directories, rates, gaps))


def _started(system: System, directory: Path, work: Path) -> Worker:
    log = work / "logs" / f"{system.key}-service.log"
    worker = Worker("serve", system.runner, system.format, str(directory), str(system.threads), log=log)
    worker.receive()
    worker.pause()
    return worker


def _measure(worker: Worker, config: ModelConfig, seed: int) -> tuple[float, float]:
    """Tokens a second of requests at once; the 95th percentile of the time between tokens, in seconds.

    The percentile is over tokens that come while a long prompt waits or is read: the even steps before,
    between and after would hide what prompts do, the more of them the faster a program reads.
    """
    random = np.random.default_rng(seed)

    def prompt(tokens: int) -> list[int]:
        return [int(token) for token in random.integers(1, config.vocab_size, tokens)]

    at_once: list[Request] = [(0.0, prompt(_PROMPT), _NEW_TOKENS) for _ in range(_AT_ONCE)]
    arrivals = worker.call("serve", requests=at_once)
    rate = _AT_ONCE * _NEW_TOKENS / max(times[-1] for times in arrivals)
    new_tokens = config.n_positions // 2
    long = min(_LONG, config.n_positions - 2)
    mixed: list[Request] = [(0.0, prompt(_PROMPT), new_tokens) for _ in range(_STREAMS)]
    mixed += [(_FIRST + _EVERY * index, prompt(long), 1) for index in range(_LONG_PROMPTS)]
    arrivals = worker.call("serve", requests=mixed)
    prompts = [(at, times[0]) for (at, _, _), times in zip(mixed, arrivals, strict=True) if at > 0]
    between = [
        later - earlier
        for times in arrivals[:_STREAMS]
        for earlier, later in pairwise(times)
        if any(later > begin and earlier < end for begin, end in prompts)
    ]
    return rate, float(np.percentile(between, 95))


def _targets(
    systems: dict[System, Path], rates: dict[str, list[float]], gaps: dict[str, list[float]]
) -> Iterator[Target]:
    ours = next(one.name for one in systems if not one.is_peer)
    peers = [one.name for one in systems if one.is_peer]
    for peer in peers:
        rate = median(rates[ours]) / median(rates[peer])
        yield Target(f"tokens a second, {_AT_ONCE} requests at once", peer, rate, 2.0, at_least=True)
        gap = median(gaps[peer]) / median(gaps[ours])
        what = f"95th percentile between tokens of {_STREAMS} streams, long prompts every {_EVERY} s"
        yield Target(what, peer, gap, 3.0, at_least=True)
