"""Decides whether a model's head is its token table or a matrix of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from gpt2fast.checkpoints.base import LazyTensor
from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2fast.config import ModelConfig

_TABLE, _HEAD = "wte.weight", "lm_head.weight"
_COMPARED_BYTES = 16 << 20


def settle_head(
    config: ModelConfig, tensors: Mapping[str, LazyTensor], source: Path
) -> tuple[ModelConfig, dict[str, LazyTensor]]:
    """Make ``tie_word_embeddings`` true to the tensors that are there.

    As in ``transformers``, a head that differs from the table is used, whatever the configuration says; one
    that equals it is dropped if the configuration ties them. Rows of zeros beyond the table, which some
    exporters add for the sake of speed, stand for no token and are cut off.

    Parameters
    ----------
    config : ModelConfig
        What the source says.
    tensors : mapping
        Tensors by canonical name, with or without ``lm_head.weight``.
    source : Path
        Named in errors.

    Returns
    -------
    config, tensors
        With the head that the model has.

    Raises
    ------
    ModelError
        The head has rows beyond the table that are not zero.
    """
    tensors = dict(tensors)
    head, table = tensors.get(_HEAD), tensors.get(_TABLE)
    if head is None or table is None:
        return config, tensors
    if len(head.shape) == 2 and head.shape[1:] == table.shape[1:] and head.shape[0] > table.shape[0]:
        head = tensors[_HEAD] = _without_padding(head, table.shape[0], source)
    if config.tie_word_embeddings:
        if _same(head, table):
            del tensors[_HEAD]
        else:
            config = replace(config, tie_word_embeddings=False)
    return config, tensors


def _without_padding(head: LazyTensor, rows: int, source: Path) -> LazyTensor:
    for start, stop in _row_ranges(head, rows):
        if head.read_rows(start, stop).any():
            raise ModelError(
                f"{source}: the tensor {_HEAD!r} has {head.shape[0]} rows, the token table {rows}; the rows "
                f"beyond it may only be zeros"
            )
    return LazyTensor((rows, *head.shape[1:]), head.read_rows)


def _same(head: LazyTensor, table: LazyTensor) -> bool:
    import numpy as np

    return head is table or (
        head.shape == table.shape
        and all(
            np.array_equal(head.read_rows(start, stop), table.read_rows(start, stop), equal_nan=True)
            for start, stop in _row_ranges(head, 0)
        )
    )


def _row_ranges(tensor: LazyTensor, start: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows from ``start`` on, each of a bounded size."""
    step = max(1, _COMPARED_BYTES // (4 * max(1, math.prod(tensor.shape[1:]))))
    for first in range(start, tensor.shape[0], step):
        yield first, min(first + step, tensor.shape[0])
