"""Loading: what from_pretrained takes, and models with their own tokenizer, another or none."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2, ModelError
from gpt2fast.loading.loaded_model import LoadedModel
from gpt2fast.storage.model_directory import Calibration
from support.huggingface_samples import write_directory

IDS = [50, 60, 70]
GREEDY: dict[str, Any] = {"max_new_tokens": 4}


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(precision="fp32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"precision": "int2"},
            "precision must be one of 'fp32', 'bf16', 'int8', 'int4', 'int4-all', got 'int2'",
        ),
        ({"threads": 0}, "threads must be from 1 to 1024, got 0"),
        ({"max_sequences": 0}, "max_sequences must be from 1 to 4096, got 0"),
        ({"prefix_cache_bytes": -1}, "prefix_cache_bytes must be from 0"),
        ({"calibrate": "a.txt"}, r"calibrate='a\.txt' has no effect with precision='int8'"),
        ({"calibrate": "", "precision": "int4"}, "calibrate must be the path of a text file, got ''"),
        (
            {"calibrate": "a.txt", "precision": "int4", "tokenizer": "gpt2"},
            r"calibrate='a\.txt' is read by the model's own tokenizer, which tokenizer replaces",
        ),
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


def test_a_calibration_text_needs_a_conversion(model: GPT2) -> None:
    with pytest.raises(ValueError, match=r"calibrate='a\.txt', but .* is a converted model; a text takes"):
        GPT2.from_pretrained(model.directory.path, calibrate="a.txt")


def test_a_model_by_a_calibration_text(tmp_path: Path) -> None:
    source = write_directory(tmp_path / "source")
    (tmp_path / "a.txt").write_text("ABCDE" * 400, "utf-8")
    plain = GPT2.from_pretrained(source, precision="int4")
    calibrated = GPT2.from_pretrained(source, precision="int4", calibrate=tmp_path / "a.txt")
    assert calibrated.directory.calibration == Calibration(
        sha256(b"ABCDE" * 400).hexdigest(), calibrated.directory.metadata["calibration"]["tokens"]
    )
    assert plain.directory.calibration is None
    assert (plain.logits([IDS])[0] != calibrated.logits([IDS])[0]).any()
    assert plain.loaded.cache_hash != calibrated.loaded.cache_hash


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


def test_words_and_numbers_of_other_types_become_plain(model: GPT2) -> None:
    class Word(str, Enum):
        FP32 = "fp32"
        FP16 = "fp16"

    given: dict[str, Any] = {"precision": Word.FP32, "kv_cache": Word.FP16, "threads": np.int64(1)}
    loaded = GPT2.from_pretrained(**given)
    assert loaded.directory.path == model.directory.path  # the same conversion
    assert (loaded.kv_cache, type(loaded.kv_cache)) == ("fp16", str)
    assert type(loaded.loaded.settings.threads) is int


@pytest.mark.parametrize("tokenizer", ["no/such/tokenizer", "missing.json", 5])
def test_a_wrong_tokenizer_is_refused_before_a_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any
) -> None:
    source = write_directory(tmp_path / "source")
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))
    with pytest.raises((ModelError, OSError, TypeError)):
        GPT2.from_pretrained(source, tokenizer=tokenizer)
    assert not (tmp_path / "cache").exists()


def test_a_given_tokenizer(model: GPT2) -> None:
    path = model.directory.path
    assert GPT2.from_pretrained(path, tokenizer=model.tokenizer).tokenizer is model.tokenizer
    loaded = GPT2.from_pretrained(path, tokenizer=path / "tokenizer.json")
    assert loaded.tokenizer.encode("Once") == model.tokenizer.encode("Once")
