"""The page in headless Chromium: what a reader sees and does. Skips tests as :mod:`support.chromium` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from support import chromium  # first: without selenium, it skips

# isort: split
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

_Found = TypeVar("_Found")

#: Seconds after which something that should happen counts as not happening.
PATIENCE = 120


class Page:
    """The page of one server, freshly loaded in a tab of its own.

    Parameters
    ----------
    driver : selenium.webdriver.Chrome
        The browser.
    url : str
        Of the page.
    """

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        self._open_tab()
        clipboard = ["clipboardReadWrite", "clipboardSanitizedWrite"]
        self._cdp("Browser.grantPermissions", permissions=clipboard, origin=url)
        self.size(1280, 900)
        self.prefer("light")
        driver.get(url)
        if self.script("return localStorage.length") > 0:
            self.script("localStorage.clear()")
            driver.get(url)

    def _open_tab(self) -> None:
        """A tab without the settings of earlier ones: sizes, touch, a connection that is cut."""
        old = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        new = self.driver.current_window_handle
        self.driver.switch_to.window(old)
        self.driver.close()
        self.driver.switch_to.window(new)
        self.driver.get_log("browser")

    # The browser

    def reload(self) -> None:
        self.driver.get(self.url)

    def size(self, width: int, height: int, *, touch: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self._cdp("Emulation.setDeviceMetricsOverride", **metrics)
        if touch:
            self._cdp("Emulation.setTouchEmulationEnabled", enabled=True)

    def prefer(self, scheme: str) -> None:
        """Let the system want a light or a dark page."""
        self._cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def connected(self, is_connected: bool) -> None:
        self._cdp("Network.enable")
        speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self._cdp("Network.emulateNetworkConditions", offline=not is_connected, **speed)

    def copied(self, name: str) -> str:
        """Press a button that copies; what is on the clipboard when it says that it has."""
        button = self.button(name)
        watch = "const [button] = arguments; window.said = [];" + (  # it says so for a moment only
            "new MutationObserver(() => said.push(button.textContent)).observe(button, { childList: true })"
        )
        self.script(watch, button)
        button.click()
        self.wait(lambda: "Copied" in self.script("return window.said"), f"{name}: Copied")
        return self.clipboard()

    def clipboard(self) -> str:
        return self.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")

    def picture(self, path: Path) -> bytes:
        """Save what is in the window."""
        self.driver.save_screenshot(str(path))
        return path.read_bytes()

    def script(self, body: str, *arguments: Any) -> Any:
        return self.driver.execute_script(body, *arguments)

    def problems(self) -> list[str]:
        """What the console complains of."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]

    def expect_problems(self, *expected: str) -> None:
        """Wait until the console has complained of these, which may be after the page has shown them."""
        found: list[str] = []
        while len(found) < len(expected):
            found += self.wait(self.problems, f"problems {expected}, not only {found}")
        for problem, part in zip(found, expected, strict=True):
            assert part in problem

    def foreign_requests(self) -> list[str]:
        """Addresses of other hosts that the page asked for something."""
        names = self.script("return performance.getEntries().map((entry) => entry.name)")
        own = urlsplit(self.url).netloc
        return [name for name in names if "://" in name and urlsplit(name).netloc != own]

    def _cdp(self, command: str, **parameters: Any) -> None:
        self.driver.execute_cdp_cmd(command, parameters)

    # What is on it

    def wait(self, condition: Callable[[], _Found], what: str = "") -> _Found:
        """Wait for something to be true."""
        ignored = (StaleElementReferenceException, IndexError)
        waiting = WebDriverWait(self.driver, PATIENCE, 0.02, ignored_exceptions=ignored)
        return waiting.until(lambda _: condition(), what)

    def find(self, selector: str) -> WebElement:
        return self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, selector)[0], selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def button(self, name: str) -> WebElement:
        """The visible button of that name."""
        return self.wait(
            lambda: next(
                (each for each in self.all("button") if each.is_displayed() and each.text == name), None
            ),
            name,
        )

    @property
    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    @property
    def state(self) -> str | None:
        return self.script("return document.querySelector('.run')?.dataset.state ?? null")

    @property
    def stats(self) -> str:
        return self.find(".stats").text

    def shown(self, which: int = 0) -> str:
        """A text without its prompt, as it stands on the page."""
        read = "return document.querySelectorAll('[role=listbox]')[arguments[0]].textContent"
        return self.script(read, which)

    def tokens(self) -> list[WebElement]:
        return self.all(".tokens .token")

    def alternatives(self) -> list[WebElement]:
        return [each for each in self.all("#alternatives .alternative") if each.is_displayed()]

    # What is done

    def set(self, name: str, value: object) -> None:
        """Fill in an option's field."""
        field = self.find(f"#{name}")
        field.clear()
        field.send_keys(str(value))

    def type_prompt(self, text: str) -> None:
        self.set("prompt", text)

    def generate(self, prompt: str, **options: object) -> None:
        """Set prompt and options, and start."""
        for name, value in options.items():
            self.set(name.replace("_", "-"), value)
        self.type_prompt(prompt)
        self.find("#generate").click()

    def until(self, state: str) -> None:
        """Wait until the run on the page is in that state."""
        self.wait(lambda: self.state == state, f"state {state}")

    def finished(self, prompt: str, **options: object) -> str:
        """Generate to the end; the first text."""
        self.generate(prompt, **options)
        self.until("done")
        return self.shown()

    def point_at(self, element: WebElement) -> None:
        ActionChains(self.driver).move_to_element(element).perform()

    def tap(self, element: WebElement) -> None:
        self.script("arguments[0].scrollIntoView({ block: 'center' })", element)
        place = self.script(
            "const { x, y, width, height } = arguments[0].getBoundingClientRect();"
            "return { x: x + width / 2, y: y + height / 2 }",
            element,
        )
        self._cdp("Input.dispatchTouchEvent", type="touchStart", touchPoints=[place])
        self._cdp("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def press_together(self, held: str, key: str) -> None:
        ActionChains(self.driver).key_down(held).send_keys(key).key_up(held).perform()


__all__ = ["Keys", "Page", "chromium"]
