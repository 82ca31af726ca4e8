"""A Hugging Face GPT-2 checkpoint as a GGUF file, for the programs built on llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMES = {
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight",
    "ln_f.bias": "output_norm.bias",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_NORMAL_TOKEN, _CONTROL_TOKEN = 1, 3  # types of tokens in GGUF


def write_gguf(checkpoint: Path, path: Path, format: str) -> None:
    """Write the model with its matrices in ``format``: a name in ``gguf.GGMLQuantizationType``.

    The vocabulary table, which is the output projection too, has the same format; position embeddings, biases
    and norms stay float32, as llama.cpp wants them.
    """
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    quantization = gguf.GGMLQuantizationType[format]
    writer = gguf.GGUFWriter(path, "gpt2")
    _add_metadata(writer, config, gguf.LlamaFileType[f"MOSTLY_{format}"])
    _add_tokenizer(writer, checkpoint)
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        target, values = _converted(name.removeprefix("transformer."), tensor)
        if values.ndim == 2 and target != "position_embd.weight":
            writer.add_tensor(target, gguf.quants.quantize(values, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(target, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _converted(name: str, tensor: NDArray[Any]) -> tuple[str, NDArray[np.float32]]:
    """A tensor's GGUF name, and its values with matrices as [outputs, inputs]."""
    values = np.ascontiguousarray(tensor, dtype=np.float32)
    if name in _NAMES:
        return _NAMES[name], values
    _, layer, rest = name.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{_LAYER_NAMES[module]}.{kind}", np.ascontiguousarray(values.T)


def _add_metadata(writer: Any, config: dict[str, Any], file_type: Any) -> None:
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(file_type)


def _add_tokenizer(writer: Any, checkpoint: Path) -> None:
    if (checkpoint / "vocab.json").is_file():
        vocabulary = json.loads((checkpoint / "vocab.json").read_text("utf-8"))
        merges = (checkpoint / "merges.txt").read_text("utf-8").splitlines()[1:]
    else:
        model = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))["model"]
        vocabulary = model["vocab"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    ending = tokens.index("<|endoftext|>") if "<|endoftext|>" in tokens else len(tokens) - 1
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL_TOKEN if token == tokens[ending] else _NORMAL_TOKEN for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(ending)
    writer.add_eos_token_id(ending)
