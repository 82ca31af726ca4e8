"""A runner in a process of its own: commands come in, and answers go out, as lines of JSON.

python -m benchmarks.worker convert RUNNER FORMAT DIRECTORY CHECKPOINT
python -m benchmarks.worker serve RUNNER FORMAT DIRECTORY THREADS
python -m benchmarks.worker start RUNNER FORMAT DIRECTORY THREADS
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from benchmarks.runners import MAX_TEXTS, Runner, runner_module

_MEMORY_INTERVAL = 0.02  # seconds between two readings of the memory in use


def main() -> None:
    """Do what the arguments say."""
    action, name, format, directory, last = sys.argv[1:]
    answers = _claim_standard_output()
    module = runner_module(name)
    if action == "convert":
        module.convert(Path(last), Path(directory), format)
        return
    starting = action == "start"
    runner = module.load(Path(directory), format, int(last), texts=1 if starting else MAX_TEXTS)
    for answer in _start(runner) if starting else _serve(runner):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _claim_standard_output() -> TextIO:
    """Keep standard output for answers: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _serve(runner: Runner) -> Iterator[dict[str, Any]]:
    yield {"ready": True}
    for line in sys.stdin:
        command = json.loads(line)
        method = getattr(runner, command.pop("call"))
        try:
            yield {"result": method(**command)}
        except (RuntimeError, ValueError) as error:
            yield {"error": str(error)}


def _start(runner: Runner) -> Iterator[dict[str, Any]]:
    """Make one token; then continue a prompt from standard input, and report the peak memory in use."""
    runner.generate([[1, 2, 3]], 1)
    yield {"ready": True}
    command = json.loads(sys.stdin.readline())
    errors: list[Exception] = []

    def generate() -> None:
        try:
            runner.generate(**command)
        except Exception as error:
            errors.append(error)

    # What measures memory should take little: concurrent.futures would be a megabyte.
    thread = threading.Thread(target=generate)
    thread.start()
    largest = resident_bytes()
    while thread.is_alive():
        largest = max(largest, resident_bytes(), key=lambda used: used.get("total", 0))
        thread.join(_MEMORY_INTERVAL)
    if errors:
        raise errors[0]
    yield {"result": largest}


def resident_bytes() -> dict[str, int]:
    """Memory of this process that is in RAM: ``total``, and what is not backed by files (``anonymous``).

    Read from Linux's ``/proc/self/smaps_rollup``; empty where there is none.
    """
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    kilobytes = {line[0].rstrip(":"): int(line[1]) for line in lines if len(line) == 3}
    return {"total": kilobytes["Rss"] * 1024, "anonymous": kilobytes["Anonymous"] * 1024}


if __name__ == "__main__":
    main()
