"""Makes and checks objects of the package ``tokenizers``, whose errors and panics become ours.

The only importer of that package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from gpt2fast.errors import ModelError
from gpt2fast.storage.files import MAX_JSON_ITEMS, MAX_MERGES, parse_json_object
from gpt2fast.text.charsmap import check_charsmaps
from gpt2fast.text.growth import check_growth, check_lengths

#: A tokenizer of the package.
Backend = tokenizers.Tokenizer
AddedToken = tokenizers.AddedToken

#: What a panic says when Python had no memory for an object.
_NO_MEMORY = "PyObject pointer is null"
#: Ids without a token that a vocabulary may have among its others.
MAX_UNUSED_IDS = 1 << 20


@contextmanager
def explained(what: str, kind: type[Exception] = ModelError) -> Iterator[None]:
    """Errors of the package, which are bare exceptions or panics, as ``kind``, beginning with ``what``."""
    try:
        yield
    except Exception as error:
        if type(error) in (Exception, TypeError, ValueError, OverflowError):
            raise kind(f"{what}: {error}") from None
        raise
    except BaseException as error:
        # A panic of Rust: no Exception, and its class can't be imported.
        if type(error).__module__ == "pyo3_runtime":
            if _NO_MEMORY in str(error):
                raise MemoryError(f"{what}: {error}") from None
            raise kind(f"{what}: {error}") from None
        raise


def read_backend(tokenizer_json: str, where: str) -> Backend:
    """The tokenizer of a ``tokenizer.json``, without settings that belong to training.

    Truncation, padding and dropout would cut, pad or vary texts.

    Raises
    ------
    ModelError
        The file is broken, an id occurs twice or lies far beyond the others, an added token would get another
        id than the one it has in the file, or texts could become many times longer or take very long.
    """
    values = parse_json_object(tokenizer_json, f"{where}: not a tokenizer")
    _check_vocabulary(values.get("model"), where)
    check_charsmaps(values.get("normalizer"), where)
    with explained(f"{where}: not a tokenizer"):
        backend = Backend.from_str(tokenizer_json)
        check_growth(backend, where)
        check_lengths(backend, values["model"].get("vocab"), where)
    _check_added_tokens(values.get("added_tokens"), backend, where)
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None) is not None:
        backend.model.dropout = None
    return backend


def written(backend: Backend) -> str:
    """The ``tokenizer.json`` of a tokenizer."""
    with explained("the tokenizer can't be written", ValueError):
        return str(backend.to_str())


def gpt2_backend(vocabulary: dict[str, Any], merges_txt: str, where: str) -> Backend:
    """Byte-level BPE of GPT-2's original files: a mapping from token to id, and the merges' text.

    Raises
    ------
    ModelError
        Vocabulary or merges are broken, or they don't fit each other.
    """
    _check_vocabulary({"vocab": vocabulary}, where)
    lines = _lines(merges_txt, MAX_MERGES, where)
    named = (line for line in lines if line.strip("\r") and not line.startswith("#version"))
    with explained(f"{where}: not a GPT-2 vocabulary with its merges"):
        merges = [(first, second) for first, second in (line.rstrip("\r").split(" ", 2) for line in named)]
        backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
        set_byte_level(backend, add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    return backend


def _lines(text: str, limit: int, where: str) -> list[str]:
    """The lines of a text file; more could not be written as JSON, and would take much memory."""
    count = text.count("\n")
    if count > limit:
        raise ModelError(f"{where}: {count} lines of tokens or merges; the limit is {limit}")
    return text.split("\n")


def set_byte_level(backend: Backend, *, add_prefix_space: bool) -> None:
    """Give a tokenizer GPT-2's way of cutting texts into words."""
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)


def set_template(backend: Backend, begin: str | None, end: str | None) -> None:
    """Put the given tokens, which the tokenizer has, around every text."""
    parts = [*(() if begin is None else (begin,)), "$A", *(() if end is None else (end,))]
    named = [(token, backend.token_to_id(token)) for token in (begin, end) if token is not None]
    backend.post_processor = processors.TemplateProcessing(single=" ".join(parts), special_tokens=named)


def _check_vocabulary(model: Any, where: str) -> None:
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        return  # a list, whose places are the ids; or what the package refuses
    ids = list(vocabulary.values())
    if not set(map(type, ids)) <= {int}:
        raise ModelError(f"{where}: not a tokenizer: the vocabulary's ids must be integers")
    if len(set(ids)) != len(ids):
        seen: dict[int, str] = {}
        for token, token_id in vocabulary.items():
            if token_id in seen:
                raise ModelError(
                    f"{where}: the tokens {seen[token_id][:40]!r} and {token[:40]!r} have one id, {token_id}"
                )
            seen[token_id] = token
    if ids and max(ids) - len(ids) > MAX_UNUSED_IDS:
        raise ModelError(
            f"{where}: the largest token id is {max(ids)}, and the vocabulary has {len(ids)} tokens; at most "
            f"{MAX_UNUSED_IDS} ids may be unused"
        )


def _check_added_tokens(added: Any, backend: Backend, where: str) -> None:
    """The package gives added tokens the next free ids, whatever the file says."""
    seen = set()
    for token in added if isinstance(added, list) else ():
        content, token_id = token["content"], token["id"]
        if content in seen:
            raise ModelError(f"{where}: the added token {content[:40]!r} occurs twice")
        seen.add(content)
        if backend.token_to_id(content) != token_id:
            raise ModelError(
                f"{where}: the added token {content[:40]!r} has the id {token_id}; after the tokens before "
                f"it, it must be {backend.token_to_id(content)}"
            )


def add_tokens(backend: Backend, tokens: Iterable[AddedToken]) -> None:
    """Tokens that are found in texts as a whole; those that are new get the next ids."""
    with explained("added tokens"):
        backend.add_tokens(list(tokens))


def checked_vocabulary(backend: Backend, where: str) -> dict[str, int]:
    """Every token and its id; ModelError if there are none, or two tokens have one id."""
    with explained(f"{where}: not a tokenizer"):
        vocabulary: dict[str, int] = backend.get_vocab()
    if not vocabulary:
        raise ModelError(f"{where}: the vocabulary is empty")
    if len(set(vocabulary.values())) != len(vocabulary):
        raise ModelError(f"{where}: an added token has the id of another token")
    return vocabulary


def bert_backend(
    vocab_txt: str, where: str, *, lowercase: bool, strip_accents: bool | None, chinese: bool, unknown: str
) -> Backend:
    """BERT's tokenizer of a ``vocab.txt``: a token a line."""
    tokens = _lines(vocab_txt.removesuffix("\n"), MAX_JSON_ITEMS, where)
    vocabulary = {token.rstrip("\r"): place for place, token in enumerate(tokens)}
    with explained(f"{where}: not a vocabulary of BERT"):
        backend = Backend(models.WordPiece(vocab=vocabulary, unk_token=unknown))
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
    return backend
