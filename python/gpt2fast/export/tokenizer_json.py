"""A checkpoint's tokenizer as one tokenizer.json that fits its vocabulary."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import Checkpoint


def tokenizer_json(checkpoint: Checkpoint) -> str | None:
    """The text of a ``tokenizer.json``, or None when the checkpoint has no tokenizer.

    Added tokens beyond the model's vocabulary (often a padding token) are left out with a warning: the
    model has no row for them.

    Raises
    ------
    ModelError
        The files are broken or not byte-level BPE, or their vocabulary is larger than the model's.
    """
    from gpt2fast.text.tokenizer import Tokenizer, tokenizer_json_from_gpt2_files

    files = checkpoint.tokenizer
    if not files:
        return None
    if files.tokenizer_json is not None:
        text = _without_tokens_beyond(files.tokenizer_json, checkpoint.config.vocab_size, checkpoint.source)
    elif files.vocab_json is not None and files.merges_txt is not None:
        text = tokenizer_json_from_gpt2_files(
            files.vocab_json, files.merges_txt, where=f"{checkpoint.source}: vocab.json"
        )
    else:
        raise ModelError(f"{checkpoint.source}: vocab.json needs merges.txt beside it")
    Tokenizer(text, vocab_size=checkpoint.config.vocab_size, where=f"{checkpoint.source}: tokenizer.json")
    return text


def _without_tokens_beyond(text: str, vocab_size: int, source: str) -> str:
    """The tokenizer without added tokens whose ids the model does not have; unchanged if there are none."""
    try:
        values = json.loads(text)
        added = values["added_tokens"]
        beyond = [token["content"] for token in added if token["id"] >= vocab_size]
    except (ValueError, KeyError, TypeError, RecursionError):
        # The tokenizer's own check reports what is wrong, if anything is.
        return text
    if not beyond:
        return text
    warnings.warn(
        f"{source}: the tokenizer's added tokens {', '.join(map(repr, beyond[:5]))} are left out: the "
        f"model's vocabulary ends at {vocab_size - 1}",
        stacklevel=2,
    )
    values["added_tokens"] = [token for token in added if token["id"] < vocab_size]
    return json.dumps(values, ensure_ascii=False)
