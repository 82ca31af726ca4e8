"""Kills one operation at random moments, a forked process for each, and lets it be done again.

``python -m tests.campaign.kill_worker COUNT SEED DIRECTORY OPERATION...`` prints a JSON line for each.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests.campaign.command_operations import commands
from tests.campaign.fault_operations import (
    FirstLoad,
    Operation,
    ResumeJournal,
    ResumeResults,
    converted_sample,
    writing_operations,
)

#: The end of an operation that was not killed.
_SECONDS = 300.0


def operations(directory: Path) -> dict[str, Operation]:
    """All of them, over sources that are made in a directory."""
    source, model = converted_sample(directory)
    return {
        **writing_operations(source, model),
        "journal": ResumeJournal(),
        "results": ResumeResults(),
        **commands(directory / "commands"),
    }


def in_child(operation: Operation, *, kill_after: float | None) -> tuple[Any, float]:
    """The result of running an operation in a child, or None if it is killed; and how long it ran."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.write(writer, b"\n")
            result = json.dumps({"result": operation.run()}).encode()
        except BaseException as error:
            result = json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()
        os.write(writer, result)
        os._exit(0)
    os.close(writer)
    os.read(reader, 1)
    start = time.monotonic()
    ready, _, _ = select.select([reader], [], [], _SECONDS if kill_after is None else kill_after)
    seconds = time.monotonic() - start
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None, seconds
    return json.loads(said), seconds


def kill(operation: Operation, after: float, expected: Any, home: str) -> tuple[bool, str]:
    """Whether one run was killed before its end, and what is wrong afterwards."""
    directory = Path(tempfile.mkdtemp(dir=home))
    operation.begin(directory)
    first, _ = in_child(operation, kill_after=after)
    fault = "" if first in (None, expected) else f"not killed: {first}"[:300]
    if first is None:
        fault = operation.after_kill(expected["result"])
    again, _ = in_child(operation, kill_after=None)
    if again is None:
        fault = fault or "did not end afterwards"
    elif again != expected:
        fault = fault or f"afterwards: {again.get('error', 'another result')}"[:300]
    if first is None and not fault:
        # Doing it again also removes what the killed one left in the cache.
        fault = operation.leftovers(expected["result"]) if isinstance(operation, FirstLoad) else ""
    shutil.rmtree(directory, ignore_errors=True)
    return first is None, fault


def main(count: int, seed: int, directory: Path, names: list[str]) -> None:
    """Kill operations ``count`` times each."""
    warnings.simplefilter("ignore")
    # Its own lock is one for all forked processes, and stays locked when one is killed that holds it.
    tqdm.set_lock(threading.RLock())
    available = operations(directory)
    home = str(directory / "cases")
    os.mkdir(home)
    generator = random.Random(seed)
    for name in names or available:
        operation = available[name]
        operation.begin(Path(tempfile.mkdtemp(dir=home)))
        operation.run()  # imports everything
        operation.begin(Path(tempfile.mkdtemp(dir=home)))
        expected, seconds = in_child(operation, kill_after=None)
        if expected is None or "error" in expected:
            raise RuntimeError(f"{name}: {expected}")
        findings, killed = [], 0
        for case in range(count):
            after = generator.random() * seconds * 1.1
            was_killed, fault = kill(operation, after, expected, home)
            killed += was_killed
            if fault:
                findings.append(f"case {case}, after {after:.4f} s: {fault}")
        summary = {"part": name, "runs": count, "killed": killed, "seconds_of_one": round(seconds, 4)}
        print(json.dumps({**summary, "findings": findings}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
