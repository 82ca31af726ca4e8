"""Headless Chromium. Where something it needs is missing, importing this skips a module's tests."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
_DRIVER = shutil.which("chromedriver")
# Without a screen Chromium reports no mouse; this makes pages see a pointer that is fine and hovers.
_MOUSE = (
    "blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
)
_MISSING = "the page's tests need Chromium with chromedriver, the package selenium and the extra [server]"

for _needed in ("selenium", "uvicorn", "starlette"):
    pytest.importorskip(_needed, reason=_MISSING)
if _BROWSER is None or _DRIVER is None:
    pytest.skip(_MISSING, allow_module_level=True)


def start_chromium() -> Chrome:
    """A browser with a window of its own, and a log of what its console says."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _BROWSER or ""
    arguments = ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "lang=en", _MOUSE)
    for argument in arguments:
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(_DRIVER))
