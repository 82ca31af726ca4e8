"""Directories that replace others, while other processes read or replace them, too."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2fast.storage.atomic import atomic_directory
from gpt2fast.storage.set_aside import restore_set_aside, set_aside_name


def write(directory: Path, text: str) -> None:
    with atomic_directory(directory) as new:
        (new / "file").write_text(text)


def read_meanwhile(directory: Path) -> None:
    """What whoever looks for a directory that is set aside does."""
    restore_set_aside(directory)
    assert (directory / "file").read_text() == "old"


def replace_meanwhile(directory: Path) -> None:
    write(directory, "other")


@pytest.mark.parametrize(
    ("others", "before", "left"),
    [
        (read_meanwhile, 2, "new"),
        (replace_meanwhile, 1, "new"),
        (replace_meanwhile, 2, "new"),
        (replace_meanwhile, 3, "other"),
    ],
)
def test_others_before_a_rename_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: Callable[[Path], None], before: int, left: str
) -> None:
    directory = tmp_path / "model"
    write(directory, "old")
    rename, calls = os.rename, 0

    def rename_after_others(old: Path, new: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == before:
            others(directory)
        rename(old, new)

    monkeypatch.setattr(os, "rename", rename_after_others)
    write(directory, "new")
    assert calls >= before
    assert (directory / "file").read_text() == left
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another error")
def test_one_who_always_puts_the_old_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "model"
    write(directory, "old")
    rename = os.rename

    def rename_and_restore(old: Path, new: Path) -> None:
        rename(old, new)
        if new == set_aside_name(directory):
            rename(new, old)

    monkeypatch.setattr(os, "rename", rename_and_restore)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTEMPTY)):
        write(directory, "new")
    assert (directory / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
