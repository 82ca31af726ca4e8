"""Disks that are full, read-only or broken from any moment on: an error says so, nothing is half-written."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.campaign.command_operations import CommandError, commands
from tests.campaign.fault_operations import Operation, operations

from support.failing_disk import FailingDisk

NUMBERS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO)
WRITERS = (
    *("convert", "convert-over", "first-load", "save-prefix", "journal", "results"),
    *("export-onnx", "export-huggingface", "generate", "eval"),
)


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Operation]:
    root = tmp_path_factory.mktemp("sources")
    return {**operations(root / "sources"), **commands(root / "commands")}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingDisk]:
    monkeypatch.setenv("GPT2FAST_CACHE", "")  # operations set it, and it is put back
    with pytest.MonkeyPatch.context() as patch:
        yield FailingDisk(patch)


def begun(operation: Operation, directory: Path) -> None:
    directory.mkdir()
    operation.begin(directory)


def outcome(operation: Operation) -> tuple[Any, str]:
    """What an operation returns, and the message of the error that ends it."""
    try:
        return operation.run(), ""
    except (OSError, CommandError) as error:
        return None, str(error)


@pytest.mark.skipif(sys.platform == "win32", reason="other error numbers")
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fails_from_any_moment_on(
    writers: dict[str, Operation], disk: FailingDisk, tmp_path: Path, name: str
) -> None:
    operation = writers[name]
    begun(operation, tmp_path / "whole")
    disk.heal()
    expected = operation.run()
    changes = disk.changes
    assert changes > 2
    errors = 0
    for after in range(min(changes, 60)):
        directory = tmp_path / str(after)
        begun(operation, directory)
        number = NUMBERS[after % len(NUMBERS)]
        disk.fail(number, after)
        found, said = outcome(operation)
        errors += bool(said)
        if said:
            assert os.strerror(number) in said, after
            assert str(tmp_path) in said, after
            found = expected
        disk.heal()
        assert found == expected
        assert operation.leftovers(expected) == "", after
        assert operation.run() == expected
    assert errors > 1
