"""What the files beside a tokenizer say of it: named tokens, added tokens, and how texts begin and end.

The rules are those of ``transformers`` 5 (``PreTrainedTokenizerBase._from_pretrained``): with
``added_tokens_decoder`` in ``tokenizer_config.json``, that file is all that counts; without it,
``special_tokens_map.json`` and ``added_tokens.json`` are read too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gpt2fast.errors import ModelError
from gpt2fast.storage.files import parse_json_object

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import TokenizerFiles

END_OF_TEXT = "<|endoftext|>"
#: Roles that a token can have, in the order in which tokens that the vocabulary lacks get their ids.
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
#: Names of the list of special tokens without a role, in today's format and in the older one.
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_BERT_ROLES = ("unk", "sep", "pad", "cls", "mask")
_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
_SIDES = ("left", "right")
# Tokenizers without a limit say so by a number of 30 digits.
_MAX_LENGTH = 1 << 31


@dataclass(frozen=True)
class NamedToken:
    """A token that is found in texts as a whole.

    ``token_id`` is the one it must have, if that is known; ``flags`` are those of ``tokenizers.AddedToken``.
    """

    content: str
    flags: Mapping[str, bool]
    token_id: int | None = None


@dataclass(frozen=True)
class TokenizerSettings:
    """Settings of a tokenizer beside its vocabulary.

    Attributes
    ----------
    roles : dict
        Role (``"bos_token"``, ...) to the token's text.
    extra : tuple of str
        Special tokens without a role.
    tokens : tuple of NamedToken
        Tokens to add unless the tokenizer has them, in the order of their ids.
    is_gpt2 : bool
        Whether words are cut in GPT-2's way whatever ``tokenizer.json`` says.
    add_prefix_space, add_bos_token, add_eos_token : bool
        Whether a text gets a space in front, and named tokens around it; the latter two count for
        ``vocab.json`` only: a ``tokenizer.json`` has a template for this.
    do_lower_case, strip_accents, tokenize_chinese_chars : bool
        How BERT's tokenizer normalises texts; for ``vocab.txt`` only.
    clean_up_tokenization_spaces : bool
        Whether decoding removes spaces before punctuation. Never for BPE.
    model_max_length : int or None
        Where ``truncation=True`` cuts.
    padding_side, truncation_side : {"left", "right"}
        Where tokens are added or cut.
    """

    roles: dict[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    tokens: tuple[NamedToken, ...] = ()
    is_gpt2: bool = False
    add_prefix_space: bool = False
    add_bos_token: bool = False
    add_eos_token: bool = False
    do_lower_case: bool = True
    strip_accents: bool | None = None
    tokenize_chinese_chars: bool = True
    clean_up_tokenization_spaces: bool = False
    model_max_length: int | None = None
    padding_side: str = "right"
    truncation_side: str = "right"

    def to_json(self) -> str:
        """The text of a ``tokenizer_config.json`` for a ``tokenizer.json`` that has everything else."""
        values: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **self.roles}
        values["clean_up_tokenization_spaces"] = self.clean_up_tokenization_spaces
        if self.extra:
            values["extra_special_tokens"] = list(self.extra)
        if self.model_max_length is not None:
            values["model_max_length"] = self.model_max_length
        values |= {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def read_settings(files: TokenizerFiles, where: str) -> TokenizerSettings:
    """The settings in a tokenizer's files.

    Raises
    ------
    ModelError
        A file is broken, or a value has another type than it must; the message names file and key.
    """
    values = _object(files.tokenizer_config, f"{where}: tokenizer_config.json")
    name = _optional(values, "tokenizer_class", str, where)
    is_gpt2 = name in _GPT2_CLASSES or (name is None and files.vocab_txt is None)
    if is_gpt2:
        values = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT, **values}
    elif files.vocab_txt is not None:
        values = {f"{role}_token": f"[{role.upper()}]" for role in _BERT_ROLES} | values
    declared = values.get("added_tokens_decoder")
    extra = _extra_tokens(values, _EXTRA, where)
    if declared is None:
        named = _object(files.special_tokens_map, f"{where}: special_tokens_map.json")
        values |= named
        extra += _extra_tokens(named, _EXTRA[:1], where)
    roles = {role: token for role in ROLES if (token := _token(values.get(role), role, where)) is not None}
    special = {token.content for token in roles.values()}
    if declared is not None:
        listed = list(_declared(declared, special, where))
    else:
        special |= {token.content for token in extra}
        listed = list(_added(_object(files.added_tokens, f"{where}: added_tokens.json"), special, where))
        # transformers reads this key too late to make the tokens of added_tokens.json special.
        extra += _extra_tokens(named, _EXTRA[1:], where)
    return TokenizerSettings(
        roles={role: token.content for role, token in roles.items()},
        extra=tuple(dict.fromkeys(token.content for token in extra)),
        tokens=_distinct([*listed, *roles.values(), *extra]),
        is_gpt2=is_gpt2,
        add_prefix_space=_flag(values, "add_prefix_space", where),
        add_bos_token=_flag(values, "add_bos_token", where),
        add_eos_token=_flag(values, "add_eos_token", where),
        do_lower_case=_flag(values, "do_lower_case", where, True),
        strip_accents=_optional(values, "strip_accents", bool, where),
        tokenize_chinese_chars=_flag(values, "tokenize_chinese_chars", where, True),
        clean_up_tokenization_spaces=_flag(values, "clean_up_tokenization_spaces", where),
        model_max_length=_max_length(values.get("model_max_length")),
        padding_side=_side(values, "padding_side", where),
        truncation_side=_side(values, "truncation_side", where),
    )


def _object(text: str | None, where: str) -> dict[str, Any]:
    return {} if text is None else parse_json_object(text, where)


def _optional(values: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = values.get(key)
    if value is not None and not isinstance(value, kind):
        raise ModelError(f"{where}: {key} must be a {kind.__name__}, got {value!r:.80}")
    return value


def _flag(values: Mapping[str, Any], key: str, where: str, default: bool = False) -> bool:
    value = _optional(values, key, bool, where)
    return default if value is None else bool(value)


def _side(values: Mapping[str, Any], key: str, where: str) -> str:
    side = values.get(key) or "right"
    if side not in _SIDES:
        raise ModelError(f"{where}: {key} must be left or right, got {side!r:.80}")
    return str(side)


def _max_length(value: Any) -> int | None:
    is_limit = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < _MAX_LENGTH
    return int(value) if is_limit else None


def _token(value: Any, name: str, where: str, token_id: int | None = None) -> NamedToken | None:
    """A token in one of the two forms: its text alone, which is special, or an object with flags."""
    if value is None:
        return None
    given = value if isinstance(value, dict) else {"content": value}
    content = given.get("content")
    if not isinstance(content, str) or not content:
        raise ModelError(f"{where}: {name} must name a token, got {value!r:.80}")
    # Whoever is named for a role is special; flags of a list count as they are.
    special = True if token_id is None else bool(given.get("special", False))
    flags = {key: bool(given.get(key, False)) for key in _FLAGS}
    flags |= {"special": special, "normalized": bool(given.get("normalized", not special))}
    return NamedToken(content, flags, token_id)


def _declared(values: Any, special: set[str], where: str) -> Iterator[NamedToken]:
    if not isinstance(values, dict) or not all(key.isdecimal() and len(key) < 10 for key in values):
        raise ModelError(f"{where}: added_tokens_decoder must map ids to tokens")
    for key in sorted(values, key=int):
        token = _token(values[key], f"added_tokens_decoder[{key!r}]", where, int(key))
        if token is not None:
            yield (
                replace(token, flags={**token.flags, "special": True}) if token.content in special else token
            )


def _added(values: dict[str, Any], special: set[str], where: str) -> Iterator[NamedToken]:
    """The tokens of ``added_tokens.json``, which maps texts to ids."""
    if not all(type(token_id) is int and token_id >= 0 for token_id in values.values()):
        raise ModelError(f"{where}: added_tokens.json must map tokens to ids")
    for content, token_id in sorted(values.items(), key=lambda item: item[1]):
        is_special = content in special
        given = {"content": content, "special": is_special, "normalized": not is_special}
        token = _token(given, "a token of added_tokens.json", where, token_id)
        if token is not None:
            yield token


def _extra_tokens(values: Mapping[str, Any], keys: Sequence[str], where: str) -> list[NamedToken]:
    """Special tokens without a role, under any of these keys."""
    tokens = []
    for key in keys:
        found = values.get(key) or []
        listed = list(found.values()) if isinstance(found, dict) else found
        if not isinstance(listed, list):
            raise ModelError(f"{where}: {key} must be a list of tokens, got {found!r:.80}")
        for value in listed:
            token = _token(value, key, where)
            if token is not None:
                tokens.append(token)
    return tokens


def _distinct(tokens: list[NamedToken]) -> tuple[NamedToken, ...]:
    kept: dict[str, NamedToken] = {}
    for token in tokens:
        kept.setdefault(token.content, token)
    return tuple(kept.values())
