"""Finds a tokenizer's files, beside a checkpoint or at a place the user names."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from gpt2fast.checkpoints.base import TokenizerFiles
from gpt2fast.checkpoints.hub import SENTENCEPIECE_NAMES, download_tokenizer, is_repo_id
from gpt2fast.checkpoints.sentencepiece_model import read_sentencepiece
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import (
    MAX_CONFIG_BYTES,
    MAX_INDEX_BYTES,
    MAX_TOKENIZER_BYTES,
    file_inside,
    find_inside,
    parse_json_object,
    read_bytes,
    read_json_object,
    read_text,
)
from gpt2fast.storage.model_directory import CHAT_TEMPLATE_NAME

# A name with one of these suffixes is a missing file, not a hub id.
_SUFFIXES = (".json", ".txt", ".model")
# Model files whose tokenizer lies beside them.
_MODEL_SUFFIXES = (".onnx", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")
#: The files of a tokenizer, in order of preference.
_FORMS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
#: What may lie beside them, in files of these names with the suffix .json.
_COMPANIONS = ("tokenizer_config", "special_tokens_map", "added_tokens")


def find_tokenizer_files(directory: Path) -> TokenizerFiles:
    """A directory's tokenizer and what lies beside it, or none.

    Its forms, in order of preference: ``tokenizer.json``; ``vocab.json`` with ``merges.txt``; ``vocab.txt``;
    a SentencePiece model. A model that can't be read is no reason to refuse the weights: a warning says why.

    Raises
    ------
    ModelError
        A file leads out of the directory or is too large.
    """
    files = _find_forms(directory)
    path = None if files else _find_sentencepiece(directory)
    if path is None:
        return files
    try:
        return _sentencepiece(path, directory)
    except ModelError as error:
        warnings.warn(f"{error}; the model takes token ids, but no text", stacklevel=2)
        return TokenizerFiles()


def _find_forms(directory: Path) -> TokenizerFiles:
    for first, *others in _FORMS:
        path = find_inside(directory, first)
        if path is not None:
            paths = {_field(name): file_inside(directory, name) for name in others}
            return _texts(directory, {_field(first): path, **paths})
    return TokenizerFiles()


def _find_sentencepiece(directory: Path) -> Path | None:
    return next(filter(None, (find_inside(directory, name) for name in SENTENCEPIECE_NAMES)), None)


def _sentencepiece(path: Path, directory: Path) -> TokenizerFiles:
    """A SentencePiece model in the form of a ``tokenizer.json``; its own roles are the defaults of roles."""
    tokenizer_json, roles = read_sentencepiece(read_bytes(path, MAX_TOKENIZER_BYTES), str(path))
    files = _texts(directory, {})
    config = parse_json_object(files.tokenizer_config or "{}", f"{directory}: tokenizer_config.json")
    if config.get("do_lower_case") is True:
        tokenizer_json = _lowercased(tokenizer_json)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles, **config}
    return replace(files, tokenizer_json=tokenizer_json, tokenizer_config=json.dumps(config))


def _lowercased(tokenizer_json: str) -> str:
    """The same tokenizer for texts in lower case."""
    values = json.loads(tokenizer_json)
    values["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})
    return json.dumps(values, ensure_ascii=False)


def _texts(directory: Path, paths: Mapping[str, Path]) -> TokenizerFiles:
    """The texts of a tokenizer's files, links resolved, by their fields, and of what lies beside them."""
    texts = {field: read_text(path, MAX_TOKENIZER_BYTES) for field, path in paths.items()}
    for name in _COMPANIONS:
        path = find_inside(directory, f"{name}.json")
        if path is not None:
            texts[name] = read_text(path, MAX_INDEX_BYTES)
    return TokenizerFiles(**texts, chat_template=_find_chat_template(directory))


def _find_chat_template(directory: Path) -> str | None:
    """The template beside a tokenizer: in a file of its own, or in the tokenizer's configuration.

    A broken template is no reason to refuse the model: prompts need none.
    """
    template = find_inside(directory, CHAT_TEMPLATE_NAME)
    if template is not None:
        return read_text(template, MAX_CONFIG_BYTES)
    config = find_inside(directory, "tokenizer_config.json")
    if config is None:
        return None
    found = read_json_object(config, MAX_INDEX_BYTES).get("chat_template")
    if isinstance(found, list):  # several, by name
        named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
        found = named[0].get("template") if named else None
    return found if isinstance(found, str) else None


def read_tokenizer_files(source: str | os.PathLike[str], *, token: str | None = None) -> TokenizerFiles:
    """The tokenizer a user names.

    Parameters
    ----------
    source : str or path
        A directory, a ``.gguf`` file, another model file with a tokenizer beside it, a ``tokenizer.json``, a
        ``vocab.json`` beside its merges, a ``vocab.txt`` of BERT, a SentencePiece model, or the id of a model
        on the hub. What exists as a path is taken as one. Files of these names are read with what lies beside
        them.
    token : str, optional
        Access token for the hub.

    Raises
    ------
    ModelError
        There is no tokenizer there. For a hub id also the errors of
        :func:`gpt2fast.checkpoints.hub.download_snapshot`.
    """
    path = Path(source)
    if isinstance(source, str) and not path.exists() and path.suffix not in _SUFFIXES and is_repo_id(source):
        path = download_tokenizer(source, token=token)
    if path.is_file() and path.suffix.lower() == ".gguf":
        from gpt2fast.checkpoints.gguf_file import read_gguf_tokenizer

        return read_gguf_tokenizer(path)
    if path.is_file() and path.suffix.lower() in _MODEL_SUFFIXES:
        path = path.parent  # the tokenizer lies beside the model
    if path.is_dir():
        return _found_in(path)
    if not path.is_file():
        raise ModelError(
            f"tokenizer must name a directory or a file, got {str(source)!r}, which does not exist"
        )
    resolved = Path(os.path.realpath(path))
    if path.suffix.lower() == ".model":
        return _sentencepiece(resolved, path.parent)
    form = next((form for form in _FORMS if path.name == form[0]), None)
    if form is None:
        _refuse_bare_vocabulary(path, resolved)
        return TokenizerFiles(tokenizer_json=read_text(resolved, MAX_TOKENIZER_BYTES))
    others = {_field(name): file_inside(path.parent, name) for name in form[1:]}
    return _texts(path.parent, {_field(path.name): resolved, **others})


def _found_in(directory: Path) -> TokenizerFiles:
    files = _find_forms(directory)
    if files:
        return files
    path = _find_sentencepiece(directory)
    if path is None:
        raise ModelError(
            f"{directory}: no tokenizer.json, no vocab.json with merges.txt, no vocab.txt and no "
            f"SentencePiece model in it"
        )
    return _sentencepiece(path, directory)


def _field(name: str) -> str:
    """The field of :class:`TokenizerFiles` for a file."""
    return name.replace(".", "_")


def _refuse_bare_vocabulary(path: Path, resolved: Path) -> None:
    """Raise ModelError for a ``vocab.json`` under another name, whose merges can't be found."""
    if path.suffix.lower() != ".json":
        return
    values = read_json_object(resolved, MAX_TOKENIZER_BYTES)
    if values and all(type(value) is int for value in values.values()):
        raise ModelError(
            f"{path}: a vocabulary without merges; put it into a directory as vocab.json, beside its "
            f"merges.txt, and name the directory"
        )
