"""The exceptions that gpt2fast raises besides Python's own."""

from __future__ import annotations


class ModelError(ValueError):
    """A model, checkpoint or tokenizer file does not hold what it should; the message names both."""


class BusyError(RuntimeError):
    """Every slot of the KV cache is held by a paused stream; close one or raise ``max_sequences``."""
