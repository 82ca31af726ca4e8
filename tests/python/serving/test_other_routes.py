"""Embeddings, scores, orders, tokens, the model, metrics, the schema, the page."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from gpt2fast import GPT2

Post = Callable[..., Any]
DASHBOARD = Path(__file__).resolve().parents[3] / "docs" / "serving" / "grafana.json"
TEXTS = ["The king went out.", "A fox", "Rain and rain and rain"]


def test_embeddings_are_unit_vectors_of_the_library(post: Post, model: GPT2) -> None:
    answer = post("/v1/embeddings", input=TEXTS, model="gpt2fast")
    expected = model.embed(TEXTS, normalize=True)
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    found = np.array([one["embedding"] for one in answer["data"]], np.float32)
    assert np.array_equal(found, expected)
    tokens = sum(len(model.tokenizer.encode(text)) for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}


def test_embeddings_in_base64(post: Post, model: GPT2) -> None:
    (one,) = post("/v1/embeddings", input=TEXTS[0], encoding_format="base64")["data"]
    found = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
    assert np.array_equal(found, model.embed(TEXTS[0], normalize=True))
    options = {"pooling": "last", "normalize": False}
    (one,) = post("/v1/embeddings", input=model.tokenizer.encode(TEXTS[0]), **options)["data"]
    assert np.array_equal(np.array(one["embedding"], np.float32), model.embed(TEXTS[0], pooling="last"))


def test_a_vector_has_the_models_width(post: Post) -> None:
    error = post("/v1/embeddings", 400, input="a", dimensions=3)["error"]
    assert error["param"] == "dimensions"
    assert "256" in error["message"]


def test_scores_are_the_librarys(post: Post, model: GPT2) -> None:
    long = model.tokenizer.encode("The king and the queen. " * 150)
    answer = post("/v1/score", input=[long, model.tokenizer.encode("Rain"), [5]], stride=64)
    for found, ids in zip(answer["data"], (long, model.tokenizer.encode("Rain"), [5]), strict=True):
        expected = model.score(ids, stride=64)
        assert found["token_ids"] == ids
        assert found["token_logprobs"][0] is None
        assert found["token_logprobs"][1:] == expected.logprobs[1:].tolist()
        assert found["total_logprob"] == expected.total
    assert answer["data"][2]["mean_logprob"] is answer["data"][2]["perplexity"] is None
    assert post("/v1/score", 400, input="a", stride=513)["error"]["param"] == "stride"


@pytest.mark.parametrize("by", ["mean", "total"])
def test_choices_are_ranked_as_by_the_library(post: Post, model: GPT2, by: Any) -> None:
    choices = [" blue", " a very long and unlikely word", " green"]
    answer = post("/v1/rank", prompt="The sky was", choices=choices, by=by)
    expected = model.rank("The sky was", choices, by=by)
    assert [one["choice"] for one in answer["data"]] == [one.choice for one in expected]
    assert [one["index"] for one in answer["data"]] == [one.index for one in expected]
    assert [one["total_logprob"] for one in answer["data"]] == [one.total for one in expected]
    assert post("/v1/rank", 400, prompt="a", choices=[""])["error"]["param"] == "choices[0]"


def test_choices_beyond_the_context(post: Post, model: GPT2) -> None:
    prompt, choices = [*range(600)], [[7], [8, 9]]
    error = post("/v1/rank", 400, prompt=prompt, choices=choices)["error"]
    assert (error["param"], error["code"]) == ("choices[0]", "context_length_exceeded")
    assert error["message"].endswith("choices[0] 1; overflow='truncate' cuts the prompt")
    answer = post("/v1/rank", prompt=prompt, choices=choices, overflow="truncate")
    expected = model.rank(prompt, choices, overflow="truncate")
    assert [one["total_logprob"] for one in answer["data"]] == [one.total for one in expected]
    error = post("/v1/rank", 400, prompt="a", choices=[[7], prompt], overflow="truncate")["error"]
    assert (error["param"], error["code"]) == ("choices[1]", "context_length_exceeded")
    assert error["message"].endswith("choices[1] 600; give a shorter one")


def test_choices_that_are_none(post: Post) -> None:
    assert post("/v1/rank", 400, prompt="a", choices="b")["error"]["param"] == "choices"


def test_tokens_there_and_back(post: Post, client: httpx.Client, model: GPT2) -> None:
    text = "Once upon a time<|endoftext|>é"
    answer = post("/tokenize", prompt=text, add_special_tokens=False, return_token_strs=True)
    ids = model.tokenizer.encode(text)
    assert answer["tokens"] == ids
    assert (answer["count"], answer["max_model_len"]) == (len(ids), 512)
    assert answer["token_strs"][:6] == ["On", "ce", " upon", " a", " time", "<|endoftext|>"]
    assert post("/detokenize", tokens=ids)["prompt"] == text
    assert post("/tokenize", prompt="")["tokens"] == []
    assert post("/tokenize", 400)["error"]["message"] == "give either prompt or messages"
    assert post("/detokenize", 400, tokens=[4096])["error"]["param"] == "tokens[0]"
    info = client.get("/tokenizer_info").json()
    assert info["eos_token"] == info["bos_token"] == "<|endoftext|>"
    assert (info["pad_token"], info["unk_token"]) == (model.tokenizer.pad_token, model.tokenizer.unk_token)
    assert (info["model_max_length"], info["vocab_size"]) == (512, 4096)
    assert info["add_bos_token"] is info["add_prefix_space"] is False


def test_the_model_is_listed(client: httpx.Client) -> None:
    (card,) = client.get("/v1/models").json()["data"]
    assert card["id"] == "gpt2fast"
    assert card["max_model_len"] == 512
    assert client.get("/v1/models/gpt2fast").json() == card
    assert client.get("/v1/models/openai-community/gpt2").status_code == 404


def test_alive_and_ready(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    assert client.head("/health").status_code == 200


def numbers(client: httpx.Client) -> dict[str, float]:
    text = client.get("/metrics").text
    return {
        name + (labels or ""): float(value)
        for name, labels, value in re.findall(r"^([\w:]+)(\{.*\})? (\S+)$", text, re.MULTILINE)
    }


def test_metrics_have_vllms_names_and_count(client: httpx.Client, post: Post) -> None:
    def of(name: str, values: dict[str, float]) -> float:
        return sum(value for key, value in values.items() if key.split("{")[0] == name)

    before = numbers(client)
    post("/v1/completions", prompt="Once upon a time", max_tokens=5, temperature=0, eos_token_id=[])
    fields = {"prompt": ["a", "b"], "max_tokens": 4, "seed": 1, "eos_token_id": [], "stream": True}
    client.post("/v1/completions", json=fields)
    after = numbers(client)
    grown = {name: of(name, after) - of(name, before) for name in {key.split("{")[0] for key in after}}
    assert grown["vllm:prompt_tokens_total"] == 7
    assert grown["vllm:generation_tokens_total"] == 13
    assert grown["vllm:request_success_total"] == 3
    assert grown["vllm:e2e_request_latency_seconds_count"] == 2
    # Streamed or not, a request has one first token, and each of its texts the others.
    assert grown["vllm:time_to_first_token_seconds_count"] == 2
    assert grown["vllm:inter_token_latency_seconds_count"] == 4 + 6
    assert 0 < grown["vllm:time_to_first_token_seconds_sum"] < grown["vllm:e2e_request_latency_seconds_sum"]
    assert (
        0 < grown["vllm:inter_token_latency_seconds_sum"] < 2 * grown["vllm:e2e_request_latency_seconds_sum"]
    )
    assert grown["vllm:request_time_per_output_token_seconds_count"] == 2
    assert grown["vllm:prefix_cache_queries_total"] == 7
    assert grown["http_requests_total"] == 3
    assert after['vllm:num_requests_running{engine="0",model_name="gpt2fast"}'] == 0
    assert after['vllm:num_requests_waiting{engine="0",model_name="gpt2fast"}'] == 0
    assert after['vllm:kv_cache_usage_perc{engine="0",model_name="gpt2fast"}'] == 0
    length = 'finished_reason="length",model_name="gpt2fast"}'
    assert after[f'vllm:request_success_total{{engine="0",{length}'] >= 3
    buckets = [key for key in after if key.startswith("vllm:inter_token_latency_seconds_bucket")]
    assert any('le="0.0001"' in key for key in buckets)


@pytest.mark.parametrize("stream", [False, True])
def test_the_stages_of_texts_add_up(client: httpx.Client, stream: bool) -> None:
    def sums(values: dict[str, float], part: str) -> dict[str, float]:
        found = (re.match(rf"vllm:(?:e2e_)?request_(\w+?)(?:_time)?_seconds_{part}", key) for key in values)
        return {one[1]: values[one.string] for one in found if one}

    before = numbers(client)
    fields = {"prompt": "Once upon a time", "temperature": 0, "eos_token_id": [], "stream": stream}
    for max_tokens in (1, 6, 12):
        assert client.post("/v1/completions", json={**fields, "max_tokens": max_tokens}).is_success
    client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 2, "num_beams": 2})
    client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 0, "echo": True})
    after = numbers(client)
    counts, seconds = (
        {name: value - sums(before, part)[name] for name, value in sums(after, part).items()}
        for part in ("count", "sum")
    )
    assert counts == {
        "queue": 3,
        "prefill": 3,
        "decode": 3,
        "inference": 3,
        "latency": 5,
        "time_per_output_token": 4,
    }
    # All are differences of the same clock's readings of the same texts.
    assert seconds["inference"] == pytest.approx(seconds["prefill"] + seconds["decode"], rel=1e-9)
    assert 0 < seconds["queue"] + seconds["inference"] < seconds["latency"]
    longest = 'vllm:request_max_num_generation_tokens_sum{engine="0",model_name="gpt2fast"}'
    assert after[longest] - before[longest] == 1 + 6 + 12 + 2


def test_the_dashboard_shows_metrics_that_exist(client: httpx.Client, post: Post) -> None:
    post("/v1/completions", prompt="a", max_tokens=1)
    exposed = {name.partition("{")[0] for name in numbers(client)}
    queries = re.findall(r'"(?:expr|query)": "(.*)"', DASHBOARD.read_text("utf-8"))
    shown = {name for query in queries for name in re.findall(r"[a-z0-9]+:\w+|http_\w+", query)}
    assert len(shown) > 12
    assert shown - exposed == set()


def test_the_schema_names_each_route(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        for method in methods:
            response = client.request(method, path.replace("{model}", "gpt2fast"))
            assert response.status_code not in (404, 405) or path == "/", path
    fields = document["components"]["schemas"]["CompletionRequest"]["properties"]
    assert fields["top_p"]["description"].startswith("Keep the likeliest tokens")
    assert {"prompt", "max_tokens", "regex", "num_beams", "min_p", "stop"} <= set(fields)
    assert not {"max_new_tokens", "logits_processor", "cancel", "prefix", "assistant_model"} & set(fields)


def test_the_docs_are_a_page_of_their_own(client: httpx.Client) -> None:
    response = client.get("/docs")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "<h2><code>POST /v1/completions</code></h2>" in response.text
    # Nothing inline, nothing from elsewhere.
    assert not re.search(r"https?://|<script|style=|<style", response.text)


def test_the_page_is_sent_with_its_files(client: httpx.Client) -> None:
    folder = files("gpt2fast.serving").joinpath("static")
    for file in folder.iterdir():
        path = "/" if file.name == "index.html" else f"/static/{file.name}"
        response = client.get(path)
        assert response.status_code == 200
        assert response.content == file.read_bytes()
        assert response.headers["x-content-type-options"] == "nosniff"
    assert client.get("/static/../app.py").status_code == 404
    assert client.get("/static/%2e%2e/app.py").status_code == 404
