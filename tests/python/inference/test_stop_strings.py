"""Stop strings that begin in the prompt: texts end where those of transformers do, however they are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import GPT2

GOLDEN = json.loads((Path(__file__).parents[2] / "goldens" / "stop_strings.json").read_text("utf-8"))
PROMPT = GOLDEN["prompt"]


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(precision="fp32", generation_config=None)


@pytest.mark.parametrize(
    "case", GOLDEN["texts"], ids=lambda case: f"{case['num_beams']}-{case['stop_strings']}"
)
def test_texts_end_as_in_transformers(model: GPT2, case: dict[str, Any]) -> None:
    options = {name: value for name, value in case.items() if name != "token_ids"}
    if case["num_beams"] == 1:
        options.pop("length_penalty", None)
    out = model.generate(PROMPT, **options, max_new_tokens=12, eos_token_id=[])
    assert out.token_ids == case["token_ids"]
    output = model.tokenizer.decode(out.token_ids)
    whole = PROMPT + output
    stops = any(whole.find(stop, len(PROMPT) - len(stop) + 1) >= 0 for stop in case["stop_strings"])
    assert out.finish_reason == ("stop" if stops else "length")
    if not stops:
        assert out.text == output


def test_the_text_ends_before_the_stop_string(model: GPT2) -> None:
    options: dict[str, Any] = {"stop_strings": ["time, and"], "max_new_tokens": 12}
    assert model.generate(PROMPT, **options).text == ""
    assert model.generate(PROMPT, **options, echo=True).text == PROMPT
    assert model.generate(PROMPT, **options, include_stop_string=True).text == ", and"
    ids = model.tokenizer.encode(PROMPT)
    assert model.generate(ids, **options).token_ids == model.generate(PROMPT, **options).token_ids
    prefix = model.prefill(PROMPT[:4])
    assert model.generate(PROMPT[4:], **options, prefix=prefix).finish_reason == "stop"


def test_streams_hold_back_what_a_stop_string_may_take(model: GPT2) -> None:
    options: dict[str, Any] = {"stop_strings": ["time, and"], "max_new_tokens": 12}
    chunks = list(model.stream(PROMPT, **options))
    assert "".join(chunk.text for chunk in chunks) == ""
    assert chunks[-1].finish_reason == "stop"
    assert [token for chunk in chunks for token in chunk.token_ids] == model.generate(
        PROMPT, **options
    ).token_ids
    missed = {**options, "stop_strings": ["time, andy"]}
    free = model.generate(PROMPT, max_new_tokens=12).text
    assert "".join(chunk.text for chunk in model.stream(PROMPT, **missed)) == free


def test_many_texts_each_with_its_own_prompt(model: GPT2) -> None:
    outs = model.generate([PROMPT, "The time"], stop_strings=["time, and"], max_new_tokens=12)
    assert [one.finish_reason for one in outs] == ["stop", "length"]
