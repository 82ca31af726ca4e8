"""A checkpoint's tokenizer if it fits the model, and what is wrong with it otherwise: token ids need none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2fast.errors import ModelError
from gpt2fast.export.tokenizer_json import tokenizer_json

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import Checkpoint
    from gpt2fast.text.tokenizer_settings import TokenizerSettings


def fitting_tokenizer(checkpoint: Checkpoint) -> tuple[tuple[str, TokenizerSettings] | None, str | None]:
    """The text of a ``tokenizer.json`` with its settings, and why it is left out where it is.

    Raises
    ------
    ModelError
        A tokenizer that a user named is broken or does not fit the model.
    """
    if checkpoint.tokenizer_fault is not None:
        return None, checkpoint.tokenizer_fault
    try:
        return tokenizer_json(checkpoint), None
    except ModelError as error:
        if checkpoint.tokenizer_is_given:
            raise
        return None, str(error)
