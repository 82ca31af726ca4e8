"""Keys and values of the beginning of texts, computed once and reused, and their files.

A file holds, little-endian and without gaps: the magic bytes, the format version (uint32), the number of
tokens (uint32), the model's hash (32 bytes), the token ids (int32), each layer's keys and values [2, heads,
tokens, head_dim] (float32 if the model's cache has that, otherwise float16, from which an int8 cache gets
the same integers and scales again) and the SHA-256 of all that. Its length follows from the model and the
number of tokens alone.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from gpt2fast._native import core
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError
from gpt2fast.inference.forward import forward
from gpt2fast.inference.work import run
from gpt2fast.loading.loaded_model import LoadedModel
from gpt2fast.storage.atomic import atomic_file
from gpt2fast.storage.files import open_regular
from gpt2fast.text.prompts import read_prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.text.prompts import Prompt

SNAPSHOT_VERSION = 1

_MAGIC = b"gpt2fKV\0"
_HEADER = struct.Struct("<8sII32s")
_CHECKSUM_BYTES = 32


@dataclass(frozen=True)
class CacheFormat:
    """The form of a model's snapshots: their sizes come from here, never from a file.

    Attributes
    ----------
    config : ModelConfig
        The model's sizes.
    dtype : dtype
        The type of keys and values.
    model_hash : bytes
        Identifies the model, its precision, its weights and its cache's format.
    """

    config: ModelConfig
    dtype: np.dtype[Any]
    model_hash: bytes

    @classmethod
    def of(cls, model: LoadedModel) -> CacheFormat:
        """The format of a model's snapshots."""
        dtype = np.dtype("<f4" if model.kv_cache == "fp32" else "<f2")
        return cls(model.config, dtype, model.cache_hash)

    def layer_shape(self, tokens: int) -> tuple[int, ...]:
        """The shape of the keys and values of one layer."""
        return (2, 1, self.config.n_head, tokens, self.config.head_dim)

    def snapshot_bytes(self, tokens: int) -> int:
        """The length of a snapshot of this many tokens."""
        elements = 2 * self.config.n_layer * self.config.n_head * self.config.head_dim * tokens
        return _HEADER.size + 4 * tokens + elements * self.dtype.itemsize + _CHECKSUM_BYTES


class Prefix:
    """The beginning of texts, with its keys and values; made by ``GPT2.prefill`` and ``GPT2.load_prefix``.

    Immutable; may be used in many calls and threads at once, with the model that made it.
    """

    def __init__(
        self, cache_format: CacheFormat, token_ids: NDArray[np.int32], layers: Sequence[NDArray[Any]]
    ) -> None:
        self._format = cache_format
        self._token_ids = token_ids
        self._layers = [np.ascontiguousarray(layer, dtype=cache_format.dtype) for layer in layers]
        self._core = core.Prefix(token_ids, [layer.astype(np.float32) for layer in self._layers])

    def __reduce__(self) -> tuple[Any, ...]:
        return Prefix, (self._format, self._token_ids, self._layers)

    def __repr__(self) -> str:
        return f"Prefix(length={self.length})"

    @property
    def token_ids(self) -> list[int]:
        """The tokens."""
        ids: list[int] = self._token_ids.tolist()
        return ids

    @property
    def length(self) -> int:
        """The number of tokens."""
        return len(self._token_ids)

    def __len__(self) -> int:
        return self.length

    @property
    def core(self) -> core.Prefix:
        """The keys and values as the core takes them."""
        return self._core

    def check_model(self, model: LoadedModel) -> None:
        """Raise ValueError unless ``model`` is the one that made the prefix."""
        if model.cache_hash != self._format.model_hash:
            raise ValueError("prefix was made by another model, or the same one in another precision")

    def to_bytes(self) -> bytes:
        """The prefix as bytes, for ``GPT2.load_prefix``."""
        parts = [_HEADER.pack(_MAGIC, SNAPSHOT_VERSION, self.length, self._format.model_hash)]
        parts.append(self._token_ids.astype("<i4").tobytes())
        parts += [layer.tobytes() for layer in self._layers]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        return b"".join([*parts, digest.digest()])

    def save(self, file: str | os.PathLike[str] | BinaryIO) -> None:
        """Write :meth:`to_bytes` to a path, atomically, or to an open binary file."""
        if not isinstance(file, (str, os.PathLike)):
            file.write(self.to_bytes())
            return
        with atomic_file(Path(file)) as target:
            target.write(self.to_bytes())


