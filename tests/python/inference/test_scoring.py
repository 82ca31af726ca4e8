"""Scores, perplexity, ranked choices and embeddings, compared with plain logits and hidden states."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2fast import GPT2
from gpt2fast.storage.model_directory import PRECISIONS
from support.processes import imported_by
from support.random_models import random_ids, write_shape

TEXTS = ["Once upon a time there was a king.", "The", "A wolf said: “I will eat you!”"]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(request: pytest.FixtureRequest) -> GPT2:
    return GPT2.from_pretrained(precision=request.param)


def expected_logprobs(model: GPT2, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    logits = model.logits(ids)[0].astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return np.asarray(logprobs[np.arange(len(ids) - 1), ids[1:]])


def test_scores_are_the_softmax_of_the_logits(model: GPT2) -> None:
    for text, score in zip(TEXTS, model.score(TEXTS), strict=True):
        ids = np.array(model.tokenizer.encode(text), np.int32)
        assert score.token_ids == ids.tolist()
        assert math.isnan(score.logprobs[0])
        np.testing.assert_allclose(score.logprobs[1:], expected_logprobs(model, ids), rtol=1e-5, atol=1e-6)
        if len(ids) > 1:
            assert score.total == pytest.approx(float(score.logprobs[1:].sum()), rel=1e-6)
            assert score.perplexity == pytest.approx(model.perplexity(text))
    assert model.score(TEXTS[0]).token_ids == model.score(TEXTS)[0].token_ids


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_score_has_the_same_bits_alone_and_in_company(precision: Any) -> None:
    models = [GPT2.from_pretrained(precision=precision, threads=threads) for threads in (1, 2)]
    texts = [random_ids(models[0], 2 + 5 * index, seed=index) for index in range(30)]
    together = [model.score(texts) for model in models]
    for text, first, second in zip(texts, *together, strict=True):
        alone = models[0].score(text)
        np.testing.assert_array_equal(first.logprobs, alone.logprobs)
        np.testing.assert_array_equal(second.logprobs, alone.logprobs)
        np.testing.assert_allclose(
            alone.logprobs[1:], expected_logprobs(models[0], text), rtol=3e-7, atol=3e-7
        )


def test_scores_are_the_same_bits_with_the_likeliest_tokens(model: GPT2) -> None:
    ids = random_ids(model, 40, seed=3)
    out = model.generate(ids, max_new_tokens=1, logprobs=3, echo=True)
    np.testing.assert_array_equal(out.logprobs.chosen[1:40], model.score(ids).logprobs[1:])


@pytest.mark.parametrize("stride", [None, 1, 20, 47])
def test_windows_beyond_the_context(tmp_path: Path, stride: int | None) -> None:
    small = GPT2.from_pretrained(write_shape(tmp_path / "m", "one_wide_head"), precision="fp32")
    ids = random_ids(small, 133, seed=1)
    score = small.score(ids, stride=stride)
    step, window, end = stride or 24, 48, 1
    expected: list[float] = []
    for start in range(0, len(ids), step):
        piece = expected_logprobs(small, ids[start : start + window])
        stop = min(start + window, len(ids))
        expected += piece[len(piece) - (stop - end) :].tolist()
        end = stop
        if stop == len(ids):
            break
    np.testing.assert_allclose(score.logprobs[1:], expected, rtol=1e-5, atol=1e-6)
    assert small.perplexity(ids, stride=stride) == pytest.approx(math.exp(-np.mean(expected)), rel=1e-5)


@pytest.mark.parametrize("max_sequences", [1, 3, 32])
def test_ranked_choices(model: GPT2, max_sequences: int) -> None:
    ranking = GPT2.from_pretrained(precision=model.precision, max_sequences=max_sequences)
    prompt = "Once upon a"
    choices: list[Any] = [" time", " king and his daughter", " dog", [5], " time there was", " banana split"]
    start = np.array(model.tokenizer.encode(prompt), np.int32)
    for by in ("mean", "total"):
        ranked = ranking.rank(prompt, choices, by=by)
        assert sorted(one.index for one in ranked) == list(range(len(choices)))
        values = [getattr(one, by) for one in ranked]
        assert values == sorted(values, reverse=True)
        for one in ranked:
            assert one.choice == choices[one.index]
            ids = np.concatenate([start, np.array(one.token_ids, np.int32)])
            np.testing.assert_array_equal(one.logprobs, model.score(ids).logprobs[len(start) :])
            assert one.total == pytest.approx(float(one.logprobs.sum()), rel=1e-6)
            assert one.mean == pytest.approx(one.total / len(one.token_ids))
    longest = list(range(1, 33))
    many = ranking.rank(prompt, [[index] for index in longest])
    assert sorted(one.index + 1 for one in many) == longest


def test_ranking_with_a_prefix(model: GPT2) -> None:
    prefix = model.prefill("Once upon a time there was a king who had three sons")
    whole = model.rank("Once upon a time there was a king who had three sons and the", [" wolf", " king"])
    ranked = model.rank(" and the", [" wolf", " king"], prefix=prefix)
    assert [one.choice for one in ranked] == [one.choice for one in whole]
    np.testing.assert_array_equal(ranked[0].logprobs, whole[0].logprobs)


def test_ranking_leaves_its_prompt_to_the_prefix_cache(model: GPT2) -> None:
    prompt = "The old woman and the king's daughter went into the wood"
    tokens = len(model.tokenizer.encode(prompt))
    model.clear_prefix_cache()
    first = model.rank(prompt, [" and", " where there", "."])
    assert model.generate(prompt + ",", max_new_tokens=1).cached_tokens == tokens
    again = model.rank(prompt, [" and", " where there", "."])
    assert [one.logprobs.tolist() for one in again] == [one.logprobs.tolist() for one in first]


@pytest.mark.parametrize("pooling", ["mean", "last", "first", "max"])
@pytest.mark.parametrize("normalize", [False, True])
def test_embeddings(model: GPT2, pooling: Any, normalize: bool) -> None:
    vectors = model.embed(TEXTS, pooling=pooling, normalize=normalize)
    assert vectors.shape == (3, model.config.n_embd)
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        states = model.forward(model.tokenizer.encode(text))[0][0].astype(np.float64)
        pooled = {
            "mean": states.mean(0),
            "last": states[-1],
            "first": states[0],
            "max": states.max(0),
        }[pooling]
        wanted = pooled / np.linalg.norm(pooled) if normalize else pooled
        np.testing.assert_allclose(vector, wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(model.embed(text, pooling=pooling, normalize=normalize), vector)


def test_many_texts_are_embedded_in_groups(model: GPT2) -> None:
    texts = [[index % 50, 3, 5] * 20 for index in range(200)]
    vectors = model.embed(texts)
    for index in (0, 136, 137, 199):
        np.testing.assert_array_equal(vectors[index], model.embed(texts[index]))


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda m: m.score("a", stride=0), ValueError, "stride must be from 1"),
        (lambda m: m.score("a", stride=513), ValueError, "stride must be from 1"),
        (lambda m: m.score(5), TypeError, "texts must be text"),
        (lambda m: m.score([[1], [4096]]), ValueError, r"texts\[1\]\[0\]: token id 4096"),
        (lambda m: m.perplexity("a"), ValueError, "text must have at least two tokens"),
        (lambda m: m.perplexity(["a b c"]), TypeError, "text must be a single text"),
        (lambda m: m.rank("a", []), TypeError, "choices must be a list of at least one"),
        (lambda m: m.rank("a", "bc"), TypeError, "choices must be a list"),
        (lambda m: m.rank("a", ["b", ""]), ValueError, r"choices\[1\] must not be empty"),
        (lambda m: m.rank("a", [[5], []]), ValueError, r"choices\[1\] must not be empty"),
        (lambda m: m.rank("a", [5, 6]), TypeError, "choices must be a list .*, got a list of ids"),
        (lambda m: m.rank("a", [None]), TypeError, r"choice must hold integers, got None"),
        (lambda m: m.rank(["a"], ["b"]), TypeError, "prompt must be a single text"),
        (lambda m: m.rank("a", ["b"], by="sum"), ValueError, "by must be one of"),
        (lambda m: m.rank("a", ["b"], prefix="c"), TypeError, "prefix must be a Prefix"),
        (lambda m: m.rank([1] * 510, [[1, 2, 3], [1, 2, 3, 4]]), ValueError, r"choices\[1\] \(4 tokens\)"),
        (lambda m: m.embed("a", pooling="sum"), ValueError, "pooling must be one of"),
        (lambda m: m.embed("a", normalize=1), TypeError, "normalize must be True or False"),
        (lambda m: m.embed([[1], [1] * 513]), ValueError, r"texts\[1\] has 513 tokens"),
    ],
)
def test_bad_arguments_are_named(model: GPT2, call: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        call(model)


def test_scoring_ids_imports_neither_the_evaluation_nor_the_tokenizer(model: GPT2) -> None:
    load = f"from gpt2fast import GPT2\nmodel = GPT2.from_pretrained({str(model.directory.path)!r})\n"
    score = "assert model.score([50, 60, 70]).total < 0\nassert model.perplexity([50, 60, 70]) > 1\n"
    modules = imported_by(load + score + "assert len(model.rank([50], [[60], [70]])) == 2")
    assert "gpt2fast.inference.scoring" in modules
    assert not modules & {"tokenizers", "gpt2fast.text.tokenizer", "gpt2fast.evaluation"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> GPT2:
    """A model of 48 positions."""
    directory = write_shape(tmp_path_factory.mktemp("small"), "one_wide_head")
    return GPT2.from_pretrained(directory, precision="fp32")


def test_windows_side_by_side(small: GPT2) -> None:
    """A stride of the whole context: the first token of each window has no probability."""
    ids = random_ids(small, 133, seed=1)
    score = small.score(ids, stride=48)
    pieces = [expected_logprobs(small, ids[start : start + 48]) for start in (0, 48, 96)]
    assert score.unscored == (0, 48, 96)
    assert np.isnan(score.logprobs).nonzero()[0].tolist() == [0, 48, 96]
    np.testing.assert_allclose(np.delete(score.logprobs, [0, 48, 96]), np.concatenate(pieces), rtol=1e-5)
    assert score.mean == pytest.approx(float(np.concatenate(pieces).mean()), rel=1e-6)
    assert small.perplexity(ids, stride=48) == pytest.approx(math.exp(-score.mean))
    with pytest.raises(ValueError, match="stride must be from 1 to 48, got 49"):
        small.score(ids, stride=49)


def test_texts_after_a_context(model: GPT2) -> None:
    """As lm-evaluation-harness wants: the first token is scored too, the context is not."""
    contexts, texts = ["The king", "Once upon"], [" had a daughter", " a time"]
    for score, context, text in zip(model.score(texts, context=contexts), contexts, texts, strict=True):
        before = model.tokenizer.encode(context)
        ids = model.tokenizer.encode(text)
        expected = expected_logprobs(model, np.array(before + ids, np.int32))[len(before) - 1 :]
        assert score.token_ids == ids
        assert score.unscored == ()
        np.testing.assert_allclose(score.logprobs, expected, rtol=1e-5, atol=1e-6)
        assert score.total == pytest.approx(float(expected.sum()), rel=1e-5, abs=2e-6)
        assert score.mean == pytest.approx(score.total / len(ids))
    shared = model.score(texts, context="The king")
    assert shared[0].total == model.score(texts[0], context="The king").total
    ranked = model.rank("The king", texts, by="total")
    assert {one.index: one.total for one in ranked} == pytest.approx(
        {index: one.total for index, one in enumerate(shared)}, rel=1e-5
    )
    with pytest.raises(ValueError, match=r"context must be one or as many as the texts \(2\), got 3"):
        model.score(texts, context=["a", "b", "c"])


def test_a_long_text_after_a_context(small: GPT2) -> None:
    ids = random_ids(small, 133, seed=1).tolist()
    whole = small.score(ids)
    after = small.score(ids[60:], context=ids[:60])
    np.testing.assert_array_equal(after.logprobs, whole.logprobs[60:])


def test_a_prompt_beyond_the_positions_is_cut_from_the_left(small: GPT2) -> None:
    """lm-evaluation-harness: of prompt and choice the newest n_positions + 1 tokens, the last not read."""
    prompt = random_ids(small, 60, seed=2).tolist()
    choices = [random_ids(small, count, seed=count).tolist() for count in (1, 5, 2)]
    with pytest.raises(ValueError, match=r"exceed .* n_positions \(48\) .* overflow='truncate' cuts"):
        small.rank(prompt, choices)
    ranked = {one.index: one for one in small.rank(prompt, choices, overflow="truncate")}
    for index, choice in enumerate(choices):
        read = np.array((prompt + choice)[-49:][:-1], np.int32)
        logits = small.logits(read)[0].astype(np.float64)
        logprobs = logits - logits.max(-1, keepdims=True)
        logprobs -= np.log(np.exp(logprobs).sum(-1, keepdims=True))
        expected = logprobs[np.arange(48 - len(choice), 48), choice]
        np.testing.assert_allclose(ranked[index].logprobs, expected, rtol=1e-5, atol=1e-6)
    fits = small.rank(prompt[:44], [choices[1]])  # 49 tokens, of which 48 are read
    assert fits[0].token_ids == choices[1]
    with pytest.raises(ValueError, match="give a shorter one"):
        small.rank(prompt, [prompt], overflow="truncate")
