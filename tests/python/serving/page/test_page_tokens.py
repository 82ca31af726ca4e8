"""Tokens on the page: probabilities, alternatives, going on from those, characters across tokens."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from gpt2fast import GPT2
from support.browser import Keys, Page
from support.served_page import Gate

PROMPT = "Once upon a time"
LIMITS = (0.5, 0.2, 0.05, 0.01, 0)
SAMPLING = {"temperature": 0.8, "top_p": 0.95}


def kind_of(probability: float) -> str:
    return f"p{next(number for number, limit in enumerate(LIMITS) if probability >= limit)}"


def test_tokens_are_coloured_by_their_probability(page: Page, model: GPT2) -> None:
    page.finished(PROMPT, max_tokens=40, seed=2)
    result = model.generate(PROMPT, max_new_tokens=40, seed=2, logprobs=1, **SAMPLING)
    kinds = [
        next(name for name in token.get_attribute("class").split() if name.startswith("p"))
        for token in page.tokens()
    ]
    assert kinds == [kind_of(math.exp(value)) for value in result.logprobs.chosen.tolist()]
    legend = [tint.value_of_css_property("background-color") for tint in page.all("#legend .tint")]
    assert len(set(legend)) == len(LIMITS)
    tint = page.find(".tokens .tint").value_of_css_property("background-color")
    assert tint == legend[int(kinds[0].removeprefix("p"))]


def test_pointing_at_a_token_shows_the_likeliest(page: Page, model: GPT2) -> None:
    page.finished(PROMPT, max_tokens=10, seed=2)
    result = model.generate(PROMPT, max_new_tokens=10, seed=2, logprobs=8, **SAMPLING)
    page.point_at(page.tokens()[3])
    rows = page.wait(page.alternatives)
    assert len(rows) >= 8
    names = [
        model.tokenizer.decode([token]).replace(" ", "·") for token in result.logprobs.top_ids[3].tolist()
    ]
    percents = [round(100 * math.exp(value)) for value in result.logprobs.top[3].tolist()]
    for row, name, percent in zip(rows, names, percents, strict=False):
        assert row.text.split("\n")[0] == name
        assert abs(float(row.text.split("\n")[1].strip("<%")) - percent) <= 0.51
    current = page.find("#alternatives [aria-current=true]").text
    assert current.split("\n")[0] == model.tokenizer.decode(result.token_ids[3:4]).replace(" ", "·")
    page.point_at(page.find("h1"))
    page.wait(lambda: not page.alternatives())


def test_an_alternative_goes_on_from_exact_tokens(page: Page, gate: Gate, model: GPT2) -> None:
    page.finished(PROMPT, max_tokens=12, seed=2)
    result = model.generate(PROMPT, max_new_tokens=12, seed=2, logprobs=8, **SAMPLING)
    page.point_at(page.tokens()[5])
    choice = next(
        number for number, id in enumerate(result.logprobs.top_ids[5].tolist()) if id != result.token_ids[5]
    )
    page.wait(page.alternatives)[choice].click()
    page.wait(lambda: len(gate.requests) == 2 and page.state == "done")
    ids = [*result.prompt_token_ids, *result.token_ids[:5], int(result.logprobs.top_ids[5][choice])]
    first, second = gate.requests
    assert second["prompt"] == ids
    assert {**second, "prompt": PROMPT} == first
    expected = model.generate(ids, max_new_tokens=12, seed=2, **SAMPLING)
    assert page.shown() == model.tokenizer.decode(ids[len(result.prompt_token_ids) :]) + expected.text
    assert page.find("#prompt").get_property("value") == model.tokenizer.decode(ids)
    assert "chosen" in page.tokens()[5].get_attribute("class")


def test_what_was_kept_can_be_changed_too_and_an_edit_lets_go(page: Page, gate: Gate, model: GPT2) -> None:
    page.finished(PROMPT, max_tokens=8, seed=2)
    for place in (6, 2):
        page.point_at(page.tokens()[place])
        page.wait(lambda: [row for row in page.alternatives() if row.tag_name == "button"])[0].click()
        page.wait(lambda: page.state == "done" and not page.alternatives())
    page.wait(lambda: len(gate.requests) == 3)
    prompt = model.tokenizer.encode(PROMPT)
    assert len(gate.requests[2]["prompt"]) == len(prompt) + 3
    assert gate.requests[2]["prompt"][: len(prompt) + 2] == gate.requests[1]["prompt"][: len(prompt) + 2]
    assert page.find("#pinned").is_displayed()
    page.find("#prompt").send_keys("!")
    assert not page.find("#pinned").is_displayed()
    page.find("#generate").click()
    page.wait(lambda: len(gate.requests) == 4)
    assert gate.requests[3]["prompt"] == page.find("#prompt").get_property("value")


def test_an_alternative_of_one_of_several_texts(page: Page, gate: Gate, model: GPT2) -> None:
    page.finished(PROMPT, max_tokens=8, seed=2, texts=2)
    second = model.generate(PROMPT, max_new_tokens=8, seed=2, num_return_sequences=2, logprobs=8, **SAMPLING)[
        1
    ]
    page.point_at(page.all(".cards .sheet:nth-child(2) .token")[4])
    row = page.wait(lambda: [row for row in page.alternatives() if row.tag_name == "button"])[0]
    row.click()
    page.wait(lambda: len(gate.requests) == 2 and page.state == "done")
    sent = gate.requests[1]["prompt"]
    assert sent[:-1] == [*second.prompt_token_ids, *second.token_ids[:4]]
    assert sent[-1] in second.logprobs.top_ids[4].tolist()
    assert page.find(".text.prompt").text == model.tokenizer.decode(sent)
    assert len(page.all(".cards .sheet")) == 2


def test_an_alternative_can_be_chosen_while_the_text_is_written(page: Page, gate: Gate) -> None:
    gate.hold_after = 6
    page.generate(PROMPT, max_tokens=30, seed=2)
    page.wait(lambda: len(page.tokens()) > 3)
    page.point_at(page.tokens()[2])
    row = page.wait(lambda: [row for row in page.alternatives() if row.tag_name == "button"])[0]
    gate.hold_after = None
    row.click()
    page.wait(lambda: len(gate.requests) == 2 and page.state == "done")
    assert len(page.tokens()) == 33


def test_tapping_shows_them_and_tapping_elsewhere_hides_them(page: Page, gate: Gate) -> None:
    page.finished(PROMPT, max_tokens=60, seed=2)
    page.size(360, 740, touch=True)
    page.tap(page.tokens()[-1])
    rows = page.wait(page.alternatives)
    token = page.find(".token.open").rect
    panel = page.find("#alternatives").rect
    assert token["y"] + token["height"] <= panel["y"], "the panel hides its token"
    page.tap(page.find(".stats strong"))
    page.wait(lambda: not page.alternatives())
    page.tap(page.tokens()[1])
    rows = page.wait(page.alternatives)
    page.tap(next(row for row in rows if row.tag_name == "button"))
    page.wait(lambda: len(gate.requests) == 2 and page.state == "done")


# Streams that are made up: names of tokens with their ids, one token a chunk.


def stream_of(
    *tokens: tuple[str, int], text: str, others: dict[str, int] | None = None
) -> tuple[int, dict[str, str], bytes]:
    chunks: list[Any] = []
    for place, (name, id) in enumerate(tokens):
        tops = {name: id, **(others or {})}
        choice = {
            "index": 0,
            "text": text if place == len(tokens) - 1 else "",
            "finish_reason": "length" if place == len(tokens) - 1 else None,
            "token_ids": [id],
            "logprobs": {
                "tokens": [name],
                "token_logprobs": [math.log(0.5)],
                "top_logprobs": [{each: math.log(0.5 / (1 + rank)) for rank, each in enumerate(tops)}],
                "top_token_ids": [tops],
            },
        }
        chunks.append({"choices": [choice | ({"prompt_token_ids": [7, 8]} if place == 0 else {})]})
    events = [*map(json.dumps, chunks), "[DONE]"]
    body = "".join(f"data: {event}\n\n" for event in events)
    return 200, {"content-type": "text/event-stream"}, body.encode()


def test_characters_across_tokens_are_whole_and_each_token_has_its_alternatives(
    page: Page, gate: Gate
) -> None:
    tokens = ((" a", 1), ("bytes:\\x20\\xf0\\x9f", 2), ("bytes:\\x98", 3), ("bytes:\\x80", 4), ("!", 5))
    others = {"bytes:\\x99": 40, " the": 41, "\n": 42}
    gate.answers = [stream_of(*tokens, text=" a 😀!", others=others)]
    assert page.finished("Look:") == " a 😀!"
    assert [token.get_property("textContent") for token in page.tokens()] == [" a", " 😀", "!"]
    assert "p2" in page.tokens()[1].get_attribute("class")  # a half, three times
    page.point_at(page.tokens()[1])
    page.wait(page.alternatives)
    places = page.all("#alternatives ol")
    assert len(places) == 3
    assert [row.text.split("\n")[0] for row in places[2].find_elements("css selector", ".alternative")] == [
        "byte 80",
        "byte 99",
        "·the",
        "↵",
    ]
    places[2].find_element("css selector", "button").click()
    page.wait(lambda: len(gate.requests) == 2 and page.state == "done")
    assert gate.requests[1]["prompt"] == [7, 8, 1, 2, 3, 40]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["bytes:\\x98", "a"], ["�", "a"]),  # continues nothing
        (["bytes:\\xe2\\x80", "a"], ["�", "a"]),  # never continued
        (["bytes:\\xe2", "bytes:\\x80", "a"], ["�", "a"]),
        (["bytes:\\xf0\\x9f"], ["�"]),  # at the end
        (["bytes:\\xc3", "bytes:\\xc3", "bytes:\\xa9"], ["�", "é"]),
        (["<b>&amp;", "</b>"], ["<b>&amp;", "</b>"]),
        (["1", "0"], ["1", "0"]),
    ],
)
def test_bytes_that_make_no_character(page: Page, gate: Gate, names: list[str], shown: list[str]) -> None:
    gate.answers = [stream_of(*((name, place) for place, name in enumerate(names)), text="".join(shown))]
    page.finished("Look:")
    assert [token.get_property("textContent") for token in page.tokens()] == shown


def test_numbers_keep_their_ids(page: Page, gate: Gate) -> None:
    """Keys such as "1" come first in a JavaScript object, whatever their order was."""
    gate.answers = [stream_of(("x", 9), text="x", others={"2": 20, "1": 10})]
    page.finished("Look:")
    page.point_at(page.tokens()[0])
    rows = page.wait(page.alternatives)
    assert [row.text.split("\n")[0] for row in rows] == ["x", "2", "1"]
    rows[1].click()
    page.wait(lambda: len(gate.requests) == 2 and page.state == "done")
    assert gate.requests[1]["prompt"] == [7, 8, 20]


def test_the_end_of_a_text_is_shown_and_can_be_replaced(page: Page, gate: Gate) -> None:
    gate.answers = [stream_of((" end", 3), ("<|endoftext|>", 0), text=" end", others={" and": 4})]
    page.finished("Look:")
    last = page.tokens()[-1]
    assert last.text == "end of text"
    page.button("Copy text").click()
    page.wait(lambda: page.clipboard() == "Look: end")
    page.point_at(last)
    page.wait(page.alternatives)[1].click()
    page.wait(lambda: len(gate.requests) == 2 and page.state == "done")
    assert gate.requests[1]["prompt"] == [7, 8, 3, 4]


def test_by_keyboard_alone(page: Page, gate: Gate, model: GPT2) -> None:
    assert page.focused.get_attribute("id") == "prompt"
    page.press(*PROMPT)
    page.press_together(Keys.CONTROL, Keys.ENTER)
    page.until("done")
    seen = []
    while "token" not in (page.focused.get_attribute("class") or "").split():
        page.press(Keys.TAB)
        seen.append(page.focused.get_attribute("id"))
        assert len(seen) < 40
    assert {"generate", "temperature", "seed", "dice", "stop"} <= set(seen)
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.focused == page.tokens()[1]
    assert page.focused.get_attribute("aria-label").endswith("%")
    page.wait(page.alternatives)
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert "alternative" in page.focused.get_attribute("class")
    page.press(Keys.ESCAPE)
    assert page.focused == page.tokens()[1]
    page.press(Keys.END)
    assert page.focused == page.tokens()[-1]
    page.press(Keys.HOME, Keys.ENTER)
    chosen = page.focused
    rows = [row for row in page.alternatives() if row.tag_name == "button"]
    assert chosen == rows[0]
    page.press(Keys.ENTER)
    page.wait(lambda: len(gate.requests) == 2 and page.state == "done")
    prompt = gate.requests[1]["prompt"]
    assert prompt[:-1] == model.tokenizer.encode(PROMPT)
    assert "chosen" in page.focused.get_attribute("class")
