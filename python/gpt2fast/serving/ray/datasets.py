"""Callables for Ray Data's ``map_batches``: texts, scores and embeddings of a dataset's rows.

Their calls are coroutines, so that an actor works on several batches at once. All of them share the steps of
its model, which stay full while one batch ends and the next begins.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from gpt2fast.inference import scoring
from gpt2fast.inference.options import GenerationOptions
from gpt2fast.inference.work import arun
from gpt2fast.model import GPT2
from gpt2fast.serving.ray.cores import assigned_cores

#: Columns by name, each with a value for every row: Ray Data's batches of the format ``"numpy"``.
Batch = dict[str, Any]
Source = str | os.PathLike[str] | None


class _Callable:
    """A model in an actor, and the column that it reads.

    Parameters
    ----------
    model : str or path, optional
        As for :meth:`gpt2fast.GPT2.from_pretrained`; a path is that of each node. A checkpoint is converted
        once for each node.
    column : str
        The column of the texts: strings or token ids.
    load : mapping, optional
        Other arguments of ``from_pretrained``, such as ``{"precision": "int4"}``. By default ``threads`` are
        the cores that Ray sets aside for the actor (``num_cpus`` of ``map_batches``).
    """

    def __init__(self, model: Source, column: str, load: Mapping[str, Any] | None) -> None:
        self._column = column
        self._model = GPT2.from_pretrained(model, **{"threads": assigned_cores(), **(load or {})})

    def _texts(self, batch: Batch) -> list[Any]:
        """The texts: each a string or an integer array."""
        values = _column(batch, self._column)
        return [value if isinstance(value, str) else np.asarray(value) for value in values]


class Generate(_Callable):
    """Adds ``text``, ``token_ids``, ``finish_reason`` and, where tokens are drawn, ``seed`` to rows.

    A row's text is that of ``model.generate(prompt, **options)`` and depends on nothing else: with a seed it
    is the same when the row is done again after a failure.

    Parameters
    ----------
    model, column, load
        The model, the prompts' column, and how to load it.
    seed_column : str, optional
        Column with the seed of each row. Without it, and without the option ``seed``, seeds are drawn.
    **options
        Options of :class:`gpt2fast.GenerationOptions`.

    Raises
    ------
    TypeError, ValueError
        A wrong option, a prompt that is too long: see :meth:`gpt2fast.GPT2.generate`; or a missing column.
    """

    def __init__(
        self,
        model: Source = None,
        *,
        column: str = "prompt",
        seed_column: str | None = None,
        load: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._options = GenerationOptions.make(None, options)
        if (self._options.num_return_sequences or 1) > 1:
            raise ValueError(
                f"num_return_sequences must be 1, got {self._options.num_return_sequences}: a row has one "
                f"text; repeat rows, each with a seed in seed_column"
            )
        super().__init__(model, column, load)
        self._seed_column = seed_column

    async def __call__(self, batch: Batch) -> Batch:
        """The batch with the new columns."""
        prompts = self._texts(batch)
        seeds: list[dict[str, Any]] = [{} for _ in prompts]
        if self._seed_column is not None:
            seeds = [{"seed": int(seed)} for seed in _column(batch, self._seed_column)]
        results = await asyncio.gather(
            *(
                self._model.agenerate(prompt, self._options, **seed)
                for prompt, seed in zip(prompts, seeds, strict=True)
            )
        )
        found: Batch = {
            **batch,
            "text": np.array([one.text for one in results], object),
            "token_ids": _lists([one.token_ids for one in results]),
            "finish_reason": np.array([one.finish_reason for one in results], object),
        }
        if all(one.seed is not None for one in results):
            found["seed"] = np.array([one.seed for one in results], np.uint64)
        return found


class Score(_Callable):
    """Adds ``total_logprob``, ``mean_logprob``, ``perplexity`` and ``token_count`` to rows.

    Texts may have any length.

    Parameters
    ----------
    model, column, load
        The model, the texts' column, and how to load it.
    stride : int, optional
        See :meth:`gpt2fast.GPT2.score`.
    token_logprobs : bool
        Also ``token_ids`` and ``token_logprobs`` of each text; the first token has none: NaN.

    Raises
    ------
    TypeError, ValueError
        A wrong text or stride, or a missing column.
    """

    def __init__(
        self,
        model: Source = None,
        *,
        column: str = "text",
        stride: int | None = None,
        token_logprobs: bool = False,
        load: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, column, load)
        self._stride = stride
        self._token_logprobs = token_logprobs

    async def __call__(self, batch: Batch) -> Batch:
        """The batch with the new columns."""
        scores = await arun(scoring.score(self._model.loaded, self._texts(batch), self._stride))
        assert isinstance(scores, list)
        found: Batch = {
            **batch,
            "total_logprob": np.array([one.total for one in scores]),
            "mean_logprob": np.array([one.mean for one in scores]),
            "perplexity": np.array([one.perplexity for one in scores]),
            "token_count": np.array([len(one.token_ids) for one in scores]),
        }
        if self._token_logprobs:
            found["token_ids"] = _lists([one.token_ids for one in scores])
            found["token_logprobs"] = _lists([one.logprobs.tolist() for one in scores])
        return found


class Embed(_Callable):
    """Adds ``embedding``, a float32 vector, to rows with texts.

    Parameters
    ----------
    model, column, load
        The model, the texts' column, and how to load it.
    pooling, normalize
        See :meth:`gpt2fast.GPT2.embed`.

    Raises
    ------
    TypeError, ValueError
        A wrong argument, a text that is too long, or a missing column.
    """

    def __init__(
        self,
        model: Source = None,
        *,
        column: str = "text",
        pooling: Literal["mean", "last", "first", "max"] = "mean",
        normalize: bool = False,
        load: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, column, load)
        self._pooling = pooling
        self._normalize = normalize

    async def __call__(self, batch: Batch) -> Batch:
        """The batch with the new column."""
        work = scoring.embed(self._model.loaded, self._texts(batch), self._pooling, self._normalize)
        return {**batch, "embedding": await arun(work)}


def _column(batch: Batch, name: str) -> Any:
    if name not in batch:
        raise ValueError(f"rows have no column {name!r}; theirs are {', '.join(map(repr, batch))}")
    return batch[name]


def _lists(values: list[list[Any]]) -> Any:
    """Lists as a column, [rows] of objects; of arrays Ray would make tensors, which only Ray can read."""
    found = np.empty(len(values), object)
    for index, one in enumerate(values):
        found[index] = one
    return found
