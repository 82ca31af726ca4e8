"""Heads of their own: used wherever they differ from the table, whatever the configuration says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt2fast import GPT2
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.errors import ModelError
from gpt2fast.export.standard import export_onnx
from gpt2fast.loading.sources import embedded_model
from support.checkpoint_samples import Tensors, random_tensors, small_config, torch_state
from support.goldens import EMBEDDED
from support.huggingface_samples import assert_tensors, write_directory
from support.tensorflow_samples import write_tensorflow


def test_scores_come_from_the_head_that_is_there(tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(embedded_model(), source)
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = np.ascontiguousarray(tensors["transformer.wte.weight"][::-1])
    save_file(tensors, source / "model.safetensors")
    with GPT2.from_pretrained(source, precision="fp32") as model:
        logits = model.logits(EMBEDDED["short"]["token_ids"])[0]
    expected = EMBEDDED["own_head"]
    assert logits.argmax(-1).tolist() == expected["argmax"]
    np.testing.assert_allclose(logits[-1][expected["ids"]], expected["values"], rtol=0, atol=1e-5)


def tied_with(head: np.ndarray[Any, Any]) -> tuple[Tensors, Tensors]:
    """The tensors of a tied model, and the same with a head."""
    tensors = random_tensors(small_config())
    return tensors, {**tensors, "lm_head.weight": head}


def own_head() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).normal(size=(101, 64)).astype(np.float32)


def write_source(directory: Path, kind: str, tensors: Tensors) -> Path:
    """A tied model of small_config with these tensors."""
    directory.mkdir()
    if kind == "onnx":
        checkpoint = open_checkpoint(write_directory(directory / "source", tensors=tensors))
        export_onnx(checkpoint, directory / "model.onnx")
        return directory / "model.onnx"
    if kind == "tensorflow":
        write_tensorflow(directory, small_config(), tensors=tensors)
        return directory
    write_directory(directory, tensors=tensors)
    if kind == "safetensors":
        return directory
    (directory / "pytorch_model.bin").write_bytes(torch_state(tensors))
    (directory / "model.safetensors").unlink()
    if kind == "alone":
        (directory / "config.json").unlink()
        return directory / "pytorch_model.bin"
    return directory


@pytest.mark.filterwarnings("ignore:.*no config.json beside it")
@pytest.mark.parametrize("kind", ["safetensors", "bin", "alone", "onnx", "tensorflow"])
@pytest.mark.parametrize("own", [True, False])
def test_every_format(tmp_path: Path, kind: str, own: bool) -> None:
    plain, tensors = tied_with(own_head())
    if not own:
        tensors["lm_head.weight"] = plain["wte.weight"]
    checkpoint = open_checkpoint(write_source(tmp_path / "m", kind, tensors))
    assert checkpoint.config.tie_word_embeddings is not own
    assert_tensors(checkpoint, tensors if own else plain)


def test_identity_follows_the_head(tmp_path: Path) -> None:
    def fingerprint(name: str, head: np.ndarray[Any, Any]) -> str:
        return open_checkpoint(write_directory(tmp_path / name, tensors=tied_with(head)[1])).fingerprint

    assert fingerprint("a", own_head()) != fingerprint("b", own_head()[::-1])


def read(tmp_path: Path, head: np.ndarray[Any, Any]) -> Checkpoint:
    return open_checkpoint(write_directory(tmp_path / "m", tensors=tied_with(head)[1]))


def test_rows_of_zeros_beyond_the_table_are_cut_off(tmp_path: Path) -> None:
    head = own_head()
    checkpoint = read(tmp_path, np.concatenate([head, np.zeros((3, 64), np.float32)]))
    np.testing.assert_array_equal(checkpoint.tensors["lm_head.weight"].read(), head)


@pytest.mark.parametrize(
    ("head", "fault"),
    [
        (np.ones((104, 64), np.float32), r"has 104 rows, the token table 101"),
        (np.ones((100, 64), np.float32), r"shape \[100, 64\]; the configuration requires \[101, 64\]"),
        (np.ones((101, 63), np.float32), r"shape \[101, 63\]; the configuration requires \[101, 64\]"),
        (np.ones(101, np.float32), r"shape \[101\]; the configuration requires \[101, 64\]"),
    ],
)
def test_heads_of_other_shapes_are_refused(tmp_path: Path, head: np.ndarray[Any, Any], fault: str) -> None:
    with pytest.raises(ModelError, match=rf"'lm_head.weight' has .*{fault}|'lm_head.weight' {fault}"):
        read(tmp_path, head)
