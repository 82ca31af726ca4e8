"""Stop strings that begin in the prompt: texts end where those of transformers do, however they are made."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2fast import GPT2
from support.goldens import EMBEDDED

GOLDEN = EMBEDDED["stop_strings"]
PROMPT, TOKENS = GOLDEN["prompt"], GOLDEN["max_new_tokens"]
# Begins in the prompt and ends in the likeliest text.
STOP = GOLDEN["texts"][0]["stop_strings"][0]
OPTIONS: dict[str, Any] = {"max_new_tokens": TOKENS, "eos_token_id": []}
STOPPED: dict[str, Any] = {**OPTIONS, "stop_strings": [STOP]}


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
    out = model.generate(PROMPT, **options, **OPTIONS)
    assert out.token_ids == case["token_ids"]
    output = model.tokenizer.decode(out.token_ids)
    whole = PROMPT + output
    stops = any(whole.find(stop, len(PROMPT) - len(stop) + 1) >= 0 for stop in case["stop_strings"])
    assert out.finish_reason == ("stop" if stops else "length")
    if not stops:
        assert out.text == output


def test_the_text_ends_before_the_stop_string(model: GPT2) -> None:
    assert PROMPT.endswith("time")
    assert model.generate(PROMPT, **STOPPED).text == ""
    assert model.generate(PROMPT, **STOPPED, echo=True).text == PROMPT
    included = model.generate(PROMPT, **STOPPED, include_stop_string=True).text
    assert included == STOP.removeprefix("time")
    ids = model.tokenizer.encode(PROMPT)
    assert model.generate(ids, **STOPPED).token_ids == model.generate(PROMPT, **STOPPED).token_ids
    prefix = model.prefill(PROMPT[:4])
    assert model.generate(PROMPT[4:], **STOPPED, prefix=prefix).finish_reason == "stop"


def test_streams_hold_back_what_a_stop_string_may_take(model: GPT2) -> None:
    chunks = list(model.stream(PROMPT, **STOPPED))
    assert "".join(chunk.text for chunk in chunks) == ""
    assert chunks[-1].finish_reason == "stop"
    ids = [token for chunk in chunks for token in chunk.token_ids]
    assert ids == model.generate(PROMPT, **STOPPED).token_ids
    missed = {**OPTIONS, "stop_strings": [STOP + "|"]}
    free = model.generate(PROMPT, **OPTIONS).text
    assert free == GOLDEN["written"]
    assert "".join(chunk.text for chunk in model.stream(PROMPT, **missed)) == free


def test_many_texts_each_with_its_own_prompt(model: GPT2) -> None:
    other = PROMPT.replace("time", "day")
    outs = model.generate([PROMPT, other], **STOPPED)
    alone = model.generate(other, **OPTIONS)
    assert STOP not in alone.text
    assert [one.finish_reason for one in outs] == ["stop", "length"]
    assert outs[1].text == alone.text
