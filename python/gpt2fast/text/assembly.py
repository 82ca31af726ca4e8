"""One tokenizer of the files that describe it: vocabulary, merges, added tokens, template."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

from gpt2fast.errors import ModelError
from gpt2fast.storage.files import parse_json_object
from gpt2fast.text import backend as package
from gpt2fast.text.tokenizer_settings import END_OF_TEXT, NamedToken, TokenizerSettings, read_settings

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import TokenizerFiles

_TOKENS_SHOWN = 5


def assemble(
    files: TokenizerFiles, *, where: str, vocab_size: int | None = None
) -> tuple[package.Backend, TokenizerSettings]:
    """The tokenizer of all files together, and its settings.

    Added tokens beyond the model's vocabulary (often a padding token) are left out with a warning: the model
    has no row for them.

    Parameters
    ----------
    files : TokenizerFiles
        They hold a tokenizer.
    where : str
        What to name in errors.
    vocab_size : int, optional
        The size of the model's vocabulary. Default: as large as the tokenizer's.

    Raises
    ------
    ModelError
        A file is broken, or the files contradict each other.
    """
    settings = read_settings(files, where)
    if files.tokenizer_json is not None:
        text = without_tokens_beyond(files.tokenizer_json, vocab_size, where)
        backend = package.read_backend(text, _file(where, "tokenizer.json"))
        if settings.is_gpt2:
            _cut_as_gpt2(backend, settings)
        _add_tokens(backend, settings, where, vocab_size)
        return backend, settings
    if files.vocab_txt is not None:
        backend = _bert(files.vocab_txt, settings, _file(where, "vocab.txt"))
        _add_tokens(backend, settings, where, vocab_size)
        _set_template(backend, settings.roles.get("cls_token"), settings.roles.get("sep_token"))
        return backend, settings
    if files.vocab_json is None or files.merges_txt is None:
        raise ModelError(f"{where}: vocab.json needs merges.txt beside it")
    name = _file(where, "vocab.json")
    vocabulary = parse_json_object(files.vocab_json, f"{name}: not a GPT-2 vocabulary with its merges")
    backend = package.gpt2_backend(vocabulary, files.merges_txt, name)
    package.set_byte_level(backend, add_prefix_space=settings.add_prefix_space)
    _add_tokens(backend, settings, where, vocab_size)
    begin = settings.roles.get("bos_token") if settings.add_bos_token else None
    end = settings.roles.get("eos_token") if settings.add_eos_token else None
    _set_template(backend, begin, end)
    return backend, settings


def _file(where: str, name: str) -> str:
    """What to call a file in errors, where ``where`` may be its directory or itself."""
    return where if where.endswith(name) else f"{where}: {name}"


def _bert(vocab_txt: str, settings: TokenizerSettings, where: str) -> package.Backend:
    return package.bert_backend(
        vocab_txt,
        where,
        lowercase=settings.do_lower_case,
        strip_accents=settings.strip_accents,
        chinese=settings.tokenize_chinese_chars,
        unknown=settings.roles.get("unk_token", "[UNK]"),
    )


def _cut_as_gpt2(backend: package.Backend, settings: TokenizerSettings) -> None:
    """What ``GPT2Tokenizer`` of transformers does to the pre-tokenizer of a byte-level ``tokenizer.json``."""
    values = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer is not None else None
    decodes_bytes = type(backend.decoder).__name__ == "ByteLevel"
    is_plain = values is not None and values.get("type") == "ByteLevel" and values.get("use_regex", True)
    if decodes_bytes and (values is None or is_plain):
        package.set_byte_level(backend, add_prefix_space=settings.add_prefix_space)


def _add_tokens(
    backend: package.Backend, settings: TokenizerSettings, where: str, vocab_size: int | None
) -> None:
    there = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    next_id = _next_id(backend)
    added, beyond = [], []  # added together: the package takes as long for one token as for all
    for token in settings.tokens:
        # Flags of a list count more than those of tokenizer.json; a role's do not.
        new = package.AddedToken(token.content, **token.flags)
        if token.content in there and (token.token_id is None or there[token.content] == new):
            continue
        known = backend.token_to_id(token.content)
        # GPT-2's own name for the end of a text is a default, which a vocabulary need not have.
        if known is None and token.content == END_OF_TEXT and token.token_id is None:
            continue
        if known is None and vocab_size is not None and max(next_id, token.token_id or 0) >= vocab_size:
            beyond.append(token.content)
            continue
        _check_id(token, next_id if known is None else known, where)
        next_id += known is None
        added.append(new)
    package.add_tokens(backend, added)
    if beyond:
        _warn_beyond(beyond, vocab_size, where)


def _next_id(backend: package.Backend) -> int:
    """The id that the package gives to the next token that the vocabulary lacks."""
    added = backend.get_added_tokens_decoder()
    own = backend.get_vocab_size(with_added_tokens=False)
    largest = max(added, default=-1)
    return largest + 1 if largest >= own else own


def _check_id(token: NamedToken, given: int, where: str) -> None:
    if token.token_id is not None and token.token_id != given:
        raise ModelError(
            f"{where}: the added token {token.content[:40]!r} has the id {token.token_id}; after the tokens "
            f"before it, it must be {given}"
        )


def _set_template(backend: package.Backend, begin: str | None, end: str | None) -> None:
    begin, end = (
        token if token is not None and backend.token_to_id(token) is not None else None
        for token in (begin, end)
    )
    if begin is not None or end is not None:
        package.set_template(backend, begin, end)


def without_tokens_beyond(text: str, vocab_size: int | None, where: str) -> str:
    """The tokenizer without added tokens whose ids the model does not have; unchanged if there are none."""
    if vocab_size is None:
        return text
    try:
        values = json.loads(text)
        added = values["added_tokens"]
        beyond = [token["content"] for token in added if token["id"] >= vocab_size]
    except (ValueError, KeyError, TypeError, RecursionError):
        # The tokenizer's own check reports what is wrong, if anything is.
        return text
    if not beyond:
        return text
    _warn_beyond(beyond, vocab_size, where)
    values["added_tokens"] = [token for token in added if token["id"] < vocab_size]
    return json.dumps(values, ensure_ascii=False)


def _warn_beyond(tokens: list[str], vocab_size: int | None, where: str) -> None:
    warnings.warn(
        f"{where}: the tokenizer's added tokens {', '.join(map(repr, tokens[:_TOKENS_SHOWN]))} are left out: "
        f"the model's vocabulary ends at {(vocab_size or 0) - 1}",
        stacklevel=2,
    )
