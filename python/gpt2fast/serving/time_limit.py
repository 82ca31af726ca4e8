"""A limit on the time that awaited work takes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


async def in_time(work: Coroutine[Any, Any, _Result], seconds: float) -> _Result:
    """The result of ``work``, which is cancelled when the time is over.

    Raises
    ------
    asyncio.TimeoutError
        The time is over.
    """
    if sys.version_info >= (3, 11):  # needs no task of its own
        async with asyncio.timeout(seconds):
            return await work
    return await asyncio.wait_for(work, seconds)
