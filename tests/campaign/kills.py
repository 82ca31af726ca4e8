"""``kill -9`` at random moments of what writes files; afterwards it must go on to the same result."""

from __future__ import annotations

from tests.campaign.child import run_lines
from tests.campaign.outcome import Outcome


def kills(count: int, seed: int, only: list[str]) -> Outcome:
    """Kill each operation ``count`` times."""
    return run_lines("kill_worker", [str(count), str(seed)], only)
