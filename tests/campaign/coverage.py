"""Branch coverage by the tests: of what reads files (Python), of the scheduler and of the sampler (C++)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.campaign.outcome import Outcome

#: What each part must reach.
PERCENT_WANTED = 97.0


def coverage(count: int, seed: int, only: list[str]) -> Outcome:
    """Run the tests once, and measure which branches they take."""
    del count, seed
    from tests.campaign.core_coverage import CORE_PARTS, measure_core
    from tests.campaign.reader_coverage import measure_readers

    outcome = Outcome()
    for part in only or ["readers", *CORE_PARTS]:
        branches, missed, findings = measure_readers() if part == "readers" else measure_core(part)
        outcome.add(part, **summary(branches, missed), findings=findings + shortfall(branches, missed))
    return outcome


def summary(branches: dict[str, int], missed: dict[str, list[int]]) -> dict[str, Any]:
    """Counts for the line: ``missed`` has the line of each branch that was never taken, by file."""
    total = sum(branches.values())
    taken = total - sum(map(len, missed.values()))
    lines = {path: ranges(lines) for path, lines in sorted(missed.items()) if lines}
    return {
        "branches": total,
        "taken": taken,
        "percent": round(100 * taken / total, 2) if total else 0.0,
        "missed": lines,
    }


def shortfall(branches: dict[str, int], missed: dict[str, list[int]]) -> list[str]:
    """A finding if too few branches were taken."""
    percent = summary(branches, missed)["percent"]
    return [f"{percent} % of the branches, not {PERCENT_WANTED}"] if percent < PERCENT_WANTED else []


def ranges(lines: Iterable[int]) -> str:
    """Lines as people write them; one with two missed branches is named once."""
    return ", ".join(map(str, sorted(set(lines))))
