"""/v1/completions with tokenizers other than GPT-2's: a stream is the text that is answered whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from gpt2fast import GPT2, Tokenizer
from gpt2fast.serving import create_app
from gpt2fast.serving.token_names import TokenNames
from support.live_server import events
from support.tokenizer_samples import write_sample

PATH = "/v1/completions"
#: Their tokens have other texts alone than after others: spaces, marks of words, removed spaces.
PROMPTS = [[7, 8], [12, 13, 9], [8, 7, 11]]
#: What the model is made to say.
SAID = [9, 12, 8, 10, 13, 7, 11]
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
@pytest.mark.parametrize("fields", [{"max_tokens": 7}, {"max_tokens": 7, "stop": "on"}, {"max_tokens": 0}])
def test_a_stream_is_the_text_that_is_answered_whole(
    asked: TestClient, other: GPT2, echo: bool, fields: dict[str, Any]
) -> None:
    given = {"prompt": PROMPTS, "n": 2, "seed": 1, "forced_prefix": SAID[: fields["max_tokens"]] or None}
    given |= {"eos_token_id": [], "echo": echo, "logprobs": 2, "return_token_ids": True, **fields}
    whole = asked.post(PATH, json=given).json()["choices"]
    found = streamed(asked, given, len(whole))
    for name in ("text", "token_ids", "logprobs"):
        assert [one[name] for one in found] == [one[name] for one in whole], name
    if "stop" not in fields:
        prompts = [prompt if echo else [] for prompt in PROMPTS for _ in range(2)]
        tokens = [[*prompt, *one["token_ids"]] for prompt, one in zip(prompts, found, strict=True)]
        assert [one["text"] for one in found] == [other.tokenizer.decode(ids) for ids in tokens]


@pytest.mark.parametrize("added", [None, True, False])
def test_a_template_adds_tokens_unless_they_are_declined(
    asked: TestClient, other: GPT2, added: bool | None
) -> None:
    answer = asked.post("/tokenize", json={"prompt": "the fox", "add_special_tokens": added}).json()
    expected = other.tokenizer.encode("the fox", add_special_tokens=added is not False)
    assert answer["tokens"] == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("plain", {"add_bos_token": False, "add_prefix_space": False, "tokenizer_class": "GPT2Tokenizer"}),
        ("prefix_space", {"add_bos_token": False, "add_prefix_space": True}),
        ("bos_in_front", {"add_bos_token": True, "add_prefix_space": False}),
        ("word_level", {"unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast"}),
        ("bert", {"pad_token": "[PAD]", "unk_token": "[UNK]", "add_prefix_space": False}),
    ],
)
def test_what_is_said_of_a_tokenizer(tmp_path: Path, kind: str, expected: dict[str, Any]) -> None:
    model = GPT2.from_pretrained(tokenizer=write_sample(kind, tmp_path), threads=1, max_sequences=1)
    info = TestClient(create_app(model)).get("/tokenizer_info").json()
    assert {name: info[name] for name in expected} == expected


def test_choices_continue_the_prompt(asked: TestClient, other: GPT2) -> None:
    """As for ``GPT2.rank``, the tokenizer's template adds nothing to a choice."""
    given = {"prompt": "the", "choices": ["the fox", "a"]}
    answer = asked.post("/v1/rank", json=given)
    assert answer.status_code == 200, answer.text
    found = [(one["choice"], one["token_ids"], one["token_logprobs"]) for one in answer.json()["data"]]
    ranked = other.rank(**given)
    assert found == [(one.choice, one.token_ids, one.logprobs.tolist()) for one in ranked]


@pytest.mark.parametrize(
    ("kind", "tokens", "parts"),
    [
        # What each token adds to the text: nothing, if it is special or a part of a character.
        ("plain", ["t", "Ġthe", "Ã", "©", "fox"], ["t", " the", "", "é", "fox"]),
        ("prefix_space", ["Ġthe", "fox"], [" the", "fox"]),
        ("word_level", ["</s>", "the", "</s>", "fox"], ["", "the", "", " fox"]),
        ("word_level_cleaned_up", ["it", ".", "Does", "n't", "it"], ["it", ".", " Does", "n't", " it"]),
        ("word_piece", ["un", "##aff", "##able", "fox"], ["un", "aff", "able", " fox"]),
        ("unigram", ["▁the", "▁fox", "中", "</s>", "▁a"], ["the", " fox", "中", "", " a"]),
        ("word_end", ["th", "e</w>", "f", "o", "x</w>", "a"], ["th", "e ", "f", "o", "x ", "a"]),
        ("byte_fallback", ["▁t", "<0xC3>", "<0xA9>", "▁", "c"], ["t", "", "é", " ", "c"]),
        ("byte_fallback", ["<0x20>", "<0xC3>", "<0xFF>", "c"], ["", "", "\ufffd\ufffd\ufffd", "c"]),
    ],
)
def test_offsets_count_the_characters_of_the_text(
    tmp_path: Path, kind: str, tokens: list[str], parts: list[str]
) -> None:
    tokenizer = Tokenizer.from_source(write_sample(kind, tmp_path))
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert tokenizer.decode(ids) == "".join(parts).removesuffix(" ")
    offsets = TokenNames(tokenizer).offsets()
    assert [offsets.feed([token])[0] for token in ids] == [0, *accumulate(map(len, parts))][:-1]


def test_no_two_tokens_share_a_name(tmp_path: Path, model: GPT2) -> None:
    names = TokenNames(model.tokenizer)
    assert len({names[token] for token in range(model.config.vocab_size)}) == model.config.vocab_size
    directory = write_sample("plain", tmp_path)
    vocabulary = json.loads((directory / "vocab.json").read_text("utf-8"))
    odd = [r"bytes:\xe2", "token_id:5", "token_id:"]  # as others are called
    added = {text: len(vocabulary) + position for position, text in enumerate(odd)}
    (directory / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    tokenizer = Tokenizer.from_source(directory, vocab_size=400)  # some ids are nobody's
    names = TokenNames(tokenizer)
    called = [names[token] for token in range(400)]
    assert len(set(called)) == 400
    for text, token in added.items():
        assert names[token] == f"token_id:{token}", text
    assert names[vocabulary["a"]] == "a"
