"""Tokenizers of all kinds, with what lies beside them: ids, texts and names are those of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import IncrementalDecoder, Tokenizer
from support.tokenizer_samples import GOLDENS, SAMPLES, TEXTS, write_sample

ANSWERS: dict[str, Any] = json.loads(GOLDENS.read_text("utf-8"))


@pytest.fixture(params=sorted(SAMPLES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tokenizer(name: str, tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_source(write_sample(name, tmp_path))


def test_ids(name: str, tokenizer: Tokenizer) -> None:
    assert [tokenizer.encode(text) for text in TEXTS] == ANSWERS[name]["ids"]
    assert tokenizer.encode_batch(TEXTS) == ANSWERS[name]["ids"]
    assert [tokenizer(text).input_ids for text in TEXTS] == ANSWERS[name]["ids"]
    alone = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    assert alone == ANSWERS[name]["ids_alone"]


def test_texts(name: str, tokenizer: Tokenizer) -> None:
    ids = ANSWERS[name]["ids"]
    assert tokenizer.batch_decode(ids, skip_special_tokens=False) == ANSWERS[name]["texts"]
    assert tokenizer.batch_decode(ids) == ANSWERS[name]["texts_without_special"]


def test_names(name: str, tokenizer: Tokenizer) -> None:
    wanted = ANSWERS[name]
    roles = ("bos_token", "eos_token", "unk_token", "pad_token")
    assert {role: getattr(tokenizer, role) for role in roles} == wanted["roles"]
    assert {role: getattr(tokenizer, f"{role}_id") for role in roles} == wanted["role_ids"]
    assert len(tokenizer) == wanted["length"] == len(tokenizer.get_vocab())
    assert sorted(tokenizer.all_special_ids) == wanted["special"]


@pytest.mark.parametrize("skip_special_tokens", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_deltas(name: str, tokenizer: Tokenizer, size: int, skip_special_tokens: bool) -> None:
    for ids in ANSWERS[name]["ids"]:
        decoder = IncrementalDecoder(tokenizer, skip_special_tokens=skip_special_tokens)
        texts = [decoder.feed(ids[i : i + size]) for i in range(0, len(ids), size)]
        texts.append(decoder.feed([], final=True))
        assert "".join(texts) == tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


def test_a_conversion_keeps_it_all(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """What a model directory holds: tokenizer.json, and a configuration for the rest."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
    (tmp_path / "kept" / "tokenizer_config.json").write_text(tokenizer.settings.to_json(), "utf-8")
    kept = Tokenizer.from_source(tmp_path / "kept")
    assert [kept.encode(text) for text in TEXTS] == ANSWERS[name]["ids"]
    assert kept.batch_decode(ANSWERS[name]["ids"]) == ANSWERS[name]["texts_without_special"]
    assert kept.roles() == tokenizer.roles()
    assert kept.special_token_ids == tokenizer.special_token_ids
