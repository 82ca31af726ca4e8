"""Turns constraints (regular expression, JSON schema, grammar, choices) into masks of allowed tokens.

This is the only importer of the package ``llguidance``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from gpt2fast.inference.options import CONSTRAINTS
from gpt2fast.storage.locks import ForkSafeLock
from gpt2fast.text.byte_level import for_continuations

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions
    from numpy.typing import NDArray

    from gpt2fast.inference.options import GenerationOptions
    from gpt2fast.loading.loaded_model import LoadedModel
    from gpt2fast.text.tokenizer import Tokenizer

_MAX_COMPILED = 64
# The spacing of json.dumps, which models have read most. Free whitespace would let a weak model emit it for
# ever. A schema's own "x-guidance" takes precedence.
_JSON_STYLE: JsonCompileOptions = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


class Constraint:
    """A compiled constraint, shared by the texts of a call.

    Parameters
    ----------
    start : llguidance.LLMatcher
        The beginning of the grammar; it is copied, not changed.
    vocabulary : Vocabulary
        The model's.
    eos_token_ids : sequence of int
        Tokens that end a text.
    """

    def __init__(self, start: LLMatcher, vocabulary: Vocabulary, eos_token_ids: Sequence[int]) -> None:
        self._start = start
        self._vocabulary = vocabulary
        silent = [token for token in eos_token_ids if vocabulary.is_silent(token)]
        self._silent_ends = vocabulary.mask_of(silent)
        self._spoken_ends = [token for token in eos_token_ids if token not in silent]

    def new_state(self) -> ConstraintState:
        """The state of one text; nothing is generated yet."""
        return ConstraintState(self._start, self._vocabulary.texts, self._silent_ends, self._spoken_ends)


class ConstraintState:
    """The position of one text in a constraint's grammar; its methods are hooks of the core's ``Request``.

    Tokens that end a text are allowed exactly where the output is complete: those without a text of their
    own after it, those with a text when they complete it.
    """

    def __init__(
        self,
        start: LLMatcher,
        texts: NDArray[np.uint32],
        silent_ends: NDArray[np.uint32],
        spoken_ends: Sequence[int],
    ) -> None:
        self._start = start
        self._texts = texts
        self._silent_ends = silent_ends
        self._spoken_ends = spoken_ends
        self._matcher = start.deep_copy()
        self._output = np.empty(0, np.int32)
        self._mask = np.zeros_like(texts)
        self._address = self._mask.ctypes.data

    def allowed_tokens(self, output: NDArray[np.int32]) -> NDArray[np.uint32]:
        """The bit set, uint32 (words,), of the tokens that may follow; it is overwritten by the next call."""
        self._follow(output)
        matcher, mask = self._matcher, self._mask
        matcher.unsafe_compute_mask_ptr(self._address, mask.nbytes)
        if matcher.is_error():  # its limits are exceeded: no token is known to be valid
            mask.fill(0)
            return mask
        np.bitwise_and(mask, self._texts, out=mask)
        for token in self._spoken_ends:
            if not self._completes(token):
                mask[token >> 5] &= ~np.uint32(1 << (token & 31))
        if matcher.is_accepting():
            np.bitwise_or(mask, self._silent_ends, out=mask)
        return mask

    def is_complete(self, output: NDArray[np.int32]) -> bool:
        """Whether the output satisfies the grammar and nothing can follow it."""
        self._follow(output)
        return self._matcher.is_stopped() and self._matcher.is_accepting()

    def _follow(self, output: NDArray[np.int32]) -> None:
        known = self._output
        if not np.array_equal(output[: len(known)], known):
            self._matcher = self._start.deep_copy()
            known = known[:0]
        if len(output) > len(known):
            self._matcher.consume_tokens(output[len(known) :].tolist())
            self._output = output

    def _completes(self, token: int) -> bool:
        if not self._matcher.validate_tokens([token]):
            return False
        after = self._matcher.deep_copy()
        return after.consume_token(token) and after.is_accepting()


class Vocabulary:
    """llguidance's view of a tokenizer, and the grammars last compiled for it.

    Parameters
    ----------
    tokenizer : Tokenizer
        The model's.
    vocab_size : int
        The model's; may exceed the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        llguidance = _llguidance()
        self.vocab_size = vocab_size
        # What a grammar leaves no choice about is made into tokens, which follow others.
        as_it_is = for_continuations(tokenizer.to_json())
        self._backend: LLTokenizer = llguidance.LLTokenizer(as_it_is, n_vocab=vocab_size)
        self._silent = frozenset(
            token for token, data in enumerate(tokenizer.token_bytes()) if not data
        ) | frozenset(range(tokenizer.vocab_size, vocab_size))
        #: Bit set of the tokens that a grammar may contain: all but those llguidance takes for end-of-text.
        self.texts = ~self.mask_of(self._backend.eos_tokens)
        self.compiled = lru_cache(_MAX_COMPILED)(self._compile)

    def is_silent(self, token: int) -> bool:
        """Whether a token has no text."""
        return token in self._silent

    def mask_of(self, tokens: Sequence[int]) -> NDArray[np.uint32]:
        """The bit set, uint32 (words,), of the given tokens."""
        bits = np.zeros((self.vocab_size + 31) // 32 * 32, np.uint8)
        bits[list(tokens)] = 1
        return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)

    def _compile(self, name: str, value: str | tuple[str, ...]) -> LLMatcher:
        """Compile an option's value; returns the start of its grammar.

        Raises
        ------
        ValueError
            The value is not a grammar; the message names the option.
        """
        llguidance = _llguidance()
        try:
            grammar = _grammar(llguidance.LLMatcher, name, value)
            matcher: LLMatcher = llguidance.LLMatcher(self._backend, grammar, log_level=0)
            problem = matcher.get_error()
        except ValueError as error:
            problem = str(error)
        if problem:
            raise ValueError(f"{name} cannot be used: {problem.strip()}")
        return matcher


