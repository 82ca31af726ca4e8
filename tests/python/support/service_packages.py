"""What the service needs beyond the package itself: `pip install 'gpt2fast[server]'`."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

#: Imported by ``gpt2fast.serving.create_app``.
APPLICATION = ("orjson", "prometheus_client", "pydantic", "starlette")
#: Imported by ``gpt2fast serve`` besides.
SERVER = ("httptools", "uvicorn")


def need(modules: Iterable[str]) -> None:
    """Skip a test where one of these is missing; the reason names it."""
    for module in modules:
        pytest.importorskip(module)
