"""Checks token arrays and pasts from callers, and makes them contiguous arrays for the core."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpt2fast._validation import MAX_PROMPTS, is_bool, shown
from gpt2fast.config import ModelConfig

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

#: Keys and values of the layers: one array [2, batch, heads, tokens, head_dim] for each.
Past: TypeAlias = "tuple[NDArray[np.float32], ...]"


def read_ids(prompt: Any, name: str, config: ModelConfig) -> list[int]:
    """The ids of one prompt, from anything that NumPy reads as integers (tokens,)."""
    raw = _integers(prompt, name)
    if raw.ndim != 1:
        found = f"shape {raw.shape}" if raw.ndim else shown(prompt)
        raise ValueError(f"{name} must be text or a 1-D array of token ids, got {found}")
    ids: list[int] = _in_vocabulary(raw, name, config).tolist()
    return ids


def unpadded(prompts: Any, mask: Any, pad_token_id: int | None) -> Any:
    """The tokens of prompts that a mask marks, or without one those that are not ``pad_token_id``.

    Parameters
    ----------
    prompts : token ids
        As for :func:`gpt2fast.text.prompts.read_prompts`. Without a mask, text is returned as it is.
    mask : array of 0 and 1, or None
        Of the same shape as the prompts.
    pad_token_id : int or None
        For prompts without a mask.

    Returns
    -------
    list of int or list of list of int
        As many prompts as were given. As in ``transformers``, positions are counted without the padding.
    """
    if not isinstance(prompts, Sequence) and np.ndim(prompts) == 0:
        return prompts  # which is no prompt
    if isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], str)):
        if mask is not None:
            raise TypeError("attention_mask goes with token ids, and the prompts are text; leave it out")
        return prompts
    if mask is None:
        single = np.ndim(prompts[0]) == 0 if len(prompts) else True
        kept = [[one for one in row if one != pad_token_id] for row in ([prompts] if single else prompts)]
    else:
        ids, marks = _integers(prompts, "input_ids"), np.asarray(mask)
        if ids.shape != marks.shape or ids.ndim not in (1, 2):
            raise ValueError(
                f"attention_mask must have the shape of input_ids {ids.shape}, got {marks.shape}"
            )
        if not np.isin(marks, (0, 1)).all():
            raise ValueError("attention_mask must hold only 0 (padding) and 1 (text)")
        single = ids.ndim == 1
        rows = zip(np.atleast_2d(ids), np.atleast_2d(marks) != 0, strict=True)
        kept = [row[marked].tolist() for row, marked in rows]
    for index, row in enumerate(kept):
        if not row:
            raise ValueError(f"input_ids[{index}] is all padding; give each prompt at least one token")
    return kept[0] if single else kept


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
    try:
        layers = tuple(np.ascontiguousarray(layer, dtype=np.float32) for layer in past)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"past must be a sequence of float arrays, one for each layer: {error}") from None
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
    """Positions of tokens as int64 [rows]; negative ones count from the end."""
    chosen = np.atleast_1d(_integers(rows, "rows")).astype(np.int64)
    if chosen.ndim != 1 or chosen.size == 0:
        raise ValueError(f"rows must be a list of at least one position, got shape {chosen.shape}")
    if chosen.min() < -tokens or chosen.max() >= tokens:
        raise ValueError(f"rows must be from {-tokens} to {tokens - 1}, got {chosen.tolist()}")
    return np.where(chosen < 0, chosen + tokens, chosen)


def _integers(values: Any, name: str) -> NDArray[np.integer[Any]]:
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise ValueError(f"{name} must be a rectangular array of integers") from None
    if array.size == 0 and not hasattr(values, "dtype"):
        return array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.integer) or _hides_a_bool(values):
        raise _no_integers(values, array, name)
    return array


def _hides_a_bool(values: Any) -> bool:
    """Whether a list holds a bool, which NumPy converts among integers."""
    if hasattr(values, "dtype"):
        return False
    return any(map(is_bool, np.asarray(values, dtype=object).flat))


def _no_integers(values: Any, array: NDArray[Any], name: str) -> TypeError | ValueError:
    """The error for values that are not all integers: it names the first one, or an array's type."""
    if hasattr(values, "dtype"):
        return TypeError(f"{name} must hold integers, got {array.dtype}")
    for value in np.asarray(values, dtype=object).flat:
        if is_bool(value) or not isinstance(value, Integral):
            return TypeError(f"{name} must hold integers, got {shown(value)}")
    return ValueError(f"{name} holds integers of more than 64 bits")


def _in_vocabulary(ids: NDArray[np.integer[Any]], name: str, config: ModelConfig) -> NDArray[np.int32]:
    outside = (ids < 0) | (ids >= config.vocab_size)
    if outside.any():
        place = tuple(int(i) for i in np.argwhere(outside)[0])
        where = ", ".join(map(str, place))
        raise ValueError(
            f"{name}[{where}]: token id {ids[place]} is outside the vocabulary (0 to {config.vocab_size - 1})"
        )
    return np.ascontiguousarray(ids, dtype=np.int32)
