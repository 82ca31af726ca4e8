"""Writes any checkpoint in Hugging Face's form: config.json, safetensors, tokenizer.json.

The format of the weights is that of https://huggingface.co/docs/safetensors: 8 bytes of header length, a JSON
header, the values. It is written here because the ``safetensors`` package takes all tensors at once.
"""

from __future__ import annotations

import errno
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2fast._validation import Choice, Integer
from gpt2fast.checkpoints.base import Checkpoint, LazyTensor
from gpt2fast.errors import ModelError
from gpt2fast.storage.atomic import atomic_directory, check_room, write_new
from gpt2fast.storage.model_directory import CHAT_TEMPLATE_NAME
from gpt2fast.storage.set_aside import restore_set_aside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.text.tokenizer_settings import TokenizerSettings

DEFAULT_SHARD_BYTES = 5_000_000_000

_CHUNK_BYTES = 16 << 20
_SPARE_BYTES = 16 << 20
_ALIGNMENT = 8
_NUMPY_DTYPES = {"fp32": "<f4", "fp16": "<f2"}
_SAFETENSORS_DTYPES = {"fp32": "F32", "fp16": "F16"}
_TORCH_DTYPES = {"fp32": "float32", "fp16": "float16"}
_DTYPE = Choice(tuple(_NUMPY_DTYPES))
_SHARD_BYTES = Integer(1, 1 << 62)
_GENERATED = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    CHAT_TEMPLATE_NAME,
)


def save_huggingface(
    checkpoint: Checkpoint,
    directory: str | os.PathLike[str],
    *,
    dtype: str = "fp32",
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a directory that ``transformers`` loads with ``from_pretrained``.

    Tensors are streamed, so memory stays small for any size of model.

    Parameters
    ----------
    checkpoint : Checkpoint
        From :func:`gpt2fast.checkpoints.open_checkpoint`.
    directory : path
        The directory to write. It appears whole or not at all.
    dtype : {"fp32", "fp16"}
        Precision of the stored weights.
    max_shard_bytes : int
        The most bytes of weights in a file (or one tensor); several files come with an index.
    overwrite : bool
        Replace a directory that holds such a checkpoint and nothing else.
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)``.

    Returns
    -------
    list of Path
        The files with weights.

    Raises
    ------
    FileExistsError
        ``directory`` exists and may not be replaced.
    ModelError
        A tensor can't be read, or is too large for ``dtype``.
    """
    from gpt2fast.export.fitting_tokenizer import fitting_tokenizer

    dtype = _DTYPE("dtype", dtype)
    shards = _shards(checkpoint, dtype, _SHARD_BYTES("max_shard_bytes", max_shard_bytes))
    target = Path(os.path.realpath(directory))
    check_checkpoint_directory(target, overwrite=overwrite)
    tokenizer, fault = fitting_tokenizer(checkpoint)
    if fault is not None:
        warnings.warn(f"{fault}; the tokenizer is left out", stacklevel=2)
    total = sum(_stored_bytes(tensor, dtype) for group in shards.values() for tensor in group.values())
    target.parent.mkdir(parents=True, exist_ok=True)
    check_room(target.parent, total + len(tokenizer[0] if tokenizer else "") + _SPARE_BYTES)
    with atomic_directory(target) as temporary:
        for name, text in _small_files(checkpoint, tokenizer, dtype):
            write_new(temporary / name, text.encode("utf-8"))
        if len(shards) > 1:
            write_new(temporary / "model.safetensors.index.json", _index(shards, total).encode("utf-8"))
        done = 0
        for name, tensors in shards.items():
            for written in write_safetensors(temporary / name, tensors, dtype, checkpoint.source):
                done += written
                if progress is not None:
                    progress(done, total)
    return [target / name for name in shards]


def check_checkpoint_directory(directory: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError unless ``directory`` is free, empty, or a checkpoint that may be replaced."""
    restore_set_aside(directory)
    if not os.path.lexists(directory):
        return
    if not directory.is_dir():
        raise FileExistsError(errno.EEXIST, "the output directory exists and is a file", str(directory))
    names = sorted(os.listdir(directory))
    foreign = [name for name in names if name not in _GENERATED and not _holds_weights(name)]
    if foreign or (names and "config.json" not in names):
        found = (foreign or names)[0]
        message = f"not empty and not (only) a checkpoint: it holds {found!r}; name another"
        raise FileExistsError(errno.EEXIST, message, str(directory))
    if names and not overwrite:
        message = "holds a checkpoint; --overwrite (overwrite=True) replaces it"
        raise FileExistsError(errno.EEXIST, message, str(directory))


