"""A file of what was measured so far, so that a long measurement can be stopped and resumed.

JSON lines: first the settings, then one line for each item, ``{"run": ..., "item": ..., "values": [...]}``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from gpt2fast.errors import ModelError

#: The longest line and the largest file that are read.
MAX_LINE_BYTES = 1 << 20
MAX_BYTES = 1 << 30


class Journal:
    """An open journal; a context manager.

    A line that is cut short is dropped, and its item is measured again.

    Parameters
    ----------
    path : path
        The file; it is created if it doesn't exist.
    settings : mapping
        Everything that the measured values depend on: JSON values by name.

    Raises
    ------
    ModelError
        The file is not a journal, or has other settings; the message names the first that differs.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self._path = Path(path)
        self._done: dict[tuple[str, int], list[float]] = {}
        # Settings are compared in the form that JSON returns: tuples become lists.
        self._settings = json.loads(json.dumps(dict(settings)))
        kept = self._read() if self._path.exists() else 0
        self._file: BinaryIO = self._path.open("r+b" if kept else "wb")
        self._file.truncate(kept)
        self._file.seek(kept)
        self._has_settings = kept > 0

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def values(self, run: str, item: int) -> list[float] | None:
        """The values of an item, or None."""
        return self._done.get((run, item))

    def record(self, run: str, values: Mapping[int, Sequence[float]]) -> None:
        """Record the values of items; they are on disk when this returns."""
        # The file is not opened before: a measurement that fails at once leaves it free for another.
        if not self._has_settings:
            self._append({"settings": self._settings})
            self._has_settings = True
        for item, numbers in values.items():
            self._done[run, item] = list(numbers)
            self._append({"run": run, "item": item, "values": list(numbers)})
        self._file.flush()
        os.fsync(self._file.fileno())

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode("utf-8") + b"\n")

    def _read(self) -> int:
        """Read the existing content; returns the number of bytes in whole lines."""
        if self._path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{self._path}: larger than {MAX_BYTES} bytes; is it a journal?")
        kept = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
                if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                    break
                self._take(line, number)
                kept += len(line)
        return kept

    def _take(self, line: bytes, number: int) -> None:
        try:
            value = json.loads(line)
            if number == 1:
                self._check_settings(dict(value["settings"]))
            else:
                self._done[str(value["run"]), int(value["item"])] = [float(one) for one in value["values"]]
        except ModelError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ModelError(f"{self._path}: line {number} is not a journal's; name another file") from None

    def _check_settings(self, found: dict[str, Any]) -> None:
        for name in sorted({*found, *self._settings}):
            if found.get(name) != self._settings.get(name):
                raise ModelError(
                    f"{self._path}: a journal of another measurement: its {name} is {found.get(name)!r}, "
                    f"not {self._settings.get(name)!r}; name another file"
                )
