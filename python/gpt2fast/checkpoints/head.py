"""Finds a model's heads: whether the tokens' is the table or a matrix of its own; one for classification."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from gpt2fast.checkpoints.base import LazyTensor, classifier_shapes
from gpt2fast.config import ClassifierConfig
from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2fast.config import ModelConfig

#: What the tensors of heads for classification are called.
CLASSIFIER_TENSORS = ("score.weight", "classifier.weight", "classifier.bias")
_CLASSIFIERS: dict[str, Literal["sequence", "token"]] = {
    "score.weight": "sequence",
    "classifier.weight": "token",
}

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


def find_classifier(
    config: ModelConfig, tensors: Mapping[str, LazyTensor], values: Mapping[str, Any], source: Path
) -> tuple[ModelConfig, dict[str, LazyTensor]]:
    """The head of ``GPT2ForSequenceClassification`` or ``GPT2ForTokenClassification``, if there is one.

    Parameters
    ----------
    config : ModelConfig
        Without classifier.
    tensors : mapping
        All tensors of the source by canonical name.
    values : mapping
        What its ``config.json`` holds: labels, problem type, padding token.
    source : Path
        Named in errors.

    Returns
    -------
    config, tensors
        With the classifier, and its tensors; those are none without one.

    Raises
    ------
    ModelError
        The configuration's labels don't fit the head; its bias is missing.
    """
    for name, kind in _CLASSIFIERS.items():
        shape = tensors[name].shape if name in tensors else ()
        if len(shape) != 2 or shape[1] != config.n_embd:
            continue
        where = f"{source}: config.json"
        classifier = ClassifierConfig.from_dict(values, kind, count=shape[0], where=where)
        config = replace(config, classifier=classifier)
        wanted = classifier_shapes(config)
        for other, needed in wanted.items():
            if other not in tensors or tensors[other].shape != needed:
                raise ModelError(
                    f"{source}: the tensor {other!r} must be there and have shape {list(needed)}"
                )
        return config, {one: tensors[one] for one in wanted}
    return config, {}


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
