"""What identifies a model: a hash of its configuration, tokenizer and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2fast.storage.files import open_regular

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import TokenizerFiles
    from gpt2fast.config import ModelConfig

_CHUNK_BYTES = 1 << 20


def fingerprint(config: ModelConfig, tokenizer: TokenizerFiles, weight_files: Iterable[Path]) -> str:
    """SHA-256, in hexadecimal, over everything that a conversion depends on.

    Parameters
    ----------
    config : ModelConfig
        As parsed, so that keys without meaning don't count.
    tokenizer : TokenizerFiles
        The tokenizer's texts.
    weight_files : iterable of Path
        Files with the weights, links resolved; their content counts, in order, their names don't.
    """
    total = hashlib.sha256()
    texts = [config.to_json(), *(getattr(tokenizer, one.name) for one in fields(tokenizer))]
    for text in texts:
        total.update(hashlib.sha256((text or "").encode()).digest())
    for path in weight_files:
        total.update(_file_digest(path))
    return total.hexdigest()


def _file_digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with open_regular(path) as file:
        while count := file.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(buffer[:count])
    return digest.digest()
