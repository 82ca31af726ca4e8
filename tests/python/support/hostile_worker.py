"""Opens damaged files one after another in a process of its own, and watches memory, time and files.

Run as ``python hostile_worker.py FORMAT FIRST_SEED COUNT DIRECTORY``; prints one JSON object.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

from gpt2fast.errors import ModelError
from support.hostile_samples import SAMPLES, Sample
from support.mutations import mutate

#: Memory that opening a file may take beyond the file's own size.
MEMORY_ALLOWANCE = 32 << 20
ADDRESS_SPACE_ALLOWANCE = 1 << 30
#: Far more than any file takes: an opening that computes or waits longer counts as hanging. Other load on
# the machine makes every opening wait.
PROCESSOR_SECONDS_ALLOWED, SECONDS_ALLOWED = 20, 600
#: Audit events that reading a model never causes.
FORBIDDEN_EVENTS = (
    *("pickle.find_class", "subprocess", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket."),
    *("os.remove", "os.rename", "os.mkdir", "os.link", "os.symlink", "os.chmod", "ctypes.dlopen"),
)
MODULE_SUFFIXES = (".py", ".pyc", ".so", ".pyd")


class Watch:
    """Records what the process does while a damaged file is open."""

    def __init__(self, directory: Path) -> None:
        self.active = False
        self.offences: list[str] = []
        self._home = os.path.realpath(directory)
        self._libraries = tuple({os.path.realpath(path) for path in sys.path if path})
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open" and not isinstance(arguments[0], int):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            is_module = path.endswith(MODULE_SUFFIXES) and path.startswith(self._libraries)
            if not path.startswith(self._home + os.sep) and not is_module:
                self.offences.append(f"opened {path}")
        elif event.startswith(FORBIDDEN_EVENTS):
            self.offences.append(f"{event} {arguments!r}"[:200])


def limit_address_space() -> None:
    """Make a runaway allocation fail, even one that Python does not count."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return
    import resource

    in_use = int(status.read_text().split()[0]) * resource.getpagesize()
    limit = in_use + ADDRESS_SPACE_ALLOWANCE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read_all(sample: Sample, directory: Path) -> None:
    """Open a checkpoint and read every number of it."""
    checkpoint = sample.open(directory / sample.source)
    for tensor in checkpoint.tensors.values():
        tensor.read()


def attempt(watch: Watch, sample: Sample, directory: Path, size: int) -> tuple[str, str]:
    """``("loaded" | "refused" | "failed", what went wrong)``."""
    outcome, fault = "loaded", ""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    watch.active = True
    try:
        read_all(sample, directory)
    except ModelError as error:
        outcome = "refused"
        if not str(error):
            fault = "an empty message"
    except BaseException as error:
        fault = f"{type(error).__name__}: {error}"[:300]
    finally:
        watch.active = False
    used = tracemalloc.get_traced_memory()[1] - before
    if used > MEMORY_ALLOWANCE + size:
        fault = f"{used} bytes allocated for a file of {size}"
    if watch.offences:
        fault = "; ".join(watch.offences)
        watch.offences.clear()
    return ("failed", fault) if fault else (outcome, "")


def main(name: str, first_seed: int, count: int, directory: Path) -> dict[str, Any]:
    """Damage a sample in ``count`` ways."""
    sample = SAMPLES[name]
    sample.write(directory)
    target = directory / sample.damaged
    whole = target.read_bytes()
    read_all(sample, directory)
    limit_address_space()
    warnings.simplefilter("ignore")
    tracemalloc.start()
    watch = Watch(directory)
    counts = {"loaded": 0, "refused": 0, "failed": 0}
    failures = []
    for seed in range(first_seed, first_seed + count):
        damaged = mutate(whole, seed)
        target.write_bytes(damaged)
        signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS_ALLOWED)
        signal.alarm(SECONDS_ALLOWED)
        outcome, fault = attempt(watch, sample, directory, len(damaged))
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        counts[outcome] += 1
        if fault:
            failures.append(f"seed {seed}: {fault}")
    return {**counts, "failures": failures[:20]}


def hang(*_: object) -> None:
    """Interrupt an opening that takes too long."""
    raise TimeoutError("took longer than allowed")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, hang)
    signal.signal(signal.SIGPROF, hang)
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
