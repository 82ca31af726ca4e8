"""Runs code in a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys


def run_python(code: str, **environment: str) -> str:
    """Standard output of a fresh interpreter."""
    completed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return completed.stdout.strip()


def imported_by(statement: str) -> set[str]:
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    return set(json.loads(run_python(code)))
