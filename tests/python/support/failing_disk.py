"""A disk that is full, read-only or broken, as far as Python's calls make it one."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest

_CHANGES = ("fsync", "replace", "rename", "mkdir")


class FailingDisk:
    """From some change of the disk on, none of this process succeeds: writes, syncs, new names.

    Attributes
    ----------
    changes : int
        How many were asked for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changes = 0
        self._allowed = 1 << 60
        self._number = 0
        self._open = io.open
        for name in _CHANGES:
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))
        monkeypatch.setattr(io, "open", self._opened)

    def fail(self, number: int, after: int) -> None:
        """Let ``after`` more changes succeed; then give this error."""
        self.changes, self._allowed, self._number = 0, after, number

    def heal(self) -> None:
        """Let everything succeed; count from here on."""
        self.fail(0, 1 << 60)

    def change(self, path: object = None) -> None:
        """Count a change; OSError if it fails."""
        self.changes += 1
        if self.changes > self._allowed:
            named = [path] if isinstance(path, (str, os.PathLike)) else []
            raise OSError(self._number, os.strerror(self._number), *named)

    def _failing(self, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.change(arguments[0])
            return function(*arguments, **named)

        return call

    def _opened(self, path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if not set(mode) & set("wxa+"):
            return self._open(path, mode, *arguments, **named)
        if set(mode) & set("wxa"):
            self.change(path)
        raw = _FailingFile(self, path, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8")


class _FailingFile(io.FileIO):
    def __init__(self, disk: FailingDisk, path: Any, mode: str) -> None:
        self._disk = disk
        super().__init__(path, mode)

    def write(self, data: Any) -> int:
        self._disk.change()
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        self._disk.change()
        return super().truncate(size)
