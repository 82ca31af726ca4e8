"""Evaluation: perplexity of a text, LAMBADA, multiple choice, and the loss from a precision.

Every measurement works on anything that scores token ids (:class:`LanguageModel`), so tests can use a
made-up model; :func:`language_model` makes one of a :class:`gpt2fast.GPT2`.
"""

from __future__ import annotations

from gpt2fast.evaluation.comparison import Comparison, compare
from gpt2fast.evaluation.journal import Journal
from gpt2fast.evaluation.lambada import LambadaResult, lambada, read_lambada
from gpt2fast.evaluation.language_model import LanguageModel, language_model
from gpt2fast.evaluation.multiple_choice import ChoiceResult, multiple_choice, read_choices
from gpt2fast.evaluation.perplexity import PerplexityResult, PerplexitySettings, perplexity

__all__ = [
    "ChoiceResult",
    "Comparison",
    "Journal",
    "LambadaResult",
    "LanguageModel",
    "PerplexityResult",
    "PerplexitySettings",
    "compare",
    "lambada",
    "language_model",
    "multiple_choice",
    "perplexity",
    "read_choices",
    "read_lambada",
]