def prefill(model: LoadedModel, text: Prompt) -> Prefix:
    """See :meth:`gpt2fast.GPT2.prefill`."""
    ids = np.array(read_prompt(text, model.config, model.tokenizer, name="text"), np.int32)
    if len(ids) > model.config.n_positions:
        raise ValueError(
            f"text has {len(ids)} tokens, more than the model's n_positions ({model.config.n_positions})"
        )
    past = run(forward(model, ids))[1]
    return Prefix(CacheFormat.of(model), ids, past)


def load_prefix(model: LoadedModel, source: str | os.PathLike[str] | bytes | BinaryIO) -> Prefix:
    """See :meth:`gpt2fast.GPT2.load_prefix`."""
    cache_format = CacheFormat.of(model)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _parse(bytes(source), cache_format)
    if not isinstance(source, (str, os.PathLike)):
        if not callable(getattr(source, "read", None)):
            raise TypeError(
                f"source must be a path, bytes or an open binary file, got {type(source).__name__}"
            )
        return _parse(_read(source, cache_format), cache_format)
    path = Path(os.path.realpath(source))
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        largest = cache_format.snapshot_bytes(cache_format.config.n_positions)
        if size > largest:
            raise ModelError(f"{path}: has {size} bytes; a prefix of this model has at most {largest}")
        return _parse(_read(file, cache_format), cache_format)


def _read(file: BinaryIO, cache_format: CacheFormat) -> bytes:
    """The snapshot's bytes, as many as header and model allow, plus one that proves a file too long."""
    header = file.read(_HEADER.size)
    if not isinstance(header, bytes):
        raise TypeError(f"source must be open for binary reading, read() gave {type(header).__name__}")
    tokens = _check_header(header, cache_format)
    return header + file.read(cache_format.snapshot_bytes(tokens) - len(header) + 1)


def _check_header(header: bytes, cache_format: CacheFormat) -> int:
    """The number of tokens."""
    if len(header) < _HEADER.size or header[: len(_MAGIC)] != _MAGIC:
        raise ModelError("not a saved prefix: it does not begin as one")
    _, version, tokens, model_hash = _HEADER.unpack(header)
    if version != SNAPSHOT_VERSION:
        raise ModelError(
            f"the saved prefix has format version {version}; this gpt2fast reads {SNAPSHOT_VERSION}"
        )
    if model_hash != cache_format.model_hash:
        raise ModelError("the saved prefix was made by another model, or the same one in another precision")
    if not 1 <= tokens <= cache_format.config.n_positions:
        raise ModelError(
            f"the saved prefix says that it has {tokens} tokens; it must be from 1 to "
            f"{cache_format.config.n_positions} (n_positions)"
        )
    return int(tokens)


def _parse(data: bytes, cache_format: CacheFormat) -> Prefix:
    tokens = _check_header(data[: _HEADER.size], cache_format)
    expected = cache_format.snapshot_bytes(tokens)
    if len(data) != expected:
        amount = f"more than {expected}" if len(data) > expected else str(len(data))
        raise ModelError(f"the saved prefix of {tokens} tokens must have {expected} bytes, it has {amount}")
    content = memoryview(data)[:-_CHECKSUM_BYTES]
    if hashlib.sha256(content).digest() != data[-_CHECKSUM_BYTES:]:
        raise ModelError("the saved prefix is damaged: its checksum is wrong")
    token_ids = np.frombuffer(data, "<i4", tokens, _HEADER.size).astype(np.int32)
    if token_ids.min() < 0 or token_ids.max() >= cache_format.config.vocab_size:
        raise ModelError("the saved prefix holds token ids outside the vocabulary")
    values = np.frombuffer(content, cache_format.dtype, offset=_HEADER.size + 4 * tokens)
    if not np.isfinite(values).all():
        raise ModelError("the saved prefix holds values that are no finite numbers")
    shape = (cache_format.config.n_layer, *cache_format.layer_shape(tokens))
    return Prefix(cache_format, token_ids, tuple(values.reshape(shape)))
