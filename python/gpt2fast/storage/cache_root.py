"""The user's cache directory, as the environment or the system has it."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "GPT2FAST_CACHE"


def cache_root() -> Path:
    """Where converted models are kept: ``GPT2FAST_CACHE`` (``~`` expanded), or the user's cache directory."""
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        expanded = os.path.expanduser(override)
        if expanded.startswith("~"):
            raise ValueError(f"{CACHE_VARIABLE} must name a directory, got {override!r}: no such user")
        return Path(expanded)
    from platformdirs import user_cache_path

    return user_cache_path("gpt2fast", appauthor=False)
