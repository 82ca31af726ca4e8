"""Two processes that do the same at once; models that are replaced or damaged while others use them.

``python -m tests.campaign.neighbour_worker COUNT SEED DIRECTORY PART...`` prints a JSON line for each part.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gpt2fast import GPT2
from gpt2fast.errors import ModelError
from gpt2fast.export import convert
from support.random_models import write_shape
from tests.campaign.command_operations import CommandError, commands
from tests.campaign.fault_operations import (
    ExportHuggingFace,
    ExportONNX,
    Operation,
    converted_sample,
    writing_operations,
)

_DOCUMENTED = (ModelError, OSError, CommandError)
#: The longest that a process may take.
_SECONDS = 300
_IDS = [1, 2, 3]
_CALLS_AFTERWARDS = 30


@dataclass
class Child:
    """A forked process, and where it writes what came of it."""

    process: int
    pipe: int
    begun: bytes = b""

    def wait(self) -> None:
        """Wait until it says that it is ready, or ends."""
        self.begun = os.read(self.pipe, 1)

    def end(self) -> dict[str, Any]:
        """What came of it: a result, or an error and whether it is a documented one."""
        with os.fdopen(self.pipe, "rb") as pipe:
            said = (self.begun + pipe.read()).strip()
        _, status = os.waitpid(self.process, 0)
        if status != 0 or not said:
            return {"error": f"ended with status {status}", "documented": False}
        found: dict[str, Any] = json.loads(said)
        return found


def started(work: Callable[[Callable[[], None]], Any]) -> Child:
    """Run ``work`` in a child; what it is given says that it is ready, which :meth:`Child.wait` waits for."""
    reader, writer = os.pipe()
    process = os.fork()
    if process:
        os.close(writer)
        return Child(process, reader)
    os.close(reader)
    signal.alarm(_SECONDS)
    try:
        said = {"result": work(lambda: os.write(writer, b"\n") and None)}
    except _DOCUMENTED as error:
        said = {"error": f"{type(error).__name__}: {error}", "documented": bool(str(error))}
    except BaseException:
        said = {"error": traceback.format_exc()[-400:], "documented": False}
    os.write(writer, json.dumps(said).encode())
    os._exit(0)


def together(operation: Operation, expected: Any, delay: float, home: str) -> list[str]:
    """Let two processes do the same at once, one a bit later; returns what is wrong."""
    directory = Path(tempfile.mkdtemp(dir=home))
    operation.begin(directory)

    first = started(lambda _: operation.run())
    time.sleep(delay)
    outcomes = [started(lambda _: operation.run()).end(), first.end()]
    faults = [one["error"] for one in outcomes if not one.get("documented", True)]
    results = [one["result"] for one in outcomes if "result" in one]
    if any(result != expected for result in results):
        faults.append("another result")
    if not results:
        faults.append(f"neither succeeded: {outcomes}")
    faults += filter(None, [operation.leftovers(expected)])
    again = started(lambda _: operation.run()).end()
    if again != {"result": expected}:
        faults.append(f"afterwards: {again}"[:300])
    shutil.rmtree(directory, ignore_errors=True)
    return faults


def at_once(operation: Operation, count: int, generator: random.Random, home: str) -> dict[str, Any]:
    """:func:`together`, ``count`` times."""
    operation.begin(Path(tempfile.mkdtemp(dir=home)))
    operation.run()  # imports everything
    operation.begin(Path(tempfile.mkdtemp(dir=home)))
    start = time.monotonic()
    expected = started(lambda _: operation.run()).end()["result"]
    seconds = time.monotonic() - start
    findings = []
    for case in range(count):
        delay = generator.random() * seconds / 2
        findings += [f"case {case}: {fault}" for fault in together(operation, expected, delay, home)]
    return {"pairs": count, "findings": findings}


def replaced(source: Path, count: int, generator: random.Random, home: str) -> dict[str, Any]:
    """Load a model again and again while another process replaces its directory ``count`` times."""
    directory = Path(tempfile.mkdtemp(dir=home)) / "model"
    answers = []
    for precision in ("fp32", "int8"):
        convert(source, directory, precision=precision, overwrite=True)
        answers.append(_answer(directory))

    def replace(_: Any) -> None:
        for turn in range(count):
            time.sleep(generator.random() * 0.02)
            convert(source, directory, precision=("fp32", "int8")[turn % 2], overwrite=True)

    def load(ready: Callable[[], None]) -> dict[str, Any]:
        counts, faults = {"loads": 0, "errors": 0}, []
        with GPT2.from_pretrained(directory, threads=1) as held:
            first = list(held.generate(_IDS, max_new_tokens=8).token_ids)
            ready()
            while not stop.exists():
                counts["loads"] += 1
                try:
                    if _answer(directory) not in answers:
                        faults.append("a mixture of two models")
                except (ModelError, OSError) as error:
                    counts["errors"] += 1
                    if not str(error):
                        faults.append("an empty message")
                if list(held.generate(_IDS, max_new_tokens=8).token_ids) != first:
                    faults.append("a loaded model changed")
        return {**counts, "findings": faults}

    stop = directory.parent / "stop"
    reader = started(load)
    reader.wait()
    writer = started(replace).end()
    stop.touch()
    found = reader.end()
    findings = [one["error"] for one in (writer, found) if "error" in one]
    counts = found.get("result", {"findings": []})
    return {"replaced": count, **counts, "findings": findings + counts["findings"]}


def _answer(directory: Path) -> list[Any]:
    with GPT2.from_pretrained(directory, threads=1) as model:
        return [model.precision, list(model.generate(_IDS, max_new_tokens=8).token_ids)]


def _cut(weights: Path, share: float) -> None:
    os.truncate(weights, int(weights.stat().st_size * share))


def _write_zeros(weights: Path) -> None:
    with weights.open("r+b") as file:
        file.write(bytes(weights.stat().st_size))


def _copy_over(weights: Path) -> None:
    data = weights.read_bytes()
    weights.write_bytes(data)


_DAMAGE: tuple[Callable[[Path], None], ...] = (
    lambda weights: _cut(weights, 0.0),
    lambda weights: _cut(weights, 0.5),
    _write_zeros,
    _copy_over,
)


def damaged(source: Path, count: int, generator: random.Random, home: str) -> dict[str, Any]:
    """Cut or rewrite the weights of a running model ``count`` times."""
    whole = convert(source, Path(home, "whole"), precision="int8")
    with GPT2.from_pretrained(whole, threads=1) as model:
        expected = list(model.generate(_IDS, max_new_tokens=4).token_ids)
    counts, findings = {"errors": 0, "unharmed": 0}, []
    for case in range(count):
        directory = Path(shutil.copytree(whole, Path(tempfile.mkdtemp(dir=home)) / "model"))
        weights = directory / "weights.bin"
        os.utime(weights, ns=(1, 1))  # as files of another day have it

        def call(ready: Callable[[], None], directory: Path = directory, weights: Path = weights) -> str:
            with GPT2.from_pretrained(directory, threads=2) as model:
                ready()
                left = _CALLS_AFTERWARDS
                while left:
                    left -= weights.with_name("damaged").exists()
                    if list(model.generate(_IDS, max_new_tokens=4).token_ids) != expected:
                        return "another answer"
                return "unharmed"

        child = started(call)
        child.wait()
        time.sleep(generator.random() * 0.02)
        _DAMAGE[case % len(_DAMAGE)](weights)
        weights.with_name("damaged").touch()
        found = child.end()
        if found.get("documented") and "weights were shortened or rewritten" in found["error"]:
            counts["errors"] += 1
        elif found == {"result": "unharmed"}:
            counts["unharmed"] += 1
        else:
            findings.append(f"case {case}: {found}")
        shutil.rmtree(directory.parent)
    return {"damaged": count, **counts, "findings": findings}


def operations(directory: Path) -> dict[str, Operation]:
    """What two processes may do at once."""
    source, model = converted_sample(directory)
    return {
        **writing_operations(source, model),
        "export-onnx": ExportONNX(source),
        "export-huggingface": ExportHuggingFace(source),
        **commands(directory / "commands"),
    }


def main(count: int, seed: int, directory: Path, names: list[str]) -> None:
    """Do each ``count`` times."""
    warnings.simplefilter("ignore")
    # Its own lock is one for all forked processes.
    tqdm.set_lock(threading.RLock())
    home = str(directory / "cases")
    os.mkdir(home)
    pairs = operations(directory / "sources")
    larger = write_shape(directory / "larger", "many_small_heads")
    for name in names or [*pairs, "replaced", "damaged"]:
        generator = random.Random(f"{seed} {name}")
        if name in pairs:
            found = at_once(pairs[name], count, generator, home)
        else:
            found = {"replaced": replaced, "damaged": damaged}[name](larger, count, generator, home)
        print(json.dumps({"part": name, **found}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
