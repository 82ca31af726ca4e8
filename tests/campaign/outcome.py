"""What a campaign found, as one JSON line; each part is said on stderr as it ends, for runs of hours."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.campaign import ROOT

_SHOWN = 50


class Outcome:
    """Counts by part of a campaign, and what went wrong."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, Any]] = {}
        self.findings: list[str] = []

    def add(self, part: str, *, findings: list[str], **counts: Any) -> None:
        """The counts of one part."""
        self.parts[part] = counts
        self.findings += [f"{part}: {finding}" for finding in findings]
        print(json.dumps({"part": part, **counts, "findings": findings}), file=sys.stderr, flush=True)

    def to_dict(self) -> dict[str, Any]:
        """For the line."""
        return {"commit": commit(), "parts": self.parts, "findings": self.findings[:_SHOWN]}


def commit() -> str:
    """The commit that is tested, with a + if files differ from it."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return run.stdout.strip() if run.returncode == 0 else ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "python", "src", "cpp")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
