"""What the results of a run depend on, compared with what another run wrote down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any], within: str = "") -> str | None:
    """The first setting that differs, with both values, or None: ``options.seed is 1, not 2``."""
    for name in sorted({*found, *wanted}):
        theirs, ours = found.get(name), wanted.get(name)
        if theirs == ours:
            continue
        if isinstance(theirs, dict) and isinstance(ours, dict):
            difference = first_difference(theirs, ours, f"{within}{name}.")
            if difference is not None:  # else one of them says of a setting that it is unset
                return difference
        return f"{within}{name} is {_shown(theirs)}, not {_shown(ours)}"
    return None


def _shown(value: Any) -> str:
    return "unset" if value is None else repr(value)
