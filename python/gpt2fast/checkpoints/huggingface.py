"""Reads Hugging Face GPT-2 checkpoints: config.json, weights in one file or in shards, tokenizer."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2fast.checkpoints.base import Checkpoint, LazyTensor, expected_shapes
from gpt2fast.checkpoints.fingerprint import fingerprint
from gpt2fast.checkpoints.head import settle_head
from gpt2fast.checkpoints.safetensors_file import SafetensorsFile
from gpt2fast.checkpoints.tokenizer_files import find_tokenizer_files
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import MAX_INDEX_BYTES, file_inside, find_inside, read_json_object

#: Where weights may be, in order of preference; an ``.index.json`` names the shards.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

_PREFIX = "transformer."
_TABLE, _HEAD = "wte.weight", "lm_head.weight"
# Causal masks that old versions of transformers saved with the weights.
_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_LAYER = re.compile(r"h\.(\d{1,6})\.")
_GPT2_END_OF_TEXT = 50256
_USUAL_HEAD_DIM = 64
_NAMES_SHOWN = 5


class ShardedTensors(Mapping[str, LazyTensor]):
    """Tensors that are spread over files; each name belongs to one of them."""

    def __init__(self, shard_of: Mapping[str, Mapping[str, LazyTensor]]) -> None:
        self._shard_of = shard_of

    def __getitem__(self, name: str) -> LazyTensor:
        return self._shard_of[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)

    def __len__(self) -> int:
        return len(self._shard_of)


def open_directory(directory: Path) -> Checkpoint:
    """Read a checkpoint directory in the form that ``save_pretrained`` writes.

    The tensor names may have the prefix ``transformer.``. Whether a ``lm_head.weight`` in the file is used
    follows from its numbers: see :func:`gpt2fast.checkpoints.head.settle_head`.

    Raises
    ------
    ModelError
        A file is missing, broken, or leads out of the directory; the model is not a GPT-2; a tensor is
        missing or has another shape than the configuration requires.
    """
    config = read_config(directory)
    path = _find_weights(directory)
    if path.name.endswith(".index.json"):
        tensors, files = _open_shards(directory, path.name)
    else:
        resolved = file_inside(directory, path.name)
        tensors, files = _open_tensors(path.name, resolved), [resolved]
    return _checkpoint(config, tensors, files, directory, directory)


def open_weights_file(path: Path, *, n_head: int | None = None) -> Checkpoint:
    """Read a lone ``.safetensors`` or PyTorch file; configuration and tokenizer are those beside it, if any.

    Without a ``config.json`` the sizes follow from the shapes, with ``n_head`` heads. Without that, heads
    of width 64 are assumed, as all GPT-2 models have, with a warning.

    Raises
    ------
    ModelError
        As for :func:`open_directory`; or there is neither a configuration nor ``n_head``, and the width is
        not a multiple of 64.
    """
    resolved = Path(os.path.realpath(path))
    tensors = _open_tensors(path.name, resolved)
    if find_inside(path.parent, "config.json") is not None:
        config = read_config(path.parent)
    else:
        config = _infer_config(_canonical_names(tensors, path), tensors, path, n_head)
    return _checkpoint(config, tensors, [resolved], path, path.parent)


def read_config(directory: Path) -> ModelConfig:
    """The configuration of a directory; the special tokens of ``generation_config.json`` take precedence."""
    path = file_inside(directory, "config.json")
    values = read_json_object(path)
    if values.get("quantization_config") is not None:
        raise ModelError(f"{path}: quantization_config: quantised weights are not supported")
    generation = find_inside(directory, "generation_config.json")
    if generation is not None:
        overrides = read_json_object(generation)
        for name in ("bos_token_id", "eos_token_id"):
            if overrides.get(name) is not None:
                values[name] = overrides[name]
    return ModelConfig.from_dict(values, where=str(path))


def _find_weights(directory: Path) -> Path:
    for name in WEIGHT_FILES:
        if find_inside(directory, name) is not None:
            return directory / name
    raise ModelError(f"{directory}: no weights in it; looked for {', '.join(WEIGHT_FILES)}")


def _open_tensors(name: str, resolved: Path) -> Mapping[str, LazyTensor]:
    """The tensors of one file; ``name`` has its suffix (in the hub's cache ``resolved`` is a hash)."""
    if name.endswith(".safetensors"):
        return SafetensorsFile(resolved)
    from gpt2fast.checkpoints.torch_pickle import open_torch_tensors

    return open_torch_tensors(resolved)


def _open_shards(directory: Path, index_name: str) -> tuple[Mapping[str, LazyTensor], list[Path]]:
    path = directory / index_name
    weight_map = read_json_object(file_inside(directory, index_name), MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ModelError(f"{path}: weight_map must map tensor names to file names")
    files = {shard: file_inside(directory, shard) for shard in sorted(set(weight_map.values()))}
    shards = {shard: _open_tensors(shard, resolved) for shard, resolved in files.items()}
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise ModelError(f"{path}: the tensor {name!r} is not in {shard}, although the index says so")
    return ShardedTensors({name: shards[shard] for name, shard in weight_map.items()}), list(files.values())


def _checkpoint(
    config: ModelConfig, tensors: Mapping[str, LazyTensor], files: list[Path], source: Path, home: Path
) -> Checkpoint:
    names = _canonical_names(tensors, source)
    if config.tie_word_embeddings and _HEAD in names and _TABLE not in names:
        # The only copy of the table that was saved.
        names[_TABLE] = names.pop(_HEAD)
    wanted: dict[str, LazyTensor] = {}
    for canonical, _ in expected_shapes(config):
        if canonical not in names:
            raise ModelError(_missing(canonical, config, names, source))
        wanted[canonical] = tensors[names.pop(canonical)]
    if _HEAD in names:
        wanted[_HEAD] = tensors[names.pop(_HEAD)]
    _warn_of_unused(names.values(), source)
    config, wanted = settle_head(config, wanted, source)
    tokenizer = find_tokenizer_files(home)
    checkpoint = Checkpoint.checked(config, wanted, source=source, fingerprint="", tokenizer=tokenizer)
    # Hashing reads all the weights, so it waits until they are known to fit.
    return replace(checkpoint, fingerprint=fingerprint(config, tokenizer, files))


def _canonical_names(tensors: Mapping[str, LazyTensor], source: Path) -> dict[str, str]:
    """Canonical name -> name in the file, without the mask buffers."""
    names: dict[str, str] = {}
    for name in tensors:
        canonical = name.removeprefix(_PREFIX)
        if _BUFFER.fullmatch(canonical):
            continue
        if canonical in names:
            raise ModelError(f"{source}: both {names[canonical]!r} and {name!r} are in it")
        names[canonical] = name
    return names


def _missing(canonical: str, config: ModelConfig, names: Mapping[str, str], source: Path) -> str:
    message = f"{source}: the tensor {canonical!r} is missing"
    if canonical == _HEAD:
        return f"{message}; the configuration says that the head is not tied (tie_word_embeddings is false)"
    if canonical == _TABLE:
        return f"{message}; is it a GPT-2 model? It holds {_some(names.values())}"
    return f"{message}; the configuration says {config.n_layer} layers"


def _warn_of_unused(names: Any, source: Path) -> None:
    if names:
        warnings.warn(f"{source}: {len(names)} tensors are not used: {_some(names)}", stacklevel=4)


def _some(names: Any) -> str:
    shown = sorted(names)[:_NAMES_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "") if shown else "no tensors"


def _infer_config(
    names: Mapping[str, str], tensors: Mapping[str, LazyTensor], path: Path, n_head: int | None
) -> ModelConfig:
    def matrix(canonical: str) -> tuple[int, int]:
        shape = tensors[names[canonical]].shape if canonical in names else ()
        if len(shape) != 2:
            raise ModelError(
                f"{path}: no config.json beside it, and no matrix {canonical!r} in it for the sizes; "
                f"it holds {_some(names.values())}"
            )
        return shape[0], shape[1]

    table = _TABLE if _TABLE in names else _HEAD
    vocab_size, width = matrix(table)
    if n_head is None:
        n_head = _usual_heads(width, path)
    layers = [int(match[1]) for match in map(_LAYER.match, names) if match]
    values = {
        "n_layer": max(layers, default=-1) + 1,
        "n_head": n_head,
        "n_embd": width,
        "n_inner": matrix("h.0.mlp.c_fc.weight")[1],
        "n_positions": matrix("wpe.weight")[0],
        "vocab_size": vocab_size,
        "bos_token_id": _GPT2_END_OF_TEXT,
        "eos_token_id": _GPT2_END_OF_TEXT,
        # A head of its own is told from the table by its numbers.
        "tie_word_embeddings": True,
    }
    return ModelConfig.from_dict(values, where=str(path))


def _usual_heads(width: int, path: Path) -> int:
    if width % _USUAL_HEAD_DIM:
        raise ModelError(
            f"{path}: the number of heads does not follow from the shapes (width {width} is not a multiple "
            f"of {_USUAL_HEAD_DIM}); put the model's config.json beside it, or convert it with n_head given "
            f"(gpt2fast convert --n-head N)"
        )
    warnings.warn(
        f"{path}: no config.json beside it; assuming {width // _USUAL_HEAD_DIM} heads of {_USUAL_HEAD_DIM} "
        f"and GPT-2's conventions",
        stacklevel=5,
    )
    return width // _USUAL_HEAD_DIM
