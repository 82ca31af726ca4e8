"""Scores of texts, ranked choices, and embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
_OVERFLOWS = ("error", "truncate")
_POOLINGS = ("mean", "last", "first", "max")
# Hidden states of this many tokens are in memory at once.
_GROUP_TOKENS = 8192


class TokenScores(NamedTuple):
    """Log-probabilities of a text's tokens; the first has none: NaN, and -1 for ids."""

    chosen: NDArray[np.float32]  # [tokens]
    top_ids: NDArray[np.int32]  # [tokens, top], the likeliest at each place
    top: NDArray[np.float32]  # [tokens, top], their log-probabilities
    unscored: tuple[int, ...]  # the places of tokens that have none


def score(
    model: LoadedModel,
    texts: Prompt | Sequence[Prompt],
    stride: int | None = None,
    context: Prompt | Sequence[Prompt] | None = None,
) -> Work[TextScore | list[TextScore]]:
    """See :meth:`gpt2fast.GPT2.score`."""
    ids, single = read_prompts(texts, model.config, model.tokenizer, name="text")
    before = _contexts(model, context, len(ids))
    whole = [start + one for start, one in zip(before, ids, strict=True)]
    first = [max(1, len(start)) for start in before]
    values = yield from token_logprobs(model, whole, stride=stride, first=first)
    scores = []
    for start, one, value in zip(before, ids, values, strict=True):
        unscored = tuple(place - len(start) for place in value.unscored if place >= len(start))
        scores.append(TextScore(one, value.chosen[len(start) :], unscored))
    return scores[0] if single else scores


def _contexts(model: LoadedModel, context: Prompt | Sequence[Prompt] | None, texts: int) -> list[list[int]]:
    """The tokens before each text: none, the same before all, or a list."""
    if context is None:
        return [[] for _ in range(texts)]
    ids, single = read_prompts(context, model.config, model.tokenizer, name="context")
    if not single and len(ids) != texts:
        raise ValueError(f"context must be one or as many as the texts ({texts}), got {len(ids)}")
    return ids * texts if single else ids


def perplexity(model: LoadedModel, text: Prompt, stride: int | None = None) -> Work[float]:
    """See :meth:`gpt2fast.GPT2.perplexity`."""
    ids = read_prompt(text, model.config, model.tokenizer, name="text")
    if len(ids) < 2:
        raise ValueError(f"text must have at least two tokens, got {len(ids)}: the first is not predicted")
    (value,) = yield from token_logprobs(model, [ids], stride=stride)
    return TextScore(ids, value.chosen, value.unscored).perplexity


def rank(
    model: LoadedModel,
    prompt: Prompt,
    choices: Sequence[Prompt],
    by: str,
    prefix: Prefix | None,
    overflow: str = "error",
    prefix_scope: int = 0,
) -> Work[list[RankedChoice]]:
    """See :meth:`gpt2fast.GPT2.rank`; for ``prefix_scope`` :func:`gpt2fast.inference.requests.read_call`."""
    by = Choice(_ORDERS)("by", by)
    overflow = Choice(_OVERFLOWS)("overflow", overflow)
    before = None
    if prefix is not None:
        Instance("gpt2fast.inference.prefix", "Prefix")("prefix", prefix).check_model(model)
        before = prefix.token_ids
    start = read_prompt(prompt, model.config, model.tokenizer, before=before)
    tokens = _read_choices(model, choices)
    ranked = []
    for cut, group in _cuts(model.config.n_positions, len(start), tokens, overflow).items():
        call = yield partial(
            model.engine.score_continuations,
            np.asarray(start[cut:], np.int32),
            _arrays([tokens[index] for index in group]),
            None if prefix is None or cut else prefix.core,
            prefix_scope,
        )
        for index, values in zip(group, call.results(), strict=True):
            choice, ids, logprobs = choices[index], tokens[index], values[0]
            total = math.fsum(logprobs.tolist())
            shown = choice if isinstance(choice, str) else ids
            ranked.append(RankedChoice(shown, index, ids, logprobs, total, total / len(ids)))
    ranked.sort(key=lambda one: one.index)
    return sorted(ranked, key=lambda one: getattr(one, by), reverse=True)


def _read_choices(model: LoadedModel, choices: Sequence[Prompt]) -> list[list[int]]:
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
        raise TypeError("choices must be a list of at least one text or list of token ids")
    # An empty one continues nothing: it becomes no token.
    tokens, single = read_prompts(choices, model.config, model.tokenizer, before=[], name="choice")
    if single:
        raise TypeError("choices must be a list of texts or of lists of token ids, got a list of ids")
    for index, ids in enumerate(tokens):
        if not ids:
            raise ValueError(f"choices[{index}] must not be empty")
    return tokens


