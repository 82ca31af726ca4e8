"""The service at more than its capacity: clients that leave, are slow, or send what is no request."""

from __future__ import annotations

from tests.campaign.child import run_lines
from tests.campaign.outcome import Outcome


def service(count: int, seed: int, only: list[str]) -> Outcome:
    """Let each of ten clients make ``count`` requests."""
    return run_lines("service_worker", [str(count), str(seed)], only)
