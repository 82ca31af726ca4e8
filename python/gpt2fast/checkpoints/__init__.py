"""Readers of GPT-2 checkpoints, one module per format; all return the same ``Checkpoint``."""

from __future__ import annotations

import errno
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2fast._validation import Integer
from gpt2fast.config import MAX_DIMENSION
from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import Checkpoint, TokenizerFiles

__all__ = ["locate", "locate_with_adapter", "open_checkpoint", "with_tokenizer"]

_TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_SUFFIXES = (".safetensors", *_TORCH_SUFFIXES, ".gguf", ".onnx")
# The page of a model, or of one of its files.
_HUB_ADDRESS = re.compile(
    r"(?:https?://(?:www\.)?(?:huggingface\.co|hf\.co)|hf:/)/([\w.-]+/[\w.-]+)", re.ASCII
)


def locate(source: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None) -> Path:
    """The path of a source on this machine; a hub id is downloaded first.

    Parameters
    ----------
    source : str or path
        A directory, a file, or the id of a model on the Hugging Face hub (``name`` or ``organisation/name``).
        What exists as a path is taken as one.
    revision, token : str, optional
        For the hub: branch, tag or commit; access token.

    Raises
    ------
    FileNotFoundError
        There is no such file or directory, and it is not a hub id.
    ModelError
        The address of a page of the hub.
    """
    if not os.fspath(source):
        raise FileNotFoundError("source must name a directory, a file or a model of the hub, got ''")
    path = Path(source)
    if path.exists():
        return path
    from gpt2fast.checkpoints.hub import download_snapshot, is_repo_id

    address = _HUB_ADDRESS.match(os.fspath(source))
    if address is not None:
        raise ModelError(f"{source}: a model of the hub is named by its id: {address[1]!r}")
    if not isinstance(source, str) or not is_repo_id(source) or path.suffix.lower() in _SUFFIXES:
        raise FileNotFoundError(errno.ENOENT, "no such file or directory, and not a hub id", str(source))
    return download_snapshot(source, revision=revision, token=token)


def locate_with_adapter(
    source: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> tuple[Path, Path | None]:
    """The paths of a model and of the adapter to merge into it, if any; both may be on the hub.

    A source that is an adapter itself names its base model, which is located in its place.

    Raises
    ------
    FileNotFoundError
        The source, the adapter, or the base that it names is not there.
    ModelError
        The base of an adapter is an adapter too.
    """
    from gpt2fast.checkpoints.adapter_config import base_of, is_adapter

    path = locate(source, revision=revision, token=token)
    given = None if adapter is None else locate(adapter, token=token)
    if given is None and is_adapter(path) and not _holds_model(path):
        base, base_revision = base_of(path)
        try:
            path, given = locate(base, revision=base_revision, token=token), path
        except FileNotFoundError as error:
            raise FileNotFoundError(
                errno.ENOENT,
                f"the adapter {path} belongs to this model, which is not there; give it: "
                f"from_pretrained(BASE, adapter=...)",
                base,
            ) from error
    if given is not None and is_adapter(path) and not _holds_model(path):
        raise ModelError(f"{path}: an adapter, but adapter= needs the model that it belongs to")
    return path, given


def _holds_model(directory: Path) -> bool:
    from gpt2fast.checkpoints.huggingface import find_weights

    return find_weights(directory) is not None


def open_checkpoint(
    source: str | os.PathLike[str],
    *,
    adapter: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    n_head: int | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Checkpoint:
    """Read a GPT-2 model in any of the supported formats.

    Tensors are read on demand; the files are hashed once for the checkpoint's fingerprint.

    Parameters
    ----------
    source : str or path
        A Hugging Face directory, a directory with one model file, a TensorFlow directory of the original
        release, a ``.safetensors``, PyTorch (``.bin``, ``.pt``, ``.pth``, ``.ckpt``), ``.gguf`` or ``.onnx``
        file, or a hub id.
    adapter : str or path, optional
        The directory or hub id of a LoRA adapter of PEFT, which is merged. As a source of its own, an adapter
        is merged into the base model that it names.
    tokenizer : str or path, optional
        A directory, a file or a hub id to take the tokenizer from, in place of the source's own.
    n_head : int, optional
        The number of attention heads, for a lone weight file or an ONNX graph that does not reveal it.
    revision, token : str, optional
        For the hub, as in :func:`locate`.

    Raises
    ------
    ModelError
        The source is none of these, or is broken; the message names the file and the fault.
    ValueError
        The source has another number of heads than ``n_head``.
    """
    if n_head is not None:
        n_head = Integer(1, MAX_DIMENSION)("n_head", n_head)
    from gpt2fast.checkpoints.generation_config import with_generation_config

    path, adapter_path = locate_with_adapter(source, adapter, revision=revision, token=token)
    checkpoint = with_generation_config(_open(path, n_head), path)
    if adapter_path is not None:
        from gpt2fast.checkpoints.adapter import merge_adapter

        checkpoint = merge_adapter(checkpoint, adapter_path)
    if n_head not in (None, checkpoint.config.n_head):
        raise ValueError(f"n_head={n_head}, but {source} says {checkpoint.config.n_head}; leave n_head out")
    for text in checkpoint.warnings:
        warnings.warn(text, stacklevel=2)
    if tokenizer is None:
        return checkpoint
    from gpt2fast.checkpoints.tokenizer_files import read_tokenizer_files

    return with_tokenizer(checkpoint, read_tokenizer_files(tokenizer, token=token))


def _open(path: Path, n_head: int | None) -> Checkpoint:
    if path.is_dir():
        return _open_directory(path, n_head)
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        from gpt2fast.checkpoints.gguf_file import open_gguf

        return open_gguf(path)
    if suffix == ".onnx":
        from gpt2fast.checkpoints.onnx_graph import open_onnx

        return open_onnx(path, n_head=n_head)
    if suffix == ".safetensors" or suffix in _TORCH_SUFFIXES:
        from gpt2fast.checkpoints.huggingface import open_weights_file

        return open_weights_file(path, n_head=n_head)
    from gpt2fast.checkpoints.other_files import explain_foreign

    known = f"known are {', '.join(_SUFFIXES)} and directories with a config.json"
    raise ModelError(f"{path}: {explain_foreign(path) or f'not a known kind of model file; {known}'}")


def _open_directory(path: Path, n_head: int | None) -> Checkpoint:
    if (path / "gpt2fast.json").exists():
        raise ModelError(
            f"{path}: already a converted model; conversion needs the checkpoint that it was made from"
        )
    if (path / "hparams.json").exists() and not (path / "config.json").exists():
        from gpt2fast.checkpoints.tensorflow_checkpoint import open_tensorflow

        return open_tensorflow(path)
    from gpt2fast.checkpoints.huggingface import find_weights, open_directory
    from gpt2fast.checkpoints.other_files import single_model_file

    if find_weights(path) is None:
        file = single_model_file(path)
        if file is not None:
            return _open(file, n_head)
    return open_directory(path)


def with_tokenizer(checkpoint: Checkpoint, files: TokenizerFiles) -> Checkpoint:
    """The checkpoint with another tokenizer and, because of that, another fingerprint."""
    from dataclasses import replace
    from hashlib import sha256

    from gpt2fast.checkpoints.fingerprint import fingerprint

    combined = checkpoint.fingerprint + fingerprint(checkpoint.config, files, ())
    return replace(
        checkpoint,
        tokenizer=files,
        fingerprint=sha256(combined.encode()).hexdigest(),
        tokenizer_fault=None,
        tokenizer_is_given=True,
    )
