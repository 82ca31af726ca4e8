"""Reads OpenAI's original GPT-2 checkpoints, written by TensorFlow 1, without TensorFlow."""

from __future__ import annotations

import math
import re
from pathlib import Path

from gpt2fast.checkpoints.base import Checkpoint, LazyTensor, TokenizerFiles
from gpt2fast.checkpoints.binary_file import BinaryFile, refuse_overlaps
from gpt2fast.checkpoints.bundle_index import BundleEntry, read_index
from gpt2fast.checkpoints.fingerprint import fingerprint
from gpt2fast.checkpoints.head import settle_head
from gpt2fast.checkpoints.stored_tensor import STORED_DTYPES, StoredTensor
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import (
    MAX_TOKENIZER_BYTES,
    file_inside,
    find_inside,
    parse_json_object,
    read_json_object,
    read_text,
)

_CONFIG_KEYS = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "n_positions": "n_ctx",
    "vocab_size": "n_vocab",
}
_END_OF_TEXT = "<|endoftext|>"
_NAME = re.compile(r"model/(?:h(\d{1,6})/)?(.*?)(?:/([gbw]))?")
_KINDS = {"g": "weight", "w": "weight", "b": "bias", None: "weight"}


def open_tensorflow(directory: Path) -> Checkpoint:
    """Read ``hparams.json``, ``model.ckpt.index`` with its data, ``encoder.json`` and ``vocab.bpe``.

    Parameters
    ----------
    directory : Path
        Where the files are. A fine-tuned checkpoint may have another name than ``model.ckpt`` if it is the
        only one. Without ``encoder.json`` the checkpoint has no tokenizer.

    Raises
    ------
    ModelError
        A file is missing, truncated or corrupt, or the tensors don't fit ``hparams.json``. The checksums of
        the index are checked, those of the weights are not.
    """
    tokenizer = _tokenizer(directory)
    config = _config(directory, tokenizer)
    prefix = _prefix(directory)
    index = BinaryFile(file_inside(directory, f"{prefix}.index"))
    count, entries = read_index(index)
    used = sorted({entry.shard for entry in entries.values()})
    if any(shard >= count for shard in used):
        raise ModelError(f"{index.path}: a tensor lies in data file {used[-1]} of {count}")
    shards = {
        shard: BinaryFile(file_inside(directory, f"{prefix}.data-{shard:05}-of-{count:05}")) for shard in used
    }
    config, tensors = settle_head(config, _tensors(entries, shards), directory)
    return Checkpoint.checked(
        config,
        tensors,
        source=directory,
        fingerprint=fingerprint(config, tokenizer, [index.path, *(file.path for file in shards.values())]),
        tokenizer=tokenizer,
    )


def _prefix(directory: Path) -> str:
    names = sorted(path.name.removesuffix(".index") for path in directory.glob("*.index"))
    if "model.ckpt" in names:
        return "model.ckpt"
    if len(names) != 1:
        raise ModelError(
            f"{directory}: there must be a model.ckpt.index or one other .index; found {names[:5]}"
        )
    return names[0]


def _tokenizer(directory: Path) -> TokenizerFiles:
    encoder = find_inside(directory, "encoder.json")
    if encoder is None:
        return TokenizerFiles()
    return TokenizerFiles(
        vocab_json=read_text(encoder, MAX_TOKENIZER_BYTES),
        merges_txt=read_text(file_inside(directory, "vocab.bpe"), MAX_TOKENIZER_BYTES),
    )


def _config(directory: Path, tokenizer: TokenizerFiles) -> ModelConfig:
    path = file_inside(directory, "hparams.json")
    values = read_json_object(path)
    missing = [name for name in _CONFIG_KEYS.values() if name not in values]
    if missing:
        raise ModelError(f"{path}: the key {missing[0]!r} is missing")
    known = {ours: values[theirs] for ours, theirs in _CONFIG_KEYS.items()}
    if tokenizer.vocab_json is not None:
        vocabulary = parse_json_object(tokenizer.vocab_json, directory / "encoder.json")
        known["bos_token_id"] = known["eos_token_id"] = vocabulary.get(_END_OF_TEXT)
    return ModelConfig.from_dict(known, where=str(path))


def _tensors(entries: dict[str, BundleEntry], shards: dict[int, BinaryFile]) -> dict[str, LazyTensor]:
    tensors = {}
    ranges: dict[int, list[tuple[int, int, str]]] = {shard: [] for shard in shards}
    for name, entry in entries.items():
        canonical = _canonical_name(name)
        if canonical is None or entry.dtype_name is None:
            # An optimiser's state, and counters.
            continue
        file = shards[entry.shard]
        if entry.size != math.prod(entry.shape) * STORED_DTYPES[entry.dtype_name].itemsize:
            raise ModelError(
                f"{file.path}: the tensor {name!r} has {entry.size} bytes for the shape {list(entry.shape)}"
            )
        file.check_range(entry.offset, entry.size, f"the tensor {name!r}")
        # Linear weights are kernels of a convolution of length one: [1, in, out].
        shape = entry.shape[1:] if len(entry.shape) == 3 and entry.shape[0] == 1 else entry.shape
        tensors[canonical] = StoredTensor.contiguous(file, entry.dtype_name, entry.offset, shape).lazy()
        ranges[entry.shard].append((entry.offset, entry.offset + entry.size, name))
    for shard, file in shards.items():
        refuse_overlaps(file.path, ranges[shard])
    return tensors


def _canonical_name(name: str) -> str | None:
    """``model/h3/attn/c_attn/w`` -> ``h.3.attn.c_attn.weight``; None if it is not a weight of the model."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    layer, part, kind = match.groups()
    prefix = "" if layer is None else f"h.{int(layer)}."
    return f"{prefix}{part.replace('/', '.')}.{_KINDS[kind]}"
