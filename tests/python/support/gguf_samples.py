"""A small random model as a GGUF file, and the numbers that reading it must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.checkpoint_samples import byte_level_vocabulary, gguf_name, random_tensors, small_config

gguf = pytest.importorskip("gguf")

CONFIG = small_config(tie_word_embeddings=True, bos_token_id=100, eos_token_id=100)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4


def write_gguf(path: Path, *, kind: str = "F32", head: str | None = None, **metadata: Any) -> dict[str, Any]:
    """Write CONFIG's random model as llama.cpp's converter does; returns the numbers that the file holds."""
    writer = gguf.GGUFWriter(path, metadata.pop("architecture", "gpt2"))
    writer.add_block_count(CONFIG.n_layer)
    writer.add_context_length(CONFIG.n_positions)
    writer.add_embedding_length(CONFIG.n_embd)
    writer.add_feed_forward_length(CONFIG.n_inner)
    writer.add_head_count(metadata.pop("heads", CONFIG.n_head))
    writer.add_layer_norm_eps(CONFIG.layer_norm_epsilon)
    tokens, merges = byte_level_vocabulary(CONFIG.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(metadata.pop("pre", "gpt-2"))
    writer.add_token_list(metadata.pop("tokens", tokens))
    writer.add_token_types(
        metadata.pop("types", [NORMAL] * (len(tokens) - 1) + [metadata.pop("last_type", CONTROL)])
    )
    writer.add_token_merges(metadata.pop("merges", merges))
    writer.add_bos_token_id(metadata.pop("bos", 100))
    writer.add_eos_token_id(100)
    if "padding" in metadata:
        writer.add_pad_token_id(metadata.pop("padding"))
    if "add_bos" in metadata:
        writer.add_add_bos_token(metadata.pop("add_bos"))
    if "chat_template" in metadata:
        writer.add_chat_template(metadata.pop("chat_template"))
    assert not metadata
    tensors = random_tensors(CONFIG)
    wanted = {name: add(writer, name, values, kind) for name, values in tensors.items()}
    if head is not None:
        wanted["lm_head.weight"] = add(writer, "lm_head.weight", tensors["wte.weight"], head)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return wanted


def add(writer: Any, name: str, values: Any, kind: str) -> Any:
    is_linear = name.startswith("h.") and values.ndim == 2
    stored = np.ascontiguousarray(values.T if is_linear else values)
    quantization = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
    data = gguf.quants.quantize(stored, quantization)
    writer.add_tensor(gguf_name(name), data, raw_dtype=quantization)
    numbers = gguf.quants.dequantize(data, quantization).reshape(stored.shape)
    return numbers.T if is_linear else numbers
