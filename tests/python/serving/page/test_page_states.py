"""What the page says when it can't go on: refusals, a busy server, no connection, a key that is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpt2fast import GPT2
from gpt2fast.serving import Limits, Settings
from support.browser import Keys, Page
from support.served_page import Gate, ServedPage, served_page

KEY = "a-key-of-our-own"
PROMPT = "Once upon a time"


def notice(page: Page, kind: str) -> str:
    return page.find(f".notice.{kind}").text


def test_the_empty_page_explains_itself(page: Page) -> None:
    assert "coloured" in page.find("#empty").text
    assert len(page.all("#examples button")) >= 3
    assert page.focused.get_attribute("id") == "prompt"
    assert page.all(".notice") == []


def test_a_refusal_is_shown_with_its_field(page: Page) -> None:
    page.generate(PROMPT, max_tokens=100000)
    assert "max_tokens" in notice(page, "refused") or "512" in notice(page, "refused")
    page.expect_problems("400")
    assert page.find("#empty").is_displayed()
    page.finished(PROMPT, max_tokens=5)
    assert page.all(".notice") == []


def test_the_server_s_message_is_shown_and_the_field_marked(page: Page, gate: Gate) -> None:
    error = {
        "message": "top_p must be in (0, 1], got <b>1.5</b>",
        "param": "top_p",
        "type": "x",
        "code": None,
    }
    gate.answers = [(400, {}, {"error": error})]
    page.generate(PROMPT)
    assert "top_p must be in (0, 1], got <b>1.5</b>" in notice(page, "refused")
    assert page.find("#top-p").get_attribute("aria-invalid") == "true"
    page.expect_problems("400")
    page.set("top-p", 0.5)
    assert page.find("#top-p").get_attribute("aria-invalid") is None


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", "-1"), ("top-p", "2"), ("seed", "1.5"), ("max-tokens", "")]
)
def test_a_field_that_can_t_be_isn_t_sent(page: Page, gate: Gate, name: str, value: str) -> None:
    page.set(name, value)
    page.type_prompt(PROMPT)
    page.find("#generate").click()
    assert page.focused.get_attribute("id") == name
    assert page.state is None
    assert gate.requests == []


def test_an_answer_that_is_no_json(page: Page, gate: Gate) -> None:
    gate.answers = [(502, {"content-type": "text/html"}, b"<h1>Bad Gateway</h1>")]
    page.generate(PROMPT)
    assert "502" in notice(page, "refused")
    page.expect_problems("502")


def test_a_busy_server_is_asked_again(page: Page, gate: Gate) -> None:
    error = {"message": "256 requests wait already.", "type": "x", "param": None, "code": None}
    gate.answers = [(429, {"retry-after": "2"}, {"error": error})]
    page.generate(PROMPT, max_tokens=5)
    assert "256 requests wait already. Try again in 2 s." in notice(page, "busy")
    page.expect_problems("429")
    page.button("Try again").click()
    page.until("done")
    assert page.all(".notice") == []
    assert gate.requests[0] == gate.requests[1]


def test_no_connection(page: Page, gate: Gate) -> None:
    before = page.finished(PROMPT, max_tokens=6, seed=1)
    page.connected(False)
    page.find("#generate").click()
    assert "No connection" in notice(page, "offline")
    page.expect_problems("ERR_INTERNET_DISCONNECTED")
    assert page.shown() == before
    page.connected(True)
    page.button("Try again").click()
    page.wait(lambda: len(gate.requests) == 2 and page.state == "done" and not page.all(".notice"))


def test_no_connection_from_the_beginning(page: Page) -> None:
    page.connected(False)
    page.script("document.querySelector('#theme').click()")  # the page itself works on
    page.generate(PROMPT, max_tokens=5)
    assert "No connection" in notice(page, "offline")
    page.expect_problems("ERR_INTERNET_DISCONNECTED")
    page.connected(True)


def test_a_connection_that_breaks_keeps_what_has_come(page: Page, gate: Gate) -> None:
    gate.hold_after = 4
    page.generate(PROMPT, max_tokens=50, seed=1)
    page.wait(page.tokens)
    gate.break_after = 4
    gate.release.set()
    page.until("failed")
    assert "No connection" in notice(page, "offline")
    assert 0 < len(page.tokens()) <= 4
    assert page.stats.startswith("Interrupted")
    page.expect_problems("ERR_INCOMPLETE_CHUNKED_ENCODING")
    gate.reset()
    page.button("Try again").click()
    page.until("done")
    assert len(page.tokens()) == 50


def test_an_error_in_the_middle_of_a_stream(page: Page, gate: Gate) -> None:
    event = b'data: {"error": {"message": "The server ends; this text was not finished.", "param": null}}\n\n'
    gate.answers = [(200, {"content-type": "text/event-stream"}, event)]
    page.generate(PROMPT)
    assert "this text was not finished" in notice(page, "refused")


@pytest.fixture
def locked(chromium: Any, model: GPT2) -> Iterator[ServedPage]:
    with served_page(model, Settings(api_keys=(KEY,))) as found:
        yield found


def test_a_browser_that_knows_the_key_needs_no_field(chromium: Any, locked: ServedPage) -> None:
    page = Page(chromium, locked.url.replace("://", f"://reader:{KEY}@"))
    page.wait(lambda: page.find("#model").text)
    assert page.finished(PROMPT, max_tokens=5)
    assert page.all(".notice") == []
    assert KEY not in page.copied("Copy as curl")
    assert page.problems() == []


def test_a_key_is_asked_for_and_kept_in_the_tab_only(chromium: Any, locked: ServedPage) -> None:
    locked.gate.page_key = KEY
    page = Page(chromium, locked.url)
    assert "API key" in notice(page, "key")
    page.expect_problems("401")
    page.find("#api-key").send_keys("wrong", Keys.ENTER)
    page.wait(lambda: page.all("#api-key") and page.find("#api-key").get_property("value") == "")
    page.expect_problems("401")
    page.find("#api-key").send_keys(KEY, Keys.ENTER)
    page.wait(lambda: page.find("#model").text and not page.all(".notice"))
    assert page.finished(PROMPT, max_tokens=5)
    assert page.script("return [sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    command = page.copied("Copy as curl")
    assert KEY not in command
    assert "$OPENAI_API_KEY" in command
    page.reload()
    page.wait(lambda: page.find("#model").text)
    assert page.problems() == []
    assert page.foreign_requests() == []


def test_it_works_under_a_path_and_with_few_alternatives(chromium: Any, model: GPT2) -> None:
    settings = Settings(limits=Limits(logprobs=5))
    with served_page(model, settings, prefix="/models/tiny") as served:
        page = Page(chromium, served.url)
        assert len(page.finished(PROMPT, max_tokens=5)) > 0
        page.expect_problems("400")  # it asked for more first
        page.point_at(page.tokens()[2])
        assert len(page.wait(page.alternatives)) in (5, 6)
        assert page.foreign_requests() == []
