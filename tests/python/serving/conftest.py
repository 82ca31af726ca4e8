"""Fixtures of the service's tests; without the packages of `[server-test]` none of them is collected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from gpt2fast import GPT2
from support.service_packages import APPLICATION, SERVER

if TYPE_CHECKING:
    import httpx

    from support.live_server import LiveServer

Post = Callable[..., Any]

_ABSENT = [name for name in (*APPLICATION, *SERVER, "httpx") if find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if _ABSENT else []


def pytest_report_header() -> str | None:
    return f"tests of the service are left out, without {', '.join(_ABSENT)}" if _ABSENT else None


@pytest.fixture(scope="session")
def model() -> GPT2:
    return GPT2.from_pretrained(threads=2)


@pytest.fixture(scope="session")
def server(model: GPT2) -> Iterator[LiveServer]:
    from support.live_server import live_server

    with live_server(model) as live:
        yield live


@pytest.fixture(scope="session")
def client(server: LiveServer) -> Iterator[httpx.Client]:
    import httpx

    with httpx.Client(base_url=server.url, timeout=120) as found:
        yield found


@pytest.fixture
def post(client: httpx.Client) -> Post:
    """Posts fields to a path, and returns the JSON of an answer with the expected status."""

    def send(path: str, status: int = 200, **fields: Any) -> Any:
        response = client.post(path, json=fields)
        assert response.status_code == status, response.text
        return response.json()

    return send
