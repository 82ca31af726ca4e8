"""Merges a LoRA adapter of PEFT into its base model: ``W + scale B A``, computed as rows are read.

Files and arithmetic are those of https://huggingface.co/docs/peft: ``adapter_config.json`` beside
``adapter_model.safetensors`` or ``.bin``.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2fast.checkpoints.adapter_config import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter_config
from gpt2fast.checkpoints.base import Checkpoint, LazyTensor
from gpt2fast.checkpoints.fingerprint import fingerprint
from gpt2fast.checkpoints.head import CLASSIFIER_TENSORS, find_classifier, settle_head
from gpt2fast.checkpoints.state_dict import StateDict, unused_tensors
from gpt2fast.checkpoints.tokenizer_files import find_tokenizer_files
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import file_inside, find_inside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.config import ModelConfig

_TABLE, _HEAD = "wte.weight", "lm_head.weight"
# Weights that are [out, in], as torch has linear layers; GPT-2's other ones are [in, out].
_OUT_FIRST = (_HEAD, *CLASSIFIER_TENSORS)
# The largest float32.
_LARGEST_ALPHA = float(np.finfo(np.float32).max)
_LOW_RANK = re.compile(r"(.+)\.lora_(embedding_)?([AB])(\.weight)?")
# What PEFT wraps around a model's names, and around those of modules that it saves whole.
_WRAPPED = re.compile(r"^base_model\.model\.|(?<=\.)base_layer\.|(?<=\.)modules_to_save\.(default\.)?")


@dataclass
class _Adapter:
    """What an adapter's file holds: factors by weight, and whole tensors, under canonical names."""

    factors: dict[str, dict[str, NDArray[np.float32]]] = field(default_factory=dict)
    whole: dict[str, LazyTensor] = field(default_factory=dict)


def merge_adapter(checkpoint: Checkpoint, directory: Path) -> Checkpoint:
    """The checkpoint with the adapter in ``directory`` merged, and with the tokenizer beside it, if any.

    Raises
    ------
    ModelError
        It is no adapter, of another kind than LoRA, or does not fit the model.
    """
    config_path = directory / ADAPTER_CONFIG
    settings = read_adapter_config(directory)
    weights = next((name for name in ADAPTER_WEIGHTS if find_inside(directory, name) is not None), None)
    if weights is None:
        raise ModelError(f"{directory}: has no {' or '.join(ADAPTER_WEIGHTS)} in it")
    path = file_inside(directory, weights)
    adapter = _read(_open(weights, path), directory / weights)
    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    # What changes the table leaves a head alone that was tied to it.
    tensors.setdefault(_HEAD, tensors[_TABLE])
    rows = adapter.whole[_TABLE].shape[0] if _TABLE in adapter.whole else config.vocab_size
    if rows != config.vocab_size:
        config = replace(config, vocab_size=rows)
        if _HEAD not in adapter.whole and config.tie_word_embeddings:
            tensors[_HEAD] = adapter.whole[_TABLE]
    own_head = {name: adapter.whole[name] for name in CLASSIFIER_TENSORS if name in adapter.whole}
    head = own_head or dict(checkpoint.classifier)
    unused = [name for name in adapter.whole if name not in tensors and name not in own_head]
    tensors |= {name: tensor for name, tensor in adapter.whole.items() if name in tensors}
    for name, pair in adapter.factors.items():
        merged = head if name in head else tensors
        if name not in merged:
            raise ModelError(f"{path}: has factors for {name!r}, which the model does not have")
        merged[name] = _merged(name, merged[name], pair, settings, config_path)
    config, tensors = settle_head(config, tensors, directory)
    if own_head:
        config = _with_own_head(config, head, checkpoint.config_values, path)
    own = find_tokenizer_files(directory)
    tokenizer = own or checkpoint.tokenizer
    files = (file_inside(directory, ADAPTER_CONFIG), path)
    identity = checkpoint.fingerprint + fingerprint(config, tokenizer, files)
    checked = Checkpoint.checked(config, tensors, source=directory, fingerprint="")
    return replace(
        checkpoint,
        config=config,
        tensors=checked.tensors,
        classifier=head,
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        tokenizer=tokenizer,
        warnings=(*checkpoint.warnings, *unused_tensors(unused, directory / weights)),
        tokenizer_fault=None if own else checkpoint.tokenizer_fault,
    )