def _cuts(
    n_positions: int, prompt_tokens: int, choices: Sequence[Sequence[int]], overflow: str
) -> dict[int, list[int]]:
    """How many of the prompt's first tokens are left out -> the indices of the choices read after the rest.

    As in lm-evaluation-harness, of prompt and choice the newest ``n_positions + 1`` tokens count: the last
    one is not read.
    """
    cuts: dict[int, list[int]] = {}
    for index, ids in enumerate(choices):
        cut = max(0, prompt_tokens + len(ids) - n_positions - 1)
        if cut and (overflow == "error" or cut >= prompt_tokens):
            advice = "give a shorter one" if cut >= prompt_tokens else "overflow='truncate' cuts the prompt"
            raise ValueError(
                f"choices[{index}] ({len(ids)} tokens) and the prompt ({prompt_tokens}) exceed the "
                f"model's n_positions ({n_positions}) by more than the last token, which needs none; {advice}"
            )
        cuts.setdefault(cut, []).append(index)
    return cuts


def token_logprobs(
    model: LoadedModel,
    sequences: Sequence[Sequence[int]],
    *,
    top: int = 0,
    stride: int | None = None,
    first: Sequence[int] | None = None,
) -> Work[list[TokenScores]]:
    """Log-probabilities of every token, and the ``top`` likeliest at its place, of texts of any length.

    With ``first``, of each text those from that place on.
    """
    n_positions = model.config.n_positions
    stride = max(1, n_positions // 2) if stride is None else Integer(1, n_positions)("stride", stride)
    arrays = _arrays(sequences)
    starts = [1] * len(arrays) if first is None else first
    places = [
        (index, window, max(window.first, starts[index]))
        for index, ids in enumerate(arrays)
        for window in windows(len(ids), n_positions, stride)
        if window.stop > starts[index]
    ]
    results = []
    for ids in arrays:
        # With a stride of the whole context, nothing precedes a window's first token.
        heads = range(0, len(ids), stride) if stride == n_positions else range(min(1, len(ids)))
        results.append(
            TokenScores(
                np.full(len(ids), np.nan, np.float32),
                np.full((len(ids), top), -1, np.int32),
                np.full((len(ids), top), np.nan, np.float32),
                tuple(heads),
            )
        )
    pieces = [arrays[index][window.start : window.stop] for index, window, _ in places]
    call = yield partial(
        model.engine.score, pieces, [begin - window.start for _, window, begin in places], top
    )
    for (index, _, begin), values in zip(places, call.results(), strict=True):
        read = len(values[0])  # fewer than the window's, or none, where a token has cancelled the call
        for result, value in zip(results[index][:3], values if read else (), strict=False):
            result[begin : begin + read] = value
    return results


def embed(
    model: LoadedModel,
    texts: Prompt | Sequence[Prompt],
    pooling: str,
    normalize: bool,
    layer: int | None = None,
) -> Work[NDArray[np.float32]]:
    """See :meth:`gpt2fast.GPT2.embed`."""
    pooling = Choice(_POOLINGS)("pooling", pooling)
    normalize = Flag()("normalize", normalize)
    ids, single = read_whole_texts(model, texts)
    vectors = np.empty((len(ids), model.config.n_embd), np.float32)
    if layer is not None:
        states = model.config.n_layer + 1
        layer = Integer(-states, states - 1)("layer", layer) % states

    def pool(index: int, states: NDArray[np.float32]) -> None:
        _pool(states, pooling, vectors[index])

    yield from read_hidden_states(model, ids, pool, layer)
    if normalize:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        vectors = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return vectors[0] if single else vectors


def read_whole_texts(model: LoadedModel, texts: Prompt | Sequence[Prompt]) -> tuple[list[list[int]], bool]:
    """Token ids of texts that fit the context, and whether the caller gave a single one."""
    ids, single = read_prompts(texts, model.config, model.tokenizer, name="text")
    for index, one in enumerate(ids):
        if len(one) > model.config.n_positions:
            raise ValueError(
                f"texts[{index}] has {len(one)} tokens, more than the model's n_positions "
                f"({model.config.n_positions})"
            )
    return ids, single


def read_hidden_states(
    model: LoadedModel,
    ids: Sequence[Sequence[int]],
    take: Callable[[int, NDArray[np.float32]], None],
    layer: int | None = None,
) -> Work[None]:
    """Call ``take`` with each text's index and hidden states [tokens, n_embd], in order.

    Of a ``layer`` below the number of layers, those before it; else the last.
    """
    layers = [] if layer is None or layer == model.config.n_layer else [layer]
    for group in _groups(ids):
        arrays = _arrays([ids[index] for index in group])
        call = yield partial(model.engine.forward, arrays, None, False, layers)
        hidden, _, inputs = call.results()
        chosen = [one[0] for one in inputs] if layers else hidden
        for index, states in zip(group, chosen, strict=True):
            take(index, states)


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
