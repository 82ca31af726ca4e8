"""Loading: what from_pretrained takes, and models with their own tokenizer, another or none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpt2fast import GPT2, ModelError
from gpt2fast.loading.loaded_model import LoadedModel

IDS = [50, 60, 70]
GREEDY: dict[str, Any] = {"max_new_tokens": 4}


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(precision="fp32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int2"}, "precision must be one of 'fp32', 'bf16', 'int8', 'int4', got 'int2'"),
        ({"threads": 0}, "threads must be from 1 to 1024, got 0"),
        ({"max_sequences": 0}, "max_sequences must be from 1 to 4096, got 0"),
        ({"prefix_cache_bytes": -1}, "prefix_cache_bytes must be from 0"),
        ({"source": ""}, "source must name a directory, a file or a model of the hub"),
    ],
)
def test_load_arguments_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPT2.from_pretrained(**{"source": "no/such/model", **arguments})


def test_a_source_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match=r"source must be a path, the id of a model on the hub.*, got 5"):
        GPT2.from_pretrained(5)  # type: ignore[arg-type]


def test_a_model_directory_keeps_its_precision(model: GPT2) -> None:
    path = model.directory.path
    assert GPT2.from_pretrained(path).precision == "fp32"
    with pytest.raises(ValueError, match=r"precision='int8', but the model directory .* holds 'fp32'"):
        GPT2.from_pretrained(path, precision="int8")


def test_a_model_without_a_tokenizer(model: GPT2) -> None:
    bare = GPT2(LoadedModel(replace(model.directory, tokenizer_path=None)))
    assert not bare.has_tokenizer
    with pytest.raises(ModelError, match="has no tokenizer; give one"):
        bare.tokenizer  # noqa: B018
    with pytest.raises(ValueError, match="prompt is text, but the model has no tokenizer"):
        bare.generate("Once")
    with pytest.raises(ValueError, match="stop_strings needs a tokenizer"):
        bare.generate(IDS, stop_strings="a")
    result = bare.generate(IDS, **GREEDY)
    assert result.text == ""
    assert result.token_ids == model.generate(IDS, **GREEDY).token_ids
    assert [chunk.text for chunk in bare.stream(IDS, **GREEDY)] == [""] * 4


def test_a_given_tokenizer(model: GPT2) -> None:
    path = model.directory.path
    assert GPT2.from_pretrained(path, tokenizer=model.tokenizer).tokenizer is model.tokenizer
    loaded = GPT2.from_pretrained(path, tokenizer=path / "tokenizer.json")
    assert loaded.tokenizer.encode("Once") == model.tokenizer.encode("Once")
