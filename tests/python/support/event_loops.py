"""Event loops and streams of tests with asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

#: A generation that ends only when somebody ends it.
ENDLESS: dict[str, Any] = {"max_new_tokens": 10_000_000, "overflow": "slide", "eos_token_id": []}


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """Waits for no file descriptors, as Windows' default loop."""

    def add_reader(self, *arguments: Any) -> Any:
        raise NotImplementedError


def run_in(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, Any]) -> Any:
    """``asyncio.run`` on a given loop, in which nothing may be reported to the loop's exception handler."""
    problems: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: problems.append(context))
    try:
        result = loop.run_until_complete(main)
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    assert problems == []
    return result
