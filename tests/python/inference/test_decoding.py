"""Decoding options: best_of, processors, echo, cancel, stop strings, random combinations."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2fast import GPT2, CancelToken, Generation, GenerationOptions
from gpt2fast._native import core
from support.random_models import write_shape

PROMPTS = ["Once upon a time", "The King said", "", "A wolf"]
ENDLESS: dict[str, Any] = {"max_new_tokens": 10_000_000, "overflow": "slide", "eos_token_id": []}


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained()


def token_ids(results: list[Generation]) -> list[list[int]]:
    return [one.token_ids for one in results]


def test_best_of_keeps_the_likeliest(model: GPT2) -> None:
    drawn = model.generate(
        PROMPTS, max_new_tokens=9, num_return_sequences=5, seed=3, temperature=1.2, logprobs=0
    )
    best = model.generate(
        PROMPTS, max_new_tokens=9, best_of=5, num_return_sequences=2, seed=3, temperature=1.2
    )
    means = [float(np.mean(one.logprobs.chosen)) for one in drawn if one.logprobs is not None]
    for prompt in range(len(PROMPTS)):
        order = sorted(range(5), key=lambda i: -means[5 * prompt + i])[:2]
        kept = best[2 * prompt : 2 * prompt + 2]
        assert token_ids(kept) == [drawn[5 * prompt + i].token_ids for i in order]
        assert [one.seed for one in kept] == [3 + i for i in order]
        assert [one.score for one in kept] == pytest.approx([means[5 * prompt + i] for i in order])
        assert kept[0].logprobs is None


def test_best_of_prefers_what_has_tokens(model: GPT2) -> None:
    """A text that was ended before its first token has no log-probability that it could be chosen by."""
    token = CancelToken()

    def end(_prompt: Any, output: NDArray[np.int32], _scores: Any) -> None:
        if len(output) == 2:
            token.cancel()

    with GPT2.from_pretrained(max_sequences=1) as one_at_a_time:
        texts = one_at_a_time.generate(
            "Once", best_of=3, num_return_sequences=3, seed=1, cancel=token, logits_processor=end, **ENDLESS
        )
    assert [len(one.token_ids) >= 2 for one in texts] == [True, False, False]
    assert texts[0].score is not None
    assert [one.score for one in texts[1:]] == [None, None]


def test_a_processor_changes_the_scores(model: GPT2) -> None:
    seen: list[tuple[list[int], list[int], NDArray[np.float32]]] = []

    def only_seven(prompt: NDArray[np.int32], output: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        seen.append((prompt.tolist(), output.tolist(), scores))
        scores[7] = scores.max() + 1

    def then_eight(_prompt: Any, output: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        if len(output) == 2:
            scores[8] = scores.max() + 1

    out = model.generate("Once", max_new_tokens=4, logits_processor=[only_seven, then_eight])
    assert out.token_ids == [7, 7, 8, 7]
    assert [place[0] for place in seen] == [out.prompt_token_ids] * 4
    assert [place[1] for place in seen] == [out.token_ids[:i] for i in range(4)]
    assert all(np.isfinite(scores).all() for _, _, scores in seen)
    chunks = list(model.stream(["Once", "A"], max_new_tokens=2, logits_processor=only_seven))
    assert {token for chunk in chunks for token in chunk.token_ids} == {7}


def test_a_processor_that_does_nothing_changes_nothing(model: GPT2) -> None:
    options: dict[str, Any] = {"max_new_tokens": 20, "seed": 4, "top_p": 0.9, "repetition_penalty": 1.2}
    options["use_prefix_cache"] = False  # results say how many tokens were found there
    plain = model.generate(PROMPTS, **options)
    assert model.generate(PROMPTS, logits_processor=lambda *_: None, **options) == plain


def test_a_processors_errors_propagate(model: GPT2) -> None:
    def fail(*_: Any) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        model.generate(PROMPTS, logits_processor=fail)
    with pytest.raises(TypeError, match="logits_processor must change the scores in place and return None"):
        model.generate("Once", logits_processor=lambda *_: 5)
    assert model.generate("Once", max_new_tokens=2).text


def test_a_processor_that_runs_out_of_its_iterator_is_an_error(model: GPT2) -> None:
    def exhausted(*_: Any) -> None:
        next(iter(()))

    options = {"logits_processor": exhausted, "max_new_tokens": 2}
    with pytest.raises(RuntimeError, match="a logits processor raised StopIteration"):
        model.generate("Once", **options)
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(model.agenerate("Once", **options))
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(model.stream("Once", **options))
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(model.generate_many(PROMPTS, **options))


def test_penalties_follow_their_formulas() -> None:
    options = core.GenerationOptions()
    options.presence_penalty, options.frequency_penalty = 0.5, 0.25
    logits = np.linspace(-1, 1, 8).astype(np.float32)
    output = np.array([3, 4, 3, 3], np.int32)
    found = core.next_token_distribution(core.Request([1, 2]), options, output, logits)
    wanted = logits.astype(np.float64)
    wanted[3] -= 0.5 + 3 * 0.25
    wanted[4] -= 0.5 + 0.25
    np.testing.assert_allclose(found, np.exp(wanted) / np.exp(wanted).sum(), rtol=1e-5)


def test_echo_puts_the_prompt_in_front(model: GPT2) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "logprobs": 3}
    plain = model.generate(PROMPTS, **options)
    for one, echoed in zip(plain, model.generate(PROMPTS, echo=True, **options), strict=True):
        assert echoed.text == model.tokenizer.decode(one.prompt_token_ids) + one.text
        assert echoed.token_ids == one.token_ids
        assert one.logprobs is not None
        assert echoed.logprobs is not None
        tokens = len(one.prompt_token_ids)
        assert echoed.logprobs.top.shape == (tokens + 6, 3)
        assert math.isnan(echoed.logprobs.chosen[0])
        assert (echoed.logprobs.top_ids[0] == -1).all()
        np.testing.assert_array_equal(echoed.logprobs.chosen[tokens:], one.logprobs.chosen)
        score = model.score(one.prompt_token_ids + one.token_ids)
        np.testing.assert_array_equal(echoed.logprobs.chosen, score.logprobs)
    streamed = "".join(chunk.text for chunk in model.stream("Once", max_new_tokens=6, echo=True))
    assert streamed == model.generate("Once", max_new_tokens=6, echo=True).text


@pytest.mark.parametrize("tokens", [0, 2])
def test_a_cancelled_text_may_have_an_unread_prompt_in_front(model: GPT2, tokens: int) -> None:
    """The log-probabilities of the prompt are read beside the text, as far as they come."""
    token = CancelToken()

    def end(_prompt: Any, output: NDArray[np.int32], _scores: Any) -> None:
        if len(output) == tokens:
            token.cancel()

    out = model.generate(PROMPTS[0], echo=True, logprobs=2, cancel=token, logits_processor=end, **ENDLESS)
    assert out.finish_reason == "cancelled"
    assert out.logprobs is not None
    prompt = len(out.prompt_token_ids)
    assert out.logprobs.top.shape == (prompt + len(out.token_ids), 2)
    read = model.score(out.prompt_token_ids).logprobs
    chosen = out.logprobs.chosen[:prompt]
    assert np.isnan(chosen).all() or np.array_equal(chosen, read, equal_nan=True)
    assert ((out.logprobs.top_ids[1:prompt] == -1).all(axis=1) == np.isnan(chosen[1:])).all()
    assert not np.isnan(out.logprobs.chosen[prompt:]).any()


def test_what_leaves_a_token_while_it_cancels_spares_the_others_nothing() -> None:
    """As when the garbage collector closes a stream meanwhile, which has the same token."""
    token, cancelled = CancelToken(), []

    class Run:
        def __init__(self, name: str) -> None:
            self.name = name
            self.watch = token.watching(self)
            self.watch.__enter__()

        def cancel(self) -> None:
            cancelled.append(self.name)
            self.watch.__exit__(None, None, None)

    runs = [Run("first"), Run("second"), Run("third")]
    token.cancel()
    assert cancelled == [one.name for one in runs]


def test_a_cancelled_token_ends_at_once(model: GPT2) -> None:
    token = CancelToken()
    token.cancel()
    results = model.generate(PROMPTS, cancel=token, **ENDLESS)
    assert [(one.finish_reason, one.token_ids) for one in results] == [("cancelled", [])] * 4
    assert {chunk.finish_reason for chunk in model.stream(PROMPTS, cancel=token)} == {"cancelled"}


def test_cancel_from_another_thread(model: GPT2) -> None:
    token, started = CancelToken(), threading.Event()

    def watch(*_: Any) -> None:
        started.set()

    thread = threading.Thread(target=lambda: (started.wait(), token.cancel()))
    thread.start()
    out = model.generate("Once", cancel=token, logits_processor=watch, **ENDLESS)
    thread.join()
    assert out.finish_reason == "cancelled"
    assert out.token_ids
    assert token.cancelled
    assert model.generate("Once", max_new_tokens=2).finish_reason == "length"


def test_cancel_between_the_chunks_of_a_stream(model: GPT2) -> None:
    """Tokens that were made before, at most ``read_ahead`` (16) of them, still come."""
    token = CancelToken()
    reasons = []
    for count, chunk in enumerate(model.stream("Once", cancel=token, **ENDLESS)):
        reasons.append(chunk.finish_reason)
        if count == 3:
            token.cancel()
    assert reasons == [None] * (len(reasons) - 1) + ["cancelled"]
    assert 5 <= len(reasons) <= 4 + 16 + 1


@pytest.mark.parametrize("reason", ["cancelled", "time"])
def test_a_long_prefill_can_be_ended(tmp_path: Path, reason: str) -> None:
    """The end comes with the short prompt's first token, when half of the long prompt has been read."""
    long_context = GPT2.from_pretrained(write_shape(tmp_path / "long", "many_small_heads"))
    token = CancelToken()
    started = time.monotonic()

    def end(*_: Any) -> None:
        token.cancel()
        while reason == "time" and time.monotonic() < started + 1.0:
            pass

    limit: dict[str, Any] = {"max_time": 0.2} if reason == "time" else {"cancel": token}
    prompts = [[1], [2] * 590]
    short, long = long_context.generate(
        prompts, max_new_tokens=8, logits_processor=end, eos_token_id=[], **limit
    )
    assert [short.finish_reason, long.finish_reason] == [reason, reason]
    assert long.token_ids == []
    assert len(short.token_ids) <= 1


