"""Fuzzing guided by coverage, one child process for each reader; needs ``pip install atheris``.

The package must be installed, not in place.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.campaign import ROOT
from tests.campaign.child import quick_directory, real_package
from tests.campaign.outcome import Outcome

_COVERAGE = re.compile(r"cov: (\d+)")


def guided(count: int, seed: int, only: list[str]) -> Outcome:
    """Let libFuzzer make ``count`` inputs for each reader."""
    from tests.campaign.readers import READERS

    real_package("guided")  # atheris instruments nothing of one that is installed in place
    outcome = Outcome()
    for name in only or READERS:
        with quick_directory("guided") as directory:
            run = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "tests.campaign.guided_worker",
                    name,
                    str(seed),
                    str(count),
                    directory,
                ],
                cwd=ROOT,
                env={**os.environ, "GPT2FAST_CACHE": f"{directory}/cache"},
                capture_output=True,
                text=True,
                check=False,
            )
            summary = Path(directory, "summary.json")
            found = json.loads(summary.read_text()) if summary.exists() else {"inputs": 0, "findings": []}
            if run.returncode != 0:
                found["findings"].append(f"ended with {run.returncode}: {run.stderr[-800:]}")
            covered = [int(number) for number in _COVERAGE.findall(run.stderr)]
            if not covered:
                found["findings"].append("nothing was instrumented: coverage guides nothing")
            growth = {"covered_at_first": covered[0], "covered": covered[-1]} if covered else {}
            outcome.add(name, **growth, **found)
    return outcome
