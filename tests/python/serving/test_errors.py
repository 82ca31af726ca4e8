"""What is refused, and how: OpenAI's form, the field by name, nothing of the inside."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from gpt2fast import GPT2
from gpt2fast.serving import Limits, Settings
from gpt2fast.serving.errors import of_library
from gpt2fast.serving.logs import JsonFormatter
from support.live_server import DEADLINE, LiveServer, live_server

PATH = "/v1/completions"
Post = Callable[..., Any]
BOTH = ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/score", "/v1/rank", "/tokenize"]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"top_p": 1.5}, "top_p", "top_p must be in (0, 1], got 1.5"),
        ({"temperature": "hot"}, "temperature", "temperature must be a number, got 'hot' (str)"),
        ({"max_tokens": -1}, "max_tokens", "max_tokens must be from 0 to 2147483647, got -1"),
        ({"max_tokens": True}, "max_tokens", "max_tokens must be an integer, got True (bool)"),
        ({"max_tokens": 2.5}, "max_tokens", "max_tokens must be an integer, got 2.5 (float)"),
        ({"n": 0}, "n", "n must be from 1 to 128, got 0"),
        ({"n": 2, "temperature": 0}, "n", "n=2 needs sampling"),
        ({"n": 3, "best_of": 2}, "best_of", "best_of (2) must be at least n (3)"),
        ({"best_of": 2, "stream": True}, "best_of", "can't stream"),
        ({"num_beams": 2, "stream": True}, "num_beams", "can't stream"),
        ({"num_beams": 2, "n": 3}, "n", "n (3) must not exceed num_beams (2)"),
        ({"num_beams": 2, "temperature": 1}, "num_beams", "contradicts sampling"),
        ({"num_beams": 64}, "num_beams", "num_beams (64) must not exceed max_sequences (32)"),
        ({"min_new_tokens": 9, "max_tokens": 3}, "min_new_tokens", "must not exceed max_tokens (3)"),
        ({"stop": [""]}, "stop[0]", "stop[0] must not be empty"),
        ({"stop": 3}, "stop", "stop must be a string or a list of strings"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "got the key 'x'"),
        ({"logit_bias": {"7": 1, "07": 2}}, "logit_bias", "got the key '07'"),
        ({"logit_bias": {"1_0": 1}}, "logit_bias", "got the key '1_0'"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "got the key '9999"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "a key of logit_bias must be from 0 to 4095, got 99999"),
        ({"prompt": 7}, "prompt", "prompt must be a string, token ids, or a list of these, got 7 (int)"),
        ({"prompt": []}, "prompt", "prompt must not be an empty list"),
        ({"prompt": [1, "a"]}, "prompt[0]", "prompt[0] must be a string or a list of token ids"),
        ({"prompt": [[1, 4096]]}, "prompt[1]", "prompt[1] must be from 0 to 4095, got 4096"),
        ({"prompt": ["a", [-1]]}, "prompt[1][0]", "prompt[1][0] must be from 0 to 4095, got -1"),
        ({"suffix": "end"}, "suffix", "suffix is not supported"),
        ({"stream_options": {}}, "stream_options", "stream_options is for streams only"),
        ({"logprobs": -1}, "logprobs", "logprobs must be from 0 to 100, got -1"),
        ({"logprobs": 101}, "logprobs", "logprobs must be from 0 to 100, got 101"),
        ({"n": 129, "temperature": 1}, "n", "n must be from 1 to 128, got 129"),
        ({"n": 5000}, "n", "n must be from 1 to 128, got 5000"),
        ({"best_of": 0}, "best_of", "best_of must be from 1 to 128, got 0"),
        ({"best_of": 129, "temperature": 1}, "best_of", "best_of must be from 1 to 128, got 129"),
        ({"num_beams": 0}, "num_beams", "num_beams must be from 1 to 128, got 0"),
        ({"num_beams": 129}, "num_beams", "num_beams must be from 1 to 128, got 129"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "response_format.type: "),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is missing"),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "response_format", "contradicts regex"),
        ({"regex": "a", "choices": ["b"]}, "regex", "regex contradicts choices"),
        ({"overflow": "slide", "max_tokens": 1 << 21}, "max_tokens", "262144 tokens together"),
        ({"priority": 1}, "priority", "priority must be from -1000 to 0, got 1"),
        ({"echo": "yes"}, "echo", "echo: input should be a valid boolean"),
    ],
)
def test_a_bad_field_is_named(post: Post, fields: dict[str, Any], param: str, message: str) -> None:
    error = post(PATH, 400, **{"prompt": "Once", **fields})["error"]
    assert error["param"] == param
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


def test_each_name_of_an_option_has_its_limit(post: Post) -> None:
    messages = [{"role": "user", "content": "a"}]
    error = post("/v1/chat/completions", 400, messages=messages, logprobs=True, top_logprobs=101)["error"]
    assert error["message"] == "top_logprobs must be from 0 to 100, got 101"
    assert error["param"] == "top_logprobs"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("max_new_tokens", "max_tokens"),
        ("num_return_sequences", "n"),
        ("stop_strings", "stop"),
        ("temperatur", "temperature"),
        ("guided_json", "json_schema"),
        ("min_tokens", "min_new_tokens"),
        ("stop_token_ids", "eos_token_id"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest(post: Post, given: str, meant: str) -> None:
    error = post(PATH, 400, prompt="Once", **{given: 1})["error"]
    assert error["param"] == given
    assert error["code"] == "unknown_parameter"
    assert error["message"] == f"unknown field {given!r}; did you mean {meant!r}?"


@pytest.mark.parametrize(
    ("path", "fields", "given", "meant"),
    [
        ("/v1/score", {"inputs": ["a"]}, "inputs", "input"),
        ("/v1/embeddings", {"text": "a", "model": 3}, "text", None),
        ("/v1/rank", {"prompt": "a", "choice": ["b"]}, "choice", "choices"),
        ("/v1/chat/completions", {"message": []}, "message", "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "contents": "a"}]}, "contents", "content"),
        ("/v1/completions", {"prompt": 7, "temperatur": 1}, "temperatur", "temperature"),
    ],
)
def test_an_unknown_field_is_named_before_what_is_missing_or_wrong(
    post: Post, path: str, fields: dict[str, Any], given: str, meant: str | None
) -> None:
    error = post(path, 400, **fields)["error"]
    assert error["code"] == "unknown_parameter"
    assert error["param"].endswith(given)
    advice = f"did you mean {meant!r}?" if meant else "the fields are model, "
    assert f"unknown field {error['param']!r}; {advice}" in error["message"]


@pytest.mark.parametrize(
    ("advice", "left"),
    [
        ("; give do_sample=False, or generation_config=None ignores that", "; give do_sample=False"),
        ("; generation_config=None ignores that", ""),
    ],
)
def test_advice_is_what_a_request_can_follow(advice: str, left: str) -> None:
    problem = "num_beams=2 contradicts sampling (from the model's generation_config.json: top_k"
    error = of_library(ValueError(f"{problem}{advice})"), {"num_beams"})
    assert str(error) == f"{problem}{left})"


def test_an_unknown_field_far_from_all_lists_them(post: Post) -> None:
    message = post("/v1/rank", 400, prompt="a", choices=["b"], qqq=1)["error"]["message"]
    assert message == "unknown field 'qqq'; the fields are model, user, by, overflow, prompt, choices"
    message = post(PATH, 400, prompt="a", stream_options={"include_usages": True})["error"]["message"]
    assert message == "unknown field 'stream_options.include_usages'; did you mean 'include_usage'?"


@pytest.mark.parametrize("stream", [False, True])
def test_too_long_a_text_has_openais_code(post: Post, stream: bool) -> None:
    error = post(PATH, 400, prompt="Once " * 600, max_tokens=10, stream=stream)["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"
    assert "maximum context length is 512 tokens" in error["message"]
    error = post("/v1/embeddings", 400, input=["a", "Once " * 600])["error"]
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", BOTH)
def test_an_unknown_model_is_404(post: Post, path: str) -> None:
    fields = {"input": "a"} if path in ("/v1/embeddings", "/v1/score") else {"prompt": "a"}
    if path == "/v1/rank":
        fields["choices"] = ["b"]  # type: ignore[assignment]
    if path == "/v1/chat/completions":
        fields = {"messages": [{"role": "user", "content": "a"}]}  # type: ignore[dict-item]
    error = post(path, 404, model="gpt-5", **fields)["error"]
    assert error["code"] == "model_not_found"
    assert "'gpt-5'" in error["message"]
    assert "'gpt2fast'" in error["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The body is not valid JSON"),
        (b"{", "The body is not valid JSON"),
        (b"[]", "The body must be a JSON object."),
        (b"3", "The body must be a JSON object."),
        (b'{"prompt": "\xff"}', "The body is not valid JSON"),
        (b'{"prompt": "\\ud800"}', "The body is not valid JSON"),
        (b'{"prompt": ' + b"[" * 100_000, "The body is not valid JSON"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "The body is not valid JSON"),
        (b'{"temperature": NaN}', "temperature must be 0 or in [0.0001, 10000], got nan"),
        (b'{"temperature": 1e999}', "temperature must be 0 or in [0.0001, 10000], got inf"),
        (b'{"temperature": ' + b"9" * 400 + b"}", "temperature must be 0 or in [0.0001, 10000], got inf"),
        (
            b'{"logit_bias": {"5": -' + b"9" * 400 + b"}}",
            "logit_bias[5] must be in [-1e+06, 1e+06], got -inf",
        ),
        (b'{"logit_bias": {"5": -Infinity}}', "logit_bias[5] must be a finite number, got -inf"),
        (b'{"logit_bias": {"5": -1e999}}', "logit_bias[5] must be a finite number, got -inf"),
        (b'{"n": ' + b"9" * 400 + b"}", "n must be from 1 to 128, got an integer of 1329 bits"),
    ],
)
def test_what_is_no_json(client: httpx.Client, body: bytes, message: str) -> None:
    response = client.post(PATH, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "key", "param"),
    [
        (b'{"prompt": "a", "seed": 1, "seed": 2}', "seed", "seed"),
        (b'{"max_tokens": 1, "max_tok\\u0065ns": 1}', "max_tokens", "max_tokens"),
        (b'{"seed": 1, "seed": null}', "seed", "seed"),
        (b'{"prompt": "\xc3\xa9 \\": a", "logit_bias": {"5": 1, "5": -100}}', "5", None),
        (b'{"response_format": {"type": "text", "type": "json_object"}}', "type", None),
        (b'{"json_schema": {"type": "object", "properties": {"a": {}, "a": {}}}}', "a", None),
    ],
)
def test_a_key_that_is_given_twice_is_named(
    client: httpx.Client, body: bytes, key: str, param: str | None
) -> None:
    response = client.post(PATH, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"] == f"{key!r} is given twice in one object; leave one of them out"


def test_keys_are_told_from_text(client: httpx.Client) -> None:
    body = b'{"prompt": ["{\\"a\\": 1, \\"a\\": 2}", ":"], "stop": "a:", "logit_bias": {"1":1, "2":1}}'
    response = client.post(PATH, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200


def test_other_types_of_content_are_415(client: httpx.Client) -> None:
    # What a page of another origin may send unasked.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        response = client.post(PATH, content=b'{"prompt": "a"}', headers={"content-type": kind})
        assert response.status_code == 415
    response = client.post(
        PATH, content=b'{"max_tokens": 1}', headers={"content-type": "application/json; charset=utf-8"}
    )
    assert response.status_code == 200


def test_packed_bodies_are_415(client: httpx.Client) -> None:
    packed = gzip.compress(b'{"prompt": "a"}')
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = client.post(PATH, content=packed, headers=headers)
    assert response.status_code == 415
    assert "leave out Content-Encoding, got 'gzip'" in response.json()["error"]["message"]
    headers["content-encoding"] = "identity"
    assert client.post(PATH, content=b'{"max_tokens": 1}', headers=headers).status_code == 200


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    response = client.get("/v1/nope")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"
    response = client.get(PATH)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.fixture(scope="module")
def small(model: GPT2) -> Any:
    limits = Limits(body_bytes=1000, prompts=2, texts_per_prompt=2, tokens=100, waiting=0)
    with (
        live_server(model, Settings(limits=limits)) as live,
        httpx.Client(base_url=live.url, timeout=DEADLINE) as client,
    ):
        yield client


def test_a_large_body_is_413(small: httpx.Client) -> None:
    body = json.dumps({"prompt": "a" * 1000}).encode()
    headers = {"content-type": "application/json"}
    assert small.post(PATH, content=body, headers=headers).status_code == 413
    chunked = small.post(PATH, content=iter([body[:500], body[500:]]), headers=headers)
    assert chunked.status_code == 413
    assert chunked.json()["error"]["code"] == "request_too_large"
    assert chunked.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (PATH, {"prompt": ["a"] * 3}, "prompt"),
        (PATH, {"prompt": "a", "n": 3}, "n"),
        (PATH, {"prompt": ["a", "b"], "n": 2, "max_tokens": 25}, "max_tokens"),
        ("/v1/embeddings", {"input": ["a"] * 3}, "input"),
        ("/v1/score", {"input": [[1] * 101]}, "input"),
        ("/v1/rank", {"prompt": "a", "choices": [[1] * 60, [2] * 60]}, "choices"),
        ("/v1/rank", {"prompt": "a", "choices": ["a", "b", "c"]}, "choices"),
    ],
)
def test_limits_of_a_request(small: httpx.Client, path: str, fields: dict[str, Any], param: str) -> None:
    response = small.post(path, json=fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_faults_of_our_own_say_nothing_of_the_inside(
    server: LiveServer, post: Post, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("the secret of the inside")

    monkeypatch.setattr(server.service.calls, "complete", broken)
    with caplog.at_level(logging.ERROR, "gpt2fast.serving"):
        error = post(PATH, 503, prompt="a")["error"]
    assert "secret" not in error["message"]
    assert error["type"] == "server_error"
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert record.request_id in error["message"]
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert json.loads(line)["request_id"] == record.request_id
    assert json.loads(line)["exception"].endswith("RuntimeError: the secret of the inside")


def test_no_memory_is_503(server: LiveServer, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(server.service.calls, "complete", full)
    assert "no memory" in post(PATH, 503, prompt="a")["error"]["message"]


def test_a_fault_in_a_stream_is_its_last_event(
    server: LiveServer, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = server.service.calls.stream

    async def breaks(*arguments: Any) -> Any:
        async for chunk in real(*arguments):
            yield chunk
            raise RuntimeError("the secret of the inside")

    monkeypatch.setattr(server.service.calls, "stream", breaks)
    with client.stream("POST", PATH, json={"prompt": "a", "stream": True}) as response:
        assert response.status_code == 200
        *_, last = [line for line in response.iter_lines() if line]
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert "secret" not in error["message"]
