"""Builds and runs ``limits.cpp``: how fast this machine reads memory and multiplies bytes and floats."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_SOURCE = Path(__file__).with_name("limits.cpp")


@dataclass(frozen=True)
class Limits:
    """Milliseconds to read that many bytes once, and 10^9 operations per second (0: not known).

    ``vector_gops``: of bytes, with AVX512-VNNI or AVX2; ``tile_gops``: of bytes, with AMX; ``float_gops``: of
    fp32, by fused multiply-adds.
    """

    read_ms: dict[int, float]
    vector_gops: float = 0.0
    tile_gops: float = 0.0
    float_gops: float = 0.0


def build_probe(work: Path) -> Path | None:
    """The compiled probe; None where there is no C++ compiler."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return None
    work.mkdir(parents=True, exist_ok=True)
    program = work / "limits"
    options = ["-std=c++20", "-O3", "-march=native", "-pthread"]
    subprocess.run([compiler, *options, str(_SOURCE), "-o", str(program)], check=True)
    return program


def measure_limits(program: Path, threads: int, sizes: Sequence[int]) -> Limits:
    """Run the probe for buffers of these sizes."""
    command = [str(program), str(threads), *map(str, sizes)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    read_ms: dict[int, float] = {}
    gops: dict[str, float] = {}
    for line in output.splitlines():
        name, *values = line.split()
        if name == "read":
            read_ms[int(values[0])] = float(values[1])
        else:
            gops[name] = float(values[0])
    return Limits(read_ms, **gops)


def median_limits(moments: Sequence[Limits]) -> Limits:
    """The median of several measurements."""
    read_ms = {size: median(moment.read_ms[size] for moment in moments) for size in moments[0].read_ms}
    return Limits(
        read_ms,
        median(moment.vector_gops for moment in moments),
        median(moment.tile_gops for moment in moments),
        median(moment.float_gops for moment in moments),
    )
