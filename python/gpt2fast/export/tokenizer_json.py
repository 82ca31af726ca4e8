"""A checkpoint's tokenizer as one tokenizer.json that fits its vocabulary, and what such a file can't say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import Checkpoint
    from gpt2fast.text.tokenizer_settings import TokenizerSettings


def tokenizer_json(checkpoint: Checkpoint) -> tuple[str, TokenizerSettings] | None:
    """The text of a ``tokenizer.json`` and its settings, or None when the checkpoint has no tokenizer.

    Added tokens beyond the model's vocabulary (often a padding token) are left out with a warning: the
    model has no row for them.

    Raises
    ------
    ModelError
        The files are broken or contradict each other, or their vocabulary is larger than the model's.
    """
    from gpt2fast.text.assembly import assemble
    from gpt2fast.text.backend import read_backend, written
    from gpt2fast.text.tokenizer import Tokenizer

    if not checkpoint.tokenizer:
        return None
    where, vocab_size = checkpoint.source, checkpoint.config.vocab_size
    backend, settings = assemble(checkpoint.tokenizer, where=where, vocab_size=vocab_size)
    text = written(backend)
    given = checkpoint.tokenizer.tokenizer_json
    if given is not None and written(read_backend(given, where)) == text:
        text = given
    Tokenizer(text, vocab_size=vocab_size, settings=settings, where=f"{where}: tokenizer.json")
    return text, settings
