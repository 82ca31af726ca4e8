"""How many threads a model gets when its caller does not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2fast.config import ModelConfig

# A thread takes part in a step if it has so many weights to read: with less, waking it and waiting for it
# take longer than what it does (docs/decisions/0048-threads-worth-waking.md).
WEIGHTS_PER_THREAD = 1 << 19


def default_threads(config: ModelConfig, cores: int) -> int:
    """One thread for every 524,288 weights that a step reads, at least one and at most `cores`."""
    width = config.n_embd
    layer = 4 * width * width + 2 * width * config.n_inner
    weights = config.n_layer * layer + config.vocab_size * width
    return max(1, min(cores, weights // WEIGHTS_PER_THREAD))
