"""Files are written in large blocks."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.export import block_writer
from gpt2fast.export.block_writer import BlockWriter


class _File(io.BytesIO):
    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.sizes.append(len(data))
        return super().write(data)


def _write(pieces: list[tuple[int, bytes]]) -> _File:
    file = _File()
    blocks = BlockWriter(file)
    for gap, data in pieces:
        blocks.pad(blocks.position + gap)
        before = blocks.position
        blocks.write(data)
        assert blocks.position == before + len(data)
    blocks.finish()
    return file


@given(pieces=st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=100))))
def test_whole_blocks_then_the_rest(pieces: list[tuple[int, bytes]]) -> None:
    usual = block_writer.BLOCK_BYTES
    block_writer.BLOCK_BYTES = 16
    try:
        file = _write(pieces)
    finally:
        block_writer.BLOCK_BYTES = usual
    expected = b"".join(bytes(gap) + data for gap, data in pieces)
    assert file.getvalue() == expected
    assert file.sizes == [16] * (len(expected) // 16) + [len(expected) % 16]


def test_more_than_a_block_at_once() -> None:
    data = bytes(range(256)) * ((2 * block_writer.BLOCK_BYTES + 256) // 256)
    file = _write([(0, data)])
    assert file.getvalue() == data
    assert file.sizes == [block_writer.BLOCK_BYTES] * 2 + [256]
