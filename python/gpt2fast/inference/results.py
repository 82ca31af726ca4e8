"""Results: generated texts, chunks of a stream, scores of texts and choices."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

from gpt2fast.inference.other_names import missing_of_result, no_index

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.text.arrays import Past

FinishReason = Literal["length", "stop", "eos", "time", "cancelled", "constraint"]

_Result = TypeVar("_Result")


class UnreadText:
    """Fills the field ``text`` of a result until the text is first read."""

    __slots__ = ()

    def decode(self) -> str:
        """The text."""
        raise NotImplementedError

    def at_hand(self) -> bool:
        """Whether decoding needs neither file nor network; if it does, ``repr`` shows no text."""
        raise NotImplementedError


def changed(result: Generation, **values: Any) -> Generation:
    """:func:`dataclasses.replace` without decoding the text."""
    return replace(result, **{"text": vars(result)["text"], **values})


class Result:
    """What the results have in common."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that ``json.dumps`` takes; NaN and infinities become None."""
        return {one.name: plain(getattr(self, one.name)) for one in fields(cast("Any", self))}


def plain(value: Any) -> Any:
    """A value in the form that ``json.dumps`` takes; NaN and infinities, which JSON lacks, become None."""
    if isinstance(value, Result):
        return value.to_dict()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_lazy_text(cls: type[_Result]) -> type[_Result]:
    """Let the field ``text`` of a dataclass hold an :class:`UnreadText`.

    Copies and pickles hold the text itself.
    """

    def read(self: Any) -> str:
        text = self.__dict__["text"]
        if isinstance(text, UnreadText):
            text = self.__dict__["text"] = text.decode()
        return cast("str", text)

    def write(self: Any, text: str) -> None:
        self.__dict__["text"] = text

    def state(self: Any) -> dict[str, Any]:
        return {**self.__dict__, "text": self.text}

    # Set after the dataclass is made, which would take a property in the class for the field's default.
    setattr(cls, "text", property(read, write))  # noqa: B010 - the type checker knows the field alone
    setattr(cls, "__getstate__", state)  # noqa: B010 - as above
    return cls


class ForwardOutput(NamedTuple):
    """What :meth:`gpt2fast.GPT2.forward` gives with ``output_hidden_states=True``.

    Attributes
    ----------
    last_hidden_state : float32 array, shape (batch, tokens, n_embd)
        After the last LayerNorm.
    past : tuple of float32 array
        For each layer one array of shape (2, batch, n_head, past tokens + tokens, head_dim).
    hidden_states : tuple of float32 array, shape (batch, tokens, n_embd)
        n_layer + 1 arrays, as in ``transformers``: the embeddings, what each layer but the last gives, and
        ``last_hidden_state``.
    """

    last_hidden_state: NDArray[np.float32]
    past: Past
    hidden_states: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, eq=False)
class TokenLogprobs(Result):
    """Natural-logarithm probabilities of generated tokens, before any option changed them.

    With ``echo`` those of the prompt's tokens come first; the first token has none: NaN, and -1 for ids. So
    have those of the prompt that a cancelled call did not come to read.

    Attributes
    ----------
    chosen : float32 array, shape (tokens,)
        Of the tokens that were chosen.
    top_ids : int32 array, shape (tokens, k)
        The k likeliest tokens at each position, the likeliest first.
    top : float32 array, shape (tokens, k)
        Their log-probabilities.
    """

    chosen: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top: NDArray[np.float32]

    def __repr__(self) -> str:
        tokens, k = self.top_ids.shape
        return f"TokenLogprobs(<{tokens} tokens, {k} likeliest of each>)"


