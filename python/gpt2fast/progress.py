"""The progress bar of long conversions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

#: Called with the bytes done so far and all bytes to do.
Progress: TypeAlias = Callable[[int, int], None]


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on standard error while something is done; nothing where that is no terminal."""
    from tqdm import tqdm

    with tqdm(desc=title, unit="B", unit_scale=True, leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
