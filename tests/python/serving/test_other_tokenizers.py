"""/v1/completions with tokenizers other than GPT-2's: a stream is the text that is answered whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from gpt2fast import GPT2
from gpt2fast.serving import create_app
from support.live_server import events
from support.tokenizer_samples import write_sample

PATH = "/v1/completions"
#: Texts whose parts are decoded otherwise alone than after others: spaces, marks of words, bytes, removed spaces.
PROMPTS: list[list[int]] = [[7, 8], [12, 13, 9], [8, 7, 11]]
Ask = Callable[..., list[dict[str, Any]]]
KINDS = [
    *("plain", "prefix_space", "bos_in_front", "json_template", "word_level", "word_level_cleaned_up"),
    *("word_piece", "unigram", "word_end", "byte_fallback", "bert"),
]


@pytest.fixture(scope="module", params=KINDS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GPT2:
    """The embedded model with another tokenizer, whose vocabulary is smaller."""
    directory = write_sample(request.param, tmp_path_factory.mktemp(request.param))
    return GPT2.from_pretrained(tokenizer=directory, threads=1, max_sequences=8)


@pytest.fixture(scope="module")
def asked(other: GPT2) -> TestClient:
    return TestClient(create_app(other))


def streamed(client: TestClient, fields: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The choices of a stream, each put together again."""
    response = client.post(PATH, json={**fields, "stream": True})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = [{"text": "", "logprobs": {}, "token_ids": []} for _ in range(count)]
    for chunk in events(iter(response.text.splitlines())):
        (choice,) = chunk["choices"]
        one = found[choice["index"]]
        one["text"] += choice["text"]
        one["token_ids"] += choice["token_ids"]
        for name, values in (choice["logprobs"] or {}).items():
            one["logprobs"].setdefault(name, []).extend(values)
    return found


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize(
    "fields", [{"max_tokens": 12, "n": 2}, {"max_tokens": 9, "stop": "on"}, {"max_tokens": 0}]
)
def test_a_stream_is_the_text_that_is_answered_whole(
    asked: TestClient, other: GPT2, echo: bool, fields: dict[str, Any]
) -> None:
    known = other.tokenizer.token_bytes()
    bias = {str(token): -1000 for token, data in enumerate(known) if not data}  # says what can be seen
    given = {
        **{"prompt": PROMPTS, "seed": 3, "eos_token_id": [], "logit_bias": bias, "top_k": 0},
        **{"temperature": 5, "echo": echo, "logprobs": 2, "return_token_ids": True, **fields},
    }
    whole = asked.post(PATH, json=given).json()["choices"]
    found = streamed(asked, given, len(whole))
    for name in ("text", "token_ids", "logprobs"):
        assert [one[name] for one in found] == [one[name] for one in whole], name
    if "stop" not in fields:
        prompts = [prompt if echo else [] for prompt in PROMPTS for _ in range(fields.get("n", 1))]
        tokens = [[*prompt, *one["token_ids"]] for prompt, one in zip(prompts, found, strict=True)]
        assert [one["text"] for one in found] == [other.tokenizer.decode(ids) for ids in tokens]
