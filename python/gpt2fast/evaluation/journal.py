"""A file of what was measured so far, so that a long measurement can be stopped and resumed.

JSON lines: first the settings, then one line for each item, ``{"run": ..., "item": ..., "values": [...]}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from gpt2fast.errors import ModelError
from gpt2fast.storage.files import errors_of, parse_json_object
from gpt2fast.storage.locks import lock_for_writing
from gpt2fast.storage.run_settings import first_difference

if TYPE_CHECKING:
    from typing import TypeGuard

#: The longest line and the largest file that are read.
MAX_LINE_BYTES = 1 << 20
MAX_BYTES = 1 << 30


class Journal:
    """An open journal; a context manager. One process at a time may have it.

    A line that is cut short is dropped, and its item is measured again.

    Parameters
    ----------
    path : path
        The file; it is created if it doesn't exist.
    settings : mapping
        Everything that the measured values depend on: JSON values by name.

    Raises
    ------
    FileExistsError
        Another process has it.
    ModelError
        The file is not a journal, or has other settings; the message names the first that differs.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self._path = Path(path)
        self._done: dict[tuple[str, int], list[float]] = {}
        # Settings are compared in the form that JSON returns: tuples become lists.
        self._settings = json.loads(json.dumps(dict(settings)))
        if os.path.lexists(self._path) and not self._path.is_file():
            raise ModelError(f"{self._path}: not a regular file; name another")
        with errors_of(self._path), ExitStack() as stack:
            lock_for_writing(self._path, stack)
            exists = os.path.lexists(self._path)
            # Opened once: what was read is what is written to.
            self._file: BinaryIO = stack.enter_context(self._path.open("r+b" if exists else "xb"))
            kept = self._read() if exists else 0
            self._file.truncate(kept)
            self._file.seek(kept)
            self._has_settings = kept > 0
            self._resources = stack.pop_all()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with errors_of(self._path):
            self._resources.close()

    def values(self, run: str, item: int) -> list[float] | None:
        """The values of an item, or None."""
        return self._done.get((run, item))

    def record(self, run: str, values: Mapping[int, Sequence[float]]) -> None:
        """Record the values of items; they are on disk when this returns.

        Raises
        ------
        ModelError
            A value is NaN or infinite: the model is broken, and nothing of these items is recorded.
        """
        for item, numbers in values.items():
            if not _are_finite(list(numbers)):
                raise ModelError(f"{run}: item {item} measured {list(numbers)[:4]}, which is not finite")
        # The file is not opened before: a measurement that fails at once leaves it free for another.
        with errors_of(self._path):
            if not self._has_settings:
                self._append({"settings": self._settings})
                self._has_settings = True
            for item, numbers in values.items():
                self._done[run, item] = list(numbers)
                self._append({"run": run, "item": item, "values": list(numbers)})
            self._file.flush()
            os.fsync(self._file.fileno())

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(_encoded(line))

    def _read(self) -> int:
        """Read the existing content; returns the number of bytes in whole lines."""
        if os.fstat(self._file.fileno()).st_size > MAX_BYTES:
            raise ModelError(f"{self._path}: larger than {MAX_BYTES} bytes; is it a journal?")
        kept = 0
        for number, line in enumerate(iter(lambda: self._file.readline(MAX_LINE_BYTES), b""), 1):
            if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                # A file that only looks cut short, such as text without a last newline, is somebody's.
                if number == 1 and not _encoded({"settings": self._settings}).startswith(line):
                    self._refuse(number)
                break
            self._take(line, number)
            kept += len(line)
        return kept

    def _take(self, line: bytes, number: int) -> None:
        try:
            value = parse_json_object(line, self._path)
        except ModelError:
            self._refuse(number)
        if number == 1:
            if value.keys() != {"settings"} or not isinstance(value["settings"], dict):
                self._refuse(number)
            self._check_settings(value["settings"])
            return
        run, item, values = (value.get(key) for key in ("run", "item", "values"))
        if not isinstance(run, str) or type(item) is not int or not _are_finite(values):
            self._refuse(number)
        self._done[run, item] = [float(one) for one in values]

    def _refuse(self, number: int) -> NoReturn:
        raise ModelError(f"{self._path}: line {number} is not a journal's; name another file")

    def _check_settings(self, found: dict[str, Any]) -> None:
        difference = first_difference(found, self._settings)
        if difference is not None:
            raise ModelError(
                f"{self._path}: a journal of another measurement, where {difference}; name another file"
            )


def _encoded(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode("utf-8") + b"\n"


def _are_finite(values: Any) -> TypeGuard[list[float]]:
    """Whether these are numbers that a measurement can have."""
    return isinstance(values, list) and all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and abs(one) <= sys.float_info.max
        for one in values
    )
