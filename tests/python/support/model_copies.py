"""Model directories that tests may damage."""

from __future__ import annotations

from pathlib import Path


def copy_model(converted: Path, directory: Path) -> Path:
    """A copy of a model directory in a new one."""
    directory.mkdir()
    for path in converted.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    return directory
