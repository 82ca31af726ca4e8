"""Parses the header of a GGUF file: the metadata and the place of each tensor.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. Every count, length
and offset is compared with the file's size before it is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from gpt2fast.checkpoints.binary_file import BinaryFile, refuse_overlaps
from gpt2fast.errors import ModelError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_METADATA = 1 << 16
#: Those of 1,300 layers; the largest GPT-2 has 48.
_MAX_TENSORS = 1 << 14
#: The most items of all arrays together: a vocabulary has a text, a type, a score and a merge for each token.
_MAX_ITEMS = 1 << 20
_MAX_STRING = 1 << 20
#: The most bytes of all strings together.
_MAX_TEXT = 16 << 20
_READ_AHEAD = 1 << 16
_MAX_RANK = 4
_MAX_DIMENSION = 1 << 32
_DEFAULT_ALIGNMENT = 32
#: Bytes that the smallest metadata entry and the smallest tensor description take.
_MIN_METADATA, _MIN_TENSOR = 13, 24


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's place: ``dimensions`` innermost first, ggml's ``type_id``, ``offset`` in the file."""

    dimensions: tuple[int, ...]
    type_id: int
    offset: int


@dataclass(frozen=True)
class Container:
    """The content of the header. Metadata values are numbers, strings, and lists of them."""

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_container(file: BinaryFile) -> Container:
    """Parse the header of a file.

    Raises
    ------
    ModelError
        The file is not a GGUF file of a known version, is cut short, or its header contradicts itself.
    """
    cursor = _Cursor(file)
    if cursor.take(4, "the magic bytes") != b"GGUF":
        raise ModelError(f"{file.path}: is not a GGUF file")
    version = cursor.number("I")
    if version not in (2, 3):
        raise ModelError(
            f"{file.path}: has GGUF version {version}; little-endian versions 2 and 3 are supported"
        )
    tensor_count = cursor.count(_MIN_TENSOR, _MAX_TENSORS, "tensors")
    metadata_count = cursor.count(_MIN_METADATA, _MAX_METADATA, "metadata entries")
    metadata: dict[str, Any] = {}
    for _ in range(metadata_count):
        key = cursor.string()
        if key in metadata:
            raise ModelError(f"{file.path}: the metadata key {key!r} occurs twice")
        metadata[key] = cursor.value(cursor.number("I"))
    described = {}
    for _ in range(tensor_count):
        name = cursor.string()
        if name in described:
            raise ModelError(f"{file.path}: the tensor {name!r} occurs twice")
        described[name] = _tensor_info(cursor, name)
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= _MAX_STRING:
        raise ModelError(f"{file.path}: general.alignment is {alignment!r}")
    data = -(-cursor.position // alignment) * alignment
    tensors = {}
    for name, info in described.items():
        if info.offset % alignment:
            raise ModelError(f"{file.path}: the tensor {name!r} is not aligned to {alignment} bytes")
        tensors[name] = TensorInfo(info.dimensions, info.type_id, data + info.offset)
    return Container(metadata, tensors)


def check_ranges(file: BinaryFile, container: Container, sizes: dict[str, int]) -> None:
    """Raise ModelError if tensors (``sizes`` in bytes) reach past the file's end or overlap."""
    ranges = []
    for name, size in sizes.items():
        offset = container.tensors[name].offset
        file.check_range(offset, size, f"the tensor {name!r}")
        ranges.append((offset, offset + size, name))
    refuse_overlaps(file.path, ranges)


def _tensor_info(cursor: _Cursor, name: str) -> TensorInfo:
    rank = cursor.number("I")
    if not 1 <= rank <= _MAX_RANK:
        raise ModelError(f"{cursor.file.path}: the tensor {name!r} has {rank} axes")
    dimensions = tuple(cursor.number("Q") for _ in range(rank))
    if not all(1 <= size <= _MAX_DIMENSION for size in dimensions):
        raise ModelError(f"{cursor.file.path}: the tensor {name!r} has the dimensions {list(dimensions)}")
    return TensorInfo(dimensions, cursor.number("I"), cursor.number("Q"))


class _Cursor:
    """A reading position in the header."""

    def __init__(self, file: BinaryFile) -> None:
        self.file = file
        self.position = 0
        self._ahead, self._ahead_start = b"", 0
        self._items_left, self._text_left = _MAX_ITEMS, _MAX_TEXT

    def take(self, length: int, what: str) -> bytes:
        start = self.position - self._ahead_start
        if start + length > len(self._ahead):
            self.file.check_range(self.position, length, what)
            wanted = min(max(length, _READ_AHEAD), self.file.size - self.position)
            self._ahead, self._ahead_start, start = (
                self.file.read(self.position, wanted, what),
                self.position,
                0,
            )
        self.position += length
        return self._ahead[start : start + length]

    def number(self, code: str) -> Any:
        layout = struct.Struct("<" + code)
        return layout.unpack(self.take(layout.size, "a number of the header"))[0]

    def count(self, item_bytes: int, limit: int, what: str) -> int:
        """A count of items, each of which takes at least ``item_bytes`` of what follows."""
        count = int.from_bytes(self.take(8, "a number of the header"), "little")
        if count > limit or count * item_bytes > self.file.size - self.position:
            raise ModelError(
                f"{self.file.path}: claims {count} {what}; the limit is {limit}, "
                f"and {self.file.size - self.position} bytes follow"
            )
        return count

    def _item_count(self, item_bytes: int, what: str) -> int:
        count = self.count(item_bytes, self._items_left, what)
        self._items_left -= count
        return count

    def string(self) -> str:
        data = self.take(self.count(1, _MAX_STRING, "bytes of a string"), "a string")
        self._text_left -= len(data)
        if self._text_left < 0:
            raise ModelError(f"{self.file.path}: its header has more than {_MAX_TEXT} bytes of text")
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{self.file.path}: a string of the header is not UTF-8: {error}") from None

    def value(self, type_id: int) -> Any:
        if type_id in _SCALARS:
            return self.number(_SCALARS[type_id])
        if type_id == _STRING:
            return self.string()
        if type_id == _ARRAY:
            return self._array(self.number("I"))
        raise ModelError(f"{self.file.path}: a metadata value has the unknown type {type_id}")

    def _array(self, type_id: int) -> list[Any]:
        if type_id == _STRING:
            return [self.string() for _ in range(self._item_count(8, "strings of an array"))]
        if type_id not in _SCALARS:
            raise ModelError(f"{self.file.path}: an array of the metadata has items of the type {type_id}")
        item_bytes = struct.calcsize("<" + _SCALARS[type_id])
        count = self._item_count(item_bytes, "items of an array")
        data = self.take(count * item_bytes, "an array")
        return list(struct.unpack(f"<{count}{_SCALARS[type_id]}", data))
