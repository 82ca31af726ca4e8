"""The measurements: all systems alternate, case by case, each over prompts that it has not seen."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.limits import Limits
from benchmarks.processes import Worker, WorkerError
from benchmarks.runners import SCORING
from benchmarks.systems import OURS, System
from gpt2fast.evaluation.speed import Case, Timing, fresh_prompts, timing

#: Draft tokens in the steps that are timed; 0 is the plain step that they are compared with.
DRAFTS = (0, 3, 4, 7, 8)
_DRAFT_STEPS = 16
#: Texts that are scored in one call, and their lengths from and up to.
SCORED_TEXTS = 64
SCORED_TOKENS = (8, 47)
_WAKING_TOKENS = 8
_ATTEMPTS = 3  # a program may end a text of random tokens before it has begun

Log = Callable[[str], None]


@dataclass
class Results:
    """Everything that was measured; systems and cases by name.

    Attributes
    ----------
    timings : dict
        System -> case -> one timing for each repeat.
    draft_step_ms : dict
        System -> number of draft tokens -> one number for each repeat.
    scored_per_second : dict
        System -> tokens of texts that are scored in a second, for each repeat.
    start_seconds : dict
        System -> seconds from process start to the first token, for each repeat.
    resident_bytes : dict
        System -> memory in use after a text of nearly all positions: ``total``, ``anonymous``.
    failures : dict
        System -> why it was given up.
    limits : Limits or None
        Of the machine.
    """

    timings: dict[str, dict[str, list[Timing]]] = field(default_factory=lambda: defaultdict(dict))
    draft_step_ms: dict[str, dict[int, list[float]]] = field(default_factory=lambda: defaultdict(dict))
    scored_per_second: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    start_seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    resident_bytes: dict[str, dict[str, int]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    limits: Limits | None = None


class Comparison:
    """Loaded systems that alternate; a context manager that ends their processes."""

    def __init__(
        self, directories: dict[System, Path], vocab_size: int, work: Path, results: Results, log: Log
    ) -> None:
        self._directories = directories
        self._vocab_size = vocab_size
        self._work = work
        self._results = results
        self._log = log
        self._generator = np.random.default_rng()
        self._workers: dict[System, Worker] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Comparison:
        for system in self._directories:
            self._log(f"loading {system.name}")
            with self._giving_up(system):
                worker = self._stack.enter_context(self._worker("serve", system))
                worker.receive()
                worker.pause()
                self._workers[system] = worker
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run_cases(
        self, cases: Sequence[Case], repeats: int, each_round: Callable[[], None] = lambda: None
    ) -> None:
        """Each round runs every case on each system in turn; the first round warms up.

        So a slow minute of the machine falls on all systems and all cases alike. Several texts are run in
        half of the rounds.
        """
        for repeat in range(repeats + 1):
            each_round()
            for case in cases:
                if case.texts > 1 and repeat > max(2, repeats // 2):
                    continue
                self._log(f"{case.name}: {_turn(repeat, repeats)}")
                self._run_on_all(case, counts=repeat > 0)

    def _run_on_all(self, case: Case, *, counts: bool) -> None:
        for system, worker in list(self._workers.items()):
            if case.texts > system.max_texts:
                continue
            with self._giving_up(system):
                measured = self._run_case(worker, case)
                if counts:
                    self._results.timings[system.name].setdefault(case.name, []).append(measured)

    def run_drafts(self, context: int, repeats: int) -> None:
        """Time steps with draft tokens, for gpt2fast's int8 and int4."""
        self._log("draft tokens")
        for repeat in range(repeats):
            for drafts in DRAFTS:
                for system, worker in list(self._workers.items()):
                    if system.runner != OURS or system.bits > 8:
                        continue
                    with self._giving_up(system):
                        self._wake(worker)
                        taken = worker.call(
                            "draft_step_ms",
                            context=context,
                            drafts=drafts,
                            steps=_DRAFT_STEPS,
                            first_token=repeat + 2,
                        )
                        self._results.draft_step_ms[system.name].setdefault(drafts, []).append(taken)

    def run_scoring(self, repeats: int) -> None:
        """Score texts of few tokens, the same for all systems; the first round warms up."""
        for repeat in range(repeats + 1):
            self._log(f"scoring: {_turn(repeat, repeats)}")
            lengths = self._generator.integers(SCORED_TOKENS[0], SCORED_TOKENS[1] + 1, SCORED_TEXTS)
            texts = [self._generator.integers(0, self._vocab_size - 1, n).tolist() for n in lengths]
            for system, worker in list(self._workers.items()):
                if system.runner not in SCORING:
                    continue
                with self._giving_up(system):
                    self._wake(worker)
                    seconds = worker.call("score_seconds", texts=texts)
                    if repeat > 0:
                        rate = float(lengths.sum()) / seconds
                        self._results.scored_per_second[system.name].append(rate)

    def _run_case(self, worker: Worker, case: Case) -> Timing:
        self._wake(worker)
        for _ in range(_ATTEMPTS):
            prompts = fresh_prompts(self._generator, case, self._vocab_size)
            arrivals = worker.call("generate", prompts=prompts, new_tokens=case.new_tokens)
            if all(arrivals):
                return timing(arrivals)
        raise ValueError(f"{case.name}: texts without tokens, {_ATTEMPTS} times in a row")

    def _wake(self, worker: Worker) -> None:
        """Let a program read all of its weights, which the system may have taken back while others ran."""
        prompt = self._generator.integers(0, self._vocab_size - 1, _WAKING_TOKENS).tolist()
        worker.call("generate", prompts=[prompt], new_tokens=_WAKING_TOKENS)

    def _worker(self, action: str, system: System) -> Worker:
        log = self._work / "logs" / f"{system.key}-{action}.log"
        directory = str(self._directories[system])
        return Worker(action, system.runner, system.format, directory, str(system.threads), log=log)

    @contextmanager
    def _giving_up(self, system: System) -> Iterator[None]:
        """Continue without a system that fails."""
        try:
            yield
        except (WorkerError, ValueError) as error:
            self._results.failures[system.name] = str(error)
            self._log(f"{system.name} failed: {error}")
            self._workers.pop(system, None)


def _turn(repeat: int, repeats: int) -> str:
    return "warming up" if repeat == 0 else f"{repeat} of {repeats}"


def measure_starts(
    directories: dict[System, Path], prompt: list[int], repeats: int, work: Path, results: Results, log: Log
) -> None:
    """Processes that load a model and make a token, alternating; and the memory in use after a long text."""
    for repeat in range(repeats + 1):
        log(f"process start: {_turn(repeat, repeats)}")
        for system, directory in directories.items():
            if system.name in results.failures:
                continue
            arguments = ("start", system.runner, system.format, str(directory), str(system.threads))
            with Worker(*arguments, log=work / "logs" / f"{system.key}-start.log") as worker:
                try:
                    worker.receive()
                    taken = time.perf_counter() - worker.started
                    if repeat > 0:
                        results.start_seconds[system.name].append(taken)
                        continue
                    worker.send({"prompts": [prompt], "new_tokens": 8})
                    results.resident_bytes[system.name] = worker.receive()["result"]
                except WorkerError as error:
                    results.failures[system.name] = str(error)
