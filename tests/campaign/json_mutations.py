"""Damages JSON in ways that stay JSON, or nearly: limits, keys twice, other kinds, deep nesting."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any


class Pairs(list[tuple[str, Any]]):
    """An object, whose keys may occur twice."""


@dataclass(frozen=True)
class Raw:
    """Text that goes into the document as it is."""

    text: str


_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        0.5,
        -0.0,
        1e308,
        2**31 - 1,
        2**31,
        2**32,
        2**53 + 1,
        2**63 - 1,
        2**63,
        2**64,
    ),
    *(
        10**30,
        -(2**63),
        "",
        "a",
        "\0",
        "\ud800",
        "..",
        "../x",
        "/etc/passwd",
        "a" * 300,
        "<|endoftext|>",
        "Ġ",
    ),
    *([], Pairs(), [[]], [None], [1, "a"], Pairs([("a", 1)])),
    *(Raw("NaN"), Raw("Infinity"), Raw("-Infinity"), Raw("1e999"), Raw("9" * 5000), Raw("9" * 400)),
    *(Raw("0.1e-400"), Raw("-" + "9" * 400)),
    *(Raw("[" * 500 + "]" * 500), Raw('{"a":' * 500 + "1" + "}" * 500), Raw("[" * 100_000), Raw('"\\ud800"')),
    *(Raw("01"), Raw("'a'"), Raw("[1,]"), Raw("\ufeff1"), Raw("")),
)
_MOST_CHANGES = 3


def mutate_json(generator: random.Random, data: bytes) -> bytes:
    """A document with one to three changes; ValueError if it is none."""
    value = json.loads(data.decode("utf-8"), object_pairs_hook=Pairs)
    for _ in range(generator.randrange(1, _MOST_CHANGES + 1)):
        value = _change(generator, value)
    return _written(value).encode("utf-8", "surrogatepass")


def mutate_lines(generator: random.Random, data: bytes) -> bytes:
    """JSON lines with one of them changed, gone, twice or elsewhere."""
    lines = data.split(b"\n")
    at = generator.randrange(len(lines))
    choice = generator.randrange(5)
    if choice == 0:
        del lines[at]
    elif choice == 1:
        lines.insert(generator.randrange(len(lines) + 1), lines[at])
    elif choice == 2:
        lines.insert(generator.randrange(len(lines)), lines.pop(at))
    elif lines[at]:
        lines[at] = mutate_json(generator, lines[at])
    return b"\n".join(lines)


def _change(generator: random.Random, value: Any) -> Any:
    """Go down to a random place, and change it there."""
    if isinstance(value, list) and value and generator.random() < 0.8:
        at = generator.randrange(len(value))
        if generator.random() < 0.2:
            return _change_items(generator, value, at)
        if isinstance(value, Pairs):
            key, inner = value[at]
            value[at] = (key, _change(generator, inner))
        else:
            value[at] = _change(generator, value[at])
        return value
    return _other(generator, value)


def _change_items(generator: random.Random, value: Any, at: int) -> Any:
    choice = generator.randrange(5)
    if choice == 0:
        del value[at]
    elif choice == 1:
        value.insert(generator.randrange(len(value) + 1), value[at])
    elif choice == 2:
        other = generator.randrange(len(value))
        value[at], value[other] = value[other], value[at]
    elif choice == 3 and isinstance(value, Pairs):
        keys = [key for key, _ in value] + ["", "a", "__class__", "_x", "\0", "é"]
        value[at] = (generator.choice(keys), value[at][1])
    else:
        other = generator.randrange(len(value))
        value[at] = (value[at][0], value[other][1]) if isinstance(value, Pairs) else value[other]
    return value


def _other(generator: random.Random, value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and generator.random() < 0.6:
        return generator.choice(
            (value + 1, value - 1, value * 2, value // 2, -value, value << 32, float(value))
        )
    if isinstance(value, str) and value and generator.random() < 0.4:
        at = generator.randrange(len(value))
        part = generator.choice(("", value[at] * 2, " ", "\0", "é", "中", "\ud83d", "%", "$", "Ġ", "|", "("))
        return value[:at] + part + value[at + 1 :]
    return generator.choice(_VALUES)


def _written(value: Any) -> str:
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}: {_written(inner)}" for key, inner in value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return json.dumps(value)
