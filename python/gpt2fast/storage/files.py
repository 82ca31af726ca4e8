"""Reads files that may come from strangers: regular ones only, inside their folder, up to a limit."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gpt2fast.errors import ModelError

#: Limits on what is read whole into memory, in bytes.
MAX_CONFIG_BYTES = 1 << 20
MAX_INDEX_BYTES = 16 << 20
MAX_TOKENIZER_BYTES = 64 << 20
#: The most lists, objects and commas in JSON; a vocabulary has a comma for each token.
MAX_JSON_ITEMS = 1 << 19
#: The most merges of a tokenizer: in JSON each is a list of two texts and a comma.
MAX_MERGES = MAX_JSON_ITEMS // 3

# Of a file with holes; what lies beyond counts for nothing.
_MOST_PIECES = 10_000
_CONTENT_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_HTML = (b"<!doctype html", b"<html")

# Without these (Windows) a link or FIFO is still caught by the checks on the resolved path and the
# descriptor.
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
)


def is_plain_name(name: str) -> bool:
    """Whether a name read from a file names something directly inside a folder."""
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= 255
        and name not in (".", "..")
        and not set(name) & set("/\\:\0")
    )


def find_inside(directory: Path, name: str) -> Path | None:
    """The regular file ``name`` directly inside ``directory``, links resolved, or None if there is none.

    A link may lead to another place inside the directory, or to where the Hugging Face hub's cache keeps
    contents (see :func:`_is_hub_blob`); nowhere else.

    Raises
    ------
    ModelError
        The name is not a plain file name, leads elsewhere, or belongs to something that is not a regular
        file.
    """
    if not is_plain_name(name):
        raise ModelError(f"{directory}: {name!r} is not the name of a file inside this directory")
    path = directory / name
    if not os.path.lexists(path):
        return None
    home = Path(os.path.realpath(directory))
    resolved = Path(os.path.realpath(path))
    if not resolved.is_relative_to(home) and not _is_hub_blob(home, resolved):
        raise ModelError(
            f"{path}: a link that leads out of its directory, to {resolved}; put the file itself there"
        )
    if not resolved.is_file():
        raise ModelError(f"{path}: not a regular file")
    return resolved


def _is_hub_blob(home: Path, resolved: Path) -> bool:
    """Whether a file is a content in the hub's cache that a link in ``home`` may lead to.

    It is in a folder ``blobs`` under its hash (SHA-1 or SHA-256). From ``REPOSITORY/snapshots/REVISION`` and
    below links lead into ``REPOSITORY/blobs``; from a ``local_dir`` of older versions of ``huggingface_hub``
    into ``models--X/blobs`` of the cache.
    """
    if resolved.parent.name != "blobs" or _CONTENT_HASH.fullmatch(resolved.name) is None:
        return False
    repository = resolved.parents[1]
    snapshots = repository / "snapshots"
    return repository.name.startswith("models--") or (home != snapshots and home.is_relative_to(snapshots))


def file_inside(directory: Path, name: str) -> Path:
    """:func:`find_inside` for a file that must be there; ModelError names it if it isn't."""
    path = find_inside(directory, name)
    if path is None:
        raise ModelError(f"{directory}: has no {name} in it")
    return path


@contextmanager
def errors_of(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name ``path`` in errors of the system that name nothing, as those of reading and writing do."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


class _NamedFile(io.FileIO):
    """A file whose errors name it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "rb")
        self._path = path

    def readinto(self, buffer: Any, /) -> int | None:
        with errors_of(self._path):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with errors_of(self._path):
            return super().readall()


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; ``path`` must have its links resolved. Errors of reading name it.

    Raises
    ------
    ModelError
        It is a FIFO, device, directory or other special file.
    """
    descriptor = os.open(path, _OPEN_FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelError(f"{path}: not a regular file")
    return io.BufferedReader(_NamedFile(descriptor, path))


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes; ModelError if it is larger."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ModelError(f"{path}: has {size} bytes; the limit for such a file is {limit}")
        data = file.read(size)
    refuse_substitute(data, path)
    return data


def stored_bytes(path: Path) -> int:
    """How many bytes of a file are stored, where the system tells: holes cost a stranger nothing."""
    with open_regular(path) as file:
        descriptor = file.fileno()
        size, position, stored = os.fstat(descriptor).st_size, 0, 0
        if not hasattr(os, "SEEK_DATA"):
            return size
        for _ in range(_MOST_PIECES):
            try:
                start = os.lseek(descriptor, position, os.SEEK_DATA)
                position = os.lseek(descriptor, start, os.SEEK_HOLE)
            except OSError as error:
                return stored if error.errno == errno.ENXIO else size  # there is no more, or it can't tell
            stored += position - start
        return stored


def refuse_substitute(beginning: bytes, path: Path) -> None:
    """Raise ModelError if a file is what Git LFS or a web server gives in place of the content."""
    if beginning.startswith(_LFS_POINTER):
        raise ModelError(
            f"{path}: a pointer of Git LFS, not the file itself; run 'git lfs pull' in its repository, or "
            f"download the file"
        )
    if beginning[:64].lstrip().lower().startswith(_HTML):
        raise ModelError(
            f"{path}: a web page (HTML), not the file itself; download the file by the link that the page has"
        )


def read_text(path: Path, limit: int) -> str:
    """The content of a UTF-8 file of at most ``limit`` bytes; ModelError if it is larger or not UTF-8."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 text: {error}") from None


def parse_json_object(text: str | bytes, where: str | Path) -> dict[str, Any]:
    """Parse a JSON object.

    ModelError if it is broken, nested too deep or too large, or has a key twice or half a surrogate pair.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        if sum(map(decoded.count, "[{,")) > MAX_JSON_ITEMS:  # each may become an object of a hundred bytes
            raise ValueError(f"it has more than {MAX_JSON_ITEMS} values")
        value = json.loads(decoded, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        if _SURROGATE_ESCAPE.search(decoded):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{where}: must hold a JSON object, holds a {type(value).__name__}")
    return value


def read_json_object(path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """:func:`parse_json_object` of a file of at most ``limit`` bytes."""
    return parse_json_object(read_text(path, limit), path)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r} occurs twice")
    return values
