"""What ``adapter_config.json`` says of a LoRA adapter: its base model, and whether it can be merged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2fast.errors import ModelError
from gpt2fast.storage.files import file_inside, find_inside, read_json_object

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

#: Settings that change what an adapter computes, in ways that are not merged here.
_UNSUPPORTED = (
    *("use_dora", "lora_bias", "use_qalora", "use_bdlora", "layer_replication", "trainable_token_indices"),
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "lora_ga_config", "megatron_config"),
    *("monteclora_config", "velora_config"),
)
#: Ways to initialise that change the base model too.
_CHANGED_BASES = ("pissa", "olora", "corda", "loftq")


def is_adapter(path: Path) -> bool:
    """Whether a directory holds an adapter."""
    return path.is_dir() and find_inside(path, ADAPTER_CONFIG) is not None


def base_of(directory: Path) -> tuple[str, str | None]:
    """The path or hub id of the model that an adapter belongs to, and its revision, if one is named."""
    settings = _config(directory)
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{directory / ADAPTER_CONFIG}: names no base model; give it: from_pretrained(BASE, adapter=...)"
        )
    return base, revision if isinstance(revision, str) else None


def read_adapter_config(directory: Path) -> dict[str, Any]:
    """The configuration of an adapter that can be merged.

    Raises
    ------
    ModelError
        The directory holds no adapter, or one of another kind than plain LoRA.
    """
    settings = _config(directory)
    _check_settings(settings, directory / ADAPTER_CONFIG)
    return settings


def _config(directory: Path) -> dict[str, Any]:
    if directory.is_file():
        raise ModelError(
            f"{directory}: adapter must name the directory of an adapter, which has {ADAPTER_CONFIG}"
        )
    if not is_adapter(directory):
        raise ModelError(f"{directory}: no adapter: has no {ADAPTER_CONFIG} in it")
    return read_json_object(file_inside(directory, ADAPTER_CONFIG))


def _check_settings(settings: Mapping[str, Any], where: Path) -> None:
    """Raise ModelError for anything that changes the meaning of the factors."""
    if settings.get("peft_type") != "LORA":
        raise ModelError(
            f"{where}: peft_type is {settings.get('peft_type')!r}; only LORA adapters are merged"
        )
    for name in _UNSUPPORTED:
        if settings.get(name):
            raise ModelError(f"{where}: {name} is not supported; merge it with PEFT (merge_and_unload) first")
    initial = settings.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower().startswith(_CHANGED_BASES):
        raise ModelError(
            f"{where}: init_lora_weights is {initial!r}, which changes the base; merge it with PEFT first"
        )
