"""Finds a tokenizer's files, beside a checkpoint or at a place the user names."""

from __future__ import annotations

import os
from pathlib import Path

from gpt2fast.checkpoints.base import TokenizerFiles
from gpt2fast.checkpoints.hub import download_tokenizer, is_repo_id
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import (
    MAX_CONFIG_BYTES,
    MAX_TOKENIZER_BYTES,
    file_inside,
    find_inside,
    read_json_object,
    read_text,
)
from gpt2fast.storage.model_directory import CHAT_TEMPLATE_NAME

# A name with one of these suffixes is a missing file, not a hub id.
_SUFFIXES = (".json", ".txt")
# Model files whose tokenizer lies beside them.
_MODEL_SUFFIXES = (".onnx", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def find_tokenizer_files(directory: Path) -> TokenizerFiles:
    """A directory's tokenizer: ``tokenizer.json``, or ``vocab.json`` with ``merges.txt``, or none."""
    tokenizer_json = find_inside(directory, "tokenizer.json")
    if tokenizer_json is not None:
        return TokenizerFiles(
            tokenizer_json=read_text(tokenizer_json, MAX_TOKENIZER_BYTES),
            chat_template=_find_chat_template(directory),
        )
    vocab_json = find_inside(directory, "vocab.json")
    if vocab_json is None:
        return TokenizerFiles()
    return TokenizerFiles(
        vocab_json=read_text(vocab_json, MAX_TOKENIZER_BYTES),
        merges_txt=read_text(file_inside(directory, "merges.txt"), MAX_TOKENIZER_BYTES),
        chat_template=_find_chat_template(directory),
    )


def _find_chat_template(directory: Path) -> str | None:
    """The template beside a tokenizer: in a file of its own, or in the tokenizer's configuration.

    A broken configuration is no reason to refuse the model: it says nothing else that counts here.
    """
    template = find_inside(directory, CHAT_TEMPLATE_NAME)
    if template is not None:
        return read_text(template, MAX_CONFIG_BYTES)
    try:
        config = find_inside(directory, "tokenizer_config.json")
        found = None if config is None else read_json_object(config).get("chat_template")
    except (ModelError, OSError):
        return None
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
        ``vocab.json`` beside its merges, or the id of a model on the
        hub. What exists as a path is taken as one.
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
        files = find_tokenizer_files(path)
        if not files:
            raise ModelError(f"{path}: no tokenizer.json and no vocab.json with merges.txt in it")
        return files
    if not path.is_file():
        raise ModelError(
            f"tokenizer must name a directory or a file, got {str(source)!r}, which does not exist"
        )
    resolved = Path(os.path.realpath(path))
    _refuse_bare_vocabulary(path, resolved)
    if path.name == "vocab.json":
        merges = file_inside(path.parent, "merges.txt")
        return TokenizerFiles(
            vocab_json=read_text(resolved, MAX_TOKENIZER_BYTES),
            merges_txt=read_text(merges, MAX_TOKENIZER_BYTES),
        )
    return TokenizerFiles(tokenizer_json=read_text(resolved, MAX_TOKENIZER_BYTES))


def _refuse_bare_vocabulary(path: Path, resolved: Path) -> None:
    """Raise ModelError for a ``vocab.json`` under another name, whose merges can't be found."""
    if path.name == "vocab.json" or path.suffix.lower() != ".json":
        return
    values = read_json_object(resolved, MAX_TOKENIZER_BYTES)
    if values and all(type(value) is int for value in values.values()):
        raise ModelError(
            f"{path}: a vocabulary without merges; put it into a directory as vocab.json, beside its "
            f"merges.txt, and name the directory"
        )
