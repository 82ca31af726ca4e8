"""``python -m tests.campaign NAME``: run an attack; one JSON line says how often and what was found.

The status is 1 if anything was found. Without ``--full`` or ``--count`` the counts are those of CI, small.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

from tests.campaign.coverage import coverage
from tests.campaign.faults import faults
from tests.campaign.fuzz import fuzz
from tests.campaign.guided import guided
from tests.campaign.kills import kills
from tests.campaign.load import load
from tests.campaign.native import native
from tests.campaign.neighbours import neighbours
from tests.campaign.outcome import Outcome
from tests.campaign.paths import paths
from tests.campaign.service import service
from tests.campaign.versions import versions


@dataclass(frozen=True)
class Campaign:
    """An attack, called with a count, a seed and the parts to run; what the count counts; its sizes."""

    run: Callable[[int, int, list[str]], Outcome]
    unit: str
    small: int
    full: int


CAMPAIGNS = {
    "faults": Campaign(faults, "points of each operation and kind of fault, or all", 3, 300),
    "fuzz": Campaign(fuzz, "damaged files for each reader", 60, 1_000_000),
    "kills": Campaign(kills, "kills of each operation", 4, 500),
    "neighbours": Campaign(neighbours, "pairs of processes, of each kind", 4, 500),
    "paths": Campaign(paths, "ignored: every trick once", 1, 1),
    "load": Campaign(load, "requests of each of eight threads", 60, 10_000),
    "service": Campaign(service, "requests of each of ten clients", 60, 10_000),
    "coverage": Campaign(coverage, "ignored: every test once", 1, 1),
    "versions": Campaign(versions, "1 for few tests with each set of versions, 2 for more", 1, 2),
    "native": Campaign(native, "inputs for each C++ fuzzer", 10_000, 1_000_000),
    "guided": Campaign(guided, "inputs for each reader", 100, 1_000_000),
}


def main() -> int:
    """Run one campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("name", choices=CAMPAIGNS)
    parser.add_argument("parts", nargs="*", help="only these parts of it, such as one reader")
    parser.add_argument("--full", action="store_true", help="the counts that the project promises")
    parser.add_argument("--count", type=int, help="; ".join(f"{n}: {c.unit}" for n, c in CAMPAIGNS.items()))
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first case; the same seeds give the same cases"
    )
    options = parser.parse_intermixed_args()
    campaign = CAMPAIGNS[options.name]
    count = options.count or (campaign.full if options.full else campaign.small)
    start = time.monotonic()
    outcome = campaign.run(count, options.seed, options.parts)
    line = {
        "campaign": options.name,
        "date": date.today().isoformat(),
        "count": count,
        "unit": campaign.unit,
        "seed": options.seed,
        "seconds": round(time.monotonic() - start, 1),
        **outcome.to_dict(),
    }
    print(json.dumps(line))
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