@_with_lazy_text
@dataclass(frozen=True, repr=False)
class Generation(Result):
    """One generated text.

    Attributes
    ----------
    text : str
        The output, without the prompt unless ``echo`` is on; it ends before a stop string, and special
        tokens are left out. It is decoded when first read, which may load the model's tokenizer; `repr`
        loads none and shows the ids instead.
    token_ids : list of int
        Every generated token, including an end-of-text token and those of a stop string.
    finish_reason : str
        ``"length"`` (max_new_tokens), ``"eos"``, ``"stop"`` (a stop string, or a constraint after which
        nothing can follow), ``"time"``, ``"cancelled"`` or ``"constraint"`` (the options left no token to
        choose).
    prompt_token_ids : list of int
        The prompt that the model read, after truncation.
    seed : int or None
        The seed of its random numbers; None if nothing was sampled.
    cached_tokens : int
        Prompt tokens taken from the prefix cache or from ``prefix``.
    logprobs : TokenLogprobs or None
        If requested.
    score : float or None
        The score that it was chosen by: with ``num_beams`` the log-probability divided by a power of the
        length, with ``best_of`` the mean log-probability (None for a text without tokens).
    started_seconds : float or None
        From the call until the text got its slot and began to be computed: its time of waiting. None if it
        never did, and for ``num_beams``.
    first_token_seconds, last_token_seconds : float or None
        From the call until the first and the last token was chosen, waiting included; None without tokens,
        and for ``num_beams``.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    prompt_token_ids: list[int]
    seed: int | None = None
    cached_tokens: int = 0
    logprobs: TokenLogprobs | None = field(default=None, compare=False)
    score: float | None = None
    started_seconds: float | None = field(default=None, compare=False)
    first_token_seconds: float | None = field(default=None, compare=False)
    last_token_seconds: float | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"Generation({_shown_output(self)}, finish_reason={self.finish_reason!r})"

    def __str__(self) -> str:
        return self.text

    if not TYPE_CHECKING:  # a type checker knows what is there

        def __getattr__(self, name: str) -> Any:
            raise missing_of_result(name)

        def __getitem__(self, index: Any) -> Any:
            raise no_index()


@_with_lazy_text
@dataclass(frozen=True, repr=False, init=False)
class StreamChunk(Result):
    """What one step added to one text.

    Attributes
    ----------
    text : str
        The new text: whole characters, without what could be the beginning of a stop string. May be empty.
        It is decoded when first read, like that of :class:`Generation`.
    token_ids : list of int
        The new tokens.
    index : int
        The index of its text in the list that ``generate`` would return.
    finish_reason : str or None
        Set in the last chunk of a text; see :class:`Generation`.
    logprobs : TokenLogprobs or None
        Of the new tokens, if requested.
    """

    text: str
    token_ids: list[int]
    index: int = 0
    finish_reason: FinishReason | None = None
    logprobs: TokenLogprobs | None = field(default=None, compare=False)

    def __init__(
        self,
        text: str,
        token_ids: list[int],
        index: int = 0,
        finish_reason: FinishReason | None = None,
        logprobs: TokenLogprobs | None = None,
    ) -> None:
        # The generated method sets each field by a call and takes three times as long.
        values = self.__dict__
        values["text"] = text
        values["token_ids"] = token_ids
        values["index"] = index
        values["finish_reason"] = finish_reason
        values["logprobs"] = logprobs

    def __repr__(self) -> str:
        end = f", finish_reason={self.finish_reason!r}" if self.finish_reason else ""
        return f"StreamChunk(index={self.index}, {_shown_output(self)}{end})"


@dataclass(frozen=True, eq=False)
class TextScore(Result):
    """How likely a model finds a text, token by token.

    Attributes
    ----------
    token_ids : list of int
        The text.
    logprobs : float32 array, shape (tokens,)
        Natural-logarithm probability of each token, given those before it; NaN where none is before it.
    unscored : tuple of int
        The places of tokens without a probability: the first, unless a context precedes it, and with a
        stride as long as the context the first of each window.
    """

    token_ids: list[int]
    logprobs: NDArray[np.float32]
    unscored: tuple[int, ...] = (0,)

    @property
    def total(self) -> float:
        """The sum of the log-probabilities."""
        values = self.logprobs.tolist()
        for place in self.unscored:
            values[place] = 0.0
        return math.fsum(values)

    @property
    def mean(self) -> float:
        """The mean log-probability of the tokens that have one; NaN if none has."""
        scored = len(self.token_ids) - len(self.unscored)
        return self.total / scored if scored > 0 else math.nan

    @property
    def perplexity(self) -> float:
        """``exp(-mean)``."""
        return math.exp(-self.mean)


@dataclass(frozen=True, eq=False)
class RankedChoice(Result):
    """One continuation of a prompt, and how likely it is.

    Attributes
    ----------
    choice : str or list of int
        The continuation as it was given.
    index : int
        Its place in the list that was given.
    token_ids : list of int
        Its tokens.
    logprobs : float32 array, shape (tokens,)
        Natural-logarithm probability of each, given the prompt and those before it.
    total, mean : float
        Their sum, and the mean per token.
    """

    choice: str | list[int]
    index: int
    token_ids: list[int]
    logprobs: NDArray[np.float32]
    total: float
    mean: float


@dataclass(frozen=True, eq=False)
class Classification(Result):
    """What a model for sequence classification says of a text.

    Attributes
    ----------
    label : str
        The label with the highest score.
    score : float
        Its score.
    labels : tuple of str
        All labels, in the order of their ids.
    scores : float32 array, shape (labels,)
        As the pipeline of ``transformers`` has them: probabilities that add up to 1; for a model of several
        labels at once, or of a single one, the probability of each; for a regression its values themselves.
    logits : float32 array, shape (labels,)
        What the head gave.
    """

    label: str
    score: float
    labels: tuple[str, ...]
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]

    def __repr__(self) -> str:
        return f"Classification({self.label!r}, score={self.score:.4f})"


@dataclass(frozen=True, eq=False)
class TokenClassification(Result):
    """What a model for token classification says of each token of a text.

    Attributes
    ----------
    token_ids : list of int
        The text.
    token_labels : list of str
        The likeliest label of each token.
    token_scores : list of float
        Its probability.
    labels : tuple of str
        All labels, in the order of their ids.
    scores : float32 array, shape (tokens, labels)
        The probability of each label.
    logits : float32 array, shape (tokens, labels)
        What the head gave.
    """

    token_ids: list[int]
    token_labels: list[str]
    token_scores: list[float]
    labels: tuple[str, ...]
    scores: NDArray[np.float32]
    logits: NDArray[np.float32]


#: What :meth:`gpt2fast.GPT2.classify` says of a text, by the kind of the model's head.
AnyClassification: TypeAlias = Classification | TokenClassification


def _shown_output(result: Generation | StreamChunk) -> str:
    """The beginning of the text, and the ids if they are few; of the ids alone if decoding needs files."""
    ids, unread = result.token_ids, vars(result)["text"]
    if isinstance(unread, UnreadText) and not unread.at_hand():
        more = [f"... {len(ids)} in all"] if len(ids) > 8 else []
        return f"token_ids=[{', '.join([*map(str, ids[:8]), *more])}]"
    text = result.text
    shown = repr(text) if len(text) <= 50 else repr(text[:47]) + "..."
    return f"text={shown}, token_ids={ids if len(ids) <= 4 else f'[{len(ids)} ids]'}"
