"""Mixed requests of many threads, some cancelled, on one model."""

from __future__ import annotations

from tests.campaign.child import run_lines
from tests.campaign.outcome import Outcome


def load(count: int, seed: int, only: list[str]) -> Outcome:
    """Let each of eight threads make ``count`` requests."""
    return run_lines("load_worker", [str(count), str(seed)], only)
