"""Evaluation on a made-up model: windows, sums, journals, files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2fast.errors import ModelError
from gpt2fast.evaluation import (
    Journal,
    PerplexitySettings,
    compare,
    lambada,
    multiple_choice,
    perplexity,
    read_choices,
    read_lambada,
)
from gpt2fast.evaluation.items import GROUP_TOKENS
from gpt2fast.evaluation.language_model import log_softmax
from gpt2fast.evaluation.multiple_choice import Question
from gpt2fast.evaluation.perplexity import encode
from gpt2fast.text.tokenizer import Tokenizer

TEXT = (
    "Once upon a time there lived a king who had three daughters.\n\nCHAPTER I\nThe eldest was proud; "
    "the second was vain, and the youngest — the fairest of them all — was kind.\n\nCHAPTER II\nOne day "
    "an old woman came to the gate and asked for bread. "
) * 4


class MadeUpModel:
    """Scores that depend only on the token and its distance from the start of the sequence."""

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


def test_long_passage_loses_its_beginning(tokenizer: Tokenizer) -> None:
    fake = MadeUpModel()
    lambada(fake, tokenizer, [f"{TEXT}daughters"])
    assert fake.calls == [[64]]


def test_choice_is_ranked_by_sum_and_by_byte(tokenizer: Tokenizer) -> None:
    fake = MadeUpModel()
    choices = ("a", "daughter who was beautiful")
    scores = []
    for choice in choices:
        whole = np.array(tokenizer.encode(f"There was once {choice}"), np.int32)
        before = len(tokenizer.encode("There was once"))
        scores.append(float(fake.score([whole], [before])[0].sum()))
    plain = int(np.argmax(scores))
    per_byte = int(np.argmax([score / len(choice) for score, choice in zip(scores, choices, strict=True)]))
    assert plain != per_byte
    questions = [Question("There was once", choices, plain), Question("There was once ", choices, per_byte)]
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
    """Simulates Ctrl-C."""


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
    # Everything but the first two groups; the cut line costs one window.
    assert [len(call) for call in resumed.calls] == [len(fake.calls[2]) + (cut > 0)]
    with Journal(path, {"text": 1}) as journal:
        again = perplexity(resumed, tokenizer, text, run="int8", journal=journal)
    assert (again.loss, again.tokens_per_second) == (expected.loss, None)


def test_journal_of_other_settings_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, {"window": 64, "text": "a"}) as journal:
        journal.record("int8", {0: [1.5, 2.0]})
    before = path.read_bytes()
    with pytest.raises(
        ModelError, match="another measurement, where window is 64, not 32; name another file"
    ):
        Journal(path, {"window": 32, "text": "a"})
    assert path.read_bytes() == before
    with Journal(path, {"window": 64, "text": "a"}) as journal:
        assert journal.values("int8", 0) == [1.5, 2.0]
        assert journal.values("int4", 0) is None


@pytest.mark.parametrize(
    "content",
    [
        *(b"my thesis\n", b"my thesis", b"[]\n", b"\xff\n", b"\n"),
        *(b'{"settings": 3}\n', b'{"run": 1}\n', b'{"settings": {}, "more": 1}\n', b'{"settings": {"a'),
    ],
)
def test_a_file_that_is_not_a_journal_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "thesis.txt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"thesis\.txt"):
        Journal(path, {})
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        *(b"my thesis", b'{"run": "a", "item": 0}', b'{"run": 1, "item": 0, "values": []}'),
        b'{"run": "a", "item": "0", "values": []}',
        b'{"run": "a", "item": 1.5, "values": []}',
        b'{"run": "a", "item": 0, "values": [NaN]}',
        b'{"run": "a", "item": 0, "values": [-Infinity]}',
        b'{"run": "a", "item": 0, "values": [1e999]}',
        b'{"run": "a", "item": 0, "item": 1, "values": [1.0]}',
    ],
)
def test_a_line_that_is_not_a_journals_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal"
    content = b'{"settings": {}}\n' + line + b"\n"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="line 2 is not a journal's"):
        Journal(path, {})
    assert path.read_bytes() == content


@pytest.mark.parametrize("kept", [b"", b"{", b'{"settings": {"wind'])
def test_a_journal_cut_short_in_its_first_line_begins_again(tmp_path: Path, kept: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(kept)
    with Journal(path, {"window": 64}) as journal:
        journal.record("int8", {0: [1.5]})
    assert path.read_bytes() == (
        b'{"settings": {"window": 64}}\n{"run": "int8", "item": 0, "values": [1.5]}\n'
    )


def test_a_journal_is_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path, Path(os.devnull), tmp_path / "loop"):
        with pytest.raises(ModelError, match="not a regular file; name another"):
            Journal(path, {})


def test_one_process_at_a_time_has_a_journal(tmp_path: Path) -> None:
    path, link = tmp_path / "journal", tmp_path / "link"
    with Journal(path, {}) as journal:
        journal.record("int8", {0: [1.5]})
        link.symlink_to(path.name)
        for name in (path, link):
            with pytest.raises(FileExistsError, match="another process is writing it"):
                Journal(name, {})
        journal.record("int8", {1: [2.5]})
    with Journal(link, {}) as journal:
        assert (journal.values("int8", 0), journal.values("int8", 1)) == ([1.5], [2.5])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_no_journal_can_hold_are_an_error(tmp_path: Path, value: float) -> None:
    with Journal(tmp_path / "journal", {}) as journal:
        with pytest.raises(ModelError, match=r"int8: item 3 measured .* not finite"):
            journal.record("int8", {3: [1.0, value]})
        assert journal.values("int8", 3) is None


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
            "answer must be from 0 to 1, got 2",
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


@pytest.mark.parametrize("read", [read_lambada, read_choices])
def test_a_line_that_is_not_text_is_named(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\n{"text": "\xff"}\n')
    with pytest.raises(ValueError, match=r"data\.jsonl: line 2: not valid JSON: 'utf-8' codec"):
        read(path)


def test_a_file_of_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "two words"}\n', "utf-8-sig")
    assert read_lambada(path) == ["two words"]


def test_nothing_to_measure_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="texts must hold at least one passage"):
        lambada(MadeUpModel(), tokenizer, [])
    with pytest.raises(ValueError, match="questions must hold at least one"):
        multiple_choice(MadeUpModel(), tokenizer, [])


def test_passages_of_lambada_are_read(shared_dir: Path) -> None:
    path = shared_dir / "data" / "eval" / "lambada_test.jsonl"
    assert len(read_lambada(path)) == 5153
    assert len(read_lambada(path, 10)) == 10
