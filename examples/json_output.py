"""Output that a program can read: JSON of a given schema, whatever the model would rather say.

python examples/json_output.py "The wolf met a girl in the wood."
"""

from __future__ import annotations

import json
import sys
from typing import Any

from gpt2fast import GPT2

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,11}( [A-Z][a-z]{1,11})?$"},
        "kind": {"enum": ["person", "animal", "thing"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{3,12}$"}, "maxItems": 3},
    },
    "required": ["name", "kind", "age", "likes"],
    "additionalProperties": False,
}


def describe(model: GPT2, story: str) -> dict[str, Any]:
    """Who a story is about, as the model guesses."""
    out = model.generate(f"{story}\n\nWho is it about, as JSON:\n", json_schema=SCHEMA, max_new_tokens=200)
    if out.finish_reason not in ("eos", "stop"):  # "length": the JSON was cut off
        raise RuntimeError(f"no complete answer: {out.finish_reason}")
    answer: dict[str, Any] = json.loads(out.text)
    return answer


def main() -> None:
    story = (
        sys.argv[1] if len(sys.argv) > 1 else "Once upon a time there was a king who had a clever daughter."
    )
    print(json.dumps(describe(GPT2.from_pretrained(), story), indent=2))


if __name__ == "__main__":
    main()
