"""Runs programs in fresh interpreters; none outlives its test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

#: Long enough for a program on a machine with twenty others; one that takes longer hangs. pytest's limit of a
#: test is longer, so that it can be said what the program was doing.
SECONDS = 240.0

_TESTS = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status, negative for a signal, and what it wrote."""

    status: int
    stdout: str
    stderr: str


def start_python(
    *arguments: str, pass_fds: tuple[int, ...] = (), **environment: str
) -> subprocess.Popen[str]:
    """Start an interpreter that can import the helpers of the tests."""
    path = os.pathsep.join(filter(None, (_TESTS, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=pass_fds,
    )


def end_of(program: subprocess.Popen[str], seconds: float = SECONDS) -> Ended:
    """Wait for a program; AssertionError if it hangs, with what its threads were doing."""
    try:
        stdout, stderr = program.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        program.send_signal(signal.SIGABRT)  # faulthandler prints the threads' stacks
        try:
            program.wait(10)
        except subprocess.TimeoutExpired:
            program.kill()
        stdout, stderr = program.communicate()
        raise AssertionError(f"the program did not end within {seconds} s\n{stdout}\n{stderr}") from None
    return Ended(program.returncode, stdout, stderr)


def resident_bytes() -> int:
    """Memory of this process, exactly: from Linux 6.2 on, ``statm`` may lack some for each core."""
    with open("/proc/self/smaps_rollup") as file:
        (kilobytes,) = (line.split()[1] for line in file if line.startswith("Rss:"))
    return int(kilobytes) << 10


def allocated_bytes() -> int:
    """What this process has allocated and not freed; 0 where the C library doesn't say.

    The resident memory also has what was freed: how much of it depends on the order of all allocations.
    """
    import ctypes

    class Mallinfo(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
            *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
        )

    function = getattr(ctypes.CDLL(None), "mallinfo2", None)  # of glibc 2.33 and later
    if function is None:
        return 0
    function.restype = Mallinfo
    found = function()
    return int(found.uordblks + found.hblkhd)


def run_python(code: str, **environment: str) -> str:
    """Standard output of a fresh interpreter, which must end with status 0 and say nothing else."""
    ended = end_of(start_python("-c", code, **environment))
    assert (ended.status, ended.stderr) == (0, ""), ended
    return ended.stdout.strip()


def imported_by(statement: str) -> set[str]:
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    return set(json.loads(run_python(code)))
