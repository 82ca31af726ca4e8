"""Branch coverage of the core's scheduler and sampler by the C++ tests; needs GCC, gcov and CMake."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from gpt2fast._native import find_library
from tests.campaign import ROOT

#: The folder of each part, below ``cpp/``; its tests lie under the same name in ``tests/cpp/``.
CORE_PARTS = {"scheduler": "engine", "sampler": "decoding"}
_BUILD = ROOT / "build" / "coverage"


def measure_core(part: str) -> tuple[dict[str, int], dict[str, list[int]], list[str]]:
    """Branches of each file of a part, the lines of those never taken, and what went wrong."""
    taken = _taken(CORE_PARTS[part])
    branches = {name: len(found) for name, found in taken.items()}
    missed = {
        name: [line for (line, _), times in found.items() if not times] for name, found in taken.items()
    }
    return branches, missed, []


def _taken(folder: str) -> dict[str, dict[tuple[int, int], int]]:
    """How often each branch was taken by a folder's tests: by file, then by line and number within it."""
    tests = sorted(path.stem for path in ROOT.glob(f"tests/cpp/{folder}/*_test.cpp"))
    _run("cmake", "--preset", "coverage")
    _run("cmake", "--build", str(_BUILD), "--target", *tests)
    for counts in _BUILD.rglob("*.gcda"):
        counts.unlink()
    _run("ctest", "--test-dir", str(_BUILD), "-R", f"^({'|'.join(tests)})$", "--output-on-failure")
    taken: dict[str, dict[tuple[int, int], int]] = defaultdict(lambda: defaultdict(int))
    for file in _counted_files(folder):
        name = os.path.relpath(os.path.join(_BUILD, file["file"]), ROOT)
        if not name.startswith(f"cpp/{folder}/"):
            continue
        for line in file["lines"]:
            for number, count in enumerate(conditions(line["branches"])):
                taken[name][line["line_number"], number] += count
    for name, found in taken.items():
        ends = _ends_of_scopes(name)
        for place in [place for place in found if place[0] in ends]:
            del found[place]
    return taken


def _ends_of_scopes(name: str) -> set[int]:
    """Lines that have no condition: GCC counts what it does there if a value was built half when it threw."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if line.strip() == "}"}


def conditions(branches: list[dict[str, Any]]) -> list[int]:
    """How often each branch of a line's conditions was taken.

    Where a call may throw, GCC counts two more: that it did, and that it didn't.
    """
    return [
        branch["count"]
        for at, branch in enumerate(branches)
        if not branch["throw"] and not (at + 1 < len(branches) and branches[at + 1]["throw"])
    ]


def _counted_files(folder: str) -> Iterator[dict[str, Any]]:
    """What gcov says of each source file, once for each object file of the folder that has code of it."""
    for counts in sorted(_BUILD.rglob(f"{folder}/*.gcda")):
        said = _run("gcov", "--json-format", "--stdout", "--branch-probabilities", str(counts)).stdout
        for line in said.splitlines():
            yield from json.loads(line)["files"]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "GPT2FAST_ORT_LIBRARY": str(find_library())},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise RuntimeError(f"{' '.join(command)[:200]}: {ended.stdout[-2000:]}{ended.stderr[-500:]}")
    return ended
