"""Runs a worker of the campaign, which prints a JSON line for each part, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import gpt2fast
from gpt2fast._native import core
from tests.campaign import ROOT
from tests.campaign.outcome import Outcome

#: Threads of others, which a fork would lose, and which would wait for each other in processes side by side.
SINGLE = {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

_IN_MEMORY = "/dev/shm"
_ROOM = 512 << 20


@contextmanager
def quick_directory(campaign: str) -> Iterator[str]:
    """A temporary directory for files that are replaced again and again: in memory, where there is room.

    A disk that holds the new content of a replaced file back until it is written takes ten times as long.
    """
    home = None
    with suppress(OSError):
        room = os.statvfs(_IN_MEMORY)
        if room.f_bavail * room.f_frsize > _ROOM and os.access(_IN_MEMORY, os.W_OK):
            home = _IN_MEMORY
    with tempfile.TemporaryDirectory(prefix=f"gpt2fast-{campaign}-", dir=home) as directory:
        yield directory


def real_package(campaign: str) -> Path:
    """Where the package is installed; where it is installed in place, some attacks would test nothing."""
    package = Path(gpt2fast.__file__).parent
    if Path(core.__file__).parent != package:
        raise SystemExit(f"{campaign}: the package is installed in place; install it with `pip install .`")
    return package


def run_lines(
    module: str, arguments: list[str], parts: list[str], *, before: Sequence[str] = (), **environment: str
) -> Outcome:
    """The outcome of ``BEFORE... python -m tests.campaign.MODULE ARGUMENTS... DIRECTORY PARTS...``."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="gpt2fast-campaign-") as directory:
        cache = str(Path(directory) / "cache")
        with (
            tempfile.TemporaryFile("w+", errors="backslashreplace") as said,
            subprocess.Popen(
                [*before, sys.executable, "-m", f"tests.campaign.{module}", *arguments, directory, *parts],
                cwd=ROOT,
                env={**os.environ, **SINGLE, "GPT2FAST_CACHE": cache, **environment},
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            ) as run,
        ):
            assert run.stdout is not None
            for line in run.stdout:
                summary = json.loads(line)
                outcome.add(summary.pop("part"), **summary)
            if run.wait() != 0:
                said.seek(0)
                outcome.add("worker", findings=[f"ended with {run.returncode}: {said.read()[-1500:]}"])
    return outcome
