"""Texts as rows of token ids with attention masks: what calling a tokenizer gives, as in ``transformers``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gpt2fast._validation import Flag, Integer, shown
from gpt2fast.text.backend import explained
from gpt2fast.text.chat_template import CompiledTemplate
from gpt2fast.text.unicode_text import check_text

if TYPE_CHECKING:
    from gpt2fast.text.backend import Backend

_PADDING = (False, True, "longest", "max_length", "do_not_pad")
_TRUNCATION = (None, False, True, "longest_first", "only_first", "do_not_truncate")
_OPTIONS = (
    *("add_special_tokens", "padding", "truncation", "max_length", "padding_side", "return_tensors"),
    "return_attention_mask",
)
_WINDOWS = "model.score and model.perplexity cut long texts into windows themselves"
_PAIRS = "a text has no pair in GPT-2: join the two"
# Options of transformers -> what to write.
_OTHERS = {
    "is_split_into_words": "join the words with spaces",
    "pad_to_multiple_of": "write padding='max_length' with max_length",
    "return_length": "len(ids) tells",
    "return_offsets_mapping": "tokenizer.decode_bytes([id]) has the bytes of each token",
    "return_overflowing_tokens": _WINDOWS,
    "return_special_tokens_mask": "compare the ids with tokenizer.all_special_ids",
    "return_token_type_ids": "leave it out: GPT-2 has none",
    "stride": _WINDOWS,
    "text_pair": _PAIRS,
    "text_target": "write text alone",
    "verbose": "leave it out",
}
# Options of transformers' apply_chat_template -> what to write.
_CHAT_OTHERS = {
    "continue_final_message": "write add_generation_prompt=True and tokenize=False, and add what the answer "
    "begins with",
    "return_assistant_tokens_mask": "leave it out: the model is not trained",
    "sanitize_control_tokens": "leave it out: gpt2fast chat and serve take DialoGPT's turns literally",
    "tokenizer_kwargs": "give max_length, padding, ... by themselves",
}
_MAX_LENGTH = Integer(1, 1 << 31)


class Encoder(Protocol):
    """What is needed of :class:`gpt2fast.Tokenizer`."""

    @property
    def pad_token_id(self) -> int | None:
        """The id that fills rows up."""

    @property
    def padding_side(self) -> str:
        """Where they are filled up."""

    @property
    def truncation_side(self) -> str:
        """Where texts are cut."""

    @property
    def model_max_length(self) -> int | None:
        """The most tokens of a text."""

    @property
    def chat_template(self) -> str | None:
        """A Jinja template."""

    def roles(self) -> dict[str, str]:
        """The tokens that have a role."""

    def __call__(self, text: str | Sequence[str], **options: Any) -> EncodedTexts:
        """Ids and masks of texts."""


class EncodedTexts(dict[str, Any]):
    """``input_ids`` and ``attention_mask``, under these keys and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{name}: there are {', '.join(self)}") from None


def encode_texts(
    tokenizer: Encoder,
    backend: Backend,
    text: str | Sequence[str],
    *,
    add_special_tokens: bool = True,
    padding: bool | str = False,
    truncation: bool | str | None = None,
    max_length: int | None = None,
    padding_side: str | None = None,
    return_tensors: str | None = None,
    return_attention_mask: bool = True,
    **other: Any,
) -> EncodedTexts:
    """Token ids of a text, or of each of several, and masks that are 1 where there is no padding.

    Parameters
    ----------
    tokenizer, backend
        What encodes, and says how to pad.
    text : str or sequence of str
        The texts.
    add_special_tokens : bool
        Whether the tokenizer's template applies.
    padding : bool or str
        ``True`` or ``"longest"``: fill up to the longest row; ``"max_length"``: to ``max_length``.
    truncation : bool or str, optional
        Whether to cut to ``max_length``. Default: if that is given.
    max_length : int, optional
        The most tokens in a row. Default: the tokenizer's ``model_max_length``.
    padding_side : {"left", "right"}, optional
        Default: the tokenizer's.
    return_tensors : {None, "np"}
        Lists, or arrays int64 [texts, tokens].
    return_attention_mask : bool
        Whether the masks are made.
    **other
        Options of ``transformers`` that there are not; None and False are let through.

    Returns
    -------
    EncodedTexts
        Lists of int for one text, lists of lists for several, or arrays.

    Raises
    ------
    TypeError
        An option isn't one of these; the message says what to write.
    ValueError
        An option has another value than these, padding lacks a token, truncation a length, or rows of
        different lengths can't be an array.
    """
    _refuse_others(other)
    if not isinstance(text, Iterable):
        raise TypeError(f"text must be a str or a list of str, got {shown(text)}")
    single = isinstance(text, str)
    texts = [text] if isinstance(text, str) else list(text)
    _check_options(padding, truncation, return_tensors)
    limit = _limit(tokenizer, truncation, max_length)
    rows = [
        _row(tokenizer, backend, one, Flag()("add_special_tokens", add_special_tokens), limit)
        for one in texts
    ]
    masks = [[1] * len(row) for row in rows]
    if padding not in (False, "do_not_pad"):
        width = max(map(len, rows), default=0)
        if padding == "max_length":
            length = max_length or tokenizer.model_max_length
            if length is None:
                raise ValueError("padding='max_length' needs max_length")
            width = max(width, length)
        _pad(tokenizer, rows, masks, width, padding_side or tokenizer.padding_side)
    found = EncodedTexts(input_ids=rows)
    if return_attention_mask:
        found["attention_mask"] = masks
    if return_tensors is not None:
        return EncodedTexts({name: _array(values, name) for name, values in found.items()})
    return EncodedTexts({name: values[0] for name, values in found.items()}) if single else found


