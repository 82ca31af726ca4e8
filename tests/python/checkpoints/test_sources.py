"""One random model in every supported format: the same scores from each, within its precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpt2fast.checkpoints import open_checkpoint, reference
from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.checkpoints.tensorflow_checkpoint import open_tensorflow
from gpt2fast.export.huggingface_writer import save_huggingface
from gpt2fast.export.standard import StandardOptions, export_onnx
from support.checkpoint_samples import random_tensors, torch_state
from support.gguf_samples import CONFIG, write_gguf
from support.huggingface_samples import write_directory
from support.tensorflow_samples import write_tensorflow
from support.zoo_samples import random_checkpoint

IDS = np.random.default_rng(3).integers(0, CONFIG.vocab_size, (2, 9))


def scores(checkpoint: Checkpoint) -> np.ndarray:
    return reference.logits(checkpoint, reference.forward(checkpoint, IDS)[0])


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return scores(random_checkpoint())


def safetensors(directory: Path) -> Checkpoint:
    return open_checkpoint(write_directory(directory, CONFIG))


def shards(directory: Path) -> Checkpoint:
    checkpoint = open_checkpoint(write_directory(directory / "whole", CONFIG))
    save_huggingface(checkpoint, directory / "shards", max_shard_bytes=100_000)
    assert len(list((directory / "shards").glob("model-*.safetensors"))) > 2
    return open_checkpoint(directory / "shards")


def torch(directory: Path, *, legacy: bool) -> Checkpoint:
    write_directory(directory, CONFIG)
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(torch_state(random_tensors(CONFIG), legacy=legacy))
    return open_checkpoint(directory)


def onnx(directory: Path, *, external: bool, layout: str) -> Checkpoint:
    path = directory / "model.onnx"
    export_onnx(random_checkpoint(), path, StandardOptions(layout=layout), external_data=external)
    return open_checkpoint(path)


def tensorflow(directory: Path) -> Checkpoint:
    write_tensorflow(directory, CONFIG)
    return open_tensorflow(directory)


def gguf(directory: Path, kind: str) -> Checkpoint:
    write_gguf(directory / "model.gguf", kind=kind)
    return open_checkpoint(directory / "model.gguf")


@pytest.mark.parametrize(
    "load",
    [
        safetensors,
        shards,
        lambda directory: torch(directory, legacy=False),
        lambda directory: torch(directory, legacy=True),
        lambda directory: onnx(directory, external=False, layout="zoo"),
        lambda directory: onnx(directory, external=True, layout="gpt2fast"),
        tensorflow,
        lambda directory: gguf(directory, "F32"),
    ],
    ids=["safetensors", "shards", "torch-zip", "torch-legacy", "onnx", "onnx-external", "tensorflow", "gguf"],
)
def test_formats_of_full_precision_give_the_same_bits(
    tmp_path: Path, expected: np.ndarray, load: Callable[[Path], Checkpoint]
) -> None:
    np.testing.assert_array_equal(scores(load(tmp_path)), expected)


@pytest.mark.parametrize(("kind", "error"), [("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 2e-2), ("Q4_0", 0.3)])
def test_other_formats_stay_within_their_precision(
    tmp_path: Path, expected: np.ndarray, kind: str, error: float
) -> None:
    difference = scores(gguf(tmp_path, kind)) - expected
    assert 0 < np.linalg.norm(difference) / np.linalg.norm(expected) < error
