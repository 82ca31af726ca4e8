"""Measures a model's speed on this machine, for ``gpt2fast bench`` and for comparisons."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gpt2fast.inference.outputs import stream
from gpt2fast.inference.requests import read_call
from gpt2fast.loading.loaded_model import LoadedModel

#: When each token of each text arrived, in seconds since the call.
Arrivals = list[list[float]]

_FORCED_TOKEN = 1


@dataclass(frozen=True)
class Case:
    """Texts to generate together from fresh prompts.

    Attributes
    ----------
    name : str
        Names the case in tables.
    texts, prompt_tokens, new_tokens : int
        The number of texts, and for each the tokens of the prompt and the tokens to generate.
    """

    name: str
    texts: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Timing:
    """The times of one run of a case.

    Attributes
    ----------
    first_token_ms : float
        Time until the last text has its first token.
    step_ms : float
        Median time between a text's tokens while all texts are being generated.
    tokens_per_second : float
        Tokens of all texts per second while all are being generated.
    """

    first_token_ms: float
    step_ms: float
    tokens_per_second: float


@dataclass(frozen=True)
class Summary:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float


def summarize(values: Sequence[float]) -> Summary:
    """Median and quartiles of at least one value."""
    if len(values) == 1:
        return Summary(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Summary(median, low, high)


def usual_cases(n_positions: int, texts: Sequence[int] = (8, 32), new_tokens: int = 33) -> list[Case]:
    """One text after a short, a typical, a longer and a full prompt; then several texts together.

    Prompts of 10, 128, 512 and 990 tokens for a model of 1,024 positions, in proportion for others.
    """
    lengths = sorted({10, n_positions // 8, n_positions // 2, n_positions - 34})
    lengths = [length for length in lengths if 0 < length <= n_positions - new_tokens]
    cases = [Case(f"1 x {length}", 1, length, new_tokens) for length in lengths]
    shared = n_positions // 8
    # The first of several texts has a token in each of the steps that read the prompts of the others.
    return cases + [
        Case(f"{count} x {shared}", count, shared, min(new_tokens + 2 * count, n_positions - shared))
        for count in texts
    ]


def fresh_prompts(generator: np.random.Generator, case: Case, vocab_size: int) -> list[list[int]]:
    """Random token ids, so that no cached prompt helps."""
    ids = generator.integers(0, vocab_size - 1, (case.texts, case.prompt_tokens))
    prompts: list[list[int]] = ids.tolist()
    return prompts


def token_arrivals(model: LoadedModel, prompts: list[list[int]], new_tokens: int, **options: Any) -> Arrivals:
    """The arrival times of tokens in a stream of texts that all have ``new_tokens`` tokens."""
    options |= {"max_new_tokens": new_tokens, "eos_token_id": [], "use_prefix_cache": False}
    arrivals: Arrivals = [[] for _ in prompts]
    start = time.perf_counter()
    for chunk in stream(model, read_call(model, prompts, overrides=options)):
        now = time.perf_counter() - start
        arrivals[chunk.index].extend([now] * len(chunk.token_ids))
    return arrivals


def timing(arrivals: Arrivals) -> Timing:
    """The timing that follows from arrivals of at least two tokens for each text."""
    started = max(times[0] for times in arrivals)
    ended = min(times[-1] for times in arrivals)
    counted = [[at for at in times if started <= at <= ended] for times in arrivals]
    steps = [after - before for times in counted for before, after in pairwise(times)]
    if not steps:
        raise ValueError("the texts were not generated together; generate more tokens")
    tokens = sum(at > started for times in arrivals for at in times if at <= ended)
    return Timing(
        first_token_ms=started * 1e3,
        step_ms=statistics.median(steps) * 1e3,
        tokens_per_second=tokens / (ended - started),
    )


def draft_step_ms(model: LoadedModel, context: int, drafts: int, steps: int, first_token: int = 0) -> float:
    """Median time of a step that verifies ``drafts`` draft tokens of one text, all of them right.

    ``logit_bias`` forces the output to one token, so that looking it up in the prompt always succeeds; with
    ``drafts=0`` plain steps make the same text.
    """
    prompt = [first_token] + [_FORCED_TOKEN] * (context - 1)
    # The length of drafts adapts to success and takes a few steps to reach its maximum.
    new_tokens = (steps + 4) * (drafts + 1)
    arrivals = token_arrivals(
        model, [prompt], new_tokens, logit_bias={_FORCED_TOKEN: 1e6}, prompt_lookup_num_tokens=drafts
    )
    ends = sorted(set(arrivals[0]))
    full = [after - before for before, after in pairwise(ends) if arrivals[0].count(after) == drafts + 1]
    if not full:
        raise RuntimeError(f"no step took {drafts} draft tokens")
    return statistics.median(full) * 1e3


def run_cases(
    model: LoadedModel, cases: Sequence[Case], repeats: int, progress: Callable[[str], None] | None = None
) -> Iterator[tuple[Case, list[Timing]]]:
    """Each case's timings, over fresh prompts, after one run to warm up."""
    generator = np.random.default_rng()
    for case in cases:
        if progress is not None:
            progress(case.name)
        timings = []
        for repeat in range(repeats + 1):
            prompts = fresh_prompts(generator, case, model.config.vocab_size)
            measured = timing(token_arrivals(model, prompts, case.new_tokens))
            if repeat > 0:
                timings.append(measured)
        yield case, timings
