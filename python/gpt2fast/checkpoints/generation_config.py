"""Reads generation_config.json: a model's own defaults for generation, as ``transformers`` keeps them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.storage.files import find_inside, read_json_object
from gpt2fast.storage.model_directory import GENERATION_CONFIG_NAME

# A GGUF file is complete by itself; files beside it belong to other models.
_SELF_CONTAINED = ".gguf"
# Keys that config.json has, too, or that are about the file itself.
_NO_DEFAULTS = ("_from_model_config", "bos_token_id", "eos_token_id", "transformers_version")


def with_generation_config(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """The checkpoint with the generation_config.json in its directory, or beside its file and config.json.

    The file is part of what a conversion depends on, so the fingerprint is another with it.

    Raises
    ------
    ModelError
        The file is broken.
    """
    home = path if path.is_dir() else path.parent
    if path.suffix.lower() == _SELF_CONTAINED or find_inside(home, "config.json") is None:
        return checkpoint
    found = find_inside(home, GENERATION_CONFIG_NAME)
    values = {} if found is None else read_json_object(found)
    values = {name: value for name, value in values.items() if name not in _NO_DEFAULTS}
    if not values:
        return checkpoint
    text = json.dumps(values, sort_keys=True)
    combined = hashlib.sha256(f"{checkpoint.fingerprint}{text}".encode()).hexdigest()
    return replace(checkpoint, generation_config=values, fingerprint=combined)
