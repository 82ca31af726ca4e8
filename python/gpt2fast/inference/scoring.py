"""Scores of texts, ranked choices, and embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpt2fast._validation import Choice, Flag, Instance, Integer
from gpt2fast.inference.results import RankedChoice, TextScore
from gpt2fast.inference.windows import windows
from gpt2fast.loading.loaded_model import LoadedModel
from gpt2fast.text.prompts import Prompt, read_prompt, read_prompts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.inference.prefix import Prefix
    from gpt2fast.inference.work import Work

_ORDERS = ("mean", "total")
_POOLINGS = ("mean", "last", "first", "max")
# Hidden states of this many tokens are in memory at once.
_GROUP_TOKENS = 8192


class TokenScores(NamedTuple):
    """Log-probabilities of a text's tokens; the first has none: NaN, and -1 for ids."""

    chosen: NDArray[np.float32]  # [tokens]
    top_ids: NDArray[np.int32]  # [tokens, top], the likeliest at each place
    top: NDArray[np.float32]  # [tokens, top], their log-probabilities


def score(
    model: LoadedModel, texts: Prompt | Sequence[Prompt], stride: int | None = None
) -> Work[TextScore | list[TextScore]]:
    """See :meth:`gpt2fast.GPT2.score`."""
    ids, single = read_prompts(texts, model.config, model.tokenizer, name="text")
    values = yield from token_logprobs(model, ids, stride=stride)
    scores = [TextScore(one, value.chosen) for one, value in zip(ids, values, strict=True)]
    return scores[0] if single else scores


def perplexity(model: LoadedModel, text: Prompt, stride: int | None = None) -> Work[float]:
    """See :meth:`gpt2fast.GPT2.perplexity`."""
    ids = read_prompt(text, model.config, model.tokenizer, name="text")
    if len(ids) < 2:
        raise ValueError(f"text must have at least two tokens, got {len(ids)}: the first is not predicted")
    (value,) = yield from token_logprobs(model, [ids], stride=stride)
    return TextScore(ids, value.chosen).perplexity


def rank(
    model: LoadedModel,
    prompt: Prompt,
    choices: Sequence[Prompt],
    by: str,
    prefix: Prefix | None,
    prefix_scope: int = 0,
) -> Work[list[RankedChoice]]:
    """See :meth:`gpt2fast.GPT2.rank`; for ``prefix_scope`` :func:`gpt2fast.inference.requests.read_call`."""
    Choice(_ORDERS)("by", by)
    before = None
    if prefix is not None:
        Instance("gpt2fast.inference.prefix", "Prefix")("prefix", prefix).check_model(model)
        before = prefix.token_ids
    start = read_prompt(prompt, model.config, model.tokenizer, before=before)
    tokens = _read_choices(model, choices, len(start))
    call = yield partial(
        model.engine.score_continuations,
        np.asarray(start, np.int32),
        _arrays(tokens),
        None if prefix is None else prefix.core,
        prefix_scope,
    )
    ranked = []
    for index, (choice, ids, values) in enumerate(zip(choices, tokens, call.results(), strict=True)):
        logprobs = values[0]
        total = math.fsum(logprobs.tolist())
        shown = choice if isinstance(choice, str) else ids
        ranked.append(RankedChoice(shown, index, ids, logprobs, total, total / len(ids)))
    return sorted(ranked, key=lambda one: getattr(one, by), reverse=True)


def _read_choices(model: LoadedModel, choices: Sequence[Prompt], prompt_tokens: int) -> list[list[int]]:
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
        raise TypeError("choices must be a list of at least one text or list of token ids")
    for index, choice in enumerate(choices):
        if len(choice) == 0:
            raise ValueError(f"choices[{index}] must not be empty")
    tokens, single = read_prompts(choices, model.config, model.tokenizer, name="choice")
    if single:
        raise TypeError("choices must be a list of texts or of lists of token ids, got a list of ids")
    for index, ids in enumerate(tokens):
        if prompt_tokens + len(ids) > model.config.n_positions:
            raise ValueError(
                f"choices[{index}] ({len(ids)} tokens) and the prompt ({prompt_tokens}) exceed the "
                f"model's n_positions ({model.config.n_positions})"
            )
    return tokens


def token_logprobs(
    model: LoadedModel, sequences: Sequence[Sequence[int]], *, top: int = 0, stride: int | None = None
) -> Work[list[TokenScores]]:
    """Log-probabilities of every token, and the ``top`` likeliest at its place, of texts of any length."""
    n_positions = model.config.n_positions
    # With a stride of the whole context, nothing would precede a window's first token.
    widest = max(1, n_positions - 1)
    stride = max(1, n_positions // 2) if stride is None else Integer(1, widest)("stride", stride)
    results = [
        TokenScores(
            np.full(len(ids), np.nan, np.float32),
            np.full((len(ids), top), -1, np.int32),
            np.full((len(ids), top), np.nan, np.float32),
        )
        for ids in sequences
    ]
    arrays = _arrays(sequences)
    places = [
        (index, window)
        for index, ids in enumerate(arrays)
        for window in windows(len(ids), n_positions, stride)
    ]
    pieces = [arrays[index][window.start : window.stop] for index, window in places]
    first = [window.first - window.start for _, window in places]
    call = yield partial(model.engine.score, pieces, first, top)
    for (index, window), values in zip(places, call.results(), strict=True):
        for result, value in zip(results[index], values, strict=True):
            result[window.first : window.stop] = value
    return results


def embed(
    model: LoadedModel, texts: Prompt | Sequence[Prompt], pooling: str, normalize: bool
) -> Work[NDArray[np.float32]]:
    """See :meth:`gpt2fast.GPT2.embed`."""
    Choice(_POOLINGS)("pooling", pooling)
    normalize = Flag()("normalize", normalize)
    ids, single = read_prompts(texts, model.config, model.tokenizer, name="text")
    for index, one in enumerate(ids):
        if len(one) > model.config.n_positions:
            raise ValueError(
                f"texts[{index}] has {len(one)} tokens, more than the model's n_positions "
                f"({model.config.n_positions})"
            )
    vectors = np.empty((len(ids), model.config.n_embd), np.float32)
    for group in _groups(ids):
        call = yield partial(model.engine.forward, _arrays([ids[index] for index in group]), None, False)
        hidden, _ = call.results()
        for index, states in zip(group, hidden, strict=True):
            _pool(states, pooling, vectors[index])
    if normalize:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        vectors = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return vectors[0] if single else vectors


def _arrays(sequences: Sequence[Sequence[int]]) -> list[NDArray[np.int32]]:
    return [np.asarray(ids, np.int32) for ids in sequences]


def _groups(sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of the sequences in order, in groups of about ``_GROUP_TOKENS``."""
    groups: list[list[int]] = []
    room = 0
    for index, ids in enumerate(sequences):
        if not groups or len(ids) > room:
            groups.append([])
            room = _GROUP_TOKENS
        groups[-1].append(index)
        room -= len(ids)
    return groups


def _pool(states: NDArray[np.float32], pooling: str, out: NDArray[np.float32]) -> None:
    """One vector [n_embd] of the hidden states [tokens, n_embd]."""
    if pooling == "mean":
        out[:] = np.mean(states, axis=0, dtype=np.float64)
    elif pooling == "max":
        out[:] = np.max(states, axis=0)
    else:
        out[:] = states[0 if pooling == "first" else -1]
