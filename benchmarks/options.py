"""``python -m benchmarks.options``: the cost of decoding options, and what draft tokens and prefixes save.

Random weights of 124M's size in int8, one text at a time; variants take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.checkpoints import EMBEDDED, checkpoint_directory
from benchmarks.report import spread, table
from gpt2fast import GPT2
from gpt2fast._native import core
from gpt2fast.evaluation.speed import token_arrivals

_NEW_TOKENS = 65
_DRAFTS = 8
_Prompt = list[int]


def main() -> None:
    """Parse the command line, measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.options", description=__doc__)
    parser.add_argument("--size", default="124M")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int, default=core.usable_cores())
    parser.add_argument("--repeats", type=int, default=5, help="runs of each variant (default: 5)")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    load = {"precision": arguments.precision, "threads": arguments.threads}
    model = GPT2.from_pretrained(checkpoint_directory(arguments.size, arguments.work.resolve()), **load)
    generator = np.random.default_rng()
    print(f"## Cost of options, {arguments.size} {arguments.precision}, {model.threads} threads\n")
    print(option_costs(model, generator, arguments.repeats))
    print("\n## Draft tokens\n")
    tale_teller = GPT2.from_pretrained(checkpoint_directory(EMBEDDED, arguments.work), **load)
    print(draft_savings(model, tale_teller, generator, arguments.repeats))
    print("\n## Prefixes\n")
    print(prefix_savings(model, generator, arguments.repeats))


def option_costs(model: GPT2, generator: np.random.Generator, repeats: int) -> str:
    """A table of milliseconds per step with each option, and the ratio to greedy."""
    variants = _variants(model, generator)
    steps: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name, options in variants.items():
            taken = _step_ms(model, _fresh(model, generator, 128), options)
            if repeat > 0:
                steps[name].append(taken)
    greedy = median(steps["greedy"])
    rows = [[name, spread(taken), f"{median(taken) / greedy:.3f}"] for name, taken in steps.items()]
    return table(["", "ms per token", "to greedy"], rows)


def _variants(model: GPT2, generator: np.random.Generator) -> dict[str, Mapping[str, Any]]:
    """Options by title."""
    some_ids = _fresh(model, generator, 200)
    sampling = {"temperature": 0.8, "seed": 1}

    def add_nothing(prompt: object, output: object, scores: NDArray[np.float32]) -> None:
        scores += 0.0

    return {
        "greedy": {},
        "temperature": sampling,
        "top_k=50": {**sampling, "top_k": 50},
        "top_p=0.95": {**sampling, "top_p": 0.95},
        "min_p=0.05": {**sampling, "min_p": 0.05},
        "typical_p=0.9": {**sampling, "typical_p": 0.9},
        "repetition_penalty": {"repetition_penalty": 1.2},
        "presence and frequency_penalty": {"presence_penalty": 0.5, "frequency_penalty": 0.5},
        "no_repeat_ngram_size=3": {"no_repeat_ngram_size": 3},
        "suppress_tokens, 200": {"suppress_tokens": some_ids},
        "bad_words, 100 pairs": {"bad_words": [some_ids[i : i + 2] for i in range(0, 200, 2)]},
        "logit_bias, 200": {"logit_bias": dict.fromkeys(some_ids, 1.0)},
        "logprobs=5": {"logprobs": 5},
        "stop_strings": {"stop_strings": ["never in the output", "\n\n\n"]},
        "top_k, top_p, repetition_penalty": {
            **sampling,
            "top_k": 50,
            "top_p": 0.95,
            "repetition_penalty": 1.2,
        },
        "logits_processor in Python": {"logits_processor": add_nothing},
    }


def draft_savings(model: GPT2, tale_teller: GPT2, generator: np.random.Generator, repeats: int) -> str:
    """A table of milliseconds per token without and with ``prompt_lookup_num_tokens``, and the ratio."""
    forced = {"logit_bias": {7: 1e6}}
    rows = []
    for title, chosen, options, prompt_tokens in (
        ("every draft right (one token, forced)", model, forced, 128),
        ("nothing matches (random tokens drawn)", model, {"temperature": 1.0, "seed": 1}, 128),
        ("a tale told twice, then once more", tale_teller, {}, 0),
        ("a tale, drawn at temperature 1", tale_teller, {"temperature": 1.0, "seed": 1}, 0),
    ):
        plain, drafted = [], []
        for repeat in range(repeats + 1):
            prompt = _fresh(chosen, generator, prompt_tokens) if prompt_tokens else _told_twice(chosen)
            without = _token_ms(chosen, prompt, options)
            within = _token_ms(chosen, prompt, {**options, "prompt_lookup_num_tokens": _DRAFTS})
            if repeat > 0:
                plain.append(without)
                drafted.append(within)
        speedup = f"{median(plain) / median(drafted):.2f}"
        rows.append([title, spread(plain), spread(drafted), speedup])
    return table(["", "ms per token", f"with {_DRAFTS} draft tokens", "times faster"], rows)


def prefix_savings(model: GPT2, generator: np.random.Generator, repeats: int) -> str:
    """A table of milliseconds to the first token of prompts with a known beginning."""
    known, more = model.config.n_positions // 2, 16
    taken: dict[str, list[float]] = {"unknown": [], "from the prefix cache": [], "prefix=": []}
    for repeat in range(repeats + 1):
        beginning = _fresh(model, generator, known)
        measured = {
            "unknown": _first_ms(model, beginning + _fresh(model, generator, more), {}),
            "from the prefix cache": _first_ms(model, beginning + _fresh(model, generator, more), {}),
            "prefix=": _first_ms(
                model,
                _fresh(model, generator, more),
                {"prefix": model.prefill(_fresh(model, generator, known))},
            ),
        }
        if repeat > 0:
            for name, milliseconds in measured.items():
                taken[name].append(milliseconds)
    rows = [[name, spread(milliseconds)] for name, milliseconds in taken.items()]
    return table([f"prompt of {known} + {more} tokens, the first {known}", "ms to the first token"], rows)


def _fresh(model: GPT2, generator: np.random.Generator, tokens: int) -> _Prompt:
    ids: _Prompt = generator.integers(0, model.config.vocab_size - 1, tokens).tolist()
    return ids


def _told_twice(model: GPT2) -> _Prompt:
    """A tale twice, and its first sentence once more."""
    start = model.tokenizer.encode("Once upon a time there was a king who had a daughter. ")
    told = model.generate(start, max_new_tokens=64, eos_token_id=[])
    return (start + told.token_ids) * 2 + start


def _step_ms(model: GPT2, prompt: _Prompt, options: Mapping[str, Any]) -> float:
    times = token_arrivals(model.loaded, [prompt], _NEW_TOKENS, **options)[0]
    return float(np.median(np.diff(times))) * 1e3


def _token_ms(model: GPT2, prompt: _Prompt, options: Mapping[str, Any]) -> float:
    """The mean over all tokens but the first, whose time is the prompt's."""
    times = token_arrivals(model.loaded, [prompt], _NEW_TOKENS, **options)[0]
    return (times[-1] - times[0]) / (len(times) - 1) * 1e3


def _first_ms(model: GPT2, prompt: _Prompt, options: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    model.generate(prompt, max_new_tokens=1, eos_token_id=[], **options)
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