def test_stop_strings_across_tokens(model: GPT2) -> None:
    whole = model.generate(PROMPTS[0], max_new_tokens=40, eos_token_id=[]).text
    for start, stop in ((3, 9), (10, 11), (20, 33)):
        wanted = whole[start:stop]
        cut = whole[: whole.index(wanted)]
        for include in (False, True):
            options: dict[str, Any] = {"stop_strings": ["no such", wanted], "include_stop_string": include}
            out = model.generate(PROMPTS[0], max_new_tokens=40, eos_token_id=[], **options)
            assert out.text == cut + wanted * include
            assert out.finish_reason == "stop"
            chunks = list(model.stream(PROMPTS[0], max_new_tokens=40, eos_token_id=[], **options))
            assert "".join(chunk.text for chunk in chunks) == out.text
            assert chunks[-1].finish_reason == "stop"


def test_a_stop_string_of_several_bytes_per_character(model: GPT2) -> None:
    forced = model.tokenizer.encode_bytes("naïve 🦙 end".encode())
    options: dict[str, Any] = {"forced_prefix": forced, "max_new_tokens": len(forced), "stop_strings": "🦙"}
    assert model.generate("Once", **options).text == "naïve "
    assert "".join(chunk.text for chunk in model.stream("Once", **options)) == "naïve "


