"""Files and directories that replace others, alone and while other processes read or replace them, too."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpt2fast.storage.atomic import atomic_directory, check_free, check_room
from gpt2fast.storage.files import errors_of
from gpt2fast.storage.locks import lock_for_writing
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


def test_what_may_be_written_over(tmp_path: Path) -> None:
    file, folder, fifo, link = (tmp_path / name for name in ("file", "folder", "fifo", "link"))
    check_free(file, overwrite=False)
    file.write_text("old")
    folder.mkdir()
    os.mkfifo(fifo)
    link.symlink_to(tmp_path / "absent")
    check_free(file, overwrite=True)
    with pytest.raises(FileExistsError, match=r"exists; --overwrite \(overwrite=True\) replaces it: .*file"):
        check_free(file, overwrite=False)
    for other in (folder, fifo, link):
        with pytest.raises(
            FileExistsError, match=f"exists and is not a regular file; name another: .*{other.name}"
        ):
            check_free(other, overwrite=True)
    assert file.read_text() == "old"


def test_room_is_asked_for_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_room(tmp_path, 5 << 20)
    with pytest.raises(OSError, match="8 MiB are needed, and only 5 MiB are free") as caught:
        check_room(tmp_path, 8 << 20)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "full"), "here"),
        (OSError(errno.ENOSPC, "full", "elsewhere"), "elsewhere"),
        (OSError("no number"), None),
    ],
)
def test_errors_that_name_no_file_get_its_name(error: OSError, named: str | None) -> None:
    with pytest.raises(OSError, match=r"full|no number") as caught, errors_of("here"):
        raise error
    assert caught.value is error
    assert error.filename == named


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    link = tmp_path / "link"
    link.symlink_to(path)
    with ExitStack() as first:
        lock_for_writing(path, first)
        with ExitStack() as second, pytest.raises(FileExistsError, match="another process is writing it"):
            lock_for_writing(link, second)
    with ExitStack() as third:
        lock_for_writing(link, third)


def test_a_name_with_a_nul_is_no_directory_that_was_set_aside(tmp_path: Path) -> None:
    restore_set_aside(f"{tmp_path}/a\0b")
    assert list(tmp_path.iterdir()) == []
