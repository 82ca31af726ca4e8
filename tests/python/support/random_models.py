"""Small random checkpoints of many shapes, and how tests load them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast import GPT2
from random_checkpoint import SIZES, write_random_checkpoint

#: Name -> (sizes, further keys of config.json, tied head).
SHAPES: dict[str, tuple[dict[str, int], dict[str, Any], bool]] = {
    # Heads of 17, sizes that are multiples of nothing.
    "odd": (SIZES["tiny"], {"activation_function": "gelu"}, True),
    "one_wide_head": (
        {"n_layer": 1, "n_head": 1, "n_embd": 80, "n_positions": 48, "vocab_size": 97},
        {"activation_function": "relu", "layer_norm_epsilon": 1e-3},
        False,
    ),
    "many_small_heads": (
        {"n_layer": 3, "n_head": 16, "n_embd": 64, "n_positions": 600, "vocab_size": 1000},
        {"scale_attn_by_inverse_layer_idx": True},
        True,
    ),
    "unscaled": (
        {"n_layer": 2, "n_head": 2, "n_embd": 130, "n_positions": 64, "vocab_size": 515, "n_inner": 64},
        {"scale_attn_weights": False},
        False,
    ),
    "deep": (
        {"n_layer": 12, "n_head": 4, "n_embd": 96, "n_positions": 128, "vocab_size": 256},
        {},
        True,
    ),
}


def write_shape(directory: Path, name: str, **options: Any) -> Path:
    """A checkpoint of one of ``SHAPES``."""
    sizes, config, tied = SHAPES[name]
    return write_random_checkpoint(directory, sizes, options=config, tied=tied, **options)


def random_ids(model: GPT2, *shape: int, seed: int = 0) -> NDArray[np.int32]:
    """Token ids of the model's vocabulary."""
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, shape, dtype=np.int32)


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Norm of the difference over the norm of what is expected."""
    difference = np.asarray(found, np.float64) - np.asarray(expected, np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))
