"""GPT-2's own tokenizer, for weights that come without one; fetched from the hub once, then cached."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2fast.checkpoints.base import TokenizerFiles
from gpt2fast.checkpoints.hub import download_tokenizer
from gpt2fast.config import GPT2_VOCAB_SIZE
from gpt2fast.errors import ModelError
from gpt2fast.storage.atomic import atomic_file
from gpt2fast.storage.cache_root import cache_root
from gpt2fast.storage.files import MAX_TOKENIZER_BYTES, read_text
from gpt2fast.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import Checkpoint

#: The model on the hub that has the tokenizer.
REPOSITORY = "openai-community/gpt2"


def gpt2_tokenizer_file(source: str) -> Path:
    """The path of GPT-2's ``tokenizer.json``; warns that ``source`` has none of its own.

    Raises
    ------
    ModelError
        It is neither in the cache nor available from the hub; the message says what to give instead.
    """
    advice = "give another as tokenizer= (--tokenizer): a path, or the id of a model on the hub"
    stored = cache_root() / "tokenizers" / "gpt2.json"
    try:
        path = stored if stored.is_file() else _fetched(stored)
    except (OSError, ModelError) as error:
        raise ModelError(
            f"{source}: has no tokenizer, and GPT-2's own can't be fetched: {error}; {advice}"
        ) from error
    warnings.warn(
        f"{source}: has no tokenizer; GPT-2's own is used, from {REPOSITORY} on the hub; {advice}",
        stacklevel=2,
    )
    return path


def with_gpt2_tokenizer(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with GPT-2's tokenizer, if it has none and the vocabulary is GPT-2's.

    Raises the errors of :func:`gpt2_tokenizer_file`.
    """
    from gpt2fast.checkpoints import with_tokenizer

    has_own = checkpoint.tokenizer or checkpoint.tokenizer_fault is not None
    if has_own or checkpoint.config.vocab_size != GPT2_VOCAB_SIZE:
        return checkpoint
    text = read_text(gpt2_tokenizer_file(checkpoint.source).resolve(), MAX_TOKENIZER_BYTES)
    return with_tokenizer(checkpoint, TokenizerFiles(tokenizer_json=text))


def _fetched(stored: Path) -> Path:
    """The file from the hub, checked, and kept at ``stored`` if that can be written."""
    path = (download_tokenizer(REPOSITORY, only="tokenizer.json") / "tokenizer.json").resolve()
    text = read_text(path, MAX_TOKENIZER_BYTES)
    Tokenizer(text, vocab_size=GPT2_VOCAB_SIZE, where=f"{REPOSITORY}: tokenizer.json")
    with suppress(OSError):
        stored.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(stored) as file:
            file.write(text.encode())
        return stored
    return path
