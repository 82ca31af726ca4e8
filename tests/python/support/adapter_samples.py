"""LoRA adapters in PEFT's form for the embedded model, small and random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

LAYERS, WIDTH, INNER, VOCABULARY = 6, 256, 1024, 4096
_SIZES = {
    "attn.c_attn": (WIDTH, 3 * WIDTH),
    "attn.c_proj": (WIDTH, WIDTH),
    "mlp.c_fc": (WIDTH, INNER),
    "mlp.c_proj": (INNER, WIDTH),
}
_RANK = 2

#: Name -> what is in adapter_config.json besides the usual.
KINDS: dict[str, dict[str, Any]] = {
    "attention": {"lora_alpha": 8},
    "all": {"lora_alpha": 6, "use_rslora": True, "alpha_pattern": {"attn.c_proj": 3}, "bias": "all"},
    "tables": {"lora_alpha": 4},
    "whole_head": {"lora_alpha": 4, "modules_to_save": ["lm_head", "ln_f"]},
    "whole_table": {"lora_alpha": 4, "modules_to_save": ["wte"]},
}
#: Those with a head for classification; behind the others by name, as the order of names makes the numbers.
CLASSIFIER_KINDS: dict[str, dict[str, Any]] = {
    "whole_text_head": {"lora_alpha": 4, "task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]},
    "whole_token_head": {
        "lora_alpha": 4,
        "task_type": "TOKEN_CLS",
        "modules_to_save": ["classifier", "score"],
    },
}
ALL_KINDS = {**KINDS, **CLASSIFIER_KINDS}
LABELS = 3
_TARGETS = {"all": ["c_attn", "c_proj", "c_fc"], "tables": ["wte", "lm_head"]}


def write_adapter(directory: Path, kind: str, base: str, **changes: Any) -> Path:
    """An adapter of one of ``ALL_KINDS``; ``changes`` replace values of its configuration."""
    generator = np.random.default_rng(sorted(ALL_KINDS).index(kind))

    def numbers(*shape: int) -> NDArray[np.float32]:
        return (generator.normal(size=shape) * 0.05).astype(np.float32)

    tensors = {}
    targets = list(_SIZES) if kind == "all" else [] if kind == "tables" else ["attn.c_attn"]
    for layer in range(LAYERS):
        for part in targets:
            inputs, outputs = _SIZES[part]
            name = f"transformer.h.{layer}.{part}"
            tensors[f"{name}.lora_A.weight"] = numbers(_RANK, inputs)
            tensors[f"{name}.lora_B.weight"] = numbers(outputs, _RANK)
            if kind == "all":
                tensors[f"{name}.base_layer.bias"] = numbers(outputs)
    if kind == "tables":
        tensors["transformer.wte.lora_embedding_A"] = numbers(_RANK, VOCABULARY)
        tensors["transformer.wte.lora_embedding_B"] = numbers(WIDTH, _RANK)
        tensors["lm_head.lora_A.weight"] = numbers(_RANK, WIDTH)
        tensors["lm_head.lora_B.weight"] = numbers(VOCABULARY, _RANK)
    if kind == "whole_head":
        tensors["lm_head.weight"] = numbers(VOCABULARY, WIDTH)
        tensors |= {"transformer.ln_f.weight": 1 + numbers(WIDTH), "transformer.ln_f.bias": numbers(WIDTH)}
    if kind == "whole_table":
        tensors["transformer.wte.weight"] = numbers(VOCABULARY, WIDTH)
    if kind == "whole_text_head":
        tensors["score.weight"] = numbers(LABELS, WIDTH)
    if kind == "whole_token_head":
        tensors |= {"classifier.weight": numbers(LABELS, WIDTH), "classifier.bias": numbers(LABELS)}
    directory.mkdir(parents=True)
    named = {f"base_model.model.{name}": values for name, values in tensors.items()}
    save_file(named, directory / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": _RANK,
        "target_modules": _TARGETS.get(kind, ["c_attn"]),
        "fan_in_fan_out": kind != "tables",
        "bias": "none",
        "init_lora_weights": True,
        "use_dora": False,
    }
    (directory / "adapter_config.json").write_text(json.dumps({**settings, **ALL_KINDS[kind], **changes}))
    return directory
