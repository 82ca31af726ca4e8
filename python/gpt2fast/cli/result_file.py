"""A file of results, JSON lines, that an interrupted run can be resumed from."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from gpt2fast._validation import is_bool
from gpt2fast.errors import ModelError
from gpt2fast.storage.atomic import atomic_file
from gpt2fast.storage.files import errors_of, open_regular, parse_json_object, read_json_object
from gpt2fast.storage.locks import lock_for_writing
from gpt2fast.storage.run_settings import first_difference

#: The longest line that is read back.
MAX_LINE_BYTES = 1 << 30

_MADE_BY = "gpt2fast generate"


class ResultFile:
    """An open file of results; a context manager. One process at a time may have it.

    Beside it lies ``NAME.settings.json`` with what the results depend on. A file with the same settings is
    continued; a line that was cut short is dropped.

    Parameters
    ----------
    path : path
        The file; it is created if it doesn't exist or is empty.
    settings : mapping
        Everything that the results depend on: JSON values by name.
    count : int
        How many results there will be; they are numbered from 1.
    ordered : bool
        Whether results are written in the order of their numbers.

    Attributes
    ----------
    done : int
        How many results there are.

    Raises
    ------
    FileExistsError
        The file holds no results, or another process uses it.
    ModelError
        Its results depend on something else; the message names the first setting that differs.
    """

    def __init__(
        self, path: str | os.PathLike[str], settings: Mapping[str, Any], *, count: int, ordered: bool
    ) -> None:
        self._path = Path(path)
        self._ordered = ordered
        self._written = bytearray(count + 1)
        self.done = 0
        # Compared in the form that JSON returns: tuples become lists.
        values = {"made_by": _MADE_BY, "ordered": ordered, **settings}
        self._settings: dict[str, Any] = json.loads(json.dumps(values))
        with errors_of(self._path), ExitStack() as stack:
            lock_for_writing(self._path, stack)
            kept = self._open_settings()
            self._file: BinaryIO = stack.enter_context(self._path.open("r+b" if kept else "wb"))
            self._file.truncate(kept)
            self._file.seek(kept)
            self._resources = stack.pop_all()

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with errors_of(self._path), self._resources:
            os.fsync(self._file.fileno())

    def __contains__(self, number: int) -> bool:
        return bool(self._written[number])

    def write(self, number: int, values: Mapping[str, Any]) -> None:
        """Add a result; it outlives this process when this returns."""
        line = json.dumps({"line": number, **values}, ensure_ascii=False)
        with errors_of(self._path):
            self._file.write(line.encode("utf-8") + b"\n")
            self._file.flush()
        self._count(number)

    def _count(self, number: int) -> None:
        self._written[number] = 1
        self.done += 1

    def _open_settings(self) -> int:
        """Check the settings of what there is, or write them; returns the number of bytes to keep."""
        path = self._path.with_name(f"{self._path.name}.settings.json")
        found = read_json_object(path) if path.exists() else {}
        if found and found.get("made_by") != _MADE_BY:
            raise FileExistsError(errno.EEXIST, "exists and was not made by this command", str(path))
        if not os.path.lexists(self._path) or (self._path.is_file() and self._path.stat().st_size == 0):
            with atomic_file(path) as file:
                file.write(json.dumps(self._settings, indent=2).encode("utf-8") + b"\n")
            return 0
        if not found:
            raise FileExistsError(
                errno.EEXIST,
                f"exists and was not made by this command ({path.name} is missing)",
                str(self._path),
            )
        difference = first_difference(found, self._settings)
        if difference is not None:
            raise ModelError(f"{self._path}: results of another run, where {difference}; name another file")
        return self._read()

    def _read(self) -> int:
        """Note which results there are; returns the number of bytes in whole lines."""
        kept = 0
        with open_regular(Path(os.path.realpath(self._path))) as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
                if not raw.endswith(b"\n") and len(raw) < MAX_LINE_BYTES:
                    break
                where = f"{self._path}, line {number}"
                found = parse_json_object(raw, where).get("line")
                line = found if isinstance(found, int) and not is_bool(found) else 0
                known = 0 < line < len(self._written) and line not in self
                if not known or (self._ordered and line != number):
                    raise ModelError(f"{where}: not a result of this run; name another file")
                self._count(line)
                kept += len(raw)
        return kept
