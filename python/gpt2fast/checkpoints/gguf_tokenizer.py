"""Turns the tokenizer inside a GGUF file into the text of a ``tokenizer.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

from gpt2fast.checkpoints.base import TokenizerFiles
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import MAX_MERGES

#: Token types of GGUF that are matched as a whole: unknown and control (special), and user-defined.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
#: The type of tokens that pad a vocabulary to the table's size.
_UNUSED = 5
#: Names of GPT-2's way of splitting a text into words.
_GPT2_CUTS = (None, "gpt-2", "gpt2")
#: GGUF's names of tokens with a role, and those of ``tokenizer_config.json``.
_ROLES = {
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "padding": "pad_token",
}


def tokenizer_files(metadata: dict[str, Any], path: Path) -> TokenizerFiles:
    """The tokenizer in the metadata; empty if there is none.

    Raises
    ------
    ModelError
        It is of another kind than GPT-2's, or its parts contradict each other.
    """
    if "tokenizer.ggml.model" not in metadata:
        return TokenizerFiles()
    kinds = (metadata["tokenizer.ggml.model"], metadata.get("tokenizer.ggml.pre"))
    if kinds[0] != "gpt2" or kinds[1] not in _GPT2_CUTS:
        raise ModelError(
            f"{path}: has no tokenizer of GPT-2's kind: tokenizer.ggml.model is {str(kinds[0])[:40]!r}, "
            f"tokenizer.ggml.pre {str(kinds[1])[:40]!r}"
        )
    tokens = metadata.get("tokenizer.ggml.tokens")
    merges = metadata.get("tokenizer.ggml.merges")
    if not _is_strings(tokens) or not _is_strings(merges):
        raise ModelError(f"{path}: tokenizer.ggml.tokens and tokenizer.ggml.merges must be lists of strings")
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise ModelError(f"{path}: tokenizer.ggml.token_type must be a list as long as tokenizer.ggml.tokens")
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != _UNUSED}
    if len(vocabulary) != sum(kind != _UNUSED for kind in types):
        raise ModelError(f"{path}: a token occurs twice in tokenizer.ggml.tokens")
    if len(merges) > MAX_MERGES:
        raise ModelError(f"{path}: tokenizer.ggml.merges has {len(merges)} merges; the limit is {MAX_MERGES}")
    pairs = [merge.split(" ", 2) for merge in merges]
    for pair in pairs:
        if (
            len(pair) != 2
            or pair[0] not in vocabulary
            or pair[1] not in vocabulary
            or "".join(pair) not in vocabulary
        ):
            raise ModelError(f"{path}: the merge {' '.join(pair)[:80]!r} does not join two tokens to a third")
    roles = _roles(metadata, tokens, path)
    # Some converters mark the end-of-text token as a normal one.
    special = [
        kind in (_UNKNOWN, _CONTROL) or (token in roles.values() and kind != _UNUSED)
        for kind, token in zip(types, tokens, strict=True)
    ]
    added = [
        _added_token(i, token, special=special[i])
        for i, token in enumerate(tokens)
        if special[i] or types[i] == _USER_DEFINED
    ]
    template = _template(metadata, roles, vocabulary)
    return TokenizerFiles(
        tokenizer_json=_byte_level_bpe(vocabulary, pairs, added, template),
        tokenizer_config=json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **roles}),
        chat_template=_optional_text(metadata.get("tokenizer.chat_template")),
    )


def _optional_text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _roles(metadata: dict[str, Any], tokens: list[str], path: Path) -> dict[str, str]:
    """The tokens that have a role, by the names of ``tokenizer_config.json``."""
    roles = {}
    for key, role in _ROLES.items():
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if token_id is None:
            continue
        if type(token_id) is not int or not 0 <= token_id < len(tokens):
            raise ModelError(
                f"{path}: tokenizer.ggml.{key}_token_id must be from 0 to {len(tokens) - 1}, got {token_id!r}"
            )
        roles[role] = tokens[token_id]
    return roles


def _template(
    metadata: dict[str, Any], roles: dict[str, str], vocabulary: dict[str, int]
) -> dict[str, Any] | None:
    """The template that puts tokens around every text if ``add_bos_token`` or ``add_eos_token`` is set."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    around: list[list[str]] = [[], []]
    for place, key in enumerate(("bos", "eos")):
        token = roles.get(f"{key}_token", "")
        if metadata.get(f"tokenizer.ggml.add_{key}_token") is True and token in vocabulary:
            around[place] = [token]
    if around == [[], []]:
        return None
    begin, end = ([{"SpecialToken": {"id": token, "type_id": 0}} for token in part] for part in around)
    named = {
        token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]}
        for part in around
        for token in part
    }
    single = [*begin, text, *end]
    second = {"Sequence": {"id": "B", "type_id": 0}}
    pair = [*single, second, *end]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named}


def _is_strings(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _added_token(token_id: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **flags, "special": special}


def _byte_level_bpe(
    vocabulary: dict[str, int],
    merges: list[list[str]],
    added: list[dict[str, Any]],
    template: dict[str, Any] | None,
) -> str:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": template,
            "decoder": byte_level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": vocabulary,
                "merges": merges,
            },
        },
        ensure_ascii=False,
    )
