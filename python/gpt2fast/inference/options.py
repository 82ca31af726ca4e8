"""The options of generation: meaning, default and limits of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from gpt2fast._validation import (
    Callables,
    Check,
    Choice,
    Flag,
    FlagOr,
    Instance,
    Integer,
    JsonSchema,
    Real,
    Seed,
    String,
    Strings,
    Text,
    Texts,
    TokenIds,
    TokenWeights,
)
from gpt2fast.inference.other_names import unknown_option

if TYPE_CHECKING:
    from gpt2fast.inference.cancellation import CancelToken
    from gpt2fast.inference.prefix import Prefix
    from gpt2fast.loading.loaded_model import ModelLike

#: Limits of one request, so that none requires unbounded work.
MAX_LOGPROBS = 1024
MAX_STOP_STRINGS = 256
MAX_LISTED_TOKENS = 1 << 20
MAX_RETURN_SEQUENCES = 4096
MAX_BEAMS = 4096
MAX_PRIORITY = 1000
MAX_LOGITS_PROCESSORS = 64
MAX_GRAMMAR_CHARACTERS = 1 << 20
MAX_CHOICES = 4096
_MAX_COUNT = 2**31 - 1

#: The options that constrain the output; at most one of them may be given.
CONSTRAINTS = ("regex", "json_schema", "grammar", "choices")

#: The options that say how tokens are drawn, with the values that leave the model's own probabilities
#: (``top_k`` also with the default of transformers).
SAMPLING_OPTIONS: Mapping[str, tuple[float, ...]] = {
    "temperature": (1.0,),
    "top_k": (0, 50),
    "top_p": (1.0,),
    "min_p": (0.0,),
    "typical_p": (1.0,),
}

# A beam search has no use for these: it chooses whole texts after the last step.
_NOT_WITH_BEAMS = (
    "best_of",
    *CONSTRAINTS,
    "logits_processor",
    "prompt_lookup_num_tokens",
    "assistant_model",
    "prefix",
)


def _option(default: Any, check: Check, text: str) -> Any:
    """A field whose values pass ``check`` (or are None, where that is the default); ``text`` documents it."""
    return field(default=default, metadata={"check": check, "help": text})


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to continue a prompt; options that Hugging Face has keep their names.

    Wrong types raise ``TypeError``; values out of range and contradictions raise ``ValueError``, as does
    a call with an option that needs another.
    """

    max_new_tokens: int = _option(128, Integer(0, _MAX_COUNT), "The most tokens to generate.")
    min_new_tokens: int = _option(
        0, Integer(0, _MAX_COUNT), "End-of-text tokens are not chosen before this many tokens."
    )
    do_sample: bool | None = _option(
        None,
        Flag(),
        "Sample tokens (True) or take the best (False). Unset: sample when temperature, top_k, top_p, "
        "min_p, typical_p or seed is given.",
    )
    seed: int | None = _option(
        None,
        Seed(Integer(-(2**63), 2**64 - 1)),
        "Seed of the random numbers; the same seed gives the same text. Unset or -1: a new one for each "
        "text, reported in the result.",
    )
    temperature: float | None = _option(
        None,
        Real(1e-4, 1e4, zero=True),
        "Divides the scores: below 1 is more predictable, above 1 more random. 0 takes the best token.",
    )
    top_k: int | None = _option(
        None,
        Integer(0, _MAX_COUNT),
        "Keep the k likeliest tokens; 0 keeps all. Unset: 50, as transformers has it.",
    )
    top_p: float | None = _option(
        None, Real(0, 1, open_low=True), "Keep the likeliest tokens that together reach this probability."
    )
    min_p: float | None = _option(
        None, Real(0, 1), "Keep tokens at least this probable, relative to the likeliest token."
    )
    typical_p: float | None = _option(
        None,
        Real(0, 1, open_low=True),
        "Keep the tokens of most typical information that together reach this probability.",
    )
    repetition_penalty: float = _option(
        1.0, Real(0.01, 100), "Above 1 makes tokens that occur in the prompt or the output less likely."
    )
    presence_penalty: float = _option(
        0.0, Real(-100, 100), "Subtracted from the score of each token that occurs in the output."
    )
    frequency_penalty: float = _option(
        0.0, Real(-100, 100), "Subtracted from a token's score once for each time it occurs in the output."
    )
    no_repeat_ngram_size: int = _option(
        0, Integer(0, _MAX_COUNT), "No sequence of this many tokens occurs twice; 0: no limit."
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
        "Numbers to add to the scores of token ids; -inf forbids one.",
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
        (),
        Strings(MAX_STOP_STRINGS),
        "Strings that end the output, also across token boundaries; one may begin in the prompt.",
    )
    include_stop_string: bool = _option(False, Flag(), "Keep the stop string at the end of the text.")
    max_time: float | None = _option(
        None,
        Real(0, 1e9, open_low=True),
        "Seconds from the call, waiting included, after which generation ends, in a long prompt too.",
    )
    num_return_sequences: int | None = _option(
        None,
        Integer(1, MAX_RETURN_SEQUENCES),
        "This many texts for each prompt, sampled with seeds seed, seed + 1, ..., or the best of num_beams "
        "or best_of, best first; the result is then a list.",
    )
    best_of: int | None = _option(
        None,
        Integer(1, MAX_RETURN_SEQUENCES),
        "Sample this many texts and keep those whose tokens are likeliest on average.",
    )
    num_beams: int = _option(
        1,
        Integer(1, MAX_BEAMS),
        "Search for the likeliest text with this many beams; at most the model's max_sequences.",
    )
    length_penalty: float = _option(
        1.0,
        Real(-100, 100),
        "A beam's score is its log-probability divided by its length to this power; above 0 favours long "
        "texts.",
    )
    early_stopping: bool | Literal["never"] = _option(
        False,
        FlagOr("never"),
        "End a search with beams when num_beams texts are complete (True), when a better one is unlikely "
        "(False), or when none is possible ('never').",
    )
    logprobs: int | None = _option(
        None,
        Integer(0, MAX_LOGPROBS),
        "Report the log-probability of each chosen token and of this many of the likeliest.",
    )
    echo: bool = _option(
        False,
        Flag(),
        "Begin the text, and the log-probabilities if requested, with the prompt's.",
    )
    logits_processor: Callable[..., None] | Sequence[Callable[..., None]] = _option(  # noqa: RUF009 - a field
        (),
        Callables(MAX_LOGITS_PROCESSORS),
        "A function or several, called for every token with the prompt's ids, the output's ids and the "
        "scores (float32 array of vocab_size), which it changes in place. Slower than the other options.",
    )
    regex: str | None = _option(
        None,
        String(MAX_GRAMMAR_CHARACTERS),
        "Only output that matches this regular expression as a whole (Rust's syntax).",
    )
    json_schema: Mapping[str, Any] | str | None = _option(
        None,
        JsonSchema(MAX_GRAMMAR_CHARACTERS),
        "Only JSON that fits this schema (a dict or JSON text), spaced as json.dumps does.",
    )
    grammar: str | None = _option(
        None,
        String(MAX_GRAMMAR_CHARACTERS),
        "Only output that matches this grammar, in llguidance's form of Lark.",
    )
    choices: Sequence[str] | None = _option(None, Strings(MAX_CHOICES), "Only one of these strings.")
    overflow: Literal["error", "truncate", "slide"] = _option(
        "error",
        Choice(("error", "truncate", "slide")),
        "When prompt and max_new_tokens exceed the model's positions: refuse, keep the newest prompt tokens, "
        "or also drop old text as the output grows.",
    )
    prompt_lookup_num_tokens: int = _option(
        0,
        Integer(0, 64),
        "Guess up to this many tokens from repetitions in the text and verify them in one step; 0: off.",
    )
    assistant_model: ModelLike | None = _option(  # noqa: RUF009 - a field
        None,
        Instance("gpt2fast.model", "GPT2"),
        "A smaller model with the same vocabulary that guesses tokens for this one to verify in one step.",
    )
    num_assistant_tokens: int = _option(
        20, Integer(1, 64), "The most tokens that assistant_model guesses at once; it adapts to its success."
    )
    prefix: Prefix | None = _option(  # noqa: RUF009 - a field
        None,
        Instance("gpt2fast.inference.prefix", "Prefix"),
        "What GPT2.prefill returned: its tokens come before each prompt, and need not be computed again.",
    )
    use_prefix_cache: bool = _option(
        True, Flag(), "Reuse keys and values of a recent prompt with the same beginning."
    )
    priority: int = _option(
        0,
        Integer(-MAX_PRIORITY, MAX_PRIORITY),
        "Texts of a higher priority get a slot earlier; each level is worth one second of waiting.",
    )
    cancel: CancelToken | None = _option(  # noqa: RUF009 - a field
        None,
        Instance("gpt2fast.inference.cancellation", "CancelToken"),
        "A handle that ends the generation from another thread, in the middle of a long prompt too.",
    )

    def __new__(cls, **values: Any) -> GenerationOptions:
        """An object that remembers which options were given: the others are the model's to choose."""
        cls._check_names(values.keys())
        made = super().__new__(cls)
        object.__setattr__(made, "_given", frozenset(values))
        return made

    def __post_init__(self) -> None:
        for name in self.given:
            object.__setattr__(self, name, self.checked(name, getattr(self, name)))
        self._check_contradictions()

    @classmethod
    def _check_names(cls, names: Set[str]) -> None:
        unknown = names - cls.__dataclass_fields__.keys()
        if unknown:
            raise unknown_option(min(unknown), cls.__dataclass_fields__)

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        """A value of one option in plain form; raises the errors of the class."""
        option = cls.__dataclass_fields__[name]
        if value is None and option.default is None:
            return None
        return option.metadata["check"](name, value)

    @classmethod
    def make(
        cls, options: GenerationOptions | None = None, overrides: Mapping[str, Any] | None = None
    ) -> GenerationOptions:
        """Options from an object, single values by name, or both (single values take precedence).

        Raises
        ------
        TypeError
            A name is not an option; the message says what to write. Other errors are those of the class.
        """
        if options is None:
            return cls(**overrides) if overrides else cls()
        if not isinstance(options, GenerationOptions):
            raise TypeError(f"options must be a GenerationOptions, got {type(options).__name__}")
        return options.changed(**overrides) if overrides else options

    def changed(self, **values: Any) -> GenerationOptions:
        """A copy with other values; :func:`dataclasses.replace` makes one in which every option is given."""
        self._check_names(values.keys())
        made = self.with_given(self.given | values.keys())
        for name, value in values.items():
            object.__setattr__(made, name, self.checked(name, value))
        made._check_contradictions()
        return made

    def with_given(self, names: Collection[str]) -> GenerationOptions:
        """A copy in which these options count as given."""
        made = object.__new__(type(self))
        vars(made).update(vars(self), _given=frozenset(names))
        return made

    @property
    def given(self) -> frozenset[str]:
        """The names of the options that were given; a model's generation_config.json rules the others."""
        given: frozenset[str] = self.__dict__["_given"]
        return given

    def given_values(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: getattr(self, name) for name in self.given}

    @property
    def sampling(self) -> bool:
        """Whether tokens are sampled, with all rules applied."""
        return bool(sampling_requested(vars(self)))

    def _check_contradictions(self) -> None:
        if self.do_sample is False:
            for name, neutral in SAMPLING_OPTIONS.items():
                value = getattr(self, name)
                if value not in (None, 0, *neutral):
                    raise ValueError(f"{name}={value} contradicts do_sample=False; leave one of them out")
        if self.do_sample and self.temperature == 0:
            raise ValueError(
                "temperature=0 (the best token) contradicts do_sample=True; leave one of them out"
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens ({self.min_new_tokens}) must not exceed "
                f"max_new_tokens ({self.max_new_tokens})"
            )
        constraints = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(constraints) > 1:
            raise ValueError(f"{constraints[0]} contradicts {constraints[1]}; leave one of them out")
        if self.choices is not None and not self.choices:
            raise ValueError("choices must hold at least one string")
        if self.num_beams > 1:
            self._check_beams()
        if self.best_of is not None and self.best_of < (self.num_return_sequences or 1):
            raise ValueError(
                f"num_return_sequences ({self.num_return_sequences}) must not exceed best_of ({self.best_of})"
            )
        if self.prompt_lookup_num_tokens and self.assistant_model is not None:
            raise ValueError(
                "prompt_lookup_num_tokens contradicts assistant_model: both guess tokens; leave one out"
            )

    def _check_beams(self) -> None:
        if self.sampling:
            raise ValueError(
                f"num_beams={self.num_beams} contradicts sampling (temperature, top_k, top_p, min_p, "
                f"typical_p, seed or do_sample=True): a search draws nothing"
            )
        defaults = {option.name: option.default for option in fields(self)}
        for name in _NOT_WITH_BEAMS:
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} contradicts num_beams={self.num_beams}; leave one of them out")
        if self.overflow == "slide":
            raise ValueError(f"overflow='slide' contradicts num_beams={self.num_beams}; use 'truncate'")
        if self.max_new_tokens == 0:
            raise ValueError(f"max_new_tokens=0 contradicts num_beams={self.num_beams}; give at least 1")
        if (self.num_return_sequences or 1) > self.num_beams:
            raise ValueError(
                f"num_return_sequences ({self.num_return_sequences}) must not exceed num_beams "
                f"({self.num_beams})"
            )

    def check_needs(self) -> None:
        """Raise ValueError for an option that needs another: a call has it from the caller or the model."""
        if self.num_beams > 1:
            return
        for name in ("length_penalty", "early_stopping"):
            if getattr(self, name) != self.__dataclass_fields__[name].default:
                raise ValueError(f"{name}={getattr(self, name)!r} needs num_beams above 1")
        if self.best_of is not None and not self.sampling:
            raise ValueError(f"best_of={self.best_of} needs sampling: give temperature or do_sample=True")
        if (self.num_return_sequences or 1) > 1 and not self.sampling:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs sampling (give temperature or "
                f"do_sample=True) or num_beams: without it all texts would be the same"
            )


def sampling_requested(options: Mapping[str, Any]) -> bool | None:
    """Whether these options, by name, request sampling (True) or the best token (False); None: neither."""
    if options.get("temperature") == 0:
        return False
    if options.get("do_sample") is not None:
        return bool(options["do_sample"])
    if any(options.get(name) is not None for name in ("seed", *SAMPLING_OPTIONS)):
        return True
    return None


def _documented() -> str:
    options = fields(GenerationOptions)
    lines = [f"{option.name} : {option.type}\n    {option.metadata['help']}" for option in options]
    return f"{GenerationOptions.__doc__}\n\nAttributes\n----------\n" + "\n".join(lines)


if GenerationOptions.__doc__:  # absent under `python -OO`
    GenerationOptions.__doc__ = _documented()