def _holds_weights(name: str) -> bool:
    return name.startswith("model") and name.endswith((".safetensors", ".safetensors.index.json"))


def _shards(checkpoint: Checkpoint, dtype: str, limit: int) -> dict[str, dict[str, LazyTensor]]:
    """File name -> its tensors under the names of ``transformers``."""
    groups: list[dict[str, LazyTensor]] = [{}]
    size = 0
    for canonical, tensor in {**checkpoint.tensors, **checkpoint.classifier}.items():
        needed = _stored_bytes(tensor, dtype)
        if groups[-1] and size + needed > limit:
            groups.append({})
            size = 0
        is_head = canonical == "lm_head.weight" or canonical in checkpoint.classifier
        name = canonical if is_head else f"transformer.{canonical}"
        groups[-1][name] = tensor
        size += needed
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    count = len(groups)
    return {f"model-{i:05}-of-{count:05}.safetensors": group for i, group in enumerate(groups, 1)}


def _small_files(
    checkpoint: Checkpoint, tokenizer: tuple[str, TokenizerSettings] | None, dtype: str
) -> Iterator[tuple[str, str]]:
    config = checkpoint.config
    values = config.to_dict()
    yield "config.json", _json({**values, "torch_dtype": _TORCH_DTYPES[dtype]})
    tokens = {key: values[key] for key in ("bos_token_id", "eos_token_id")}
    yield "generation_config.json", _json({**checkpoint.generation_config, **tokens})
    if tokenizer is not None:
        text, settings = tokenizer
        if settings.model_max_length is None:
            settings = replace(settings, model_max_length=config.n_positions)
        yield "tokenizer.json", text
        yield "tokenizer_config.json", settings.to_json()
        if checkpoint.tokenizer.chat_template is not None:
            yield CHAT_TEMPLATE_NAME, checkpoint.tokenizer.chat_template


def _index(shards: Mapping[str, Mapping[str, LazyTensor]], total: int) -> str:
    weight_map = {name: shard for shard, tensors in shards.items() for name in tensors}
    return _json({"metadata": {"total_size": total}, "weight_map": weight_map})


def write_safetensors(
    path: Path, tensors: Mapping[str, LazyTensor], dtype: str, source: str
) -> Iterator[int]:
    """Write a file; yields the number of bytes of each piece of weights."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + _stored_bytes(tensor, dtype)
        header[name] = {
            "dtype": _SAFETENSORS_DTYPES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            for values in _row_chunks(tensor):
                data = _converted(values, dtype, f"{source}: the tensor {name!r}").tobytes()
                file.write(data)
                yield len(data)
        file.flush()
        os.fsync(file.fileno())


def _row_chunks(tensor: LazyTensor) -> Iterator[NDArray[np.float32]]:
    rows = max(1, _CHUNK_BYTES // (4 * math.prod(tensor.shape[1:])))
    for start in range(0, tensor.shape[0], rows):
        yield tensor.read_rows(start, min(start + rows, tensor.shape[0]))


def _converted(values: NDArray[np.float32], dtype: str, what: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        converted = values.astype(_NUMPY_DTYPES[dtype])
    if (np.isinf(converted) & np.isfinite(values)).any():
        raise ModelError(f"{what} has values beyond float16; write it with --dtype fp32 (dtype='fp32')")
    return converted


def _stored_bytes(tensor: LazyTensor, dtype: str) -> int:
    return math.prod(tensor.shape) * np.dtype(_NUMPY_DTYPES[dtype]).itemsize


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
