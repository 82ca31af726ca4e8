"""Pickles of a few hundred bytes that ask for exponential or quadratic work, in both of PyTorch's formats."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2fast.checkpoints.torch_pickle import open_torch_tensors
from gpt2fast.errors import ModelError
from support.checkpoint_samples import pickled_state, pickled_text, torch_legacy, torch_zip


def nested(opcode: bytes, levels: int) -> bytes:
    """A container that holds its predecessor twice, ``levels`` times over: 2**levels leaves."""
    twice = {b"\x86": b"q\x00h\x00\x86", b"t": b"q\x00(h\x00h\x00t", b"l": b"q\x00](h\x00h\x00e"}[opcode]
    return b")" + twice * levels


# What stands where a tensor should, and where a key, a name or an argument should.
VALUES = {
    "pairs in pairs": nested(b"\x86", 24),
    "marked tuples in tuples": nested(b"t", 40),
    "lists in lists": nested(b"l", 40),
    "a tower of tuples": b")" + b"\x85" * 20_000,
    "a tower of lists": b"]" + b"q\x00]h\x00a" * 3_000,
    "a list in itself": b"]q\x00h\x00a",
}
PLACES: dict[str, Callable[[bytes], bytes]] = {
    "an entry": lambda value: pickled_state({"x": value}),
    "a key": lambda value: b"\x80\x02}(" + value + b"K\x01u.",
    "a call's arguments": lambda value: (
        b"\x80\x02}(" + pickled_text("x") + b"ctorch._utils\n_rebuild_tensor_v2\n" + value + b"Ru."
    ),
    "a persistent id": lambda value: b"\x80\x02}(" + pickled_text("x") + value + b"Qu.",
    "a storage's key": lambda value: (
        b"\x80\x02}("
        + pickled_text("x")
        + b"("
        + pickled_text("storage")
        + b"ctorch\nFloatStorage\n"
        + value
        + pickled_text("cpu")
        + b"K\x01tQu."
    ),
    "a name": lambda value: b"\x80\x04}(" + pickled_text("x") + value + pickled_text("y") + b"\x93u.",
    "the whole": lambda value: b"\x80\x02" + value + b".",
}


def refused_quickly(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(ModelError):
        open_torch_tensors(path)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", VALUES)
def test_nested_containers_are_refused_quickly(tmp_path: Path, place: str, value: str) -> None:
    refused_quickly(tmp_path / "pytorch_model.bin", torch_zip(PLACES[place](VALUES[value]), {}))


def test_a_nested_state_of_the_older_format_is_refused_quickly(tmp_path: Path) -> None:
    refused_quickly(
        tmp_path / "pytorch_model.bin", torch_legacy(PLACES["a key"](VALUES["pairs in pairs"]), {})
    )


@pytest.mark.parametrize("value", VALUES)
def test_nested_containers_in_place_of_the_magic_number(tmp_path: Path, value: str) -> None:
    refused_quickly(tmp_path / "pytorch_model.bin", b"\x80\x02" + VALUES[value] + b".")


def test_a_line_reads_no_more_than_itself(tmp_path: Path) -> None:
    lines = b"ccollections\nOrderedDict\n0" * 5_000
    content = b"\x80\x02" + lines + b"K\x01."
    path = tmp_path / "pytorch_model.bin"
    refused_quickly(path, content + bytes(4 << 20))
    refused_quickly(path, b"\x80\x02c" + b"x" * (4 << 20))
    refused_quickly(path, b"\x80\x02X" + struct.pack("<I", (1 << 32) - 1))
