"""Readers of GPT-2 checkpoints, one module per format; all return the same ``Checkpoint``."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import Checkpoint

__all__ = ["locate", "open_checkpoint"]

_TORCH_SUFFIXES = (".bin", ".pt", ".pth")
_SUFFIXES = (".safetensors", *_TORCH_SUFFIXES, ".gguf", ".onnx")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)


def locate(source: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None) -> Path:
    """Where a source lies on this machine; a hub id is downloaded first.

    Parameters
    ----------
    source : str or path
        A directory, a file, or the id of a model on the Hugging Face hub (``name`` or ``organisation/name``).
        What exists as a path is taken as one.
    revision, token : str, optional
        Of the hub: branch, tag or commit; access token.

    Raises
    ------
    FileNotFoundError
        It is neither.
    """
    path = Path(source)
    if os.fspath(source) and path.exists():
        return path
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source) or path.suffix.lower() in _SUFFIXES:
        raise FileNotFoundError(errno.ENOENT, "no such file or directory, and no id of the hub", str(source))
    from gpt2fast.checkpoints.hub import download_snapshot

    return download_snapshot(source, revision=revision, token=token)


def open_checkpoint(
    source: str | os.PathLike[str],
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Checkpoint:
    """Read a GPT-2 model from whatever it is kept in.

    Tensors are read only when asked for; the files are hashed once for the checkpoint's fingerprint.

    Parameters
    ----------
    source : str or path
        A Hugging Face directory, a TensorFlow directory of the original release, a ``.safetensors``, PyTorch
        (``.bin``, ``.pt``, ``.pth``), ``.gguf`` or ``.onnx`` file, or a hub id.
    tokenizer : str or path, optional
        A directory or file to take the tokenizer from, in place of the source's own.
    revision, token : str, optional
        Of the hub, as in :func:`locate`.

    Raises
    ------
    ModelError
        The source is none of these, or not what it should be; the message names the file and the fault.
    """
    checkpoint = _open(locate(source, revision=revision, token=token))
    return checkpoint if tokenizer is None else _with_tokenizer(checkpoint, tokenizer)


def _open(path: Path) -> Checkpoint:
    if path.is_dir():
        return _open_directory(path)
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        from gpt2fast.checkpoints.gguf_file import open_gguf

        return open_gguf(path)
    if suffix == ".onnx":
        from gpt2fast.checkpoints.onnx_graph import open_onnx

        return open_onnx(path)
    if suffix == ".safetensors" or suffix in _TORCH_SUFFIXES:
        from gpt2fast.checkpoints.huggingface import open_weights_file

        return open_weights_file(path)
    raise ModelError(
        f"{path}: not a known kind of model file; known are {', '.join(_SUFFIXES)} "
        f"and directories with a config.json"
    )


def _open_directory(path: Path) -> Checkpoint:
    if (path / "gpt2fast.json").exists():
        raise ModelError(
            f"{path}: a converted model already; conversion needs the checkpoint that it was made from"
        )
    if (path / "hparams.json").exists() and not (path / "config.json").exists():
        from gpt2fast.checkpoints.tensorflow_checkpoint import open_tensorflow

        return open_tensorflow(path)
    from gpt2fast.checkpoints.huggingface import open_directory

    return open_directory(path)


def _with_tokenizer(checkpoint: Checkpoint, tokenizer: str | os.PathLike[str]) -> Checkpoint:
    from dataclasses import replace
    from hashlib import sha256

    from gpt2fast.checkpoints.fingerprint import fingerprint
    from gpt2fast.checkpoints.tokenizer_files import read_tokenizer_files

    files = read_tokenizer_files(tokenizer)
    combined = checkpoint.fingerprint + fingerprint(checkpoint.config, files, ())
    return replace(checkpoint, tokenizer=files, fingerprint=sha256(combined.encode()).hexdigest())
