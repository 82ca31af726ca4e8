"""Prompts, token arrays and pasts as callers give them -> checked, contiguous arrays that the core takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpt2fast._validation import Integer
from gpt2fast.config import ModelConfig
from gpt2fast.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: One prompt: text, or token ids as a sequence of int or a 1-D integer array.
Prompt: TypeAlias = "str | Sequence[int] | NDArray[np.integer[Any]]"
#: Hidden layers' keys and values: one array [2, batch, heads, tokens, head_dim] for each layer.
Past: TypeAlias = "tuple[NDArray[np.float32], ...]"

#: The most texts that one call may ask for.
MAX_PROMPTS = 1 << 16


def read_prompts(
    prompts: Any,
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    *,
    before: NDArray[np.int32] | None = None,
    name: str = "prompt",
) -> tuple[list[NDArray[np.int32]], bool]:
    """Token ids of each prompt, never empty, and whether the caller gave a single one.

    An empty prompt becomes the model's beginning-of-text (or end-of-text) token. With ``before``, each prompt
    begins with these tokens. Errors call a prompt by ``name``.
    """
    single = _is_single(prompts, name)
    given = [prompts] if single else list(prompts)
    if len(given) > MAX_PROMPTS:
        raise ValueError(f"{name}s: at most {MAX_PROMPTS} (MAX_PROMPTS) in one call, got {len(given)}")
    names = [name] if single else [f"{name}s[{i}]" for i in range(len(given))]
    if before is None:
        read = [_read_prompt(one, label, config, tokenizer) for one, label in zip(given, names, strict=True)]
    else:
        own = [_read_ids(one, label, config, tokenizer) for one, label in zip(given, names, strict=True)]
        read = [np.concatenate([before, ids]) for ids in own]
    return read, single


def read_prompt(
    prompt: Any,
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    *,
    before: NDArray[np.int32] | None = None,
    name: str = "prompt",
) -> NDArray[np.int32]:
    """:func:`read_prompts` where only a single one will do."""
    found, single = read_prompts(prompt, config, tokenizer, before=before, name=name)
    if not single:
        raise TypeError(f"{name} must be a single text, got a list")
    return found[0]


def read_batch(input_ids: ArrayLike, config: ModelConfig, *, past_tokens: int = 0) -> NDArray[np.int32]:
    """Token ids (tokens,) or (batch, tokens) as int32 [batch, tokens], inside vocabulary and positions."""
    ids = _integers(input_ids, "input_ids")
    if ids.ndim not in (1, 2):
        raise ValueError(f"input_ids must have shape (tokens,) or (batch, tokens), got {ids.shape}")
    ids = np.atleast_2d(ids)
    if ids.size == 0:
        raise ValueError(f"input_ids must hold at least one token, got shape {ids.shape}")
    if len(ids) > MAX_PROMPTS:
        raise ValueError(f"input_ids: at most {MAX_PROMPTS} (MAX_PROMPTS) rows in one call, got {len(ids)}")
    total = past_tokens + ids.shape[1]
    if total > config.n_positions:
        before = f" after a past of {past_tokens}" if past_tokens else ""
        raise ValueError(
            f"input_ids holds {ids.shape[1]} tokens{before}; the model has n_positions = {config.n_positions}"
        )
    return _in_vocabulary(ids, "input_ids", config)


def read_past(past: Sequence[ArrayLike], config: ModelConfig) -> Past:
    """A past as contiguous float32 arrays, one [2, batch, heads, tokens, head_dim] for each layer."""
    layers = tuple(np.ascontiguousarray(layer, dtype=np.float32) for layer in past)
    if len(layers) != config.n_layer:
        raise ValueError(f"past must have one array for each of {config.n_layer} layers, got {len(layers)}")
    fixed = (2, config.n_head, config.head_dim)
    for i, layer in enumerate(layers):
        if layer.ndim != 5 or layer.shape[::2] != fixed or layer.shape != layers[0].shape:
            raise ValueError(
                f"past[{i}] must have shape (2, batch, {config.n_head}, tokens, {config.head_dim}), "
                f"the same in every layer, got {layer.shape}"
            )
    return layers


def read_rows(rows: ArrayLike, tokens: int) -> NDArray[np.int64]:
    """Positions of tokens, the negative ones counted from the end, as int64 [rows]."""
    chosen = np.atleast_1d(_integers(rows, "rows")).astype(np.int64)
    if chosen.ndim != 1 or chosen.size == 0:
        raise ValueError(f"rows must be a list of at least one position, got shape {chosen.shape}")
    if chosen.min() < -tokens or chosen.max() >= tokens:
        raise ValueError(f"rows must be from {-tokens} to {tokens - 1}, got {chosen.tolist()}")
    return np.where(chosen < 0, chosen + tokens, chosen)


def check_token_ids(ids: Sequence[int], name: str, config: ModelConfig) -> None:
    """Refuse ids outside the vocabulary."""
    check = Integer(0, config.vocab_size - 1)
    for position, token in enumerate(ids):
        check(f"{name}[{position}]", token)


def _is_single(prompts: Any, name: str) -> bool:
    if isinstance(prompts, str):
        return True
    if isinstance(prompts, bytes):
        raise TypeError(
            f"{name}s must be text or token ids, got bytes; Tokenizer.encode_bytes makes ids of it"
        )
    if hasattr(prompts, "__array__"):
        return np.ndim(prompts) == 1
    if not isinstance(prompts, Sequence):
        raise TypeError(f"{name}s must be text, token ids or a list of these, got {type(prompts).__name__}")
    # A list of ids is one prompt; the empty list is a list without prompts.
    return len(prompts) > 0 and not (isinstance(prompts[0], Sequence) or np.ndim(prompts[0]) > 0)


def _read_prompt(
    prompt: Any, name: str, config: ModelConfig, tokenizer: Tokenizer | None
) -> NDArray[np.int32]:
    ids = _read_ids(prompt, name, config, tokenizer)
    if ids.size:
        return ids
    starts = [token for token in (config.bos_token_id, *config.eos_token_ids) if token is not None]
    if not starts:
        raise ValueError(f"{name} is empty, and the model has no end-of-text token to start from")
    return np.asarray(starts[:1], dtype=np.int32)


def _read_ids(prompt: Any, name: str, config: ModelConfig, tokenizer: Tokenizer | None) -> NDArray[np.int32]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ValueError(f"{name} is text, but the model has no tokenizer; give token ids")
        try:
            return np.asarray(tokenizer.encode(prompt), dtype=np.int32)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    raw = _integers(prompt, name)
    if raw.ndim != 1:
        raise ValueError(f"{name} must be text or a 1-D array of token ids, got shape {raw.shape}")
    return _in_vocabulary(raw, name, config)


def _integers(values: Any, name: str) -> NDArray[np.integer[Any]]:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise ValueError(f"{name} must be a rectangular array of integers") from None
    if array.size == 0 and not hasattr(values, "dtype"):
        return array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must hold integers, got {array.dtype}")
    return array


def _in_vocabulary(ids: NDArray[np.integer[Any]], name: str, config: ModelConfig) -> NDArray[np.int32]:
    outside = (ids < 0) | (ids >= config.vocab_size)
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        where = ", ".join(map(str, place))
        raise ValueError(
            f"{name}[{where}]: token id {ids[place]} is outside the vocabulary (0 to {config.vocab_size - 1})"
        )
    return np.ascontiguousarray(ids, dtype=np.int32)
