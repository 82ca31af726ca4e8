"""Reads the tensors of a PyTorch ``.bin`` file, without PyTorch and without running anything in the file.

Two containers exist: since PyTorch 1.6 a ZIP archive of ``NAME/data.pkl`` and ``NAME/data/KEY`` (stored, not
compressed), before that five pickles in a row and then the storages.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from gpt2fast.checkpoints.base import LazyTensor
from gpt2fast.checkpoints.binary_file import BinaryFile, BoundedReader, refuse_overlaps
from gpt2fast.checkpoints.pickle_tensors import Storage, TensorView, read_pickle
from gpt2fast.checkpoints.stored_tensor import STORED_DTYPES, StoredTensor
from gpt2fast.errors import ModelError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
#: Limits the ZIP directory, and any string of a pickle; the largest GPT-2 needs a tenth.
_MAX_PIECE = 1 << 20
#: Keys under which training programs save the state dictionary.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    struct.error,
    ValueError,
    OSError,
    EOFError,
    IndexError,
)


@dataclass(frozen=True)
class TorchFile:
    """Tensors by their names in the file, and the sizes that nanoGPT saves with them (``model_args``)."""

    tensors: dict[str, LazyTensor]
    model_args: dict[str, Any] = field(default_factory=dict)


def open_torch_file(path: Path) -> TorchFile:
    """The state dictionary in a file of ``torch.save``.

    Parameters
    ----------
    path : Path
        A file in PyTorch's ZIP or older format, links resolved. The state dictionary may be an entry of a
        training checkpoint, as nanoGPT (``model``) and Lightning (``state_dict``) have it; the rest of such
        a checkpoint is left alone. Entries that are not tensors or have no axes are left out.

    Raises
    ------
    ModelError
        The file is truncated or corrupt, or its pickle refers to anything but tensors.
    OSError
        The file can't be opened.
    """
    file = BinaryFile(path)
    if file.read(0, min(4, file.size), "the magic bytes") == b"PK\x03\x04":
        saved, offsets = _read_zip(file)
    else:
        saved, offsets = _read_legacy(file)
    if not isinstance(saved, dict):
        raise ModelError(f"{path}: holds no state dictionary")
    views = _views(saved)
    for wrapper in () if views else _WRAPPERS:
        views = views or _views(saved.get(wrapper))
    if not views or not all(isinstance(name, str) for name in views):
        raise ModelError(f"{path}: holds no tensors by name")
    model_args = saved.get("model_args")
    return TorchFile(
        {name: _lazy(file, name, view, offsets) for name, view in views.items()},
        model_args if isinstance(model_args, dict) else {},
    )


def _views(state: Any) -> dict[str, TensorView]:
    """The tensors of a dictionary; none of anything else."""
    if not isinstance(state, dict):
        return {}
    return {name: value for name, value in state.items() if isinstance(value, TensorView) and value.shape}


def _lazy(file: BinaryFile, name: str, view: TensorView, offsets: dict[str, int]) -> LazyTensor:
    storage = view.storage
    if storage.key not in offsets:
        raise ModelError(f"{file.path}: the data of the tensor {name!r} is missing")
    start = offsets[storage.key]
    file.check_range(start, storage.nbytes, f"the tensor {name!r}")
    itemsize = STORED_DTYPES[storage.dtype_name].itemsize
    strides = tuple(stride * itemsize for stride in view.strides)
    stored = StoredTensor(file, storage.dtype_name, start + view.offset * itemsize, view.shape, strides)
    return stored.lazy()


def _read_zip(file: BinaryFile) -> tuple[Any, dict[str, int]]:
    """The state, and the offset of each storage by key."""
    members = _zip_members(file)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ModelError(f"{file.path}: a PyTorch archive has one data.pkl, this one has {len(pickles)}")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in members:
        order = file.read(*members[f"{prefix}byteorder"], "the byte order")
        if order != b"little":
            raise ModelError(f"{file.path}: the byte order {order[:20]!r} is not supported, only b'little'")
    start, size = members[pickles[0]]
    storages: dict[str, Storage] = {}
    state = read_pickle(BoundedReader(file, start, start + size, _MAX_PIECE), storages, str(file.path))
    offsets = {}
    for key, storage in storages.items():
        member = members.get(f"{prefix}data/{key}")
        if member is not None:
            offsets[key], size = member
            if size != storage.nbytes:
                raise ModelError(
                    f"{file.path}: the storage {key!r} has {size} bytes instead of {storage.nbytes}"
                )
    return state, offsets


def _zip_members(file: BinaryFile) -> dict[str, tuple[int, int]]:
    """Offset and size of the data of every member."""
    try:
        with zipfile.ZipFile(cast("IO[bytes]", _ZipSource(file))) as archive:
            infos = archive.infolist()
    except ModelError:
        raise
    except _ZIP_ERRORS as error:
        # zipfile says of a disk's errors only that the file is no archive.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise ModelError(f"{file.path}: is not a whole ZIP archive: {cause}") from error
    members = {}
    for info in infos:
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.compress_size != info.file_size
            or info.flag_bits & 1
        ):
            raise ModelError(f"{file.path}: the member {info.filename!r} is compressed or encrypted")
        if info.filename in members:
            raise ModelError(f"{file.path}: the member {info.filename!r} occurs twice")
        # The local header repeats the name and has an extra field of its own length.
        header = file.read(info.header_offset, 30, f"the header of {info.filename!r}")
        if header[:4] != b"PK\x03\x04":
            raise ModelError(f"{file.path}: the header of the member {info.filename!r} is corrupt")
        name_length, extra_length = struct.unpack("<HH", header[26:])
        start = info.header_offset + 30 + name_length + extra_length
        file.check_range(start, info.file_size, f"the member {info.filename!r}")
        members[info.filename] = (start, info.file_size)
    ranges = [(start, start + size, name) for name, (start, size) in members.items()]
    refuse_overlaps(file.path, ranges)
    return members


class _ZipSource(BoundedReader):
    """The file in the form that :mod:`zipfile` needs to read the directory at its end."""

    def __init__(self, file: BinaryFile) -> None:
        super().__init__(file, 0, file.size, _MAX_PIECE)

    def read(self, length: int = -1) -> bytes:
        return super().read(self._end - self._position if length < 0 else length)

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self._position, self._end)[whence]
        if not 0 <= position <= self._end:
            raise OSError("a position outside the file")
        self._position = position
        return position

    def seekable(self) -> bool:
        return True


def _read_legacy(file: BinaryFile) -> tuple[Any, dict[str, int]]:
    """Like :func:`_read_zip`, for the format before PyTorch 1.6."""
    where = str(file.path)
    reader = BoundedReader(file, 0, file.size, _MAX_PIECE)
    storages: dict[str, Storage] = {}
    if file.read(0, 1, "the magic bytes") != b"\x80":
        raise ModelError(f"{where}: is not a file of torch.save")
    for wanted, what in ((_LEGACY_MAGIC, "magic number"), (_LEGACY_PROTOCOL, "protocol")):
        found = read_pickle(reader, {}, where)
        if found != wanted:
            shown = str(found)[:40] if isinstance(found, (int, str)) else f"a {type(found).__name__}"
            raise ModelError(f"{where}: is not a file of torch.save: the {what} is {shown}")
    system = read_pickle(reader, {}, where)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ModelError(f"{where}: was not written on a little-endian machine")
    state = read_pickle(reader, storages, where)
    keys = read_pickle(reader, {}, where)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ModelError(f"{where}: the list of storages is corrupt")
    if len(set(keys)) != len(keys):
        raise ModelError(f"{where}: the list of storages has repetitions")
    offsets = {}
    position = reader.tell()
    for key in keys:
        (count,) = struct.unpack("<q", file.read(position, 8, f"the size of the storage {key!r}"))
        if count != storages[key].count:
            raise ModelError(f"{where}: the storage {key!r} has {count} numbers, not {storages[key].count}")
        offsets[key] = position + 8
        file.check_range(offsets[key], storages[key].nbytes, f"the storage {key!r}")
        position = offsets[key] + storages[key].nbytes
    if position != file.size:
        raise ModelError(f"{where}: {file.size - position} bytes follow the last storage")
    return state, offsets