CONTRADICTIONS: list[tuple[str, dict[str, Any]]] = [
    ("num_beams", {"num_beams": 2, "temperature": 0.8}),
    ("logits_processor", {"num_beams": 2, "logits_processor": print}),
    ("prompt_lookup_num_tokens", {"num_beams": 2, "prompt_lookup_num_tokens": 3}),
    ("regex", {"num_beams": 2, "regex": "a+"}),
    ("overflow", {"num_beams": 2, "overflow": "slide"}),
    ("max_new_tokens", {"num_beams": 2, "max_new_tokens": 0}),
    ("num_return_sequences", {"num_beams": 2, "num_return_sequences": 3}),
    ("num_return_sequences", {"best_of": 2, "num_return_sequences": 3, "seed": 1}),
]


@pytest.mark.parametrize(("named", "values"), CONTRADICTIONS)
def test_contradictions_name_the_option(named: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=named):
        GenerationOptions(**values)


def test_every_option_is_in_the_documentation() -> None:
    page = Path(__file__).parents[3] / "docs" / "generation.md"
    rows = [line.split("`")[1] for line in page.read_text("utf-8").splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(option.name for option in fields(GenerationOptions))


def test_best_of_counts_towards_the_limit_of_a_call(model: GPT2) -> None:
    with pytest.raises(ValueError, match=r"best_of \(4096\) for 17 prompts is more than 65536 texts"):
        model.generate(["a"] * 17, best_of=4096, seed=1)


@pytest.mark.parametrize("name", ["num_beams", "best_of"])
def test_options_that_choose_whole_texts_do_not_stream(model: GPT2, name: str) -> None:
    options: dict[str, Any] = {name: 2} | ({"seed": 1} if name == "best_of" else {})
    with pytest.raises(ValueError, match=f"{name} chooses whole texts and can't stream"):
        model.stream("Once", **options)


IDS = st.integers(0, 4095)
RANDOM_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "max_new_tokens": st.integers(0, 12),
    "min_new_tokens": st.integers(0, 12),
    "do_sample": st.booleans(),
    "seed": st.integers(0, 2**64 - 1),
    "temperature": st.sampled_from([0, 1e-4, 0.7, 1e4]),
    "top_k": st.sampled_from([0, 1, 50, 2**31 - 1]),
    "top_p": st.sampled_from([1e-9, 0.5, 1.0]),
    "min_p": st.sampled_from([0.0, 0.1, 1.0]),
    "typical_p": st.sampled_from([1e-9, 0.5, 1.0]),
    "repetition_penalty": st.sampled_from([0.01, 1.3, 100.0]),
    "presence_penalty": st.sampled_from([-100.0, 1.0]),
    "frequency_penalty": st.sampled_from([-1.0, 100.0]),
    "no_repeat_ngram_size": st.sampled_from([0, 1, 3, 2**31 - 1]),
    "suppress_tokens": st.lists(IDS, max_size=3),
    "bad_words": st.lists(
        st.one_of(st.text("ab ü", min_size=1, max_size=3), st.lists(IDS, min_size=1, max_size=3))
    ),
    "logit_bias": st.dictionaries(IDS, st.sampled_from([-1e6, 2.0, 1e6]), max_size=3),
    "forced_prefix": st.one_of(st.text("ab ü", max_size=3), st.lists(IDS, max_size=3)),
    "eos_token_id": st.lists(IDS, max_size=3),
    "stop_strings": st.lists(st.text("abe ü", min_size=1, max_size=3), max_size=3),
    "include_stop_string": st.booleans(),
    "max_time": st.sampled_from([1e-9, 1e9]),
    "num_return_sequences": st.integers(1, 3),
    "best_of": st.integers(1, 4),
    "num_beams": st.integers(1, 4),
    "length_penalty": st.sampled_from([-100.0, 0.0, 100.0]),
    "early_stopping": st.sampled_from([True, False, "never"]),
    "logprobs": st.integers(0, 3),
    "echo": st.booleans(),
    "overflow": st.sampled_from(["error", "truncate", "slide"]),
    "prompt_lookup_num_tokens": st.integers(0, 5),
    "use_prefix_cache": st.booleans(),
}


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from(sorted(RANDOM_OPTIONS)), unique=True, max_size=8).flatmap(
        lambda names: st.fixed_dictionaries({name: RANDOM_OPTIONS[name] for name in names})
    ),
    st.lists(st.one_of(st.text("ab cü", max_size=9), st.lists(IDS, min_size=1, max_size=20)), max_size=3),
)
def test_random_options_give_valid_results_or_a_named_error(
    model: GPT2, options: dict[str, Any], prompts: list[Any]
) -> None:
    options = {"max_new_tokens": 8, **options}
    try:
        results = model.generate([*prompts, "Once"], **options)
    except ValueError as error:
        assert any(name in str(error) for name in options)  # noqa: PT017 - which one depends on the values
        return
    copies = options.get("num_return_sequences", 1)
    assert len(results) <= copies * (len(prompts) + 1)
    for one in results:
        assert_valid(model, one, options)


