"""Searches with beams: scores, log-probabilities, stop strings, what ends them."""

from __future__ import annotations

from typing import Any

import pytest

from gpt2fast import GPT2, CancelToken, Generation

PROMPTS = ["Once upon a time", "The King said", "", "A wolf"]


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained()


def test_one_beam_more_finds_a_likelier_text(model: GPT2) -> None:
    (greedy,) = model.generate([PROMPTS[0]], max_new_tokens=12, eos_token_id=[], logprobs=0)
    beams = model.generate(
        PROMPTS[0], max_new_tokens=12, eos_token_id=[], num_beams=8, num_return_sequences=8
    )
    assert greedy.logprobs is not None
    scores = [one.score or 0.0 for one in beams]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] >= float(greedy.logprobs.chosen.mean())
    assert len({tuple(one.token_ids) for one in beams}) == 8
    again = model.score(beams[0].prompt_token_ids + beams[0].token_ids).logprobs[-12:]
    assert scores[0] == pytest.approx(float(again.mean()), rel=1e-4)


def test_beams_of_several_prompts(model: GPT2) -> None:
    together = model.generate(PROMPTS, max_new_tokens=10, num_beams=3, num_return_sequences=2)
    alone = [
        one
        for p in PROMPTS
        for one in model.generate(p, max_new_tokens=10, num_beams=3, num_return_sequences=2)
    ]
    assert together == alone
    assert isinstance(model.generate("Once", max_new_tokens=3, num_beams=2), Generation)


def test_a_search_that_is_ended_returns_what_it_found(model: GPT2) -> None:
    token = CancelToken()
    token.cancel()
    results = model.generate(PROMPTS, num_beams=3, cancel=token)
    assert [(one.finish_reason, one.token_ids) for one in results] == [("cancelled", [])] * 4
    results = model.generate(PROMPTS, num_beams=3, max_time=1e-9)
    assert [(one.finish_reason, one.token_ids) for one in results] == [("time", [])] * 4
    # This many rounds take longer than the limit on any machine, so the text found is shorter.
    out = model.generate("Once", num_beams=24, max_new_tokens=500, max_time=0.02, eos_token_id=[])
    assert out.finish_reason == "time"
    assert len(out.token_ids) < 500
    free = model.generate("Once", num_beams=3, max_new_tokens=4, cancel=CancelToken(), max_time=1e9)
    assert free == model.generate("Once", num_beams=3, max_new_tokens=4)


@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.3}, {"stop_strings": ["e", " a"]}], ids=str)
def test_the_log_probabilities_of_beams_are_those_of_score(model: GPT2, options: dict[str, Any]) -> None:
    options |= {"max_new_tokens": 12, "num_beams": 4, "num_return_sequences": 4}
    plain = model.generate(PROMPTS[0], **options)
    found = model.generate(PROMPTS[0], **options, logprobs=3)
    assert found == plain
    assert len(found) == 4
    for one in found:
        again = model.score(one.token_ids, context=one.prompt_token_ids)
        assert one.logprobs is not None
        assert one.logprobs.chosen.tobytes() == again.logprobs.tobytes()
        assert one.logprobs.top_ids.shape == (len(one.token_ids), 3)
        if "repetition_penalty" not in options:
            assert one.score == pytest.approx(float(one.logprobs.chosen.mean()), rel=1e-5)


def test_the_likeliest_at_each_place_of_a_beam(model: GPT2) -> None:
    (one,) = model.generate([PROMPTS[0]], max_new_tokens=9, num_beams=3, eos_token_id=[], logprobs=4)
    forced = model.generate(
        PROMPTS[0], max_new_tokens=9, forced_prefix=one.token_ids, eos_token_id=[], logprobs=4
    )
    assert one.logprobs is not None
    assert forced.logprobs is not None
    for name in ("chosen", "top_ids", "top"):
        assert getattr(one.logprobs, name).tobytes() == getattr(forced.logprobs, name).tobytes()


def test_echoed_log_probabilities_of_beams(model: GPT2) -> None:
    options: dict[str, Any] = {"max_new_tokens": 5, "num_beams": 2, "logprobs": 1}
    plain = model.generate(PROMPTS[0], **options)
    echoed = model.generate(PROMPTS[0], **options, echo=True)
    assert plain.logprobs is not None
    assert echoed.logprobs is not None
    assert echoed.text == PROMPTS[0] + plain.text
    prompt = len(plain.prompt_token_ids)
    assert echoed.logprobs.chosen[prompt:].tolist() == plain.logprobs.chosen.tolist()
    assert echoed.logprobs.chosen[1:prompt].tolist() == model.score(PROMPTS[0]).logprobs[1:].tolist()


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_ends_a_beam(model: GPT2, include: bool) -> None:
    stop = ["e ", ". ", "wa"]
    found = model.generate(
        PROMPTS[:2],
        max_new_tokens=12,
        eos_token_id=[],
        num_beams=4,
        num_return_sequences=4,
        stop_strings=stop,
        include_stop_string=include,
    )
    assert {one.finish_reason for one in found} >= {"stop"}
    for number, one in enumerate(found):
        prompt = PROMPTS[number // 4]
        whole = prompt + model.tokenizer.decode(one.token_ids)
        starts = {text: whole.find(text, len(prompt) - len(text) + 1) for text in stop}
        ends = [start + len(text) * include for text, start in starts.items() if start >= 0]
        assert (one.finish_reason == "stop") == bool(ends)
        assert one.text == whole[len(prompt) : max(len(prompt), min(ends, default=len(whole)))]


def test_more_beams_than_sequences_are_refused() -> None:
    small = GPT2.from_pretrained(max_sequences=2)
    with pytest.raises(ValueError, match=r"num_beams \(3\) must not exceed max_sequences \(2\)"):
        small.generate("Once", num_beams=3)
