"""Measuring speed: what timings mean, and the cases that are run."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2fast import GPT2
from gpt2fast.evaluation.speed import (
    Case,
    Timing,
    draft_step_ms,
    fresh_prompts,
    run_cases,
    summarize,
    timing,
    token_arrivals,
    usual_cases,
)
from gpt2fast.loading.loaded_model import MAX_DECODE_SLOWDOWN


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(prefix_cache_bytes=0)


def test_timing_of_one_text() -> None:
    found = timing([[0.5, 0.6, 0.8, 0.9]])
    assert found.first_token_ms == pytest.approx(500)
    assert found.step_ms == pytest.approx(100)
    assert found.tokens_per_second == pytest.approx(3 / 0.4)


def test_timing_counts_texts_only_while_all_are_under_way() -> None:
    # Between 2.0 and 4.0 the first text has tokens at 3 and 4, the second at 3, 4.
    found = timing([[1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0, 6.0]])
    assert found == Timing(first_token_ms=2000, step_ms=1000, tokens_per_second=2)


def test_timing_of_texts_one_after_another_is_refused() -> None:
    with pytest.raises(ValueError, match="generate more tokens"):
        timing([[1.0, 2.0], [3.0, 4.0]])


def test_summary_is_median_and_quartiles() -> None:
    summary = summarize([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (summary.low, summary.median, summary.high) == (2, 3, 4)
    assert summarize([7.0]).high == 7


@pytest.mark.parametrize(("positions", "lengths"), [(1024, [10, 128, 512, 990]), (64, [8, 10, 30])])
def test_usual_cases_fit_the_positions(positions: int, lengths: list[int]) -> None:
    cases = usual_cases(positions, texts=(8,))
    assert [case.prompt_tokens for case in cases if case.texts == 1] == lengths
    assert cases[-1].name == f"8 x {positions // 8}"
    assert all(case.prompt_tokens + case.new_tokens <= positions for case in cases)


def test_fresh_prompts_differ_and_spare_the_end_of_text() -> None:
    generator = np.random.default_rng(1)
    prompts = fresh_prompts(generator, Case("", 2, 500, 1), 8)
    assert prompts[0] != prompts[1]
    assert {token for prompt in prompts for token in prompt} == set(range(7))


def test_every_token_arrives_in_order(model: GPT2) -> None:
    arrivals = token_arrivals(model.loaded, [[1, 2, 3], [4, 5, 6]], 7)
    assert [len(times) for times in arrivals] == [7, 7]
    assert all(times == sorted(times) and times[0] > 0 for times in arrivals)


def test_prompts_are_read_before_texts_go_on() -> None:
    with GPT2.from_pretrained(decode_slowdown=MAX_DECODE_SLOWDOWN) as model:
        token_arrivals(model.loaded, [[1, 2, 3]], 8)  # from then on the engine knows how long steps take
        prompts = fresh_prompts(np.random.default_rng(1), Case("", 8, 64, 24), 4096)
        arrivals = token_arrivals(model.loaded, prompts, 24)
    began = max(times[0] for times in arrivals)
    # 512 tokens of prompts, in steps of 128 rows of which running texts take at most 8.
    assert max(sum(at < began for at in times) for times in arrivals) <= 6


def test_cases_are_run_and_warmed_up(model: GPT2) -> None:
    seen: list[str] = []
    [(case, timings)] = run_cases(model.loaded, [Case("mine", 2, 5, 4)], 3, seen.append)
    assert (case.name, len(timings), seen) == ("mine", 3, ["mine"])


@pytest.mark.parametrize("drafts", [0, 4])
def test_draft_steps_take_time(model: GPT2, drafts: int) -> None:
    assert draft_step_ms(model.loaded, context=40, drafts=drafts, steps=3) > 0
