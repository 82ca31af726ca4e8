"""Multiple choice by rank: the answer is the choice that the model finds most likely after the prompt."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2fast.evaluation.items import Progress, measure, read_json_lines
from gpt2fast.evaluation.journal import Journal
from gpt2fast.evaluation.lambada import Continuation, continuation
from gpt2fast.evaluation.language_model import LanguageModel
from gpt2fast.text.tokenizer import Tokenizer

MAX_CHOICES = 1000


@dataclass(frozen=True)
class Question:
    """A prompt, its possible continuations, and the index of the right one."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class ChoiceResult:
    """How often a model finds the right choice.

    Attributes
    ----------
    questions : int
        How many.
    accuracy : float
        The share where the right choice has the highest log-probability.
    accuracy_per_byte : float
        The same with the log-probability divided by the choice's length in bytes of UTF-8, which removes
        the disadvantage of long choices.
    seconds, tokens_per_second : float
        As in :class:`~gpt2fast.evaluation.perplexity.PerplexityResult`.
    """

    questions: int
    accuracy: float
    accuracy_per_byte: float
    seconds: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class _Item:
    choices: tuple[Continuation, ...]

    @property
    def tokens(self) -> int:
        return sum(len(choice.ids) for choice in self.choices)


def read_choices(path: str | os.PathLike[str], limit: int | None = None) -> list[Question]:
    """The questions of a file with one ``{"prompt": ..., "choices": [...], "answer": index}`` a line.

    Raises
    ------
    ValueError
        A line is something else; the message names it.
    """
    questions = [_question(value, where) for where, value in read_json_lines(Path(path), limit)]
    if not questions:
        raise ValueError(f"{path}: no questions in it")
    return questions


def multiple_choice(
    model: LanguageModel,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    run: str = "",
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> ChoiceResult:
    """Measure a model on questions.

    A space goes between prompt and choice unless one of them has white space there. Parameters and errors
    are those of :func:`~gpt2fast.evaluation.perplexity.perplexity`; a prompt too long for the model loses
    its beginning.
    """
    if not questions:
        raise ValueError("questions must hold at least one")
    items = list(_items(tokenizer, questions, model.n_positions))

    def evaluate(group: Sequence[_Item]) -> list[list[float]]:
        flat = [choice for item in group for choice in item.choices]
        scores = iter(model.score([choice.ids for choice in flat], [choice.first for choice in flat]))
        return [[float(next(scores).sum(dtype=np.float64)) for _ in item.choices] for item in group]

    measured = measure(items, evaluate, run=run, journal=journal, progress=progress)
    plain = per_byte = 0
    for question, scores in zip(questions, measured.values, strict=True):
        lengths = [len(choice.encode("utf-8")) for choice in question.choices]
        plain += int(np.argmax(scores)) == question.answer
        per_byte += int(np.argmax(np.array(scores) / lengths)) == question.answer
    return ChoiceResult(
        questions=len(questions),
        accuracy=plain / len(questions),
        accuracy_per_byte=per_byte / len(questions),
        seconds=measured.seconds,
        tokens_per_second=measured.tokens_per_second,
    )


def _question(value: dict[str, Any], where: str) -> Question:
    prompt, choices, answer = (value.get(key) for key in ("prompt", "choices", "answer"))
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{where}: prompt must be a text, got {prompt!r}")
    texts = choices if isinstance(choices, list) else []
    all_texts = all(isinstance(one, str) and one.strip() for one in texts)
    if not all_texts or not 2 <= len(texts) <= MAX_CHOICES:
        raise ValueError(f"{where}: choices must be a list of 2 to {MAX_CHOICES} texts, none of them empty")
    if type(answer) is not int or not 0 <= answer < len(texts):
        raise ValueError(f"{where}: answer must be from 0 to {len(texts) - 1}, got {answer!r}")
    return Question(prompt, tuple(texts), answer)


def _items(tokenizer: Tokenizer, questions: Sequence[Question], n_positions: int) -> Iterator[_Item]:
    for question in questions:
        # White space belongs to the word after it, as in the tokenizer.
        context = question.prompt.rstrip()
        gap = question.prompt[len(context) :]
        # Without a template's tokens, as in lm-evaluation-harness: one behind the context would divide it.
        before = tokenizer.encode(context, add_special_tokens=False)
        choices = []
        for choice in question.choices:
            between = gap or ("" if choice[0].isspace() else " ")
            whole = tokenizer.encode(f"{context}{between}{choice}", add_special_tokens=False)
            choices.append(continuation(before, whole, n_positions - 1, choice))
        yield _Item(tuple(choices))
