"""Exports of small random models, for the tests of standard ONNX, its test data and its archives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.base import Checkpoint, LazyTensor
from gpt2fast.export.standard import StandardOptions, export_onnx
from gpt2fast.export.test_data import write_test_data
from support.checkpoint_samples import random_tensors, small_config


def random_checkpoint(**changes: Any) -> Checkpoint:
    """A checkpoint in memory; ``changes`` are keys of its configuration."""
    config = small_config(**changes)
    tensors = {name: LazyTensor.from_array(values) for name, values in random_tensors(config).items()}
    return Checkpoint.checked(config, tensors, source="random", fingerprint="0")


def export_with_data(directory: Path, sets: int = 2, **options: Any) -> Path:
    """An exported model with test data beside it."""
    checkpoint, chosen = random_checkpoint(), StandardOptions(**options)
    path = directory / "model.onnx"
    export_onnx(checkpoint, path, chosen)
    write_test_data(checkpoint, directory, chosen, sets)
    return path


def run(path: Path, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The outputs of a model, by name, from ONNX Runtime."""
    from gpt2fast.checkpoints.onnx_session import open_session

    with open_session(path) as session:
        return dict(zip(session.output_names, session.run(feeds, path), strict=True))
