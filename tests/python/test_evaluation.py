"""Evaluation: windows, sums and files on a made-up model, and the same numbers as transformers on the embedded one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpt2fast import GPT2
from gpt2fast.errors import ModelError
from gpt2fast.evaluation import (
    Journal,
    PerplexitySettings,
    compare,
    lambada,
    language_model,
    multiple_choice,
    perplexity,
    read_choices,
    read_lambada,
)
from gpt2fast.evaluation.items import GROUP_TOKENS
from gpt2fast.evaluation.language_model import log_softmax
from gpt2fast.evaluation.multiple_choice import Question
from gpt2fast.evaluation.perplexity import encode, windows
from gpt2fast.tokenizer import Tokenizer

TEXT = (
    "Once upon a time there lived a king who had three daughters.\n\nCHAPTER I\nThe eldest was proud; "
    "the second was vain, and the youngest — the fairest of them all — was kind.\n\nCHAPTER II\nOne day "
    "an old woman came to the gate and asked for bread. "
) * 4


class MadeUpModel:
    """Scores that depend on the token and its distance from the start of the sequence alone."""

    def __init__(self, n_positions: int = 64, vocab_size: int = 4096, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.n_positions = n_positions
        self.calls: list[list[int]] = []
        self._left = generator.normal(size=(vocab_size, 6)).astype(np.float32)
        self._right = generator.normal(size=(6, vocab_size)).astype(np.float32)
        self._positions = generator.normal(size=(n_positions, 6)).astype(np.float32)

    def logits(
        self, sequences: Sequence[NDArray[np.int32]], rows: Sequence[NDArray[np.int64]] | None
    ) -> list[NDArray[np.float32]]:
        self.calls.append([len(sequence) for sequence in sequences])
        assert all(0 < len(sequence) <= self.n_positions for sequence in sequences)
        whole = [
            (self._left[sequence] + self._positions[: len(sequence)]) @ self._right for sequence in sequences
        ]
        return whole if rows is None else [one[wanted] for one, wanted in zip(whole, rows, strict=True)]

    def score(
        self, sequences: Sequence[NDArray[np.int32]], first: Sequence[int]
    ) -> list[NDArray[np.float32]]:
        scores = []
        for sequence, logits, start in zip(sequences, self.logits(sequences, None), first, strict=True):
            chosen = log_softmax(logits[:-1])[np.arange(len(sequence) - 1), sequence[1:]]
            scores.append(chosen[start - 1 :].astype(np.float32))
        return scores


@pytest.fixture(scope="module")
def tokenizer(embedded_dir: Path) -> Tokenizer:
    return Tokenizer.from_source(embedded_dir)


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(precision="fp32")


@given(
    st.integers(0, 200),
    st.integers(2, 40).flatmap(lambda window: st.tuples(st.just(window), st.integers(1, window))),
    st.booleans(),
)
def test_windows_score_each_token_once(tokens: int, sizes: tuple[int, int], drop_last: bool) -> None:
    window, stride = sizes
    found = windows(tokens, window, stride, drop_last=drop_last)
    scored = [token for one in found for token in range(one.first, one.stop)]
    assert scored == sorted(set(scored))
    assert all(one.start < one.first < one.stop <= one.start + window for one in found)
    if drop_last:
        assert all(one.stop - one.start == window for one in found)
    elif stride < window:
        assert scored == list(range(1, tokens))
    else:
        assert scored == [token for token in range(tokens) if token % window]


def test_later_windows_score_tokens_with_context() -> None:
    found = windows(1000, 100, 30)
    assert all(one.first - one.start == 70 for one in found[1:])


@pytest.mark.parametrize(("window", "stride"), [(None, None), (40, 7), (16, 16), (2, 1)])
def test_perplexity_is_the_mean_over_the_windows(
    tokenizer: Tokenizer, window: int | None, stride: int | None
) -> None:
    fake = MadeUpModel()
    result = perplexity(fake, tokenizer, TEXT, PerplexitySettings(window=window, stride=stride))
    ids = np.array(tokenizer.encode(TEXT), np.int32)
    size, step = window or 64, stride or 32
    total, count, end = 0.0, 0, 0
    for start in range(0, len(ids), step):
        stop = min(start + size, len(ids))
        piece = ids[start:stop]
        nll = -log_softmax(fake.logits([piece], None)[0][:-1])[np.arange(len(piece) - 1), piece[1:]]
        new = min(stop - end, len(nll))
        total, count, end = total + nll[len(nll) - new :].sum(), count + new, stop
        if stop == len(ids):
            break
    assert result.tokens == len(ids)
    assert result.scored_tokens == count
    assert result.loss == pytest.approx(total / count, rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(total / count), rel=1e-6)


def test_word_byte_and_character_numbers(tokenizer: Tokenizer) -> None:
    result = perplexity(MadeUpModel(), tokenizer, TEXT)
    assert result.words == len(TEXT.split())
    assert (result.bytes, result.characters) == (len(TEXT.encode()), len(TEXT))
    assert result.bytes > result.characters
    whole = result.loss * result.tokens
    assert result.word_perplexity == pytest.approx(math.exp(whole / result.words))
    assert result.byte_perplexity == pytest.approx(2**result.bits_per_byte)
    assert result.bits_per_character == pytest.approx(whole / len(TEXT) / math.log(2))


def test_split_documents_are_stripped_and_ended(tokenizer: Tokenizer) -> None:
    settings = PerplexitySettings(split=r"<\|endoftext\|>|\n(?=CHAPTER )")
    ids = encode(tokenizer, "One.\n\nCHAPTER I\nTwo.  <|endoftext|> Three.", settings)
    expected = [
        token for part in ("One.", "CHAPTER I\nTwo.", "Three.") for token in [*tokenizer.encode(part), 0]
    ]
    assert ids.tolist() == expected


def test_limit_counts_only_what_is_used(tokenizer: Tokenizer) -> None:
    result = perplexity(MadeUpModel(), tokenizer, TEXT, PerplexitySettings(limit=20))
    assert result.tokens == 20
    assert result.bytes == len(tokenizer.decode(tokenizer.encode(TEXT)[:20]).encode())


def test_windows_share_calls(tokenizer: Tokenizer) -> None:
    fake, text = MadeUpModel(), TEXT * 20
    perplexity(fake, tokenizer, text)
    sizes = [sum(call) for call in fake.calls]
    assert len(sizes) > 1
    assert all(GROUP_TOKENS <= size < GROUP_TOKENS + 64 for size in sizes[:-1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 65}, "window must be at most the model's 64 positions, got 65"),
        ({"window": 1}, "window must be at least 2, got 1"),
        ({"window": 8, "stride": 9}, "stride must be at most the window of 8 tokens, got 9"),
        ({"stride": 0}, "stride must be from 1"),
        ({"split": "("}, "split must be a regular expression"),
        ({"split": "(a)"}, "split must have no groups"),
        ({"limit": 1}, "too short"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tokenizer: Tokenizer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        perplexity(MadeUpModel(), tokenizer, TEXT, PerplexitySettings(**settings))


def test_lambada_counts_words_that_are_right_token_for_token(tokenizer: Tokenizer) -> None:
    fake = MadeUpModel()
    texts = [f"The king said to {name}" for name in ("him", "Rumpelstiltskin", "the", "daughters")]
    right, loss = 0, 0.0
    for text in texts:
        context, whole = tokenizer.encode("The king said to"), tokenizer.encode(text)
        logits = fake.logits([np.array(whole, np.int32)], None)[0]
        rows = range(len(context) - 1, len(whole) - 1)
        right += all(int(logits[row].argmax()) == whole[row + 1] for row in rows)
        loss -= sum(log_softmax(logits)[row, whole[row + 1]] for row in rows)
    result = lambada(fake, tokenizer, texts)
    assert result.examples == 4
    assert result.accuracy == right / 4
    assert result.perplexity == pytest.approx(math.exp(loss / 4), rel=1e-6)


def test_lambada_finds_the_models_own_continuation(model: GPT2) -> None:
    own = ["Once upon a time", "The king's daughter", "In the middle of the"]
    texts = []
    for prompt in own:
        text = prompt + model.generate(prompt, max_new_tokens=12, temperature=0).text
        texts.append(text[: text.rindex(" ")])
    assert lambada(language_model(model), model.tokenizer, texts).accuracy == 1.0
    assert (
        lambada(language_model(model), model.tokenizer, [f"{prompt} zebra" for prompt in own]).accuracy == 0.0
    )


def test_long_passage_loses_its_beginning(tokenizer: Tokenizer) -> None:
    fake = MadeUpModel()
    lambada(fake, tokenizer, [f"{TEXT}daughters"])
    assert fake.calls == [[64]]


def test_choice_is_ranked_by_sum_and_by_byte(tokenizer: Tokenizer) -> None:
    fake = MadeUpModel()
    choices = ("dog", "a very old woman who lived in the wood", "king")
    scores = []
    for choice in choices:
        whole = np.array(tokenizer.encode(f"There was a {choice}"), np.int32)
        before = len(tokenizer.encode("There was a"))
        scores.append(float(fake.score([whole], [before])[0].sum()))
    plain = int(np.argmax(scores))
    per_byte = int(np.argmax([score / len(choice) for score, choice in zip(scores, choices, strict=True)]))
    assert plain != per_byte
    questions = [Question("There was a", choices, plain), Question("There was a ", choices, per_byte)]
    result = multiple_choice(fake, tokenizer, questions)
    assert (result.questions, result.accuracy, result.accuracy_per_byte) == (2, 0.5, 0.5)


def test_comparison_with_itself_and_another(tokenizer: Tokenizer) -> None:
    ids = np.array(tokenizer.encode(TEXT), np.int32)
    same = compare(MadeUpModel(), MadeUpModel(), ids, window=64)
    assert (same.positions, same.kl_divergence, same.top_1_agreement) == (len(ids), 0.0, 1.0)
    other = compare(MadeUpModel(), MadeUpModel(seed=1), ids, window=64, limit=64)
    p, q = (log_softmax(MadeUpModel(seed=seed).logits([ids[:64]], None)[0]) for seed in (0, 1))
    assert other.positions == 64
    assert other.kl_divergence == pytest.approx((np.exp(p) * (p - q)).sum(axis=-1).mean())
    assert other.top_1_agreement == (p.argmax(axis=-1) == q.argmax(axis=-1)).mean()


class _Stopped(Exception):  # noqa: N818
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_resumed_measurement_equals_an_uninterrupted_one(
    tokenizer: Tokenizer, tmp_path: Path, cut: int
) -> None:
    text, path, fake = TEXT * 40, tmp_path / "journal", MadeUpModel()
    expected = perplexity(fake, tokenizer, text)
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise _Stopped

    with pytest.raises(_Stopped), Journal(path, {"text": 1}) as journal:
        perplexity(MadeUpModel(), tokenizer, text, run="int8", journal=journal, progress=stop)
    # A kill in the middle of a line.
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    resumed = MadeUpModel()
    with Journal(path, {"text": 1}) as journal:
        result = perplexity(resumed, tokenizer, text, run="int8", journal=journal)
    assert (result.loss, result.scored_tokens) == (expected.loss, expected.scored_tokens)
    assert len(resumed.calls) == len(fake.calls) - 2 + (cut > 0)
    with Journal(path, {"text": 1}) as journal:
        again = perplexity(resumed, tokenizer, text, run="int8", journal=journal)
    assert (again.loss, again.tokens_per_second) == (expected.loss, None)


def test_journal_of_other_settings_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, {"window": 64, "text": "a"}) as journal:
        journal.record("int8", {0: [1.5, 2.0]})
    before = path.read_bytes()
    with pytest.raises(ModelError, match="its window is 64, not 32"):
        Journal(path, {"window": 32, "text": "a"})
    assert path.read_bytes() == before
    with Journal(path, {"window": 64, "text": "a"}) as journal:
        assert journal.values("int8", 0) == [1.5, 2.0]
        assert journal.values("int4", 0) is None


@pytest.mark.parametrize(
    "content", [b"my thesis\n", b"[]\n", b'{"settings": 3}\n', b'{"run": 1}\n', b"\xff\n"]
)
def test_file_that_is_no_journal_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "thesis.txt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"thesis\.txt"):
        Journal(path, {})
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("read", "line", "message"),
    [
        (read_lambada, '{"text": "word"}', "line 2: must be"),
        (read_lambada, '{"text": 3}', "line 2: must be"),
        (read_lambada, "[1]", "line 2: must be a JSON object, is a list"),
        (read_lambada, "{", "line 2: not valid JSON"),
        (read_choices, '{"choices": ["a", "b"], "answer": 0}', "line 2: prompt must be a text"),
        (read_choices, '{"prompt": "p", "choices": ["a"], "answer": 0}', "line 2: choices must be"),
        (read_choices, '{"prompt": "p", "choices": ["a", " "], "answer": 0}', "line 2: choices must be"),
        (
            read_choices,
            '{"prompt": "p", "choices": ["a", "b"], "answer": 2}',
            "line 2: answer must be from 0 to 1",
        ),
        (read_choices, '{"prompt": "p", "choices": ["a", "b"], "answer": true}', "line 2: answer must be"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, read: Callable[[Path], Any], line: str, message: str) -> None:
    good = {
        read_lambada: '{"text": "two words"}',
        read_choices: '{"prompt": "p", "choices": ["a", "b"], "answer": 1}',
    }
    path = tmp_path / "data.jsonl"
    path.write_text(f"{good[read]}\n{line}\n", "utf-8")
    with pytest.raises(ValueError, match=message):
        read(path)
    path.write_text(f"\n{good[read]}\n\n", "utf-8")
    assert len(read(path)) == 1


def test_passages_of_lambada_are_read(shared_dir: Path) -> None:
    path = shared_dir / "data" / "eval" / "lambada_test.jsonl"
    assert len(read_lambada(path)) == 5153
    assert len(read_lambada(path, 10)) == 10


@pytest.mark.parity
@pytest.mark.parametrize(("window", "stride"), [(512, 256), (100, 37), (64, 64)])
def test_perplexity_equals_transformers(model: GPT2, embedded_dir: Path, window: int, stride: int) -> None:
    """The strided protocol, with labels of -100 for the tokens that an earlier window has scored."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    other = transformers.GPT2LMHeadModel.from_pretrained(embedded_dir, dtype=torch.float32).eval()
    ids = torch.tensor([model.tokenizer.encode(TEXT * 3)])
    losses, scored, end = [], 0, 0
    for start in range(0, ids.shape[1], stride):
        stop = min(start + window, ids.shape[1])
        inputs = ids[:, start:stop]
        labels = inputs.clone()
        labels[:, : -(stop - end)] = -100
        count = int((labels[:, 1:] != -100).sum())
        if count:
            with torch.no_grad():
                losses.append(float(other(inputs, labels=labels).loss) * count)
        scored, end = scored + count, stop
        if stop == ids.shape[1]:
            break
    settings = PerplexitySettings(window=window, stride=stride)
    result = perplexity(language_model(model), model.tokenizer, TEXT * 3, settings)
    assert result.scored_tokens == scored
    assert result.loss == pytest.approx(sum(losses) / scored, rel=1e-5)


