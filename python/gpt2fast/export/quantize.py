"""Chooses format and place of every tensor, and packs tensors piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpt2fast._native import core
from gpt2fast.checkpoints.base import LazyTensor, expected_shapes
from gpt2fast.errors import ModelError
from gpt2fast.storage.graph_check import PAGE_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.config import ModelConfig

#: Tables with one row per token: packed as the [n_embd -> vocab_size] projection that they also are.
VOCABULARY_TABLES = ("wte.weight", "lm_head.weight")

# Formats of the linear layers and of the vocabulary tables. Four bits in the table affect every embedding and
# every score, which costs more accuracy than all layers together.
_FORMATS = {
    "fp32": (core.FORMAT_FLOAT32, core.FORMAT_FLOAT32),
    "bf16": (core.FORMAT_BFLOAT16, core.FORMAT_BFLOAT16),
    "int8": (core.FORMAT_INT8, core.FORMAT_INT8),
    "int4": (core.FORMAT_INT4, core.FORMAT_INT8),
    "int4-all": (core.FORMAT_INT4, core.FORMAT_INT4),
}
_PANEL_COLUMNS = 16
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class PackedTensor:
    """A tensor in ``weights.bin``.

    Attributes
    ----------
    name : str
        Canonical name of the checkpoint, and name of the initializer.
    shape : tuple of int
        The shape of the checkpoint's tensor.
    format : int or None
        Weight format of a packed matrix; None for plain float32.
    offset, length : int
        Bytes in ``weights.bin``; offsets are multiples of a page.
    """

    name: str
    shape: tuple[int, ...]
    format: int | None
    offset: int
    length: int


def layout(config: ModelConfig, precision: str) -> list[PackedTensor]:
    """Format and place of every tensor, in the order of use."""
    linear_format, table_format = _FORMATS[precision]
    packed, end = [], 0
    for name, shape in expected_shapes(config):
        weight_format = None
        if name in VOCABULARY_TABLES:
            weight_format = table_format
            length = core.packed_weight_bytes(weight_format, shape[1], shape[0])
        elif len(shape) == 2 and name != "wpe.weight":
            weight_format = linear_format
            length = core.packed_weight_bytes(weight_format, *shape)
        else:
            length = 4 * int(np.prod(shape))
        offset = -(-end // PAGE_BYTES) * PAGE_BYTES
        packed.append(PackedTensor(name, shape, weight_format, offset, length))
        end = offset + length
    return packed


def packed_chunks(
    packed: PackedTensor, tensor: LazyTensor, feedback: NDArray[np.float32] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """The packed bytes of a tensor, in pieces; memory holds one layer's matrix, or a part of a table.

    ``feedback``, for a linear layer in int4, is ``core.error_feedback`` of its inputs.

    Raises
    ------
    ModelError
        The tensor holds NaN or infinity; the message names it.
    """
    if packed.format is None:
        chunks = _plain_chunks(tensor)
    elif packed.name in VOCABULARY_TABLES:
        chunks = _table_chunks(tensor, packed.format)
    else:
        chunks = _linear_chunks(tensor, packed.format, feedback)
    try:
        yield from chunks
    except ModelError:
        raise
    except ValueError as error:
        raise ModelError(f"the tensor {packed.name!r} can't be stored: {error}") from None


def _plain_chunks(tensor: LazyTensor) -> Iterator[NDArray[np.uint8]]:
    for rows in _ranges(tensor.shape[0], 4 * int(np.prod(tensor.shape[1:]))):
        values = np.ascontiguousarray(tensor.read_rows(*rows), dtype="<f4")
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or infinity")
        yield values.reshape(-1).view(np.uint8)


def _table_chunks(tensor: LazyTensor, weight_format: int) -> Iterator[NDArray[np.uint8]]:
    """Rows [vocab_size, n_embd] of a table are the columns of the projection."""
    for rows in _ranges(tensor.shape[0], 4 * tensor.shape[1]):
        values = np.ascontiguousarray(tensor.read_rows(*rows))
        yield core.pack_linear(values, weight_format, transposed=True, threads=core.usable_cores())


def _linear_chunks(
    tensor: LazyTensor, weight_format: int, feedback: NDArray[np.float32] | None
) -> Iterator[NDArray[np.uint8]]:
    values = tensor.read()  # [in_features, out_features]
    for start, stop in _ranges(tensor.shape[1], 4 * tensor.shape[0]):
        columns = np.ascontiguousarray(values[:, start:stop])
        yield core.pack_linear(columns, weight_format, threads=core.usable_cores(), feedback=feedback)


def _ranges(count: int, item_bytes: int) -> Iterator[tuple[int, int]]:
    """Splits ``count`` columns (or rows) at whole panels into ranges of about ``_CHUNK_BYTES``."""
    step = max(_PANEL_COLUMNS, _CHUNK_BYTES // item_bytes // _PANEL_COLUMNS * _PANEL_COLUMNS)
    for start in range(0, count, step):
        yield start, min(start + step, count)
