"""Reads the index of a TensorFlow checkpoint: where each tensor lies in the data files.

The file is a table of sorted keys in LevelDB's format
(https://github.com/google/leveldb/blob/main/doc/table_format.md). Its values are the messages
BundleHeaderProto, under the empty key, and BundleEntryProto of tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from gpt2fast.checkpoints.binary_file import BinaryFile
from gpt2fast.checkpoints.wire_format import fields, varint
from gpt2fast.errors import ModelError

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
#: Bytes after each block: the kind of compression, and a checksum.
_TRAILER_BYTES = 5
#: The largest GPT-2 with all states of its optimizer has 2,000 tensors, in about 100 KiB. Two bytes may be a
#: field, which takes microseconds to read.
_MAX_INDEX_BYTES = 256 << 10
_MAX_KEY_BYTES = 1 << 12
_MAX_RANK = 8
#: tensorflow.DataType -> name of the number format.
_DTYPES = {1: "F32", 2: "F64", 14: "BF16", 19: "F16"}
_CASTAGNOLI = 0x82F63B78
_MASK_DELTA = 0xA282EAD8


@dataclass(frozen=True)
class BundleEntry:
    """A tensor: number format (None if it can't be a weight), shape, data file, and its bytes there."""

    dtype_name: str | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


def read_index(file: BinaryFile) -> tuple[int, dict[str, BundleEntry]]:
    """The number of data files, and the tensors by name.

    Raises
    ------
    ModelError
        The file is truncated or corrupt (blocks carry checksums), compressed, or in another byte order.
    """
    if file.size > _MAX_INDEX_BYTES or file.size < _FOOTER_BYTES:
        raise ModelError(f"{file.path}: has {file.size} bytes, which no checkpoint's index has")
    footer = file.size - _FOOTER_BYTES
    (magic,) = struct.unpack("<Q", file.read(file.size - 8, 8, "the magic number"))
    if magic != _MAGIC:
        raise ModelError(f"{file.path}: is not a whole index of a TensorFlow checkpoint")
    # The handle of the metaindex block comes first; nothing in it is needed.
    _, _, position = _handle(file, footer, file.size)
    start, size, _ = _handle(file, position, file.size)
    shards = 0
    entries: dict[str, BundleEntry] = {}
    behind = 0
    for _, handle_start, handle_stop in _block_entries(file, start, size):
        block, block_size, _ = _handle(file, handle_start, handle_stop)
        if block < behind:
            raise ModelError(f"{file.path}: the block at byte {block} is out of order")
        behind = block + block_size
        for key, value_start, value_stop in _block_entries(file, block, block_size):
            if key == b"":
                shards = _shard_count(file, value_start, value_stop)
                continue
            name = key.decode("utf-8", "backslashreplace")
            if name in entries:
                raise ModelError(f"{file.path}: the tensor {name!r} occurs twice")
            entries[name] = _entry(file, name, value_start, value_stop)
    if not shards:
        raise ModelError(f"{file.path}: has no header")
    return shards, entries


def _handle(file: BinaryFile, start: int, stop: int) -> tuple[int, int, int]:
    """Offset and size of a block, and the position after the handle."""
    offset, position = varint(file, start, stop)
    size, position = varint(file, position, stop)
    return offset, size, position


def _block_entries(file: BinaryFile, start: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Every key of a block, with the range of its value in the file."""
    content = file.read(start, size + _TRAILER_BYTES, "a block")
    kind, checksum = struct.unpack("<BI", content[size:])
    if kind != 0:
        raise ModelError(f"{file.path}: its blocks are compressed, which is not supported")
    if _masked_crc(content[: size + 1]) != checksum:
        raise ModelError(f"{file.path}: the block at byte {start} is corrupt: its checksum is wrong")
    restarts = struct.unpack("<I", content[size - 4 : size])[0] if size >= 4 else 0
    stop = start + size - 4 * (restarts + 1)
    if stop < start:
        raise ModelError(f"{file.path}: the block at byte {start} is corrupt")
    position, key = start, b""
    while position < stop:
        shared, position = varint(file, position, stop)
        unshared, position = varint(file, position, stop)
        length, position = varint(file, position, stop)
        if shared > len(key) or shared + unshared > _MAX_KEY_BYTES or unshared + length > stop - position:
            raise ModelError(f"{file.path}: an entry of the block at byte {start} is corrupt")
        key = key[:shared] + file.read(position, unshared, "a key")
        yield key, position + unshared, position + unshared + length
        position += unshared + length


def _shard_count(file: BinaryFile, start: int, stop: int) -> int:
    values = {part.number: part.value for part in fields(file, start, stop)}
    if values.get(2, 0) != 0:
        raise ModelError(f"{file.path}: was not written on a little-endian machine")
    count = values.get(1, 0)
    if not 1 <= count < 100_000:
        raise ModelError(f"{file.path}: claims {count} data files")
    return count


def _entry(file: BinaryFile, name: str, start: int, stop: int) -> BundleEntry:
    values: dict[int, int] = {}
    shape: tuple[int, ...] = ()
    for part in fields(file, start, stop):
        if part.number == 2:
            dimensions = (inner for inner in fields(file, part.start, part.stop) if inner.number == 2)
            shape = tuple(_dimension(file, inner.start, inner.stop) for inner in dimensions)
        elif part.number == 7:
            raise ModelError(f"{file.path}: the tensor {name!r} is stored in slices, which is not supported")
        values[part.number] = part.value
    if len(shape) > _MAX_RANK:
        raise ModelError(f"{file.path}: the tensor {name!r} has {len(shape)} axes")
    dtype_name = _DTYPES.get(values.get(1, 0))
    return BundleEntry(dtype_name, shape, values.get(3, 0), values.get(4, 0), values.get(5, 0))


def _dimension(file: BinaryFile, start: int, stop: int) -> int:
    return next((part.value for part in fields(file, start, stop) if part.number == 1), 0)


def _masked_crc(data: bytes) -> int:
    """CRC-32C as LevelDB stores it: rotated, plus a constant."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return tuple(table)
