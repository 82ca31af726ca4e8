"""Runs the items of a measurement through a model in groups."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from gpt2fast.evaluation.journal import Journal
from gpt2fast.storage.files import errors_of

#: ``progress(done_tokens, total_tokens)``, called as items are done.
Progress: TypeAlias = Callable[[int, int], None]

#: Groups have about this many tokens: enough to fill the engine's steps many times.
GROUP_TOKENS = 8192
MAX_LINE_BYTES = 1 << 20


class Item(Protocol):
    """A part of a measurement."""

    @property
    def tokens(self) -> int:
        """The number of tokens that go through the model for it."""
        ...


_Item = TypeVar("_Item", bound=Item)


@dataclass(frozen=True)
class Measured:
    """The values of all items in order, and the time it took.

    ``tokens`` and ``seconds`` are those of items measured now, not of those found in a journal.
    """

    values: list[list[float]]
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float | None:
        """The speed, if anything was measured."""
        return self.tokens / self.seconds if self.tokens else None


def measure(
    items: Sequence[_Item],
    evaluate: Callable[[Sequence[_Item]], Sequence[Sequence[float]]],
    *,
    run: str = "",
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Evaluate every item that is not in the journal.

    Parameters
    ----------
    items : sequence
        What to measure.
    evaluate : callable
        Returns the values of each item of a group.
    run : str
        The name of this pass over the items in the journal.
    journal : Journal, optional
        Where values are kept.
    progress : callable, optional
        Called after each group with the tokens done and the total.
    """
    values: dict[int, Sequence[float]] = {}
    if journal is not None:
        known = {number: journal.values(run, number) for number in range(len(items))}
        values.update({number: numbers for number, numbers in known.items() if numbers is not None})
    total = sum(item.tokens for item in items)
    done = sum(items[number].tokens for number in values)
    before, seconds = done, 0.0
    if progress is not None:
        progress(done, total)
    for group in _groups(items, [number for number in range(len(items)) if number not in values]):
        start = time.perf_counter()
        found = evaluate([items[number] for number in group])
        seconds += time.perf_counter() - start
        new = dict(zip(group, found, strict=True))
        if journal is not None:
            journal.record(run, new)
        values.update(new)
        done += sum(items[number].tokens for number in group)
        if progress is not None:
            progress(done, total)
    return Measured([list(values[number]) for number in range(len(items))], done - before, seconds)


def _groups(items: Sequence[Item], numbers: Sequence[int]) -> Iterator[list[int]]:
    group: list[int] = []
    size = 0
    for number in numbers:
        group.append(number)
        size += items[number].tokens
        if size >= GROUP_TOKENS:
            yield group
            group, size = [], 0
    if group:
        yield group


def read_json_lines(path: Path, limit: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON-lines file, each with its line for errors; empty lines are skipped.

    Raises
    ------
    ValueError
        A line is not a JSON object; the message names file and line.
    """
    found = 0
    with errors_of(path), path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            if found == limit:
                return
            if not line.strip():
                continue
            where = f"{path}: line {number}"
            try:
                # Editors of Windows begin a text with a byte order mark.
                value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: not valid JSON: {error}") from None
            if not isinstance(value, dict):
                raise ValueError(f"{where}: must be a JSON object, is a {type(value).__name__}")
            found += 1
            yield where, value
