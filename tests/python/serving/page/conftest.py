"""Fixtures of the page's tests: the service with the embedded model, and Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from gpt2fast import GPT2

if TYPE_CHECKING:
    from support.browser import Page
    from support.served_page import Gate, ServedPage


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser."""
    from support.chromium import start_chromium

    driver = start_chromium()
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def served(chromium: Any, model: GPT2) -> Iterator[ServedPage]:
    from support.served_page import served_page

    with served_page(model) as found:
        yield found


@pytest.fixture
def gate(served: ServedPage) -> Gate:
    served.gate.reset()
    return served.gate


@pytest.fixture
def page(chromium: Any, served: ServedPage, gate: Gate) -> Iterator[Page]:
    """The page, freshly loaded. Neither the console nor other hosts may have heard of it in the end."""
    from support.browser import Page

    page = Page(chromium, served.url)
    page.wait(lambda: page.find("#model").text)
    yield page
    gate.reset()
    assert page.problems() == []
    assert page.foreign_requests() == []