def _with_own_head(
    config: ModelConfig, head: Mapping[str, LazyTensor], values: Mapping[str, Any], path: Path
) -> ModelConfig:
    """The configuration with a head for classification, which an adapter saves whole.

    As ``from_pretrained(base, num_labels=...)`` of ``transformers`` does, it takes the labels of the base's
    ``config.json`` where they are as many, and else names them by number.
    """
    rows = {tensor.shape[0] for tensor in head.values() if tensor.shape}
    labels = values.get("id2label")
    if not isinstance(labels, dict) or rows != {len(labels)}:
        values = {**values, "id2label": None}
    config, found = find_classifier(replace(config, classifier=None), head, values, path)
    if found.keys() != head.keys():
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in head.items())
        raise ModelError(
            f"{path}: has {shapes}; a head for classification is score.weight [labels, {config.n_embd}], or "
            f"classifier.weight [labels, {config.n_embd}] with classifier.bias [labels]"
        )
    return config


def _open(name: str, path: Path) -> Mapping[str, LazyTensor]:
    if name.endswith(".safetensors"):
        from gpt2fast.checkpoints.safetensors_file import SafetensorsFile

        return SafetensorsFile(path)
    from gpt2fast.checkpoints.torch_pickle import open_torch_file

    return open_torch_file(path).tensors


def _read(tensors: Mapping[str, LazyTensor], where: Path) -> _Adapter:
    adapter = _Adapter()
    state = StateDict(_Renamed(tensors), where)
    for name in state:
        match = _LOW_RANK.fullmatch(name)
        if match is not None:
            factors = adapter.factors.setdefault(f"{match[1]}.weight", {})
            factors[match[3]] = state[name].read()
        elif "lora" in name:
            raise ModelError(
                f"{where}: the tensor {state.names[name]!r} belongs to no LoRA adapter of this kind"
            )
        else:
            adapter.whole[name] = state[name]
    return adapter


class _Renamed(Mapping[str, LazyTensor]):
    """Tensors without what PEFT wraps around a model's names."""

    def __init__(self, tensors: Mapping[str, LazyTensor]) -> None:
        self._tensors = tensors
        # Of a module that is saved whole, the base's own values may be there too.
        kept = [name for name in tensors if ".original_module." not in name]
        self._names = {_WRAPPED.sub("", name): name for name in kept}

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _merged(
    name: str,
    base: LazyTensor,
    factors: Mapping[str, NDArray[np.float32]],
    settings: Mapping[str, Any],
    where: Path,
) -> LazyTensor:
    """The base with ``scale B A`` added, for ``A`` ``[rank, in]`` and ``B`` ``[out, rank]``."""
    first, second = factors.get("A"), factors.get("B")
    # A linear layer and the table are [in, out] here, heads [out, in].
    sizes = base.shape[::-1] if name in _OUT_FIRST else base.shape
    shapes = [None if factor is None else factor.shape for factor in (first, second)]
    if first is None or second is None or len(sizes) != 2 or first.ndim != 2:
        raise ModelError(f"{where}: the factors of {name!r} are not a pair")
    rank = first.shape[0]
    if shapes != [(rank, sizes[0]), (sizes[1], rank)]:
        raise ModelError(
            f"{where}: the factors of {name!r} have shapes {shapes}, which do not fit {list(base.shape)}"
        )
    scale = np.float32(_scale(name, rank, settings, where))
    left, right = (second, first) if name in _OUT_FIRST else (first.T, second.T)

    def read_rows(start: int, stop: int) -> NDArray[np.float32]:
        result: NDArray[np.float32] = base.read_rows(start, stop) + scale * (left[start:stop] @ right)
        return result

    return LazyTensor(base.shape, read_rows)


def _scale(name: str, rank: int, settings: Mapping[str, Any], where: Path) -> float:
    """``alpha / rank``, or ``alpha / sqrt(rank)`` for rank-stabilised LoRA."""
    module = name.removesuffix(".weight")
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ModelError(f"{where}: alpha_pattern must be an object, got {patterns!r}")
    alpha = settings.get("lora_alpha")
    for pattern, value in patterns.items():
        # PEFT takes regular expressions; one from a stranger's file is not run.
        if re.fullmatch(r"[\w.]+", pattern) is None:
            raise ModelError(
                f"{where}: alpha_pattern {pattern[:80]!r} is no plain name; merge it with PEFT first"
            )
        if f".{module}".endswith(f".{pattern.removeprefix('transformer.')}"):
            alpha = value
            break
    # An integer may be beyond all floats, which isfinite() can't take.
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not abs(alpha) <= _LARGEST_ALPHA:
        raise ModelError(
            f"{where}: lora_alpha must be a number, at most {_LARGEST_ALPHA:g}, got {alpha!r:.40}"
        )
    return alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