def assert_valid(model: GPT2, one: Generation, options: dict[str, Any]) -> None:
    assert len(one.token_ids) <= options["max_new_tokens"]
    assert all(0 <= token < model.config.vocab_size for token in one.token_ids)
    assert one.finish_reason in ("length", "eos", "stop", "time", "constraint")
    if one.finish_reason == "length":
        assert len(one.token_ids) == options["max_new_tokens"]
    if one.finish_reason == "eos":
        assert one.token_ids[-1] in options.get("eos_token_id", model.config.eos_token_ids)
    if "logprobs" in options:
        assert one.logprobs is not None
        prompt = len(one.prompt_token_ids) if options.get("echo") else 0
        assert one.logprobs.top.shape == (prompt + len(one.token_ids), options["logprobs"])


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"seed": 5, "top_k": 0}, {"repetition_penalty": 1.5}]
)
def test_a_bias_of_minus_infinity_forbids_a_token(model: GPT2, options: dict[str, Any]) -> None:
    """As in transformers, where sequence_bias takes it; the same as suppress_tokens."""
    plain = model.generate(PROMPTS[0], max_new_tokens=12, eos_token_id=[], **options)
    forbidden = dict.fromkeys(plain.token_ids[:3], -math.inf)
    out = model.generate(PROMPTS[0], max_new_tokens=12, eos_token_id=[], logit_bias=forbidden, **options)
    suppressed = model.generate(
        PROMPTS[0], max_new_tokens=12, eos_token_id=[], suppress_tokens=list(forbidden), **options
    )
    assert out.token_ids == suppressed.token_ids
    assert not set(out.token_ids) & set(forbidden)


def test_a_bias_that_forbids_everything(model: GPT2) -> None:
    everything = dict.fromkeys(range(model.config.vocab_size), -math.inf)
    out = model.generate(PROMPTS[0], max_new_tokens=5, logit_bias=everything)
    assert (out.finish_reason, out.token_ids) == ("constraint", [])
