"""Finds a tokenizer's files, beside a checkpoint or at a place the user names."""

from __future__ import annotations

import os
from pathlib import Path

from gpt2fast.checkpoints.base import TokenizerFiles
from gpt2fast.checkpoints.hub import download_tokenizer, is_repo_id
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import MAX_TOKENIZER_BYTES, file_inside, find_inside, read_text

# A name with one of these suffixes is a missing file, not a hub id.
_SUFFIXES = (".json", ".txt")


def find_tokenizer_files(directory: Path) -> TokenizerFiles:
    """A directory's tokenizer: ``tokenizer.json``, or ``vocab.json`` with ``merges.txt``, or none."""
    tokenizer_json = find_inside(directory, "tokenizer.json")
    if tokenizer_json is not None:
        return TokenizerFiles(tokenizer_json=read_text(tokenizer_json, MAX_TOKENIZER_BYTES))
    vocab_json = find_inside(directory, "vocab.json")
    if vocab_json is None:
        return TokenizerFiles()
    return TokenizerFiles(
        vocab_json=read_text(vocab_json, MAX_TOKENIZER_BYTES),
        merges_txt=read_text(file_inside(directory, "merges.txt"), MAX_TOKENIZER_BYTES),
    )


def read_tokenizer_files(source: str | os.PathLike[str], *, token: str | None = None) -> TokenizerFiles:
    """The tokenizer a user names.

    Parameters
    ----------
    source : str or path
        A directory, a ``tokenizer.json``, a ``vocab.json`` beside its merges, or the id of a model on the
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
    if path.name == "vocab.json":
        merges = file_inside(path.parent, "merges.txt")
        return TokenizerFiles(
            vocab_json=read_text(resolved, MAX_TOKENIZER_BYTES),
            merges_txt=read_text(merges, MAX_TOKENIZER_BYTES),
        )
    return TokenizerFiles(tokenizer_json=read_text(resolved, MAX_TOKENIZER_BYTES))
