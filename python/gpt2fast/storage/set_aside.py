"""The directory that is kept while another takes its place, and put back if that was interrupted."""

from __future__ import annotations

import os
from pathlib import Path


def set_aside_name(directory: Path) -> Path:
    """Where a directory is kept while another replaces it: beside it, under a name of its own."""
    return directory.with_name(f".{directory.name}.replaced")


def restore_set_aside(path: str | os.PathLike[str]) -> None:
    """Put back the directory ``path`` if the process that was replacing it was killed midway."""
    if os.path.exists(path):
        return
    try:
        directory = Path(os.path.realpath(path))
    except ValueError:  # not a path: it holds a NUL
        return
    aside = set_aside_name(directory)
    if os.path.isdir(aside) and not os.path.lexists(directory):
        try:
            os.rename(aside, directory)
        except OSError:
            if not directory.exists():  # otherwise another process was faster
                raise
