"""Values of the embedded model, made by tests/goldens/make_embedded.py with torch, transformers and PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EMBEDDED: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "goldens" / "embedded.json").read_text("utf-8")
)
