"""What is compared: each program with each of its weight formats, converted once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.processes import Worker, WorkerError
from benchmarks.runners import MAX_TEXTS, NAMES, runner_module
from gpt2fast.storage.model_directory import FORMAT_VERSION

_TITLES = {"xllamacpp": "llama.cpp", "contrib_graph": "contrib graph"}
OURS = "gpt2fast"
# Not a program that people install: shown for one text, where its attention is good, but not a target.
_CONTRIB_GRAPH = "contrib_graph"


@dataclass(frozen=True)
class System:
    """A program, one of its weight formats, and how many threads it gets."""

    runner: str
    format: str
    bits: int
    threads: int

    @property
    def name(self) -> str:
        """For tables."""
        title = _TITLES.get(self.runner, self.runner).replace("_", " ")
        return f"{title} {self.format}" + (", 1 thread" if self.threads == 1 else "")

    @property
    def is_peer(self) -> bool:
        """Whether targets compare with it."""
        return self.runner not in (OURS, _CONTRIB_GRAPH)

    @property
    def max_texts(self) -> int:
        """How many texts it generates together."""
        return 1 if self.runner == _CONTRIB_GRAPH else MAX_TEXTS

    @property
    def key(self) -> str:
        """Its name in files."""
        return f"{self.runner}-{self.format}-{self.threads}"


def all_systems(threads: int, runners: Sequence[str] = NAMES) -> Iterator[System]:
    """Every format of every runner, installed or not."""
    for runner in runners:
        for format, bits in runner_module(runner).FORMATS.items():
            yield System(runner, format, bits, threads)


def missing_package(system: System) -> str | None:
    """The name of a distribution that a system needs and that is not installed."""
    for package in runner_module(system.runner).PACKAGES:
        try:
            version(package)
        except PackageNotFoundError:
            return package
    return None


def installed_versions(systems: Sequence[System]) -> dict[str, str]:
    """The versions of all distributions that the systems use."""
    packages = {package for system in systems for package in runner_module(system.runner).PACKAGES}
    return {package: version(package) for package in sorted({OURS, *packages})}


def converted_directory(system: System, checkpoint: Path, work: Path) -> Path:
    """The checkpoint in the form that the system loads, made once below ``work``.

    Raises
    ------
    WorkerError
        The conversion failed.
    """
    # What an older gpt2fast has converted is not what this one reads.
    revision = f"-{FORMAT_VERSION}" if system.runner == OURS else ""
    directory = work / f"{checkpoint.name}-{system.runner}-{system.format}{revision}"
    if directory.exists():
        return directory
    unfinished = directory.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    log = work / "logs" / f"{system.key}-convert.log"
    arguments = ("convert", system.runner, system.format, str(unfinished), str(checkpoint))
    with Worker(*arguments, log=log) as worker:
        worker.wait()
    unfinished.rename(directory)
    return directory


def of_bits(
    bits: int, runners: Sequence[str], threads: int, checkpoint: Path, work: Path
) -> dict[System, Path]:
    """Directories of the formats with so many bits, of those runners that are installed and convert."""
    systems = [one for one in all_systems(threads, runners) if one.bits == bits]
    return convert_all(systems, checkpoint, work)[0]


def convert_all(
    systems: Sequence[System], checkpoint: Path, work: Path
) -> tuple[dict[System, Path], dict[str, str]]:
    """Directories of those that are installed and convert; reasons, by name, for the others."""
    directories: dict[System, Path] = {}
    skipped: dict[str, str] = {}
    for system in systems:
        missing = missing_package(system)
        if missing is not None:
            skipped[system.name] = f"{missing} is not installed"
            continue
        try:
            directories[system] = converted_directory(system, checkpoint, work)
        except WorkerError as error:
            skipped[system.name] = f"conversion failed: {error}"
    return directories, skipped