def apply_chat_template(
    tokenizer: Encoder,
    conversation: Sequence[Any],
    *,
    chat_template: str | None = None,
    add_generation_prompt: bool = False,
    tokenize: bool = True,
    return_dict: bool = True,
    **options: Any,
) -> str | list[str] | list[int] | EncodedTexts | Any:
    """A conversation as a prompt, or each of several, by the tokenizer's chat template.

    Parameters
    ----------
    tokenizer : Tokenizer
        It has the template, and the tokens that it names.
    conversation : sequence of dict
        Turns with ``role`` and ``content``; or a sequence of such conversations.
    chat_template : str, optional
        In place of the tokenizer's.
    add_generation_prompt : bool
        Whether the prompt ends where an answer begins.
    tokenize : bool
        Whether to return ids; otherwise the text.
    return_dict : bool
        Whether the ids come with a mask, as from calling the tokenizer.
    **options
        As for calling the tokenizer: ``truncation``, ``max_length``, ``return_tensors``, ... Others are
        variables of the template, as in ``transformers``: ``documents``, ``enable_thinking``, ...

    Raises
    ------
    TypeError
        An option that there is not, or what is no conversation.
    ValueError
        There is no template, or it is broken or refuses the conversation.
    ImportError
        jinja2 is not installed.
    """
    source = chat_template or tokenizer.chat_template
    if source is None:
        raise ValueError("the tokenizer has no chat template; give one as chat_template=")
    for name, advice in _CHAT_OTHERS.items():
        if options.pop(name, None):
            raise TypeError(f"apply_chat_template has no option {name!r}; {advice}")
    variables = {name: options.pop(name) for name in options.keys() - {*_OPTIONS}}
    template = CompiledTemplate(source, tokenizer.roles())
    conversations, single = _conversations(conversation)
    prompts = [
        template.render(one, add_generation_prompt=add_generation_prompt, **variables)
        for one in conversations
    ]
    if not tokenize:
        return prompts[0] if single else prompts
    encoded = tokenizer(prompts[0] if single else prompts, add_special_tokens=False, **options)
    return encoded if return_dict else encoded["input_ids"]


def _conversations(given: Sequence[Any]) -> tuple[list[Sequence[Mapping[str, Any]]], bool]:
    """Conversations, and whether a single one was given."""
    single = not isinstance(given, (list, tuple)) or not given or isinstance(given[0], Mapping)
    conversations = [given] if single else list(given)
    for one in conversations:
        if not isinstance(one, (list, tuple)) or not all(isinstance(turn, Mapping) for turn in one):
            raise TypeError(
                f"conversation must be a list of dicts with role and content, or a list of such lists, got "
                f"{shown(one)}"
            )
        if not one:
            raise ValueError("conversation must have at least one turn")
    return conversations, single


def _refuse_others(other: Mapping[str, Any]) -> None:
    for name, value in other.items():
        if name not in _OTHERS:
            raise TypeError(f"a tokenizer has no option {name!r}; it takes {', '.join(_OPTIONS)}")
        if value is not None and value is not False:
            raise TypeError(f"a tokenizer has no option {name!r}; {_OTHERS[name]}")


def _check_options(padding: Any, truncation: Any, return_tensors: Any) -> None:
    if padding not in _PADDING:
        raise ValueError(f"padding must be one of {_PADDING}, got {padding!r}")
    if truncation not in _TRUNCATION:
        raise ValueError(f"truncation must be one of {_TRUNCATION}, got {truncation!r}")
    if return_tensors not in (None, "np"):
        raise ValueError(
            f"return_tensors must be 'np' or None, got {return_tensors!r}: models take lists and arrays"
        )


def _limit(tokenizer: Encoder, truncation: Any, max_length: int | None) -> int | None:
    """The most tokens in a row."""
    if max_length is not None:
        max_length = _MAX_LENGTH("max_length", max_length)
    if truncation in (False, "do_not_truncate"):
        return None
    if truncation is None or max_length is not None:
        return max_length
    if tokenizer.model_max_length is None:
        raise ValueError("truncation needs max_length: the tokenizer doesn't say how long texts may be")
    return tokenizer.model_max_length


def _row(
    tokenizer: Encoder, backend: Backend, text: str, add_special_tokens: bool, limit: int | None
) -> list[int]:
    check_text(text)
    with explained("text can't be encoded", ValueError):
        if limit is None:
            return list(backend.encode(text, add_special_tokens=add_special_tokens).ids)
        encoding = backend.encode(text, add_special_tokens=False)
        room = limit - (backend.num_special_tokens_to_add(False) if add_special_tokens else 0)
        if room < 0:
            raise ValueError(f"max_length ({limit}) has no room for the template's tokens")
        encoding.truncate(room, direction=tokenizer.truncation_side)
        return list(backend.post_process(encoding, None, add_special_tokens).ids)


def _pad(tokenizer: Encoder, rows: list[list[int]], masks: list[list[int]], width: int, side: str) -> None:
    if side not in ("left", "right"):
        raise ValueError(f"padding_side must be left or right, got {side!r}")
    token = tokenizer.pad_token_id
    if token is None:
        raise ValueError("padding needs a token: set tokenizer.pad_token = tokenizer.eos_token")
    for row, mask in zip(rows, masks, strict=True):
        missing = width - len(row)
        place = 0 if side == "left" else len(row)
        row[place:place] = [token] * missing
        mask[place:place] = [0] * missing


def _array(rows: list[list[int]], name: str) -> Any:
    import numpy as np

    if len(set(map(len, rows))) > 1:
        raise ValueError(
            f"{name}: rows of different lengths can't be an array; give padding=True or truncation=True"
        )
    return np.array(rows, np.int64)
