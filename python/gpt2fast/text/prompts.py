"""Reads prompts as callers give them into checked token ids; imports NumPy only for arrays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from gpt2fast._validation import MAX_PROMPTS, Integer, all_in_range
from gpt2fast.config import ModelConfig

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.text.lazy_tokenizer import LazyTokenizer

#: One prompt: text, or token ids as a sequence of int or a 1-D integer array.
Prompt: TypeAlias = "str | Sequence[int] | NDArray[np.integer[Any]]"


def read_prompts(
    prompts: Any,
    config: ModelConfig,
    tokenizer: LazyTokenizer | None,
    *,
    before: list[int] | None = None,
    continues: bool = False,
    name: str = "prompt",
) -> tuple[list[list[int]], bool]:
    """Token ids of each prompt, never empty, and whether the caller gave a single one.

    An empty prompt becomes the model's beginning-of-text (or end-of-text) token. With ``before``, each prompt
    begins with these tokens. With either that or ``continues``, a prompt goes on where another text ends, and
    the tokenizer's template adds nothing to it. Errors call a prompt ``name``.
    """
    single = _is_single(prompts, name)
    given = [prompts] if single else list(prompts)
    if not single and hasattr(prompts, "__array__"):
        _warn_of_padding(prompts, config, name)
    if len(given) > MAX_PROMPTS:
        raise ValueError(f"{name}s: at most {MAX_PROMPTS} (MAX_PROMPTS) in one call, got {len(given)}")
    names = [name] if single else [f"{name}s[{i}]" for i in range(len(given))]
    if before is None:
        read = [
            _read_prompt(one, label, config, tokenizer, continues)
            for one, label in zip(given, names, strict=True)
        ]
    else:
        own = [
            _read_ids(one, label, config, tokenizer, True) for one, label in zip(given, names, strict=True)
        ]
        read = [before + ids for ids in own]
    return read, single


def read_prompt(
    prompt: Any,
    config: ModelConfig,
    tokenizer: LazyTokenizer | None,
    *,
    before: list[int] | None = None,
    name: str = "prompt",
) -> list[int]:
    """:func:`read_prompts` for exactly one prompt."""
    found, single = read_prompts(prompt, config, tokenizer, before=before, name=name)
    if not single:
        raise TypeError(f"{name} must be a single text, got a list")
    return found[0]


def check_token_ids(ids: Sequence[int], name: str, config: ModelConfig) -> None:
    """Raise ValueError for ids outside the vocabulary."""
    if all_in_range(ids, 0, config.vocab_size - 1):
        return
    check = Integer(0, config.vocab_size - 1)
    for position, token in enumerate(ids):
        check(f"{name}[{position}]", token)


def _is_single(prompts: Any, name: str) -> bool:
    if isinstance(prompts, str):
        return True
    if isinstance(prompts, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"{name}s must be text or token ids, got {type(prompts).__name__}; Tokenizer.encode_bytes makes "
            f"ids of it"
        )
    if hasattr(prompts, "__array__"):
        return _axes(prompts) == 1
    if isinstance(prompts, Mapping) and "input_ids" in prompts:
        raise TypeError(f"{name}s must be text or token ids, got {type(prompts).__name__}: write **inputs")
    if not isinstance(prompts, Sequence):
        raise TypeError(f"{name}s must be text, token ids or a list of these, got {type(prompts).__name__}")
    # A list of ids is one prompt; the empty list is a list without prompts.
    return len(prompts) > 0 and not (isinstance(prompts[0], Sequence) or _axes(prompts[0]) > 0)


def _warn_of_padding(rows: Any, config: ModelConfig, name: str) -> None:
    """Warn if rows of an array begin or end with tokens that end texts, as padded ones do.

    A single one may be the beginning of a text, unless only some of the rows have it.
    """
    import numpy as np

    ids = np.asarray(rows)
    if ids.ndim != 2 or ids.shape[1] < 2 or not config.eos_token_ids:
        return
    for place, edge in (("begins", ids[:, :2]), ("ends", ids[:, :-3:-1])):
        ends = np.isin(edge, config.eos_token_ids)
        single, several = ends[:, 0], ends.all(axis=1) & (edge[:, 0] == edge[:, 1])
        padded = several if several.any() or single.all() else single
        if padded.any():
            row = int(padded.argmax())
            warnings.warn(
                f"{name}s[{row}] {place} with the end-of-text token {int(edge[row, 0])}, read as text: "
                f"if it is padding, leave it out, as {name}s may differ in length (generate also takes "
                f"attention_mask)",
                stacklevel=5,
            )
            return


def _axes(value: Any) -> int:
    """The number of dimensions of an array of any library; 0 for anything else."""
    if not hasattr(value, "__array__"):
        return 0
    import numpy as np

    return np.ndim(value)


def _read_prompt(
    prompt: Any, name: str, config: ModelConfig, tokenizer: LazyTokenizer | None, continues: bool
) -> list[int]:
    ids = _read_ids(prompt, name, config, tokenizer, continues)
    if ids:
        return ids
    starts = [token for token in (config.bos_token_id, *config.eos_token_ids) if token is not None]
    if not starts:
        raise ValueError(f"{name} is empty, and the model has no end-of-text token to start from")
    return starts[:1]


def _read_ids(
    prompt: Any, name: str, config: ModelConfig, tokenizer: LazyTokenizer | None, continues: bool
) -> list[int]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ValueError(
                f"{name} is text, but the model has no tokenizer; give token ids, or a tokenizer: "
                f"from_pretrained(tokenizer=...)"
            )
        encode = tokenizer.get().encode
        try:
            return encode(prompt, add_special_tokens=not continues)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if type(prompt) in (list, tuple) and all_in_range(prompt, 0, config.vocab_size - 1):
        return list(prompt)
    from gpt2fast.text.arrays import read_ids

    return read_ids(prompt, name, config)
