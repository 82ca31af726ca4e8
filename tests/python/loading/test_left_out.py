"""What a conversion leaves out is said at every load: unused tensors, and tokenizers that don't fit."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from gpt2fast import GPT2, ModelError
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.export import convert
from gpt2fast.export.huggingface_writer import save_huggingface
from support.checkpoint_samples import random_tensors, small_config
from support.huggingface_samples import write_directory, write_vocabulary_beyond

IDS = [5, 6, 7]
UNFIT = r"does not fit the model: its largest token id is 101.*; the model takes token ids, but no text"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def unfit(tmp_path: Path) -> Path:
    """A checkpoint whose tokenizer has one token more than the model."""
    directory = write_directory(tmp_path / "unfit")
    write_vocabulary_beyond(directory, 101)
    return directory


def caught(source: Path) -> list[str]:
    """The warnings of a load."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        GPT2.from_pretrained(source, precision="fp32").close()
    return [str(one.message) for one in found]


def test_a_head_that_is_not_used_is_named_at_every_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {**random_tensors(small_config()), "value.weight": np.ones((1, 64), np.float32)}
    source = write_directory(tmp_path / "m", tensors=tensors, prefix="")
    wanted = [f"{source}: 1 tensors are not used: value.weight"]
    assert caught(source) == wanted  # converts
    assert caught(source) == wanted  # opens the checkpoint, whose files were too new to be remembered
    monkeypatch.setattr("gpt2fast.loading.conversion_cache._is_settled", lambda snapshot: True)
    assert caught(source) == wanted  # remembers it
    monkeypatch.setattr("gpt2fast.checkpoints.open_checkpoint", None)
    assert caught(source) == wanted  # finds the model without opening the checkpoint


def test_a_model_directory_names_it_too(tmp_path: Path) -> None:
    tensors = {**random_tensors(small_config()), "value.weight": np.ones((1, 64), np.float32)}
    source = write_directory(tmp_path / "m", tensors=tensors, prefix="")
    with pytest.warns(UserWarning, match="not used"):
        convert(source, tmp_path / "out", precision="fp32")
    assert caught(tmp_path / "out") == [f"{source}: 1 tensors are not used: value.weight"]


def test_token_ids_work_without_the_tokenizer(tmp_path: Path, unfit: Path) -> None:
    plain = GPT2.from_pretrained(write_directory(tmp_path / "plain"), precision="fp32")
    for _ in range(2):
        with pytest.warns(UserWarning, match=UNFIT):
            model = GPT2.from_pretrained(unfit, precision="fp32")
    assert not model.has_tokenizer
    np.testing.assert_array_equal(model.logits(IDS), plain.logits(IDS))
    result = model.generate(IDS, max_new_tokens=3)
    assert result.token_ids == plain.generate(IDS, max_new_tokens=3).token_ids
    assert result.text == ""
    with pytest.raises(ModelError, match=r"its largest token id is 101.*; give one to from_pretrained"):
        model.tokenizer  # noqa: B018
    with pytest.raises(ValueError, match="is text, but the model has no tokenizer"):
        model.generate("a")


def test_a_tokenizer_given_instead_leaves_nothing_to_warn_of(tmp_path: Path, unfit: Path) -> None:
    other = write_directory(tmp_path / "other")
    with GPT2.from_pretrained(unfit, tokenizer=other) as model:
        assert model.tokenizer.encode("ab") == [64, 65]


def test_exports_leave_it_out_too(tmp_path: Path, unfit: Path) -> None:
    with pytest.warns(UserWarning, match="its largest token id is 101.*; the tokenizer is left out"):
        save_huggingface(open_checkpoint(unfit), tmp_path / "out")
    assert not (tmp_path / "out/tokenizer.json").exists()
    with pytest.raises(ModelError, match="its largest token id is 101"):
        save_huggingface(open_checkpoint(unfit, tokenizer=unfit), tmp_path / "other")
