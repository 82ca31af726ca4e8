"""Reads Hugging Face GPT-2 checkpoints: config.json, weights in one file or in shards, tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt2fast.checkpoints.adapter_config import ADAPTER_WEIGHTS
from gpt2fast.checkpoints.base import Checkpoint, LazyTensor, expected_shapes
from gpt2fast.checkpoints.fingerprint import fingerprint
from gpt2fast.checkpoints.head import find_classifier, settle_head
from gpt2fast.checkpoints.other_files import explain_without_weights
from gpt2fast.checkpoints.safetensors_file import SafetensorsFile
from gpt2fast.checkpoints.state_dict import (
    StateDict,
    infer_config,
    missing_tensor,
    nanogpt_config,
    unused_tensors,
)
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

_TABLE, _HEAD = "wte.weight", "lm_head.weight"


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
    path = find_weights(directory)
    if path is None:
        looked = f"no weights in it; looked for {', '.join(WEIGHT_FILES)}"
        raise ModelError(f"{directory}: {explain_without_weights(directory) or looked}")
    config, values = _read_config(directory)
    if path.name.endswith(".index.json"):
        tensors, files = _open_shards(directory, path.name)
    else:
        resolved = file_inside(directory, path.name)
        tensors, files = _open_tensors(path.name, resolved), [resolved]
    state = StateDict(tensors, directory)
    config, classifier = find_classifier(config, state, values, directory)
    checkpoint = _checkpoint(config, state, classifier, files, directory, directory)
    return replace(checkpoint, config_values=values)


def open_weights_file(path: Path, *, n_head: int | None = None) -> Checkpoint:
    """Read a lone ``.safetensors`` or PyTorch file; configuration and tokenizer are those beside it, if any.

    A training checkpoint of nanoGPT brings its sizes along. Without a ``config.json`` the sizes follow from
    the shapes, with ``n_head`` heads. Without that, heads
    of width 64 are assumed, as all GPT-2 models have, with a warning.

    Raises
    ------
    ModelError
        As for :func:`open_directory`; or there is neither a configuration nor ``n_head``, and the width is
        not a multiple of 64.
    """
    if path.name in ADAPTER_WEIGHTS:
        raise ModelError(
            f"{path}: the weights of an adapter, not of a model; give its directory, or the model "
            f"with adapter={str(path.parent)!r}"
        )
    resolved = Path(os.path.realpath(path))
    assumption = None
    model_args: Mapping[str, Any] = {}
    if path.name.lower().endswith(".safetensors"):
        state = StateDict(SafetensorsFile(resolved), path)
    else:
        from gpt2fast.checkpoints.torch_pickle import open_torch_file

        file = open_torch_file(resolved)
        state, model_args = StateDict(file.tensors, path), file.model_args
    values: Mapping[str, Any] = {}
    if model_args:
        config = nanogpt_config(model_args, path)
    elif find_inside(path.parent, "config.json") is not None:
        config, values = _read_config(path.parent)
    else:
        config, assumption = infer_config(state, path, n_head)
    config, classifier = find_classifier(config, state, values, path)
    checkpoint = _checkpoint(config, state, classifier, [resolved], path, path.parent)
    warnings = (assumption, *checkpoint.warnings) if assumption else checkpoint.warnings
    return replace(checkpoint, config_values=values, warnings=warnings)


def read_config(directory: Path) -> ModelConfig:
    """The configuration of a directory; the special tokens of ``generation_config.json`` take precedence."""
    return _read_config(directory)[0]


def _read_config(directory: Path) -> tuple[ModelConfig, Mapping[str, Any]]:
    """The configuration, and the values that it was read from."""
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
    return ModelConfig.from_dict(values, where=str(path)), values


def find_weights(directory: Path) -> Path | None:
    """The file with the weights of a directory, or the index of several; None if there is none."""
    for name in WEIGHT_FILES:
        if find_inside(directory, name) is not None:
            return directory / name
    return None


def _open_tensors(name: str, resolved: Path) -> Mapping[str, LazyTensor]:
    """The tensors of one file; ``name`` has its suffix (in the hub's cache ``resolved`` is a hash)."""
    if name.endswith(".safetensors"):
        return SafetensorsFile(resolved)
    from gpt2fast.checkpoints.torch_pickle import open_torch_file

    return open_torch_file(resolved).tensors


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
    config: ModelConfig,
    state: StateDict,
    classifier: Mapping[str, LazyTensor],
    files: list[Path],
    source: Path,
    home: Path,
) -> Checkpoint:
    # The head may be the only copy of the table that was saved.
    table = _HEAD if config.tie_word_embeddings and _TABLE not in state else _TABLE
    wanted: dict[str, LazyTensor] = {}
    for canonical, _ in expected_shapes(config):
        there = table if canonical == _TABLE else canonical
        if there not in state:
            raise ModelError(missing_tensor(canonical, config, state.names, source))
        wanted[canonical] = state[there]
    if _HEAD in state and table != _HEAD:
        wanted[_HEAD] = state[_HEAD]
    used = {*wanted, *classifier, table}
    unused = [there for name, there in state.names.items() if name not in used]
    config, wanted = settle_head(config, wanted, source)
    tokenizer = find_tokenizer_files(home)
    checkpoint = Checkpoint.checked(config, wanted, source=source, fingerprint="", tokenizer=tokenizer)
    # Hashing reads all the weights, so it waits until they are known to fit.
    return replace(
        checkpoint,
        classifier=classifier,
        fingerprint=fingerprint(config, tokenizer, files),
        warnings=unused_tensors(unused, source),
    )
