"""/v1/completions: the texts of the Python calls, in the forms that clients expect."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpt2fast import GPT2
from support.live_server import events, live_server

PATH = "/v1/completions"
PROMPT = "Once upon a time there was a"
Post = Callable[..., Any]


def stream(client: httpx.Client, **fields: Any) -> Iterator[dict[str, Any]]:
    with client.stream("POST", PATH, json={**fields, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield from events(response.iter_lines())


def joined(chunks: list[dict[str, Any]], count: int) -> list[str]:
    texts = [""] * count
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    return texts


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 7},
        {"seed": 7, "temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2},
        {"temperature": 0},
        {"seed": 2**64 - 1, "min_p": 0.05, "presence_penalty": 0.5, "frequency_penalty": 0.1},
        {"seed": -5},
        {"do_sample": False, "no_repeat_ngram_size": 2},
        {"num_beams": 3, "length_penalty": 0.8},
    ],
)
def test_the_text_of_the_python_call(post: Post, model: GPT2, options: dict[str, Any]) -> None:
    expected = model.generate(PROMPT, max_new_tokens=24, **options)
    answer = post(PATH, prompt=PROMPT, max_tokens=24, **options)
    (choice,) = answer["choices"]
    assert choice["text"] == expected.text
    assert answer["usage"]["completion_tokens"] == len(expected.token_ids)
    assert answer["usage"]["prompt_tokens"] == len(expected.prompt_token_ids)


def test_beams_with_a_stop_string_and_log_probabilities(post: Post, model: GPT2) -> None:
    options: dict[str, Any] = {"num_beams": 3, "logprobs": 2}
    expected = model.generate(PROMPT, max_new_tokens=24, stop_strings=["e"], **options)
    (choice,) = post(PATH, prompt=PROMPT, max_tokens=24, stop=["e"], **options)["choices"]
    assert (choice["text"], choice["finish_reason"]) == (expected.text, "stop")
    assert expected.logprobs is not None
    assert choice["logprobs"]["token_logprobs"] == expected.logprobs.chosen.tolist()


def test_the_seed_minus_one_draws_a_new_one(post: Post) -> None:
    seeds = [post(PATH, prompt=PROMPT, max_tokens=1, seed=-1)["choices"][0]["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3
    assert 2**64 - 1 not in seeds


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_a_stream_is_the_same_text(client: httpx.Client, model: GPT2, seed: int) -> None:
    expected = [one.text for one in model.generate([PROMPT, "The"], seed=seed, num_return_sequences=2)]
    chunks = list(stream(client, prompt=[PROMPT, "The"], seed=seed, n=2, max_tokens=128))
    assert joined(chunks, 4) == expected
    reasons = {choice["index"]: choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]}
    assert set(reasons.values()) <= {"stop", "length"}
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}
    assert all("usage" not in chunk for chunk in chunks)


def test_without_a_word_on_sampling_texts_are_drawn(post: Post) -> None:
    texts = {post(PATH, prompt=PROMPT, max_tokens=24)["choices"][0]["text"] for _ in range(4)}
    assert len(texts) == 4
    answer = post(PATH, prompt=PROMPT, max_tokens=24)
    again = post(PATH, prompt=PROMPT, max_tokens=24, seed=answer["choices"][0]["seed"])
    assert again["choices"][0]["text"] == answer["choices"][0]["text"]


def test_choices_come_prompt_by_prompt(post: Post, model: GPT2) -> None:
    prompts = ["The king", "A fox", "Rain"]
    answer = post(PATH, prompt=prompts, n=2, seed=5, max_tokens=8, echo=True)
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    expected = model.generate(prompts, num_return_sequences=2, seed=5, max_new_tokens=8, echo=True)
    assert [choice["text"] for choice in answer["choices"]] == [one.text for one in expected]


def test_prompts_are_strings_or_ids(post: Post, model: GPT2) -> None:
    ids = model.tokenizer.encode(PROMPT)
    options = {"temperature": 0, "max_tokens": 6}
    texts = [
        [choice["text"] for choice in post(PATH, prompt=prompt, **options)["choices"]]
        for prompt in (PROMPT, [PROMPT], ids, [ids], [ids, ids])
    ]
    assert texts[:4] == [texts[0]] * 4
    assert texts[4] == texts[0] * 2


@pytest.mark.parametrize("prompt", ["", [[]]])
def test_an_empty_prompt_starts_a_text(post: Post, model: GPT2, prompt: Any) -> None:
    answer = post(PATH, prompt=prompt, temperature=0, max_tokens=5)
    assert answer["choices"][0]["text"] == model.generate("", max_new_tokens=5).text
    assert answer["usage"]["prompt_tokens"] == 1


def test_best_of_keeps_the_likeliest(post: Post, model: GPT2) -> None:
    expected = model.generate(PROMPT, best_of=4, num_return_sequences=2, seed=3, max_new_tokens=8)
    answer = post(PATH, prompt=PROMPT, best_of=4, n=2, seed=3, max_tokens=8)
    assert [choice["text"] for choice in answer["choices"]] == [one.text for one in expected]
    assert len(post(PATH, prompt=PROMPT, best_of=1, n=1, temperature=0, max_tokens=2)["choices"]) == 1


def test_finish_reasons(post: Post, model: GPT2) -> None:
    (choice,) = post(PATH, prompt=PROMPT, temperature=0, max_tokens=3)["choices"]
    assert choice["finish_reason"] == "length"
    text = model.generate(PROMPT, max_new_tokens=20).text
    stop = text[8:11]
    answer = post(PATH, prompt=PROMPT, temperature=0, max_tokens=20, stop=stop)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["text"] == text[: text.index(stop)]
    first = model.generate(PROMPT, max_new_tokens=1).token_ids[0]
    ended = post(PATH, prompt=PROMPT, temperature=0, max_tokens=20, eos_token_id=first)
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["usage"]["completion_tokens"] == 1


def test_a_stop_string_that_begins_in_the_prompt_is_none(
    client: httpx.Client, post: Post, model: GPT2
) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    text = post(PATH, prompt=PROMPT, **options)["choices"][0]["text"]
    stop = PROMPT[-2:] + text[:3]
    expected = model.generate(PROMPT, do_sample=False, max_new_tokens=12, stop_strings=[stop])
    assert (expected.text, expected.finish_reason) == ("", "stop")
    choice = post(PATH, prompt=PROMPT, stop=[stop], **options)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (text, "length")
    chunks = list(stream(client, prompt=PROMPT, stop=[stop], **options))
    assert joined(chunks, 1) == [text]


def test_a_stream_holds_a_stop_string_back(client: httpx.Client, model: GPT2) -> None:
    text = model.generate(PROMPT, max_new_tokens=30).text
    stop = text[10:16]
    chunks = list(stream(client, prompt=PROMPT, temperature=0, max_tokens=30, stop=[stop, "never"]))
    assert joined(chunks, 1) == [text[: text.index(stop)]]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_usage_comes_last_in_a_stream_that_asks_for_it(client: httpx.Client) -> None:
    fields = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0}
    *chunks, last = stream(client, **fields, stream_options={"include_usage": True})
    assert last["choices"] == []
    usage = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
    cached = last["usage"].pop("prompt_tokens_details")["cached_tokens"]
    assert last["usage"] == usage
    assert cached in (0, 7)
    assert all(chunk["usage"] is None for chunk in chunks)
    with client.stream("POST", PATH, json={**fields, "stream": True}) as response:
        assert list(response.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_streams_count_what_the_cache_had_as_whole_answers_do(client: httpx.Client, post: Post) -> None:
    fields = {"prompt": [[11, 12, 13, 14], [15, 16, 17]], "n": 2, "max_tokens": 2, "seed": 1}
    post(PATH, **fields)
    whole = post(PATH, **fields)["usage"]
    assert whole["prompt_tokens_details"] == {"cached_tokens": 5}
    *_, last = stream(client, **fields, stream_options={"include_usage": True})
    assert last["usage"] == whole


class TestLogprobs:
    """The object ``logprobs``."""

    def ask(self, post: Post, **fields: Any) -> dict[str, Any]:
        answer = post(PATH, prompt=PROMPT, temperature=0, **fields)
        return answer["choices"][0]["logprobs"] | {"text": answer["choices"][0]["text"]}

    def test_there_is_one_entry_for_each_token(self, post: Post, model: GPT2) -> None:
        found = self.ask(post, max_tokens=6, logprobs=3)
        expected = model.generate(PROMPT, max_new_tokens=6, logprobs=3)
        assert expected.logprobs is not None
        assert found["token_logprobs"] == expected.logprobs.chosen.tolist()
        assert "".join(found["tokens"]) == expected.text
        for place, token in enumerate(found["tokens"]):
            top = found["top_logprobs"][place]
            assert top[token] == found["token_logprobs"][place]
            names = [model.tokenizer.decode([one]) for one in expected.logprobs.top_ids[place]]
            assert list(top)[:3] == names
            assert found["text"].startswith(token, found["text_offset"][place])

    def test_with_echo_the_prompt_has_entries_too(self, post: Post, model: GPT2) -> None:
        found = self.ask(post, max_tokens=4, logprobs=2, echo=True)
        prompt = model.tokenizer.encode(PROMPT)
        assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["top_logprobs"])
        assert len(found["tokens"]) == len(prompt) + 4
        assert found["token_logprobs"][0] is None
        assert found["top_logprobs"][0] is None
        scored = model.score(PROMPT).logprobs.tolist()
        assert found["token_logprobs"][1 : len(prompt)] == scored[1:]
        assert found["text"].startswith(PROMPT)

    def test_with_echo_and_no_tokens_it_scores(self, post: Post, model: GPT2) -> None:
        answer = post(PATH, prompt=[PROMPT, "The"], max_tokens=0, echo=True, logprobs=1)
        first, second = answer["choices"]
        assert first["text"] == PROMPT
        assert first["finish_reason"] == "length"
        assert first["logprobs"]["token_logprobs"][1:] == model.score(PROMPT).logprobs.tolist()[1:]
        assert second["logprobs"]["token_logprobs"] == [None]
        assert answer["usage"]["completion_tokens"] == 0

    def test_a_drawn_token_stands_among_the_likeliest(self, post: Post) -> None:
        answer = post(PATH, prompt=PROMPT, seed=1, temperature=3, top_k=0, max_tokens=12, logprobs=1)
        logprobs = answer["choices"][0]["logprobs"]
        sizes = [len(top) for top in logprobs["top_logprobs"]]
        assert 2 in sizes
        for token, value, top in zip(
            logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
        ):
            assert top[token] == value

    @pytest.mark.parametrize("count", [0, 1])
    def test_few_are_enough(self, post: Post, count: int) -> None:
        found = self.ask(post, max_tokens=3, logprobs=count)
        assert [len(top) for top in found["top_logprobs"]] == [1, 1, 1]

    def test_parts_of_characters_are_named_by_their_bytes(self, post: Post, model: GPT2) -> None:
        ids = model.tokenizer.encode_bytes("é🦙\u2014".encode())
        answer = post(PATH, prompt=ids, max_tokens=0, echo=True, logprobs=100)
        found = answer["choices"][0]["logprobs"]
        data = b"".join(
            bytes.fromhex(name.removeprefix("bytes:").replace("\\x", ""))
            if name.startswith("bytes:")
            else name.encode()
            for name in found["tokens"]
        )
        assert data.decode() == "é🦙\u2014"
        assert any(name.startswith("bytes:") for name in found["tokens"])
        # No two tokens of the 100 likeliest share a name.
        assert all(100 <= len(top) <= 101 for top in found["top_logprobs"][1:])

    def test_a_streams_are_the_same(self, client: httpx.Client, post: Post) -> None:
        fields = {"prompt": ["Once", PROMPT], "seed": 4, "n": 2, "max_tokens": 7, "logprobs": 3, "echo": True}
        whole = post(PATH, **fields)["choices"]
        found: list[dict[str, Any]] = [{} for _ in whole]
        for chunk in stream(client, **fields):
            (choice,) = chunk["choices"]
            for name, values in choice["logprobs"].items():
                found[choice["index"]].setdefault(name, []).extend(values)
        assert found == [choice["logprobs"] for choice in whole]

    def test_ids_are_given_where_asked_for(self, client: httpx.Client, post: Post, model: GPT2) -> None:
        fields = {"prompt": PROMPT, "seed": 4, "max_tokens": 7, "logprobs": 3, "return_token_ids": True}
        (choice,) = post(PATH, **fields)["choices"]
        expected = model.generate(PROMPT, seed=4, max_new_tokens=7)
        assert choice["token_ids"] == expected.token_ids
        assert choice["prompt_token_ids"] == expected.prompt_token_ids
        tops = zip(choice["logprobs"]["top_token_ids"], choice["logprobs"]["top_logprobs"], strict=True)
        for ids, top in tops:
            assert list(ids) == list(top)
            assert all(model.tokenizer.decode([token]) == name for name, token in ids.items())
        chunks = [chunk["choices"][0] for chunk in stream(client, **fields)]
        assert [token for chunk in chunks for token in chunk["token_ids"]] == expected.token_ids
        assert chunks[0]["prompt_token_ids"] == expected.prompt_token_ids
        assert not any("prompt_token_ids" in chunk for chunk in chunks[1:])


class TestConstraints:
    """Output of a form."""

    @pytest.fixture(autouse=True)
    def _needs_llguidance(self) -> None:
        pytest.importorskip("llguidance")

    def test_a_response_format_is_a_schema(self, post: Post) -> None:
        schema = {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}},
            "required": ["ok"],
            "additionalProperties": False,
        }
        wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
        answer = post(PATH, prompt=PROMPT, response_format=wanted, max_tokens=40, temperature=0)
        assert set(json.loads(answer["choices"][0]["text"])) == {"ok"}

    def test_our_own_options_are_there(self, post: Post) -> None:
        answer = post(PATH, prompt=PROMPT, regex="[ab]{3}", max_tokens=10, seed=1)
        assert set(answer["choices"][0]["text"]) <= set("ab")
        answer = post(PATH, prompt=PROMPT, choices=[" cat", " dog"], max_tokens=10, seed=1)
        assert answer["choices"][0]["text"] in (" cat", " dog")

    def test_a_broken_one_is_refused_before_a_stream_begins(self, post: Post) -> None:
        answer = post(PATH, 400, prompt=PROMPT, regex="(", stream=True)
        assert answer["error"]["param"] == "regex"


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {}},
        {"stop": None, "n": None, "logprobs": None, "seed": None, "max_tokens": None, "best_of": None},
        {"user": "someone", "suffix": None, "stream": None, "stream_options": None, "echo": None},
        {"logit_bias": None, "response_format": None, "regex": None, "prompt": None, "model": None},
        {"response_format": {"type": "text"}, "stop": [], "eos_token_id": []},
    ],
)
def test_nothing_is_taken_as_nothing(post: Post, fields: dict[str, Any]) -> None:
    assert post(PATH, **{"prompt": PROMPT, "temperature": 0, **fields})["usage"]["completion_tokens"] == 16


def test_logit_bias_has_ids_as_keys(post: Post, model: GPT2) -> None:
    token = model.tokenizer.encode(" queen")[0]
    answer = post(PATH, prompt=PROMPT, temperature=0, max_tokens=2, logit_bias={str(token): 1000})
    assert answer["choices"][0]["text"] == " queen queen"


def test_long_prompts_may_be_cut(post: Post, model: GPT2) -> None:
    ids = model.tokenizer.encode("The king and the queen. " * 100)
    answer = post(PATH, prompt=ids, overflow="truncate", max_tokens=4, temperature=0, return_token_ids=True)
    assert answer["choices"][0]["prompt_token_ids"] == ids[-508:]
    assert answer["usage"]["prompt_tokens"] == 508
    expected = model.generate([ids], overflow="truncate", max_new_tokens=4)[0]
    assert answer["choices"][0]["text"] == expected.text


def test_the_default_number_of_tokens_fits_the_room_that_there_is(post: Post, model: GPT2) -> None:
    ids = model.tokenizer.encode("The king and the queen. " * 100)[:508]
    assert post(PATH, prompt=ids, temperature=0)["usage"]["completion_tokens"] <= 4


def test_the_model_s_own_defaults(tmp_path: Path, embedded_dir: Path) -> None:
    """They hold where a request says nothing; how many texts there are, the request alone says."""
    shutil.copytree(embedded_dir, tmp_path / "model")
    defaults = {"temperature": 0.5, "repetition_penalty": 1.4, "num_beams": 4, "num_return_sequences": 2}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({"do_sample": True, **defaults}))
    model = GPT2.from_pretrained(tmp_path / "model", threads=1)
    alike: dict[str, Any] = {"max_new_tokens": 8, "seed": 3, "repetition_penalty": 1.4}
    with live_server(model) as live, httpx.Client(base_url=live.url, timeout=120) as client:
        for given, options in (
            ({}, {"temperature": 0.5}),
            ({"temperature": 0.9, "echo": True}, {"temperature": 0.9, "echo": True}),
        ):
            expected = model.generate(PROMPT, **alike, **options, generation_config=None).text
            body = {"prompt": PROMPT, "seed": 3, "max_tokens": 8, **given}
            (choice,) = client.post(PATH, json=body).json()["choices"]
            assert choice["text"] == expected
            assert joined(list(stream(client, **body)), 1) == [expected]


def test_the_models_least_length_holds_in_streams_too(embedded_dir: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(embedded_dir, tmp_path / "model"))
    (directory / "generation_config.json").write_text(json.dumps({"min_length": 10}))
    model = GPT2.from_pretrained(directory, threads=1)
    (first,) = model.generate(PROMPT, max_new_tokens=1).token_ids
    with live_server(model) as live, httpx.Client(base_url=live.url, timeout=120) as client:
        body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 8, "eos_token_id": [first]}
        (choice,) = client.post(PATH, json=body).json()["choices"]
        assert choice["text"] != ""
        assert joined(list(stream(client, **body)), 1) == [choice["text"]]
