"""OpenAI's TensorFlow checkpoints: every weight, the tokenizer, and broken indexes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.checkpoints.tensorflow_checkpoint import open_tensorflow
from gpt2fast.errors import ModelError
from support.checkpoint_samples import small_config
from support.tensorflow_samples import HEADER, block, crc32c, entry, message, table, varint, write_tensorflow

CONFIG = small_config(bos_token_id=100, eos_token_id=100)


def test_the_checksum_is_crc32c() -> None:
    """The check value from the algorithm's catalogue entry (CRC-32/ISCSI)."""
    assert crc32c(b"123456789") == 0xE3069283


def test_reads_every_tensor(tmp_path: Path) -> None:
    wanted = write_tensorflow(tmp_path, CONFIG)
    checkpoint = open_tensorflow(tmp_path)
    assert checkpoint.config == CONFIG
    assert set(checkpoint.tensors) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), values, err_msg=name)
        np.testing.assert_array_equal(checkpoint.tensors[name].read_rows(1, 5), values[1:5], err_msg=name)


def test_the_tokenizer_is_the_two_original_files(tmp_path: Path) -> None:
    write_tensorflow(tmp_path, CONFIG)
    files = open_tensorflow(tmp_path).tokenizer
    assert files.vocab_json == (tmp_path / "encoder.json").read_text()
    assert files.merges_txt == (tmp_path / "vocab.bpe").read_text()


def test_another_prefix_is_found(tmp_path: Path) -> None:
    write_tensorflow(tmp_path, CONFIG)
    for path in list(tmp_path.glob("model.ckpt.*")):
        path.rename(tmp_path / path.name.replace("model.ckpt", "model-1000"))
    assert open_tensorflow(tmp_path).config == CONFIG
    (tmp_path / "model-2000.index").touch()
    with pytest.raises(ModelError, match=r"one other .index; found"):
        open_tensorflow(tmp_path)


@pytest.mark.parametrize(
    "name", ["hparams.json", "vocab.bpe", "model.ckpt.index", "model.ckpt.data-00000-of-00001"]
)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_tensorflow(tmp_path, CONFIG)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=name.removeprefix("model.ckpt")):
        open_tensorflow(tmp_path)


@pytest.mark.parametrize("key", ["n_vocab", "n_ctx", "n_embd", "n_layer"])
def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, key: str) -> None:
    write_tensorflow(tmp_path, CONFIG, **{key: 128})
    with pytest.raises(ModelError, match=r"the configuration requires|is missing"):
        open_tensorflow(tmp_path)


@pytest.mark.parametrize("name", ["model.ckpt.index", "model.ckpt.data-00000-of-00001"])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    write_tensorflow(tmp_path, CONFIG)
    path = tmp_path / name
    whole = path.read_bytes()
    for length in [*range(0, len(whole), max(1, len(whole) // 40)), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=name):
            open_tensorflow(tmp_path)


def test_every_flipped_byte_of_a_block_is_noticed(tmp_path: Path) -> None:
    write_tensorflow(tmp_path, CONFIG)
    path = tmp_path / "model.ckpt.index"
    whole = path.read_bytes()
    for position in range(0, 600, 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        with pytest.raises(ModelError, match=r"model\.ckpt\.index"):
            open_tensorflow(tmp_path)


def opened(tmp_path: Path, index: bytes) -> Checkpoint:
    write_tensorflow(tmp_path, CONFIG)
    (tmp_path / "model.ckpt.index").write_bytes(index)
    return open_tensorflow(tmp_path)


WTE = (101, 64)


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        (table([HEADER], kind=1), "compressed"),
        (table([(b"model/wte", entry(WTE, 0, 4 * 101 * 64))]), "has no header"),
        (table([(b"", message(f1=1, f2=1))]), "little-endian"),
        (table([(b"", message(f1=0))]), "claims 0 data files"),
        (table([HEADER, (b"model/wte", entry(WTE, 0, 4))]), "has 4 bytes for the shape"),
        (table([HEADER, (b"model/wte", entry(WTE, 1 << 62, 4 * 101 * 64))]), "should be at bytes"),
        (table([HEADER, (b"model/wte", entry((1 << 40, 1 << 40), 0, 1 << 60))]), "for the shape"),
        (table([HEADER, (b"model/wte", entry((1,) * 9, 0, 4))]), "has 9 axes"),
        (table([HEADER, (b"model/wte", entry(WTE, 0, 25856) + message(f7=b""))]), "stored in slices"),
        (table([HEADER, (b"model/wte", entry(WTE, 0, 25856) + message(f3=3))]), "in data file 3 of 1"),
        (table([HEADER, (b"a", entry(WTE, 0, 4)), (b"a", entry(WTE, 0, 4))]), "occurs twice"),
        (
            table([HEADER, (b"model/wpe", entry((24, 64), 64, 6144)), (b"model/wte", entry(WTE, 0, 25856))]),
            "overlap",
        ),
        (table([HEADER, (b"model/wte", b"\x0b")]), "has the kind 3"),
        (table([HEADER, (b"x" * 5000, b"")]), "an entry of the block"),
        (table([HEADER])[:-8] + bytes(8), "not a whole index"),
        (bytes((256 << 10) + 1), "which no checkpoint's index has"),
    ],
)
def test_hostile_indexes_are_refused(tmp_path: Path, index: bytes, fault: str) -> None:
    with pytest.raises(ModelError, match=fault):
        opened(tmp_path, index)


def test_blocks_of_tensorflow_that_overlap(tmp_path: Path) -> None:
    """The index names a block twice: its entries would be read without an end."""
    write_tensorflow(tmp_path, small_config())
    path = tmp_path / "model.ckpt.index"
    first = block([HEADER])
    handle = varint(0) + varint(len(first) - 5)
    blocks = block([(b"a", handle), (b"b", handle)])
    metaindex = block([])
    footer = varint(len(first)) + varint(len(metaindex) - 5)
    footer += varint(len(first) + len(metaindex)) + varint(len(blocks) - 5)
    magic = table([HEADER])[-8:]
    path.write_bytes(first + metaindex + blocks + footer.ljust(40, b"\0") + magic)
    with pytest.raises(ModelError, match="the block at byte 0 is out of order"):
        open_tensorflow(tmp_path)
