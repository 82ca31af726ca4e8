"""Which way the core's includes point, and which of its files have a test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

#: What each folder of cpp/ may include besides itself and the public headers.
ARROWS: dict[str, tuple[str, ...]] = {
    "system": (),
    "kernels": ("system",),
    "ort": ("system",),
    "ops": ("kernels", "ort", "system"),
    "decoding": ("kernels",),
    "engine": ("decoding", "ops", "ort", "kernels", "system"),
}
PUBLIC = "gpt2fast"


def include_faults(core: Path) -> list[str]:
    """Includes of the folder ``cpp`` that break a rule, each as ``file: fault``; circles of headers, too."""
    faults = []
    graph: dict[str, list[str]] = {}
    for path in sorted([*core.rglob("*.h"), *core.rglob("*.cpp")]):
        name = path.relative_to(core).as_posix()
        folder = name.removeprefix("include/").split("/")[0]
        graph[name.removeprefix("include/")] = list(_includes(path))
        if folder not in (*ARROWS, PUBLIC):
            faults.append(f"{name}: {folder} has no place in the core")
            continue
        for included in _includes(path):
            target = included.split("/")[0]
            if target not in (folder, PUBLIC, *ARROWS.get(folder, ())):
                faults.append(f"{name}: {folder} must not include {included}")
    return [*faults, *(f"{circle[0]}: circle: {' -> '.join(circle)}" for circle in _circles(graph))]


def untested(core: Path, tests: Path) -> list[str]:
    """Source files ``X.cpp`` of the core without an ``X_test.cpp`` in the same folder of the tests."""
    sources = sorted(path.relative_to(core) for path in core.rglob("*.cpp"))
    return [
        path.as_posix() for path in sources if not (tests / path.with_name(f"{path.stem}_test.cpp")).is_file()
    ]


def _includes(path: Path) -> Iterator[str]:
    yield from re.findall(r'^#include "(.+)"', path.read_text("utf-8"), re.MULTILINE)


def _circles(graph: dict[str, list[str]]) -> list[list[str]]:
    """Circles among files, each found once, from the file where a walk enters it."""
    circles: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> None:
        if name in trail:
            circles.append([*trail[trail.index(name) :], name])
        elif name not in done:
            for included in graph.get(name, ()):
                walk(included, [*trail, name])
            done.add(name)

    for name in graph:
        walk(name, [])
    return circles
