"""Reads GGUF files of architecture gpt2, as llama.cpp's converter writes them.

Tensors have llama.cpp's names (``blk.N.attn_qkv.weight``, ...); linear weights are stored ``[out, in]`` and
returned transposed, as Hugging Face's GPT-2 has them. The package ``gguf`` expands quantised types.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2fast.checkpoints.base import Checkpoint, LazyTensor, TokenizerFiles
from gpt2fast.checkpoints.binary_file import BinaryFile
from gpt2fast.checkpoints.fingerprint import fingerprint
from gpt2fast.checkpoints.gguf_container import Container, TensorInfo, check_ranges, read_container
from gpt2fast.checkpoints.gguf_tokenizer import tokenizer_files
from gpt2fast.checkpoints.head import settle_head
from gpt2fast.checkpoints.state_dict import unused_tensors
from gpt2fast.checkpoints.stored_tensor import STORED_DTYPES, StoredTensor, nearest_decimal, to_float32
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PLAIN_TYPES = {0: "F32", 1: "F16", 28: "F64", 30: "BF16"}
_CONFIG_KEYS = {
    "n_layer": "gpt2.block_count",
    "n_head": "gpt2.attention.head_count",
    "n_embd": "gpt2.embedding_length",
    "n_inner": "gpt2.feed_forward_length",
    "layer_norm_epsilon": "gpt2.attention.layer_norm_epsilon",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
}
_TABLE, _POSITIONS = "token_embd.weight", "position_embd.weight"
_TOP_NAMES = {
    _TABLE: "wte.weight",
    _POSITIONS: "wpe.weight",
    "output_norm.weight": "ln_f.weight",
    "output_norm.bias": "ln_f.bias",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}


def open_gguf(path: Path) -> Checkpoint:
    """Read a GGUF file of a GPT-2 model, including its tokenizer.

    Parameters
    ----------
    path : Path
        The file. Weights may be F32, F16, BF16, F64 or any type that ``gguf.quants.dequantize`` supports.

    Raises
    ------
    ModelError
        The file is truncated or corrupt, holds another architecture, or its tensors don't fit its metadata.
    ImportError
        The weights are quantised and the package ``gguf`` is not installed.
    """
    resolved = Path(os.path.realpath(path))
    file = BinaryFile(resolved)
    container = read_container(file)
    architecture = container.metadata.get("general.architecture")
    if architecture != "gpt2":
        raise ModelError(f"{path}: the architecture is {str(architecture)[:40]!r}; only 'gpt2' is supported")
    readers = {name: _stored(file, name, info) for name, info in container.tensors.items()}
    check_ranges(file, container, {name: stored.size for name, stored in readers.items()})
    config = _config(file, container)
    tensors = {}
    for name, stored in readers.items():
        canonical = _canonical_name(name)
        if canonical is not None:
            tensors[canonical] = stored.lazy(transposed=canonical.startswith("h.") and stored.rank == 2)
    # Older converters store the tied table a second time.
    config, tensors = settle_head(config, tensors, path)
    fault = None
    try:
        tokenizer = tokenizer_files(container.metadata, path)
    except ModelError as error:
        tokenizer, fault = TokenizerFiles(), str(error)
    identity = fingerprint(config, tokenizer, [resolved])
    checkpoint = Checkpoint.checked(config, tensors, source=path, fingerprint=identity, tokenizer=tokenizer)
    # A second copy of the table is used, in a way.
    used = {*checkpoint.tensors, "lm_head.weight"}
    unused = [name for name in readers if _canonical_name(name) not in used]
    return replace(checkpoint, tokenizer_fault=fault, warnings=unused_tensors(unused, path))


def read_gguf_tokenizer(path: Path) -> TokenizerFiles:
    """The tokenizer in a GGUF file.

    Raises
    ------
    ModelError
        It has none, or one of another kind than GPT-2's, or one that is broken.
    """
    metadata = read_container(BinaryFile(Path(os.path.realpath(path)))).metadata
    files = tokenizer_files(metadata, path)
    if not files:
        raise ModelError(f"{path}: has no tokenizer in it")
    return files


def _config(file: BinaryFile, container: Container) -> ModelConfig:
    values = {
        ours: container.metadata[theirs]
        for ours, theirs in _CONFIG_KEYS.items()
        if theirs in container.metadata
    }
    epsilon = values.get("layer_norm_epsilon")
    if isinstance(epsilon, float):
        values["layer_norm_epsilon"] = nearest_decimal(epsilon)
    for name, key in ((_TABLE, "vocab_size"), (_POSITIONS, "n_positions")):
        if name not in container.tensors:
            raise ModelError(f"{file.path}: the tensor {name!r} is missing")
        values[key] = container.tensors[name].dimensions[-1]
    return ModelConfig.from_dict(values, where=str(file.path))


def _canonical_name(name: str) -> str | None:
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    match name.split("."):
        case ["blk", layer, part, ("weight" | "bias") as kind] if part in _LAYER_NAMES:
            return f"h.{layer}.{_LAYER_NAMES[part]}.{kind}"
    return None


class _Stored:
    """A tensor as stored: rows of blocks of ``block`` numbers in ``block_bytes`` bytes."""

    def __init__(
        self, file: BinaryFile, name: str, info: TensorInfo, block: int, block_bytes: int, decode: _Decode
    ) -> None:
        columns, rows = info.dimensions[0], math.prod(info.dimensions[1:])
        if columns % block:
            raise ModelError(f"{file.path}: the rows of the tensor {name!r} are not whole blocks of {block}")
        self.rank = len(info.dimensions)
        self._shape = info.dimensions[::-1]
        self._block, self._block_bytes, self._decode = block, block_bytes, decode
        row_bytes = columns // block * block_bytes
        self.size = rows * row_bytes
        file.check_range(info.offset, self.size, f"the tensor {name!r}")
        self.raw = StoredTensor.contiguous(file, "U8", info.offset, (rows, row_bytes))

    def lazy(self, *, transposed: bool) -> LazyTensor:
        """The tensor as float32, its two axes swapped if ``transposed``."""
        if transposed:
            return LazyTensor(self._shape[::-1], self._read_columns)
        if self.rank == 1:
            return LazyTensor(self._shape, lambda start, stop: self._read_columns(start, stop)[:, 0])
        return LazyTensor(self._shape, self._read_rows)

    def _read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        return self._decode(self.raw.narrow(0, start, stop).read()).reshape(-1, *self._shape[1:])

    def _read_columns(self, start: int, stop: int) -> NDArray[np.float32]:
        """``[stop - start, rows]``; only the blocks that these columns touch are expanded."""
        first, last = start // self._block, -(-stop // self._block)
        raw = self.raw.narrow(1, first * self._block_bytes, last * self._block_bytes)
        numbers = self._decode(raw.read())
        skipped = first * self._block
        return np.ascontiguousarray(numbers[:, start - skipped : stop - skipped].T)


_Decode = Callable[["NDArray[np.uint8]"], "NDArray[np.float32]"]


def _stored(file: BinaryFile, name: str, info: TensorInfo) -> _Stored:
    if info.type_id in _PLAIN_TYPES:
        dtype_name = _PLAIN_TYPES[info.type_id]
        itemsize = STORED_DTYPES[dtype_name].itemsize
        return _Stored(file, name, info, 1, itemsize, partial(_decode_plain, dtype_name))
    try:
        import gguf
    except ImportError as error:
        raise ImportError(
            f"{file.path}: the tensor {name!r} is quantised; to read it, pip install 'gpt2fast[gguf]'"
        ) from error
    blocks = _block_format(gguf, info.type_id)
    if blocks is None:
        raise ModelError(f"{file.path}: the tensor {name!r} has the unsupported type {info.type_id}")
    return _Stored(file, name, info, *blocks)


@lru_cache(64)
def _block_format(gguf: Any, type_id: int) -> tuple[int, int, _Decode] | None:
    """Numbers and bytes of a block, and what expands it; None for a type that the package ``gguf`` doesn't.

    Only trying tells which types it expands, which takes too long for each of many tensors.
    """
    try:
        kind = gguf.GGMLQuantizationType(type_id)
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        decode = partial(_decode_blocks, gguf.quants.dequantize, kind)
        decode(np.zeros((1, block_bytes), np.uint8))
    except (ValueError, KeyError, NotImplementedError):
        return None
    return block, block_bytes, decode


def _decode_plain(dtype_name: str, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    return to_float32(raw.view(STORED_DTYPES[dtype_name]), dtype_name)


def _decode_blocks(dequantize: Callable[..., Any], kind: Any, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    # In a damaged file a block's scale may be infinite or NaN, and so are the values then.
    with np.errstate(all="ignore"):
        return np.asarray(dequantize(raw, kind), dtype=np.float32)
