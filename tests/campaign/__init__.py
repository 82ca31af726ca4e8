"""Attacks on readers, files, memory and the service: ``python -m tests.campaign NAME``, with any count."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Helpers of the tests and tools, as pytest finds them.
for _folder in ("tests/python", "tools"):
    if str(ROOT / _folder) not in sys.path:
        sys.path.insert(0, str(ROOT / _folder))
