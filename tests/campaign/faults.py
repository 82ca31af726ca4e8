"""Calls that fail: the n-th malloc, new, read, write, mmap, fsync, rename, ftruncate, open; failing disks."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tests.campaign.child import run_lines
from tests.campaign.outcome import Outcome

_SOURCE = Path(__file__).with_name("faults.cpp")


def faults(count: int, seed: int, only: list[str]) -> Outcome:
    """Strike each operation at ``count`` points of each kind, or at all where there are fewer."""
    with tempfile.TemporaryDirectory(prefix="gpt2fast-faults-") as directory:
        library = build_library(Path(directory))
        return run_lines("fault_worker", [library, str(count), str(seed)], only, LD_PRELOAD=library)


def build_library(directory: Path) -> str:
    """Compile the library that is preloaded."""
    library = directory / "libfaults.so"
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", str(_SOURCE), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    return str(library)
