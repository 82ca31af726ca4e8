"""The page generates: as a stream, until it is stopped, the same again, several texts, what was before."""

from __future__ import annotations

import ast
import shutil
import subprocess

import pytest

from gpt2fast import GPT2
from support.browser import Keys, Page
from support.live_server import DEADLINE
from support.served_page import Gate

PROMPT = "Once upon a time"


def text_of(page: Page, which: int = 0) -> str:
    return page.shown(which)


def test_the_text_is_that_of_the_library(page: Page, model: GPT2) -> None:
    shown = page.finished(
        PROMPT, max_tokens=40, seed=7, temperature=0.9, top_p=0.9, top_k=30, repetition_penalty=1.2
    )
    expected = model.generate(
        PROMPT, max_new_tokens=40, seed=7, temperature=0.9, top_p=0.9, top_k=30, repetition_penalty=1.2
    )
    assert shown == expected.text
    assert "40 tokens" in page.stats
    assert "seed 7" in page.stats


def test_greedy_takes_the_likeliest(page: Page, model: GPT2) -> None:
    page.find("#greedy").click()
    assert not page.find("#temperature").is_enabled()
    assert (
        page.finished(PROMPT, max_tokens=20)
        == model.generate(PROMPT, max_new_tokens=20, do_sample=False).text
    )
    assert "seed" not in page.stats


def test_a_text_appears_while_it_is_written(page: Page, gate: Gate) -> None:
    gate.hold_after = 5
    page.generate(PROMPT, max_tokens=30, seed=1)
    page.wait(lambda: len(page.tokens()) > 0)
    assert page.state == "running"
    first = page.shown()
    held = len(page.tokens())
    assert held <= 5
    gate.release.set()
    page.until("done")
    assert page.shown().startswith(first)
    assert len(page.tokens()) == 30


def test_speed_and_time_to_the_first_token_are_shown(page: Page) -> None:
    page.finished(PROMPT, max_tokens=20)
    speed, first = page.stats.split(" · ")[-3:-1]
    assert float(speed.removesuffix(" tokens/s").replace(",", "")) > 0
    assert first.startswith("first token after ")
    assert float(first.split()[-2].replace(",", "")) > 0


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_ends_it_on_the_server_too(page: Page, gate: Gate, how: str) -> None:
    gate.hold_after = 4
    page.generate(PROMPT, max_tokens=400)
    page.wait(page.tokens)
    if how == "button":
        page.find("#stop-button").click()
    else:
        page.press(Keys.ESCAPE)
    page.until("stopped")
    assert gate.abandoned.wait(DEADLINE)
    assert 0 < len(page.tokens()) < 400
    assert page.stats.startswith("Stopped")
    assert not page.find("#stop-button").is_displayed()
    gate.reset()
    assert len(page.finished(PROMPT, max_tokens=5, seed=1)) > 0


def test_a_random_seed_is_shown_and_run_again_gives_the_same_text(page: Page, gate: Gate) -> None:
    first = page.finished(PROMPT, max_tokens=30)
    seed = gate.requests[0]["seed"]
    assert f"seed {seed}" in page.stats
    page.button("Run again").click()
    page.wait(lambda: len(gate.requests) == 2 and page.state == "done")
    assert gate.requests[0] == gate.requests[1]
    assert page.shown() == first
    assert page.find(".same").text.startswith("Same text as at ")

    page.find("#generate").click()
    page.wait(lambda: len(gate.requests) == 3 and page.state == "done")
    assert gate.requests[2]["seed"] != seed


def test_the_seed_of_a_run_can_be_kept_and_dice_roll_another(page: Page, gate: Gate) -> None:
    page.finished(PROMPT, max_tokens=3)
    page.find(".seed").click()
    assert page.find("#seed").get_property("value") == str(gate.requests[0]["seed"])
    page.find("#dice").click()
    rolled = page.find("#seed").get_property("value")
    page.finished(PROMPT)
    page.wait(lambda: len(gate.requests) == 2)
    assert gate.requests[1]["seed"] == int(rolled) != gate.requests[0]["seed"]


def test_several_texts_stand_side_by_side(page: Page, model: GPT2) -> None:
    page.finished(PROMPT, max_tokens=15, seed=3, texts=3)
    expected = model.generate(
        PROMPT, max_new_tokens=15, seed=3, temperature=0.8, top_p=0.95, num_return_sequences=3
    )
    texts = [page.script("return [...document.querySelectorAll('.cards .tokens')].map((e) => e.textContent)")]
    assert texts[0] == [each.text for each in expected]
    tops = {card.rect["y"] for card in page.all(".cards .sheet")}
    assert len(tops) == 1
    feet = [foot.text for foot in page.all(".cards footer span")]
    assert feet == [f"seed {seed} · 15 tokens · reached max tokens" for seed in (3, 4, 5)]


def test_a_stop_string_ends_a_text_and_what_it_took_back_is_struck_out(page: Page, model: GPT2) -> None:
    expected = model.generate(
        PROMPT, max_new_tokens=200, seed=5, temperature=0.8, top_p=0.95, stop_strings=[".\n", "ing"]
    )
    assert expected.finish_reason == "stop"
    shown = page.finished(PROMPT, max_tokens=200, seed=5, stop=".\\n\ning")
    struck = "".join(each.get_property("textContent") for each in page.all(".token s"))
    assert shown.removesuffix(struck) == expected.text
    assert struck.startswith((".\n", "ing"))
    assert "stop string" in page.stats
    page.button("Copy text").click()
    page.wait(lambda: page.clipboard() == PROMPT + expected.text)


def test_earlier_runs_come_back(page: Page) -> None:
    first = page.finished(PROMPT, max_tokens=12, seed=1, temperature=0.5)
    page.generate("The old king", max_tokens=9, seed=2, temperature=1.1)
    page.wait(lambda: page.state == "done" and len(page.all("#runs button")) == 2)
    assert page.shown() != first
    newest, oldest = page.all("#runs button")
    assert newest.get_attribute("aria-current") == "true"
    assert "The old king" in newest.text
    oldest.click()
    page.wait(lambda: page.shown() == first)
    assert page.find("#prompt").get_property("value") == PROMPT
    assert [page.find(f"#{name}").get_property("value") for name in ("temperature", "max-tokens")] == [
        "0.5",
        "12",
    ]
    page.reload()
    assert not page.find("#history").is_displayed()


def test_an_example_starts_a_run(page: Page) -> None:
    example = page.find("#examples button")
    prompt = example.text
    example.click()
    page.until("done")
    assert page.find("#prompt").get_property("value") == prompt
    assert not page.find("#empty").is_displayed()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_copied_curl_command_gives_the_same_text(page: Page) -> None:
    prompt = 'It\'s "quoted" $HOME \\ and\n'
    shown = page.finished(prompt, max_tokens=10, seed=4)
    command = page.copied("Copy as curl")
    answer = subprocess.run(["bash", "-c", command], capture_output=True, check=True, text=True)
    assert f'"text":{_json(shown)}' in answer.stdout.replace('": ', '":')


def test_the_copied_python_asks_the_same(page: Page, gate: Gate) -> None:
    page.finished('It\'s "quoted" \\ and\n', max_tokens=10, seed=4, stop="zebra")
    code = page.copied("Copy as Python")
    assert f'base_url="{page.url}v1"' in code
    call = next(
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "client.completions.create"
    )
    arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    arguments |= arguments.pop("extra_body")
    page_only = ("stream", "logprobs", "return_token_ids")
    assert arguments == {name: value for name, value in gate.requests[0].items() if name not in page_only}


def _json(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)
