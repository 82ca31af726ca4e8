"""Requests made up from /openapi.json: every answer is one that it declares.

``GPT2FAST_SERVICE_REQUESTS`` says how many; 10,000 take about ten minutes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from gpt2fast import GPT2
from gpt2fast.serving import Limits, Settings
from gpt2fast.serving.openai import REQUESTS
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
