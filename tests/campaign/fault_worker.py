"""Strikes one operation with faults of one kind, a forked process for each; run with the library preloaded.

``python -m tests.campaign.fault_worker LIBRARY COUNT SEED DIRECTORY OPERATION...`` prints a JSON line for
each operation and kind.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import gc
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from enum import IntFlag, auto
from pathlib import Path
from typing import Any

from gpt2fast._native import core
from gpt2fast.errors import ModelError
from tests.campaign.command_operations import CommandError, commands
from tests.campaign.fault_operations import Operation, operations


class Calls(IntFlag):
    """What a call does; the order is that of faults.cpp."""

    MALLOC = auto()
    NEW = auto()
    READ = auto()
    WRITE = auto()
    MAP = auto()
    SYNC = auto()
    RENAME = auto()
    TRUNCATE = auto()
    OPEN = auto()
    OPEN_TO_WRITE = auto()
    CREATE = auto()
    REMOVE = auto()


@dataclass(frozen=True)
class Fault:
    """Calls that fail.

    Attributes
    ----------
    calls : Calls
        Which.
    numbers : tuple of int
        The errors that they may give.
    lasts : bool
        Whether all of them fail from one on, and not one alone.
    cleans : bool
        Whether what was begun can still be removed.
    """

    calls: Calls
    numbers: tuple[int, ...]
    lasts: bool = False
    cleans: bool = True


_FULL = Calls.WRITE | Calls.SYNC | Calls.TRUNCATE | Calls.CREATE
_CHANGES = Calls.WRITE | Calls.SYNC | Calls.TRUNCATE | Calls.RENAME | Calls.OPEN_TO_WRITE | Calls.CREATE
#: By name; those in capitals are states of a disk, which last.
KINDS = {
    "malloc": Fault(Calls.MALLOC, (errno.ENOMEM,)),
    "new": Fault(Calls.NEW, (errno.ENOMEM,)),
    "read": Fault(Calls.READ, (errno.EIO, errno.ESTALE)),
    "write": Fault(Calls.WRITE, (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG)),
    "mmap": Fault(Calls.MAP, (errno.ENOMEM, errno.EAGAIN)),
    "fsync": Fault(Calls.SYNC, (errno.EIO, errno.ENOSPC)),
    "rename": Fault(Calls.RENAME, (errno.EACCES, errno.EIO, errno.EROFS)),
    "ftruncate": Fault(Calls.TRUNCATE, (errno.EIO, errno.ENOSPC)),
    "open": Fault(Calls.OPEN, (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EROFS)),
    "ENOSPC": Fault(_FULL, (errno.ENOSPC,), lasts=True),
    "EDQUOT": Fault(_FULL, (errno.EDQUOT,), lasts=True),
    "EROFS": Fault(_CHANGES | Calls.REMOVE, (errno.EROFS,), lasts=True, cleans=False),
    "EIO": Fault(_CHANGES | Calls.READ, (errno.EIO,), lasts=True, cleans=False),
}
DOCUMENTED = (ModelError, OSError, MemoryError, CommandError)
#: What CPython says when there is no memory for a lock, and of NumPy when it forgets to say anything.
_NO_MEMORY = (
    *("can't allocate read lock", "can't allocate lock"),
    *("returned NULL without setting an exception", "error return without exception set"),
)
#: The second run of an operation, after a fault, may take this long.
_SECONDS = 300


class Library:
    """The preloaded library."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.faults_arm.argtypes = (ctypes.c_uint, ctypes.c_long, ctypes.c_int, ctypes.c_bool)
        self._library.faults_watch.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
        self._library.faults_disarm.restype = ctypes.c_long

    def watch(self) -> None:
        """Watch the interpreter and the compiled core; other libraries answer for themselves."""
        watched = {os.path.realpath(core.__file__), os.path.realpath(sys.executable)}
        for line in Path("/proc/self/maps").read_text().splitlines():
            found = re.fullmatch(r"([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ \S+\s+(/.*)", line)
            if found and (found[3] in watched or Path(found[3]).name.startswith("libpython3.")):
                self._library.faults_watch(int(found[1], 16), int(found[2], 16))

    def arm(self, fault: Fault, call: int, number: int) -> None:
        """Let a call fail, counted from here on."""
        self._library.faults_arm(int(fault.calls), call, number, fault.lasts)

    def disarm(self) -> int:
        """Stop; returns the number of calls."""
        return int(self._library.faults_disarm())


