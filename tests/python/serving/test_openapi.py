"""Requests made up from /openapi.json: every answer is one that it declares.

``GPT2FAST_SERVICE_REQUESTS`` says how many; 10,000 take about ten minutes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from gpt2fast import GPT2
from gpt2fast.serving import Limits, Settings
from gpt2fast.serving.openai import REQUESTS
from gpt2fast.serving.openapi import openapi_document
from support.live_server import DEADLINE, LiveServer, live_server

schemathesis = pytest.importorskip("schemathesis")

REQUEST_COUNT = int(os.environ.get("GPT2FAST_SERVICE_REQUESTS", "300"))
#: Requests as the schema has them, and as it doesn't; the other routes take nothing that could be made up.
CASES = [(path, mode) for path in REQUESTS for mode in ("positive", "negative")]
CASES.append(("/v1/models/{model}", "positive"))
EXAMPLES = max(1, REQUEST_COUNT // len(CASES))


@pytest.fixture(scope="module")
def limited(model: GPT2) -> Iterator[LiveServer]:
    """A server whose requests are short, whatever they ask for."""
    # What a request made up at random could ask for would take minutes.
    limits = Limits(tokens=2000, texts_per_prompt=4, prompts=16, grammar=1000, seconds=5.0)
    model.generate("a", regex="b", max_new_tokens=1)  # the first constraint takes longest
    template = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
    with live_server(model, Settings(limits=limits, chat_template=template)) as live:
        yield live


@pytest.fixture(scope="module")
def schema(limited: LiveServer) -> Any:
    return schemathesis.openapi.from_url(f"{limited.url}/openapi.json")


def test_the_limits_are_those_of_the_server() -> None:
    limits = Limits(tokens=2000, texts_per_prompt=4, prompts=16, grammar=1000, logprobs=7, priority=-3)
    document = openapi_document(Settings(limits=limits), "")
    schemas = document["components"]["schemas"]
    fields = schemas["CompletionRequest"]["properties"]
    found = {name: fields[name]["anyOf"][0] for name in fields if "anyOf" in fields[name]}
    for name in ("n", "best_of", "num_beams"):
        assert (found[name]["minimum"], found[name]["maximum"]) == (1, 4)
    assert found["logprobs"]["maximum"] == 7
    assert schemas["ChatRequest"]["properties"]["top_logprobs"]["anyOf"][0]["maximum"] == 7
    assert found["priority"]["maximum"] == -3
    assert found["regex"]["maxLength"] == found["grammar"]["maxLength"] == 1000
    assert found["json_schema"]["anyOf"][1]["maxLength"] == 1000
    assert found["min_new_tokens"]["maximum"] == 2**31 - 1  # which no limit of the server's bounds
    text, texts, tokens, lists = found["prompt"]["anyOf"]
    assert "maxLength" not in text
    assert (texts["maxItems"], tokens["maxItems"], lists["maxItems"]) == (16, 2000, 16)
    choices = schemas["RankRequest"]["properties"]["choices"]["anyOf"][0]["anyOf"]
    assert [one["maxItems"] for one in choices] == [16, 16]
    assert "x-limit" not in json.dumps(document)
    others = openapi_document(Settings(), "")["components"]["schemas"]["CompletionRequest"]["properties"]
    assert others["n"]["anyOf"][0]["maximum"] == Limits().texts_per_prompt


@pytest.mark.parametrize(("path", "mode"), CASES)
def test_every_answer_is_declared(schema: Any, path: str, mode: str) -> None:
    operation = schema[path]["POST" if path in REQUESTS else "GET"]

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def answer(case: Any) -> None:
        # Fields that are right one by one may contradict each other.
        excluded = [schemathesis.checks.positive_data_acceptance]
        case.call_and_validate(excluded_checks=excluded, timeout=DEADLINE)

    answer()
