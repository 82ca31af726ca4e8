"""The exceptions that gpt2fast raises besides Python's own."""

from __future__ import annotations


class ModelError(ValueError):
    """A model, checkpoint or tokenizer file does not hold what it should; the message names both."""


class BusyError(RuntimeError):
    """As many texts as ``max_waiting`` wait for a slot already; try again later."""
