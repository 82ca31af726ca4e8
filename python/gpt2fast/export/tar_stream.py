"""Reads tar archives that may come from strangers, in one pass, in time and memory that their size bounds.

Formats: POSIX 1003.1 ustar and pax, and GNU's long names
(https://www.gnu.org/software/tar/manual/html_node/Standard.html). Python's :mod:`tarfile` follows chains of
headers by recursion, and its versions differ in what they make of malformed ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
_REGULAR, _DIRECTORY, _PAX, _PAX_GLOBAL, _LONG_NAME = (b"0\0", b"5", b"x", b"g", b"L")
#: The most bytes of a pax header or a long name.
_MAX_EXTRA_BYTES = 1 << 16
_MAX_GZIP_MEMBERS = 10_000
_CHUNK = 1 << 16


class ArchiveError(ValueError):
    """What is wrong with an archive; the text does not name the file."""


class Member(NamedTuple):
    """A regular file or a directory."""

    name: str
    is_directory: bool
    size: int


class GzipStream:
    """The content of a gzip file, up to a limit; a longer one raises ArchiveError."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._left = self._limit = limit
        self._unpacker = zlib.decompressobj(wbits=31)
        self._members = 1

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        pieces = []
        while size:
            piece = self._some(size)
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def copy(self, size: int, target: BinaryIO) -> None:
        """Copy exactly ``size`` bytes."""
        while size:
            piece = self._some(min(size, _CHUNK))
            target.write(piece)
            size -= len(piece)

    def finish(self) -> None:
        """Read the rest, which must be whole: its checksum covers what was read before."""
        while not self._unpacker.eof:
            self._some(_CHUNK)

    def _some(self, most: int) -> bytes:
        """At most so many bytes; none at the end of a gzip file."""
        if self._unpacker.eof:
            self._next_member()
        while True:
            packed = self._unpacker.unconsumed_tail or self._file.read(_CHUNK)
            try:
                data = self._unpacker.decompress(packed, most)
            except zlib.error as error:
                raise ArchiveError(str(error)) from None
            if data:
                self._left -= len(data)
                if self._left < 0:
                    raise ArchiveError(f"it unpacks to more than {self._limit} bytes, the most for its size")
                return data
            if self._unpacker.eof:
                return b""
            if not packed:
                raise ArchiveError("it ends too early")

    def _next_member(self) -> None:
        """Go on with the next gzip file of several in a row."""
        rest = self._unpacker.unused_data or self._file.read(_CHUNK)
        self._members += 1
        if not rest or self._members > _MAX_GZIP_MEMBERS:
            raise ArchiveError("it ends too early, or consists of too many pieces")
        self._unpacker = zlib.decompressobj(wbits=31)
        self._file.seek(-len(rest), 1)


def read_members(stream: GzipStream) -> Iterator[Member]:
    """The members; the caller reads the data of each regular file before it goes on.

    Raises
    ------
    ArchiveError
        The archive is cut short or malformed, or a member is neither a regular file nor a directory.
    """
    while (header := stream.read(BLOCK)).strip(b"\0"):
        extra: dict[str, str] = {}
        while (kind := header[156:157]) in (_PAX, _PAX_GLOBAL, _LONG_NAME):
            _check_sum(header)
            _add_extra(extra, kind, stream, _size(header))
            header = stream.read(BLOCK)
        _check_sum(header)
        member = _member(header, extra)
        yield member
        if not member.is_directory:
            stream.read(-member.size % BLOCK)


def _member(header: bytes, extra: dict[str, str]) -> Member:
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    name = extra.get("path", f"{prefix}/{_text(header[:100])}" if prefix else _text(header[:100]))
    size = _size(header)
    if "size" in extra:
        if not (extra["size"].isascii() and extra["size"].isdigit() and len(extra["size"]) <= 18):
            raise ArchiveError(f"the size {extra['size'][:20]!r} of {name[:80]!r} is no number")
        size = int(extra["size"])
    kind = header[156:157]
    if kind == _DIRECTORY or (kind in _REGULAR and name.endswith("/")):
        if size:
            raise ArchiveError(f"the directory {name[:80]!r} has {size} bytes of data")
        return Member(name, True, 0)
    if kind not in _REGULAR or any(key.startswith("GNU.sparse.") for key in extra):
        raise ArchiveError(f"the member {name[:80]!r} is not a regular file")
    return Member(name, False, size)


def _add_extra(extra: dict[str, str], kind: bytes, stream: GzipStream, size: int) -> None:
    """Read a header that only says something of the next one; a member has at most one of a kind."""
    marker = f"header {kind.decode()}"
    if marker in extra or size > _MAX_EXTRA_BYTES:
        raise ArchiveError(
            f"a member has two headers of one kind, or one of more than {_MAX_EXTRA_BYTES} bytes"
        )
    extra[marker] = ""
    data = stream.read(size)
    stream.read(-size % BLOCK)
    if kind == _LONG_NAME:
        extra["path"] = _text(data)
        return
    records = _pax_records(data)
    if kind == _PAX_GLOBAL:
        if records.keys() & {"path", "size"}:
            raise ArchiveError("a global header gives all members one name or size")
    else:
        extra.update(records)


def _pax_records(data: bytes) -> dict[str, str]:
    """The records ``length key=value`` of a pax header."""
    records = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 7)
        digits = data[position : max(space, position)]
        end = position + int(digits) if digits.isdigit() else 0
        record = data[space + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(data) or not equals or not value.endswith(b"\n"):
            raise ArchiveError("a pax header is malformed")
        records[_text(key)] = _text(value[:-1])
        position = end
    return records


def _size(header: bytes) -> int:
    field = header[124:136]
    if field[0] & 0x80:  # GNU's binary form, of at most 63 bits here
        size = int.from_bytes(field[1:], "big")
        if field[0] != 0x80 or size >= 1 << 63:
            raise ArchiveError("a size is malformed")
        return size
    return _octal(field, "size")


def _check_sum(header: bytes) -> None:
    if _octal(header[148:156], "checksum") != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
        raise ArchiveError("a header's checksum is wrong")


def _octal(field: bytes, what: str) -> int:
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise ArchiveError(f"a {what} is malformed")
    return int(digits, 8)


def _text(data: bytes) -> str:
    try:
        return data.partition(b"\0")[0].decode("utf-8")
    except UnicodeDecodeError:
        raise ArchiveError("a name is not UTF-8") from None
