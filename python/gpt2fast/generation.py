"""What a user asks of generation (options), and what comes back (results)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from gpt2fast._validation import (
    Check,
    Choice,
    Flag,
    Integer,
    Real,
    Strings,
    Text,
    Texts,
    TokenIds,
    TokenWeights,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FinishReason = Literal["length", "stop", "eos", "time", "cancelled", "constraint"]

#: Limits of one request, so that none asks for unbounded work.
MAX_LOGPROBS = 1024
MAX_STOP_STRINGS = 256
MAX_LISTED_TOKENS = 1 << 20
MAX_RETURN_SEQUENCES = 4096
_MAX_COUNT = 2**31 - 1

# Names that other libraries use -> ours, where the spelling alone would not lead there.
_ELSEWHERE = {
    "bad_words_ids": "bad_words",
    "max_length": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "min_length": "min_new_tokens",
    "min_tokens": "min_new_tokens",
    "n": "num_return_sequences",
    "n_predict": "max_new_tokens",
    "num_hypotheses": "num_return_sequences",
    "repeat_penalty": "repetition_penalty",
    "sampling_temperature": "temperature",
    "sampling_topk": "top_k",
    "sampling_topp": "top_p",
    "sequence_bias": "logit_bias",
    "stop": "stop_strings",
    "stop_token_ids": "eos_token_id",
    "timeout": "max_time",
}


def _option(default: Any, check: Check, text: str) -> Any:
    """A field whose values pass ``check`` (or are None, where that is the default); ``text`` documents it."""
    return field(default=default, metadata={"check": check, "help": text})


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to continue a prompt; the names are Hugging Face's where it has the option.

    Wrong types raise ``TypeError``; values out of range and contradictions raise ``ValueError``.
    """

    max_new_tokens: int = _option(128, Integer(0, _MAX_COUNT), "The most tokens to generate.")
    min_new_tokens: int = _option(
        0, Integer(0, _MAX_COUNT), "End-of-text tokens are not chosen before so many tokens."
    )
    do_sample: bool | None = _option(
        None,
        Flag(),
        "Draw tokens at random (True) or take the best (False). Unset: draw when temperature, top_k, top_p, "
        "min_p, typical_p or seed is given.",
    )
    seed: int | None = _option(
        None,
        Integer(0, 2**64 - 1),
        "Start of the random numbers; the same seed gives the same text. Unset: a new one for each text, "
        "reported in the result.",
    )
    temperature: float | None = _option(
        None,
        Real(1e-4, 1e4, zero=True),
        "Divides the scores: below 1 bolder, above 1 wilder. 0 takes the best token.",
    )
    top_k: int | None = _option(None, Integer(0, _MAX_COUNT), "Keep the k likeliest tokens; 0 keeps all.")
    top_p: float | None = _option(
        None, Real(0, 1, open_low=True), "Keep the likeliest tokens that together reach this probability."
    )
    min_p: float | None = _option(
        None, Real(0, 1), "Keep tokens at least this probable, relative to the likeliest token."
    )
    typical_p: float | None = _option(
        None,
        Real(0, 1, open_low=True),
        "Keep the tokens of most typical information that together reach this.",
    )
    repetition_penalty: float = _option(
        1.0, Real(0.01, 100), "Above 1 makes tokens of the prompt and of the output less likely."
    )
    presence_penalty: float = _option(
        0.0, Real(-100, 100), "Subtracted from the score of each token that the output holds."
    )
    frequency_penalty: float = _option(
        0.0, Real(-100, 100), "Subtracted from the score of a token for each time the output holds it."
    )
    no_repeat_ngram_size: int = _option(
        0, Integer(0, _MAX_COUNT), "No run of so many tokens occurs twice; 0 allows it."
    )
    suppress_tokens: int | Sequence[int] = _option(
        (), TokenIds(MAX_LISTED_TOKENS), "Token ids that are never chosen."
    )
    bad_words: Sequence[str | Sequence[int]] = _option(
        (),
        Texts(MAX_LISTED_TOKENS),
        "Words (strings, also banned after a space, or lists of token ids) that are never completed.",
    )
    logit_bias: Mapping[int, float] | None = _option(
        None,
        TokenWeights(1e6, MAX_LISTED_TOKENS),
        "What is added to the scores of token ids.",
    )
    forced_prefix: str | Sequence[int] = _option(
        (), Text(MAX_LISTED_TOKENS), "Text (or token ids) that the output begins with."
    )
    eos_token_id: int | Sequence[int] | None = _option(
        None,
        TokenIds(MAX_LISTED_TOKENS),
        "Token ids that end a text. Unset: the model's own; an empty list: none.",
    )
    stop_strings: str | Sequence[str] = _option(
        (), Strings(MAX_STOP_STRINGS), "Strings that end the output, wherever token borders fall."
    )
    include_stop_string: bool = _option(False, Flag(), "Keep the stop string at the end of the text.")
    max_time: float | None = _option(
        None,
        Real(0, 1e9, open_low=True),
        "Seconds after which generation ends, after the step that is running.",
    )
    num_return_sequences: int | None = _option(
        None,
        Integer(1, MAX_RETURN_SEQUENCES),
        "So many texts for each prompt, drawn with seeds seed, seed + 1, ...; the result is then a list.",
    )
    logprobs: int | None = _option(
        None,
        Integer(0, MAX_LOGPROBS),
        "Report the log-probability of each chosen token and of so many of the likeliest.",
    )
    overflow: Literal["error", "truncate", "slide"] = _option(
        "error",
        Choice(("error", "truncate", "slide")),
        "When prompt and max_new_tokens exceed the model's positions: refuse, keep the newest prompt tokens, "
        "or also drop old text as the output grows.",
    )
    prompt_lookup_num_tokens: int = _option(
        0,
        Integer(0, 64),
        "Guess up to so many tokens from repetitions in the text and verify them in one step; 0: off.",
    )
    use_prefix_cache: bool = _option(
        True, Flag(), "Reuse what was computed for an equal beginning of a recent prompt."
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if value is None and option.default is None:
                continue
            object.__setattr__(self, option.name, option.metadata["check"](option.name, value))
        self._check_contradictions()

    @classmethod
    def make(
        cls, options: GenerationOptions | None = None, overrides: Mapping[str, Any] | None = None
    ) -> GenerationOptions:
        """Options from an object, single values by name, or both (the values win).

        Raises
        ------
        TypeError
            A name is no option; the message has the nearest that is. Else as of the class.
        """
        if options is not None and not isinstance(options, GenerationOptions):
            raise TypeError(f"options must be a GenerationOptions, got {type(options).__name__}")
        overrides = overrides or {}
        names = [option.name for option in fields(cls)]
        for name in overrides:
            if name not in names:
                near = [_ELSEWHERE[name]] if name in _ELSEWHERE else get_close_matches(name, names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; the options are {', '.join(names)}"
                raise TypeError(f"unknown generation option {name!r}{hint}")
        return replace(options, **overrides) if options is not None else cls(**overrides)

    @property
    def sampling(self) -> bool:
        """Whether tokens are drawn at random, all rules applied."""
        if self.temperature == 0:
            return False
        if self.do_sample is not None:
            return self.do_sample
        return self.seed is not None or bool(self._given_sampling_options())

    def _given_sampling_options(self) -> list[str]:
        names = ("temperature", "top_k", "top_p", "min_p", "typical_p")
        return [name for name in names if getattr(self, name) is not None]

    def _check_contradictions(self) -> None:
        if self.do_sample is False:
            given = [name for name in self._given_sampling_options() if getattr(self, name) != 0]
            if given:
                value = getattr(self, given[0])
                raise ValueError(f"{given[0]}={value} contradicts do_sample=False; leave one of them out")
        if self.do_sample and self.temperature == 0:
            raise ValueError(
                "temperature=0 (the best token) contradicts do_sample=True; leave one of them out"
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens ({self.min_new_tokens}) must not exceed "
                f"max_new_tokens ({self.max_new_tokens})"
            )
        if self.num_return_sequences is not None and self.num_return_sequences > 1 and not self.sampling:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs sampling (give temperature or "
                f"do_sample=True): without it all texts would be the same"
            )


def _documented() -> str:
    options = fields(GenerationOptions)
    lines = [f"{option.name} : {option.type}\n    {option.metadata['help']}" for option in options]
    return f"{GenerationOptions.__doc__}\n\nAttributes\n----------\n" + "\n".join(lines)


if GenerationOptions.__doc__:  # absent under `python -OO`
    GenerationOptions.__doc__ = _documented()


@dataclass(frozen=True, eq=False)
class TokenLogprobs:
    """Natural-logarithm probabilities of generated tokens, before any option changed them.

    Attributes
    ----------
    chosen : float32 array, shape (tokens,)
        Of the tokens that were chosen.
    top_ids : int32 array, shape (tokens, k)
        The k likeliest tokens at each place, the likeliest first.
    top : float32 array, shape (tokens, k)
        Their log-probabilities.
    """

    chosen: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top: NDArray[np.float32]

    def __repr__(self) -> str:
        tokens, k = self.top_ids.shape
        return f"TokenLogprobs(tokens={tokens}, k={k}, sum={float(self.chosen.sum()):.3f})"


@dataclass(frozen=True, repr=False)
class Generation:
    """One generated text.

    Attributes
    ----------
    text : str
        The output without the prompt; it ends before a stop string, and special tokens are left out.
    token_ids : list of int
        Every generated token, an end-of-text token and those of a stop string included.
    finish_reason : str
        ``"length"`` (max_new_tokens), ``"eos"``, ``"stop"`` (a stop string), ``"time"``, ``"cancelled"`` or
        ``"constraint"``.
    prompt_token_ids : list of int
        The prompt that the model read, after truncation.
    seed : int or None
        What its random numbers began with; None when nothing was drawn.
    cached_tokens : int
        Prompt tokens that the prefix cache spared.
    logprobs : TokenLogprobs or None
        When asked for.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_token_ids: list[int]
    seed: int | None = None
    cached_tokens: int = 0
    logprobs: TokenLogprobs | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return (
            f"Generation(text={_shortened(self.text)}, tokens={len(self.token_ids)}, "
            f"finish_reason={self.finish_reason!r})"
        )

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False)
class StreamChunk:
    """What one step added to one text.

    Attributes
    ----------
    text : str
        The new text; whole characters, and nothing that a stop string could still take back. May be empty.
    token_ids : list of int
        The new tokens.
    index : int
        Which text of the call it belongs to, counted as in the list that ``generate`` returns.
    finish_reason : str or None
        Set in the last chunk of a text; see :class:`Generation`.
    """

    text: str
    token_ids: list[int]
    index: int = 0
    finish_reason: FinishReason | None = None

    def __repr__(self) -> str:
        end = f", finish_reason={self.finish_reason!r}" if self.finish_reason else ""
        text, tokens = _shortened(self.text), len(self.token_ids)
        return f"StreamChunk(index={self.index}, text={text}, tokens={tokens}{end})"


def _shortened(text: str, limit: int = 60) -> str:
    return repr(text) if len(text) <= limit else repr(text[: limit - 3]) + "..."
