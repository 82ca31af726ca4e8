"""Reads damaged files one after another in a process of its own, and watches memory, time and files.

Run as ``python -m tests.campaign.fuzz_worker FIRST_SEED COUNT DIRECTORY READER...``; prints a JSON line for
each reader. The seed at hand is in ``DIRECTORY/at``, for when the process dies of it.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.campaign.readers import READERS, Read, Reader

#: What reading a file may cost: seconds of processor time, and memory beyond twice the file's size.
SECONDS_ALLOWED = 1.0
MEMORY_ALLOWANCE = 64 << 20
#: Memory that may have been in use some time before, and is counted as if a file had taken it.
_FORGOTTEN = 16 << 20
#: An allocation far beyond that fails, and what computes or waits longer hangs.
ADDRESS_SPACE_ALLOWANCE = 4 << 30
HANGING_PROCESSOR_SECONDS, HANGING_SECONDS = 20, 600
#: Audit events that reading a model never causes; the second kind is of readers that don't write.
FORBIDDEN_EVENTS = (
    "pickle.find_class",
    "subprocess",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.",
)
FORBIDDEN_WRITES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "ctypes.dlopen",
)
MODULE_SUFFIXES = (".py", ".pyc", ".so", ".pyd", ".json")
_SHOWN_FINDINGS = 20


class Watch:
    """Records what the process does while a damaged file is read."""

    def __init__(self) -> None:
        self.active = False
        self.offences: list[str] = []
        self._home = ""
        self._forbidden: tuple[str, ...] = ()
        self._libraries = tuple({os.path.realpath(path) for path in sys.path if path})
        sys.addaudithook(self._note)

    def set_reader(self, directory: Path, *, writes: bool) -> None:
        """What may be opened, and whether files may be written."""
        self._home = os.path.realpath(directory)
        self._forbidden = FORBIDDEN_EVENTS if writes else FORBIDDEN_EVENTS + FORBIDDEN_WRITES

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open" and not isinstance(arguments[0], int):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            is_module = path.endswith(MODULE_SUFFIXES) and path.startswith(self._libraries)
            is_own = path == self._home or path.startswith((self._home + os.sep, "/proc/", "/sys/"))
            if not is_own and not is_module:
                self.offences.append(f"opened {path}")
        elif event.startswith(self._forbidden):
            self.offences.append(f"{event} {arguments!r}"[:200])


_watch = Watch()  # a hook can't be removed


class PeakMemory:
    """The most memory that the process had, beyond what it had at first; what libraries allocate counts, too.

    The system keeps the most of a process's whole life, which is quick to ask for. Only where that is far
    beyond what is in use is it made to forget it.
    """

    def __init__(self) -> None:
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY)
        self._page = resource.getpagesize()
        self._before = 0
        self._is_quick = False

    def begin(self) -> None:
        """What is in use now is where :meth:`used` counts from."""
        self._before = int(os.pread(self._statm, 200, 0).split()[1]) * self._page
        self._is_quick = _life_peak() <= self._before + _FORGOTTEN
        if not self._is_quick:
            os.write(self._reset, b"5")
            # A program that a larger process started keeps that one's peak for good.
            self._is_quick = _life_peak() <= self._before + _FORGOTTEN

    def used(self) -> int:
        """Bytes; up to 16 MiB may be of what was in use before."""
        return (_life_peak() if self._is_quick else self._peak()) - self._before

    def _peak(self) -> int:
        text = os.pread(self._status, 4096, 0)
        at = text.index(b"VmHWM:")
        return int(text[at + 6 : text.index(b"kB", at)]) << 10


def _life_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextlib.contextmanager
def limited_address_space() -> Iterator[None]:
    """Make a runaway allocation fail rather than take the machine's memory."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ADDRESS_SPACE_ALLOWANCE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Attempts:
    """Reads damaged files and keeps what went wrong."""

    def __init__(self, reader: Reader, read: Read, directory: Path) -> None:
        self.counts = {"loaded": 0, "refused": 0}
        self.findings: list[str] = []
        self.slowest = 0.0
        self._reader, self._read = reader, read
        self._memory = PeakMemory()
        self._watch = _watch
        _watch.set_reader(directory, writes=reader.writes)

    def attempt(self, path: Path, damaged: bytes, name: str) -> None:
        """Put the damage in place and read it; ``name`` is for what went wrong."""
        path.write_bytes(damaged)
        outcome, fault = "loaded", ""
        gc.collect()
        self._memory.begin()
        self._watch.active = True
        signal.setitimer(signal.ITIMER_PROF, HANGING_PROCESSOR_SECONDS)
        start = time.process_time()
        try:
            self._read(path)
        except self._reader.documented as error:
            outcome = "refused"
            if not str(error):
                fault = "an empty message"
        except BaseException as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__}: {error}"[:300] + f" at {Path(at.filename).name}:{at.lineno}"
        finally:
            self._watch.active = False
        seconds = time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.slowest = max(self.slowest, seconds)
        used = self._memory.used()
        if used > MEMORY_ALLOWANCE + 2 * len(damaged):
            fault = fault or f"{used} bytes for a file of {len(damaged)}"
        if seconds > SECONDS_ALLOWED:
            fault = fault or f"{seconds:.1f} s for a file of {len(damaged)} bytes"
        if self._watch.offences:
            fault = "; ".join(self._watch.offences)
            self._watch.offences.clear()
        self.counts[outcome] += 1
        if fault:
            self.findings.append(f"{name}: {fault}")

    def summary(self) -> dict[str, Any]:
        """For the one line of the result."""
        return {
            **self.counts,
            "slowest_s": round(self.slowest, 3),
            "findings": self.findings[:_SHOWN_FINDINGS],
        }


def prepared(name: str, directory: Path) -> tuple[list[tuple[Path, bytes]], Attempts]:
    """The whole files of a reader, which it reads without complaint, and what reads damaged ones."""
    directory.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, hang)
    signal.signal(signal.SIGPROF, hang)
    files, read = READERS[name].prepare(directory)
    whole = [(path, path.read_bytes()) for path in files]
    for path, data in whole:
        read(path)
        path.write_bytes(data)
    gc.collect()
    gc.freeze()  # collecting before each file is quick then
    return whole, Attempts(READERS[name], read, directory)


def main(name: str, first_seed: int, count: int, directory: Path) -> dict[str, Any]:
    """Damage samples of a reader in ``count`` ways."""
    whole, attempts = prepared(name, directory / name)
    inputs = hashlib.sha256()
    with limited_address_space(), open(directory / "at", "w+b", buffering=0) as at:
        for seed in range(first_seed, first_seed + count):
            path, data = whole[seed % len(whole)]
            os.pwrite(at.fileno(), b"%-20d" % seed, 0)
            damaged = READERS[name].mutate(path.name, data, seed)
            inputs.update(hashlib.sha256(damaged).digest())
            signal.alarm(HANGING_SECONDS)
            attempts.attempt(path, damaged, f"seed {seed} ({path.name})")
            signal.alarm(0)
            path.write_bytes(data)
    (directory / "at").unlink()
    return {"reader": name, **attempts.summary(), "inputs_sha256": inputs.hexdigest()}


def hang(*_: object) -> None:
    """Interrupt a reader that takes too long."""
    raise TimeoutError("took longer than allowed")


if __name__ == "__main__":
    first, amount, work = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    output = sys.stdout
    for reader_name in sys.argv[4:]:
        with contextlib.redirect_stdout(sys.stderr):  # what libraries print must not get between the lines
            summary = main(reader_name, first, amount, work)
        print(json.dumps(summary), file=output, flush=True)