@pytest.mark.parity
def test_lambada_and_choice_equal_transformers(model: GPT2, embedded_dir: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    other = transformers.GPT2LMHeadModel.from_pretrained(embedded_dir, dtype=torch.float32).eval()

    def log_probabilities(prompt: str, word: str) -> tuple[float, bool]:
        first = len(model.tokenizer.encode(prompt))
        ids = torch.tensor([model.tokenizer.encode(f"{prompt} {word}")])
        with torch.no_grad():
            scores = other(ids).logits[0, first - 1 : -1].log_softmax(-1)
        target = ids[0, first:]
        total = float(scores.gather(1, target[:, None]).sum())
        return total, bool((scores.argmax(-1) == target).all())

    prompts = ["Once upon a", "The king and the", "She said to her"]
    words = ["time", "queen", "father", "Rumpelstiltskin"]
    pairs = [(prompt, word) for prompt in prompts for word in words]
    found = [log_probabilities(prompt, word) for prompt, word in pairs]
    result = lambada(language_model(model), model.tokenizer, [f"{prompt} {word}" for prompt, word in pairs])
    assert result.accuracy == sum(right for _, right in found) / len(pairs)
    assert math.log(result.perplexity) == pytest.approx(-np.mean([total for total, _ in found]), rel=1e-5)
    best = [int(np.argmax([total for total, _ in found[i : i + 4]])) for i in range(0, 12, 4)]
    questions = [Question(prompt, tuple(words), answer) for prompt, answer in zip(prompts, best, strict=True)]
    assert multiple_choice(language_model(model), model.tokenizer, questions).accuracy == 1.0


def test_embedded_model_on_its_own_protocol(shared_dir: Path, model: GPT2) -> None:
    """The first windows of the held-out text: what the training code measures there with PyTorch is 3.86998."""
    text = (shared_dir / "data" / "eval" / "tiny-heldout.txt").read_text("utf-8")
    settings = PerplexitySettings(256, 256, r"<\|endoftext\|>|\n(?=CHAPTER )", drop_last=True, limit=256 * 64)
    result = perplexity(language_model(model), model.tokenizer, text, settings)
    assert result.scored_tokens == 64 * 255
    assert result.loss == pytest.approx(3.86998, abs=1e-4)


@pytest.mark.real_weights
@pytest.mark.parametrize("number", range(3))
def test_real_weights_give_the_published_scores(number: int) -> None:
    path = os.environ.get("GPT2FAST_REAL_WEIGHTS")
    if not path:
        pytest.skip("GPT2FAST_REAL_WEIGHTS names no checkpoint of GPT-2 124M")
    golden = Path(__file__).parents[1] / "goldens" / "gpt2_reference_logits.json"
    case = json.loads(golden.read_text("utf-8"))[number]
    model = GPT2.from_pretrained(path, precision="fp32")
    if model.has_tokenizer:
        assert model.tokenizer.encode(case["prompt"]) == case["token_ids"]
    scores = model.logits(np.array(case["token_ids"]), rows=-1)[0, 0]
    np.testing.assert_allclose(scores[case["top_ids"]], case["top_logits"], atol=0.02)
    np.testing.assert_allclose(np.logaddexp.reduce(scores.astype(np.float64)), case["logsumexp"], atol=0.02)
    assert set(np.argsort(-scores)[:10].tolist()) <= set(case["top_ids"])
