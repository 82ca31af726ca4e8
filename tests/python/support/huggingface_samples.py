"""Small checkpoint directories in the form that `save_pretrained` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.config import ModelConfig
from support.checkpoint_samples import byte_level_vocabulary, random_tensors, small_config


def write_directory(
    directory: Path,
    config: ModelConfig | None = None,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    *,
    prefix: str = "transformer.",
    dtype: Any = np.float32,
    with_tokenizer: bool = True,
    heads: tuple[str, ...] = ("lm_head.weight",),
) -> Path:
    """A checkpoint with one weight file; random weights unless given."""
    config = config or small_config()
    tensors = random_tensors(config) if tensors is None else tensors
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(config.to_json(), "utf-8")
    save_file(with_prefix(tensors, prefix, dtype, heads), directory / "model.safetensors")
    if with_tokenizer:
        write_vocabulary(directory, config.vocab_size)
    return directory


def with_prefix(
    tensors: Mapping[str, NDArray[Any]],
    prefix: str,
    dtype: Any = np.float32,
    heads: tuple[str, ...] = ("lm_head.weight",),
) -> dict[str, NDArray[Any]]:
    """The tensors under the names of a file; ``heads`` have no prefix."""
    return {
        name if name in heads else prefix + name: np.ascontiguousarray(values, dtype)
        for name, values in tensors.items()
    }


def write_vocabulary(directory: Path, size: int) -> None:
    """vocab.json and merges.txt of a made-up tokenizer."""
    tokens, merges = byte_level_vocabulary(size)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (directory / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")


def write_vocabulary_beyond(directory: Path, size: int) -> None:
    """Like :func:`write_vocabulary` for ``size + 1`` tokens, the last of which is an ordinary one."""
    write_vocabulary(directory, size + 1)
    vocabulary = json.loads((directory / "vocab.json").read_text("utf-8"))
    vocabulary["<|endoftext|>"], vocabulary["!"] = vocabulary["!"], vocabulary["<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")


def assert_tensors(checkpoint: Checkpoint, expected: Mapping[str, NDArray[Any]]) -> None:
    """The checkpoint has exactly these tensors."""
    assert set(checkpoint.tensors) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), values, err_msg=name)


def edit_config(directory: Path, **changes: object) -> None:
    """Change keys of a config.json."""
    values = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**values, **changes}))
