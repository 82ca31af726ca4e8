"""The smallest valid checkpoint of every format, and which of its files to damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.base import Checkpoint, LazyTensor
from gpt2fast.checkpoints.tensorflow_checkpoint import open_tensorflow
from support.checkpoint_samples import (
    byte_level_vocabulary,
    gguf_name,
    random_tensors,
    small_config,
    torch_state,
    write_safetensors,
)
from support.merged_samples import exports, merged
from support.tensorflow_samples import write_tensorflow

CONFIG = small_config(n_layer=1, n_head=2, n_embd=8, n_positions=6, vocab_size=24)


@dataclass(frozen=True)
class Sample:
    """How to write a checkpoint, the file in it to damage, what to open (from the directory) and how."""

    write: Callable[[Path], None]
    damaged: str
    source: str = "."
    open: Callable[[Path], Checkpoint] = open_checkpoint


def _write_config(directory: Path) -> None:
    (directory / "config.json").write_text(CONFIG.to_json())


def _safetensors(directory: Path) -> None:
    _write_config(directory)
    write_safetensors(directory / "model.safetensors", random_tensors(CONFIG))


def _shards(directory: Path) -> None:
    _write_config(directory)
    tensors = list(random_tensors(CONFIG).items())
    half = len(tensors) // 2
    weight_map = {}
    for i, part in enumerate((tensors[:half], tensors[half:])):
        name = f"model-{i + 1:05}-of-00002.safetensors"
        write_safetensors(directory / name, dict(part))
        weight_map.update({tensor: name for tensor, _ in part})
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _torch(directory: Path, *, legacy: bool) -> None:
    _write_config(directory)
    (directory / "pytorch_model.bin").write_bytes(torch_state(random_tensors(CONFIG), legacy=legacy))


def _gguf(directory: Path) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(directory / "model.gguf", "gpt2")
    writer.add_block_count(CONFIG.n_layer)
    writer.add_embedding_length(CONFIG.n_embd)
    writer.add_head_count(CONFIG.n_head)
    tokens, merges = byte_level_vocabulary(CONFIG.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    for name, values in random_tensors(CONFIG).items():
        is_linear = name.startswith("h.") and values.ndim == 2
        writer.add_tensor(gguf_name(name), np.ascontiguousarray(values.T if is_linear else values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _checkpoint() -> Checkpoint:
    tensors = {name: LazyTensor.from_array(values) for name, values in random_tensors(CONFIG).items()}
    return Checkpoint.checked(CONFIG, tensors, source="random", fingerprint="")


def _onnx(directory: Path, *, external: bool) -> None:
    from gpt2fast.export.standard import export_onnx

    export_onnx(_checkpoint(), directory / "model.onnx", external_data=external)


def _merged_onnx(directory: Path) -> None:
    model = merged(*exports(_checkpoint(), directory))
    (directory / "model.onnx").write_bytes(model.SerializeToString())


def _tensorflow(directory: Path) -> None:
    write_tensorflow(directory, CONFIG)


SAMPLES = {
    "safetensors": Sample(_safetensors, "model.safetensors"),
    "shard-index": Sample(_shards, "model.safetensors.index.json"),
    "config": Sample(_safetensors, "config.json"),
    "torch-zip": Sample(lambda directory: _torch(directory, legacy=False), "pytorch_model.bin"),
    "torch-legacy": Sample(lambda directory: _torch(directory, legacy=True), "pytorch_model.bin"),
    "gguf": Sample(_gguf, "model.gguf", "model.gguf"),
    "onnx": Sample(lambda directory: _onnx(directory, external=False), "model.onnx", "model.onnx"),
    "onnx-external": Sample(lambda directory: _onnx(directory, external=True), "model.onnx", "model.onnx"),
    "onnx-merged": Sample(_merged_onnx, "model.onnx", "model.onnx"),
    "tensorflow-index": Sample(_tensorflow, "model.ckpt.index", open=open_tensorflow),
    "tensorflow-sizes": Sample(_tensorflow, "hparams.json", open=open_tensorflow),
}
