"""Windows that slide along a text longer than the context."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Tokens ``start`` to ``stop``, of which those from ``first`` on are scored."""

    start: int
    stop: int
    first: int

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return self.stop - self.start


def windows(tokens: int, window: int, stride: int, *, drop_last: bool = False) -> list[Window]:
    """The windows over a text of ``tokens`` tokens; each token but the first is scored once (see ``stride``).

    With a stride of a whole window, the first token of each window has no context and is not scored.
    """
    found = []
    scored = 0
    for start in range(0, tokens, stride):
        stop = min(start + window, tokens)
        first = max(scored, start + 1)
        if first < stop and not (drop_last and stop - start < window):
            found.append(Window(start, stop, first))
        scored = stop
        if stop == tokens:
            break
    return found