def find_constraint(
    model: LoadedModel,
    options: GenerationOptions,
    eos_token_ids: Sequence[int],
    forced_prefix: Sequence[int],
) -> Constraint | None:
    """The constraint in the options, compiled for a model; None if they have none.

    Raises
    ------
    ValueError
        The constraint is broken, too much for llguidance, or contradicts the tokens that the output must
        begin with; or the model has no tokenizer, or one that is not byte-level.
    ImportError
        llguidance is not installed.
    """
    name = next((name for name in CONSTRAINTS if getattr(options, name) is not None), None)
    if name is None:
        return None
    if model.tokenizer is None:
        raise ValueError(f"{name} needs a tokenizer, and the model has none")
    tokenizer = model.tokenizer.get()
    if not tokenizer.is_byte_level:
        raise ValueError(f"{name} needs a byte-level tokenizer, and the model's is of another kind")
    vocabulary = vocabulary_of(tokenizer, model.config.vocab_size)
    start = vocabulary.compiled(name, getattr(options, name))
    if not start.deep_copy().consume_tokens(list(forced_prefix)):
        raise ValueError(f"forced_prefix contradicts {name}: no output that begins with it is valid")
    return Constraint(start, vocabulary, eos_token_ids)


_vocabularies: WeakKeyDictionary[Tokenizer, Vocabulary] = WeakKeyDictionary()
_lock = ForkSafeLock()


def vocabulary_of(tokenizer: Tokenizer, vocab_size: int) -> Vocabulary:
    """The vocabulary of a tokenizer, kept: building it takes a second for GPT-2's."""
    with _lock:
        vocabulary = _vocabularies.get(tokenizer)
        if vocabulary is None or vocabulary.vocab_size != vocab_size:
            vocabulary = _vocabularies[tokenizer] = Vocabulary(tokenizer, vocab_size)
        return vocabulary


def _grammar(compiler: type[LLMatcher], name: str, value: Any) -> str:
    """An option's value in llguidance's own format."""
    if name == "regex":
        return compiler.grammar_from_regex(value)
    if name == "json_schema":
        return compiler.grammar_from_json_schema(value, defaults=_JSON_STYLE)
    if name == "grammar":
        return compiler.grammar_from_lark(value)
    # The grammar language writes strings as JSON does, but that DEL counts as a control character, too. One
    # terminal is one automaton; alternatives of a rule would be followed one by one.
    strings = (json.dumps(choice, ensure_ascii=False).replace("\x7f", "\\u007f") for choice in value)
    alternatives = " | ".join(strings)
    return compiler.grammar_from_lark(f"start: CHOICE\nCHOICE: {alternatives}")


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise ImportError(
            f"{', '.join(CONSTRAINTS)} need the package llguidance: pip install 'gpt2fast[constraints]'"
        ) from None
    return llguidance
