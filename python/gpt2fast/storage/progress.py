"""The progress bar of long conversions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from tqdm import tqdm

#: Called with the bytes done so far and the total.
Progress: TypeAlias = Callable[[int, int], None]


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on standard error; nothing if that is not a terminal.

    The package that draws the bar is imported at the first report, which a cached model never makes.
    """
    with ExitStack() as stack:
        bars: list[tqdm[Any]] = []

        def show(done: int, total: int) -> None:
            if not bars:
                from tqdm import tqdm

                bar: tqdm[Any] = tqdm(desc=title, unit="B", unit_scale=True, leave=False, disable=None)
                bars.append(stack.enter_context(bar))
            bars[0].total = total
            bars[0].update(done - bars[0].n)

        yield show
