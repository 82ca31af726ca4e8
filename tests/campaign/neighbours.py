"""Processes that meet at the same files."""

from __future__ import annotations

from tests.campaign.child import run_lines
from tests.campaign.outcome import Outcome


def neighbours(count: int, seed: int, only: list[str]) -> Outcome:
    """Do the same in two processes at once, and replace or damage what is in use, ``count`` times each."""
    return run_lines("neighbour_worker", [str(count), str(seed)], only)