def strike(
    library: Library, operation: Operation, kind: str, call: int, expected: Any, home: str
) -> dict[str, Any]:
    """One case, in this process: what came of it, and what is wrong with that."""
    struck = KINDS[kind]
    number = struck.numbers[call % len(struck.numbers)]
    leftovers = operation.leftovers if struck.cleans else operation.after_kill
    directory = Path(tempfile.mkdtemp(dir=home))
    operation.begin(directory)
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    outcome, fault, calls = "fine", "", 0
    library.arm(struck, call, number)
    try:
        result = operation.run()
        calls = library.disarm()
        if call and result != expected:
            fault = "another result without a word"
    except DOCUMENTED as error:
        library.disarm()
        if not call:
            raise
        outcome = type(error).__name__
        if not str(error) and not isinstance(error, MemoryError):
            fault = "an empty message"
        elif struck.lasts and not _is_clear(error, number):
            fault = f"a message that doesn't say what is wrong and where: {_described(error)}"
        error.__traceback__ = None  # which holds on to calls
        fault = fault or leftovers(expected)
    except BaseException as error:
        library.disarm()
        if not call:
            raise
        outcome = "other"
        if isinstance(error, (RuntimeError, SystemError)) and str(error).endswith(_NO_MEMORY):
            error.__traceback__ = None
            outcome, fault = "MemoryError", leftovers(expected)
        else:
            fault = _described(error)
    if call:
        gc.collect()
        if len(os.listdir("/proc/self/fd")) > descriptors:
            fault = fault or "a descriptor was left open"
        again = operation.run()
        if again != expected:
            fault = fault or "another result afterwards"
    else:
        expected = result
    shutil.rmtree(directory, ignore_errors=True)
    return {"outcome": outcome, "fault": fault, "calls": calls, "result": expected if not call else None}


def _is_clear(error: BaseException, number: int) -> bool:
    """Whether a message has what the system said, and a path."""
    return os.strerror(number) in str(error) and "/" in str(error)


def _described(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}"[:200] + f" at {Path(last.filename).name}:{last.lineno}"


def forked(
    library: Library, operation: Operation, kind: str, call: int, expected: Any, home: str
) -> dict[str, Any]:
    """:func:`strike` in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            signal.alarm(_SECONDS)
            case = strike(library, operation, kind, call, expected, home)
            os.write(writer, json.dumps(case).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if status != 0 or not said:
        ended = f"signal {status & 127}" if status & 127 else f"status {status >> 8}"
        return {"outcome": "died", "fault": f"ended with {ended}", "calls": 0}
    result: dict[str, Any] = json.loads(said)
    return result


def main(library: Library, count: int, seed: int, directory: Path, parts: list[str]) -> None:
    """Strike operations at ``count`` points for each kind, or at all if there are fewer."""
    warnings.simplefilter("ignore")
    home = str(directory / "cases")
    os.mkdir(home)
    library.watch()
    struck = {**operations(directory / "sources"), **commands(directory / "commands")}
    for name, operation in struck.items():
        wanted = [kind for kind in KINDS if not parts or {name, kind, f"{name} {kind}"} & {*parts}]
        if wanted:
            strike(library, operation, "open", 0, None, home)  # imports everything
            gc.freeze()  # collecting in the children is quick then
        for kind in wanted:
            found = strike_often(library, operation, kind, count, random.Random(seed), home)
            print(json.dumps({"part": f"{name} {kind}", **found}), flush=True)


def strike_often(
    library: Library, operation: Operation, kind: str, count: int, generator: random.Random, home: str
) -> dict[str, Any]:
    """What came of ``count`` cases of one kind."""
    whole = forked(library, operation, kind, 0, None, home)
    total, expected = whole["calls"], whole.get("result")
    points = range(1, total + 1)
    if total > count:
        points = sorted(generator.sample(points, count))
    outcomes: dict[str, int] = {}
    findings = [f"without a fault: {whole['fault']}"] if whole["fault"] else []
    for call in points:
        case = forked(library, operation, kind, call, expected, home)
        outcomes[case["outcome"]] = outcomes.get(case["outcome"], 0) + 1
        if case["fault"]:
            findings.append(f"call {call} of {total}: {case['fault']}")
    return {"calls": total, "struck": len(points), "outcomes": outcomes, "findings": findings}


if __name__ == "__main__":
    faulthandler.enable()
    preloaded = Library(sys.argv[1])
    main(preloaded, int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5:])
