"""Damaged files for every reader, in child processes; one that dies is a finding, and the next goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.campaign import ROOT
from tests.campaign.child import SINGLE, quick_directory
from tests.campaign.outcome import Outcome

_BATCH = 5000
_FEW = 500
_SECONDS = 3600.0


def fuzz(count: int, seed: int, only: list[str]) -> Outcome:
    """Damage each reader's samples in ``count`` ways, as many readers at once as there are processors."""
    from tests.campaign.readers import READERS

    outcome = Outcome()
    names = only or list(READERS)
    processors = len(os.sched_getaffinity(0))
    # A process takes a second to start, so it has several readers where each has few files.
    shares = len(names) if count > _FEW else min(processors, len(names))
    with ThreadPoolExecutor(processors) as pool:
        for totals in pool.map(lambda at: _share(names[at::shares], count, seed), range(shares)):
            for name, found in totals.items():
                outcome.add(name, **found.to_dict())
    return outcome


def _share(names: list[str], count: int, seed: int) -> dict[str, _Totals]:
    totals = {name: _Totals(seed) for name in names}
    while unfinished := [name for name in names if totals[name].next_seed < seed + count]:
        first = totals[unfinished[0]].next_seed
        together = [name for name in unfinished if totals[name].next_seed == first]
        _batch(together, first, min(_BATCH, seed + count - first), totals)
    return totals


class _Totals:
    """What was found of one reader so far."""

    def __init__(self, seed: int) -> None:
        self.next_seed = seed
        self.findings: list[str] = []
        self._counts = {"loaded": 0, "refused": 0}
        self._slowest = 0.0
        self._inputs = ""

    def add(self, summary: dict[str, Any], next_seed: int) -> None:
        self.next_seed = next_seed
        for key in self._counts:
            self._counts[key] += summary[key]
        self._slowest = max(self._slowest, summary["slowest_s"])
        self._inputs = summary["inputs_sha256"]
        self.findings += summary["findings"]

    def to_dict(self) -> dict[str, Any]:
        last = {"inputs_sha256": self._inputs}
        return {**self._counts, "slowest_s": self._slowest, **last, "findings": self.findings}


def _batch(names: list[str], first: int, count: int, totals: dict[str, _Totals]) -> None:
    """The next seeds of readers that have come equally far, until a child dies."""
    with quick_directory("fuzz") as directory:
        run = subprocess.run(
            [sys.executable, "-m", "tests.campaign.fuzz_worker", str(first), str(count), directory, *names],
            cwd=ROOT,
            env={**os.environ, **SINGLE, "GPT2FAST_CACHE": f"{directory}/cache"},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        done = [json.loads(line) for line in run.stdout.splitlines()]
        for summary in done:
            totals[summary["reader"]].add(summary, first + count)
        if run.returncode == 0:
            return
        at = Path(directory, "at")
        if not at.exists():
            raise RuntimeError(f"{names[len(done)]}: the samples could not be prepared\n{run.stderr}")
        died = totals[names[len(done)]]
        reached = int(at.read_text())
        died.findings.append(f"seed {reached}: ended with {run.returncode}: {run.stderr[-500:]}")
        died.next_seed = reached + 1
