"""Texts of models with tokenizers of all kinds: prompts, outputs, streams, echo and stop strings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import GPT2, Tokenizer
from support.tokenizer_samples import GOLDENS, STOPS, TEXTS, write_sample

ANSWERS: dict[str, Any] = json.loads(GOLDENS.read_text("utf-8"))
PROMPT = [7, 8]


@pytest.fixture(
    scope="module",
    params=[
        *("added_tokens", "special_tokens_map", "extra_special_tokens", "prefix_space", "bos_in_front"),
        *("json_template", "word_level", "word_level_cleaned_up", "word_piece", "unigram", "word_end"),
        *("byte_fallback", "bert"),
    ],
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str, tmp_path_factory: pytest.TempPathFactory) -> GPT2:
    """The embedded model, which has rows for more tokens than the samples, with a sample's tokenizer."""
    directory = write_sample(name, tmp_path_factory.mktemp(name))
    return GPT2.from_pretrained(tokenizer=directory, threads=1, max_sequences=4)


def outputs(name: str) -> list[list[int]]:
    return [ids for ids in ANSWERS[name]["ids"] if ids]


def options(ids: list[int], **more: Any) -> dict[str, Any]:
    """Options that make the model say these tokens."""
    return {"forced_prefix": ids, "max_new_tokens": len(ids), "eos_token_id": [], **more}


def test_prompts_are_encoded_as_transformers_does(name: str, model: GPT2) -> None:
    for text, ids in zip(TEXTS, ANSWERS[name]["ids"], strict=True):
        if ids:
            assert model.generate(text, max_new_tokens=1).prompt_token_ids == ids
            assert model.score(text).token_ids == ids


def test_continuations_get_no_template(name: str, model: GPT2) -> None:
    for text, ids in zip(TEXTS, ANSWERS[name]["ids_alone"], strict=True):
        if ids:
            assert model.rank(PROMPT, [text])[0].token_ids == ids
            said = model.generate(PROMPT, forced_prefix=text, max_new_tokens=len(ids), eos_token_id=[])
            assert said.token_ids == ids


def test_texts_whole_and_streamed(name: str, model: GPT2) -> None:
    unknown = model.config.vocab_size - 1  # to the tokenizer
    for ids in (tokens for one in outputs(name) for tokens in (one, [unknown, *one])):
        text = model.tokenizer.decode(ids)
        assert model.generate(PROMPT, **options(ids)).text == text
        assert "".join(chunk.text for chunk in model.stream(PROMPT, **options(ids))) == text


def test_an_echo_is_the_text_of_all_tokens(name: str, model: GPT2) -> None:
    for ids in outputs(name):
        text = model.tokenizer.decode([*PROMPT, *ids])
        assert model.generate(PROMPT, echo=True, **options(ids)).text == text
        assert "".join(chunk.text for chunk in model.stream(PROMPT, echo=True, **options(ids))) == text


def ends(model: GPT2, ids: list[int], stop: str) -> int | None:
    """After how many tokens the texts of tokens, joined, hold a stop string."""
    table = model.tokenizer.token_bytes(skip_special_tokens=False)
    texts = (b"".join(table[token] for token in ids[:n]) for n in range(1, len(ids) + 1))
    return next((n for n, text in enumerate(texts, 1) if stop.encode() in text), None)


@pytest.mark.parametrize("stop", STOPS)
def test_stop_strings_end_texts_where_they_do_in_transformers(name: str, model: GPT2, stop: str) -> None:
    for index, ids in enumerate(ANSWERS[name]["ids"]):
        if not ids:
            continue
        wanted = ends(model, ids, stop)
        theirs = ANSWERS[name]["stops"][stop]
        if theirs is not None:  # it fails for tokenizers that are not made of bytes
            assert wanted == theirs[index]
        result = model.generate(PROMPT, stop_strings=stop, **options(ids))
        assert len(result.token_ids) == (wanted or len(ids))
        assert (result.finish_reason == "stop") is (wanted is not None)
        pieces = [chunk.text for chunk in model.stream(PROMPT, stop_strings=stop, **options(ids))]
        assert "".join(pieces) == result.text
        whole = model.tokenizer.decode(result.token_ids)
        if wanted is None:
            assert result.text == whole
        elif stop in whole and not model.tokenizer.cleans_up:
            assert result.text == whole[: whole.index(stop)]
        kept = model.generate(PROMPT, stop_strings=stop, include_stop_string=True, **options(ids))
        assert whole.startswith(kept.text)


def test_a_decoder_of_whole_texts_is_refused_by_name(tmp_path: Path) -> None:
    directory = write_sample("word_level", tmp_path)
    values = json.loads((directory / "tokenizer.json").read_text("utf-8"))
    values["decoder"] = {"type": "CTC", "pad_token": "<s>", "word_delimiter_token": "|", "cleanup": True}
    (directory / "tokenizer.json").write_text(json.dumps(values), "utf-8")
    model = GPT2.from_pretrained(tokenizer=Tokenizer.from_source(directory), threads=1)
    assert model.generate(PROMPT, **options([3, 3, 4])).text == "NOTE_1NOTE_2"
    with pytest.raises(ValueError, match=r"decoder \(CTC\) makes a text of all tokens together"):
        model.stream(PROMPT)
    with pytest.raises(ValueError, match=r"decoder \(CTC\)"):
        model.generate(PROMPT, stop_strings="a")
