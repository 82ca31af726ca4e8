"""GGUF files: every number format against the writer's own numbers, the tokenizer, and broken headers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2
from gpt2fast.checkpoints import gguf_file
from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.checkpoints.gguf_file import open_gguf
from gpt2fast.errors import ModelError
from gpt2fast.text.tokenizer import Tokenizer
from support.checkpoint_samples import byte_level_vocabulary, gguf_name, random_tensors, small_config
from support.gguf_samples import CONFIG, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, add, write_gguf

gguf = pytest.importorskip("gguf")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_reads_every_tensor(tmp_path: Path, kind: str) -> None:
    wanted = write_gguf(tmp_path / "model.gguf", kind=kind)
    checkpoint = open_gguf(tmp_path / "model.gguf")
    assert checkpoint.config == CONFIG
    assert set(checkpoint.tensors) == set(wanted)
    for name, values in wanted.items():
        tensor = checkpoint.tensors[name]
        np.testing.assert_array_equal(tensor.read(), values, err_msg=name)
        # Rows that begin and end inside quantised blocks.
        np.testing.assert_array_equal(tensor.read_rows(5, 21), values[5:21], err_msg=name)
        assert tensor.read().flags.c_contiguous


def test_k_quants_are_read(tmp_path: Path) -> None:
    """The package expands Q6_K but does not write it, so the blocks are made by hand."""
    path = tmp_path / "model.gguf"
    generator = np.random.default_rng(1)
    rows = generator.integers(0, 256, (101, 210), dtype=np.uint8)
    rows[:, 208:] = np.full((101, 1), 0.25, "<f2").view(np.uint8)
    wide = small_config(n_embd=256, n_layer=1)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_block_count(1)
    writer.add_embedding_length(256)
    writer.add_head_count(4)
    for name, values in random_tensors(wide).items():
        if name == "wte.weight":
            writer.add_tensor(gguf_name(name), rows, raw_dtype=gguf.GGMLQuantizationType.Q6_K)
        else:
            add(writer, name, values, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    table = open_gguf(path).tensors["wte.weight"]
    assert table.shape == (101, 256)
    np.testing.assert_array_equal(
        table.read_rows(7, 9), gguf.quants.dequantize(rows[7:9], gguf.GGMLQuantizationType.Q6_K)
    )


def test_a_repeated_table_is_a_tied_head(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", kind="F16", head="F16")
    checkpoint = open_gguf(tmp_path / "model.gguf")
    assert checkpoint.config.tie_word_embeddings
    assert "lm_head.weight" not in checkpoint.tensors


def test_another_head_is_kept(tmp_path: Path) -> None:
    wanted = write_gguf(tmp_path / "model.gguf", kind="Q4_0", head="Q8_0")
    checkpoint = open_gguf(tmp_path / "model.gguf")
    assert not checkpoint.config.tie_word_embeddings
    np.testing.assert_array_equal(checkpoint.tensors["lm_head.weight"].read(), wanted["lm_head.weight"])


@pytest.mark.parametrize("last_type", [CONTROL, NORMAL])
def test_the_tokenizer_comes_along(tmp_path: Path, last_type: int) -> None:
    write_gguf(tmp_path / "model.gguf", last_type=last_type)
    checkpoint = open_gguf(tmp_path / "model.gguf")
    assert checkpoint.tokenizer.tokenizer_json is not None
    tokenizer = Tokenizer(checkpoint.tokenizer.tokenizer_json, vocab_size=CONFIG.vocab_size)
    tokens, _ = byte_level_vocabulary(CONFIG.vocab_size)
    assert tokenizer.encode("BCB<|endoftext|>") == [
        tokens.index("B"),
        tokens.index("C"),
        tokens.index("B"),
        100,
    ]
    assert tokenizer.encode('!"') == [tokens.index('!"')]
    assert checkpoint.config.eos_token_ids == (100,)


def test_the_keys_of_the_tokenizer_count(tmp_path: Path) -> None:
    tokens, _ = byte_level_vocabulary(CONFIG.vocab_size)
    types = [NORMAL] * 98 + [UNKNOWN, USER_DEFINED, CONTROL]
    write_gguf(
        tmp_path / "model.gguf",
        bos=97,
        padding=98,
        add_bos=True,
        types=types,
        chat_template="{{ bos_token }}",
    )
    files = open_gguf(tmp_path / "model.gguf").tokenizer
    tokenizer = Tokenizer.from_files(files, vocab_size=CONFIG.vocab_size)
    assert tokenizer.encode("B<|endoftext|>") == [97, tokens.index("B"), 100]
    assert tokenizer.encode("B", add_special_tokens=False) == [tokens.index("B")]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (97, 100, 98)
    assert tokenizer.special_token_ids == {97, 98, 100}
    assert tokenizer.encode(tokens[99], add_special_tokens=False) == [99]
    assert tokenizer.decode([99, 97, 98]) == tokens[99]
    assert tokenizer.chat_template == "{{ bos_token }}"


def test_a_tokenizer_that_adds_nothing(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", add_bos=False)
    tokenizer = Tokenizer.from_source(tmp_path / "model.gguf")
    assert tokenizer.encode("<|endoftext|>") == [100]


def test_another_kind_of_tokenizer_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", pre="llama-bpe")
    with pytest.raises(ModelError, match=r"model\.gguf: has no tokenizer of GPT-2's kind"):
        Tokenizer.from_source(tmp_path / "model.gguf")


def test_another_kind_of_tokenizer_is_left_out(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", pre="llama-bpe")
    checkpoint = open_gguf(tmp_path / "model.gguf")
    assert not checkpoint.tokenizer
    kind = "has no tokenizer of GPT-2's kind: tokenizer.ggml.model is 'gpt2', tokenizer.ggml.pre 'llama-bpe'"
    assert kind in str(checkpoint.tokenizer_fault)
    with pytest.warns(UserWarning, match=kind):
        model = GPT2.from_pretrained(tmp_path / "model.gguf")
    assert len(model.generate([5], max_new_tokens=2, eos_token_id=[]).token_ids) == 2
    with pytest.raises(ModelError, match=kind):
        model.tokenizer  # noqa: B018


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"architecture": "llama"}, "the architecture is 'llama'"),
        ({"heads": 7}, "n_embd .64. must be a multiple of n_head .7."),
    ],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, **change)
    with pytest.raises(ModelError, match=rf"model\.gguf: .*{fault}"):
        open_gguf(path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"tokens": ["a"] * 101}, "occurs twice in tokenizer.ggml.tokens"),
        ({"tokens": ["a"]}, "as long as tokenizer.ggml.tokens"),
        ({"merges": ["no pair of tokens"]}, "does not join two tokens"),
        ({"merges": ["! zzz"]}, "does not join two tokens"),
    ],
)
def test_a_broken_tokenizer_leaves_the_weights(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, **change)
    checkpoint = open_gguf(path)
    assert not checkpoint.tokenizer
    assert fault in str(checkpoint.tokenizer_fault)


def test_a_missing_layer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path)
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_up.bias", b"blk.1.ffn_xx.bias"))
    with pytest.raises(ModelError, match=r"the tensor 'h\.1\.mlp\.c_fc\.bias' is missing"):
        open_gguf(path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path)
    whole = path.read_bytes()
    for length in [*range(400), *range(400, len(whole), 997), len(whole) - 33]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"model\.gguf"):
            open_gguf(path)


def header(tensors: int = 0, entries: int = 0, body: bytes = b"", *, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + body


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor(name: str, dimensions: list[int], kind: int, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("gpt2")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (header(version=1), "GGUF version 1"),
        (header(version=0x03000000), "GGUF version 50331648"),
        (header(1 << 63), "claims 9223372036854775808 tensors"),
        (header((1 << 14) + 1, 0, bytes(24 << 15)), "claims 16385 tensors; the limit is 16384"),
        (header(0, 1 << 60), "claims 1152921504606846976 metadata entries"),
        (header(0, 1, struct.pack("<Q", 1 << 62) + bytes(32)), "bytes of a string"),
        (header(0, 1, text("a") + struct.pack("<IIQ", 9, 8, 1 << 61) + bytes(32)), "strings of an array"),
        (header(0, 1, text("a") + struct.pack("<IIQ", 9, 10, 1 << 61) + bytes(32)), "items of an array"),
        (header(0, 1, text("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(32)), "items of the type 9"),
        (header(0, 1, text("a") + struct.pack("<I", 77) + bytes(32)), "unknown type 77"),
        (header(0, 2, 2 * ARCHITECTURE), "occurs twice"),
        (header(0, 1, struct.pack("<Q", 2) + b"\xff\xff" + bytes(32)), "not UTF-8"),
        (header(1, 1, ARCHITECTURE + tensor("a", [2] * 5, 0, 0)), "has 5 axes"),
        (header(1, 1, ARCHITECTURE + tensor("a", [1 << 40, 1 << 40], 0, 0)), "has the dimensions"),
        (header(1, 1, ARCHITECTURE + tensor("a", [1 << 32, 1 << 31], 0, 0)), "the tensor 'a' should be at"),
        (header(1, 1, ARCHITECTURE + tensor("a", [0, 4], 0, 0)), "has the dimensions"),
        (header(1, 1, ARCHITECTURE + tensor("a", [4], 0, 1)), "not aligned"),
        (header(1, 1, ARCHITECTURE + tensor("a", [4], 0, (1 << 64) - 32)), "the tensor 'a' should be at"),
        (header(1, 1, ARCHITECTURE + tensor("a", [4], 99, 0) + bytes(64)), "unsupported type 99"),
        (header(1, 1, ARCHITECTURE + tensor("a", [33], 8, 0) + bytes(64)), "not whole blocks of 32"),
        (
            header(2, 1, ARCHITECTURE + tensor("a", [8], 0, 0) + tensor("b", [8], 0, 0) + bytes(64)),
            "'a' and 'b' overlap",
        ),
        (header(0, 1, ARCHITECTURE), "'token_embd.weight' is missing"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=fault):
        open_gguf(path)


def test_a_type_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only trying tells whether a type can be expanded; for each of 65,536 tensors that took 3.7 s."""
    tried = []
    expand = gguf.quants.dequantize

    def dequantize(data: Any, kind: Any) -> Any:
        tried.append(kind)
        return expand(data, kind)

    monkeypatch.setattr(gguf.quants, "dequantize", dequantize)
    gguf_file._block_format.cache_clear()
    path = tmp_path / "model.gguf"
    tensors = b"".join(tensor(str(number), [32], 8, 64 * number) for number in range(100))
    path.write_bytes(header(100, 1, ARCHITECTURE + tensors) + bytes(6464))
    with pytest.raises(ModelError, match=r"'token_embd\.weight' is missing"):
        open_gguf(path)
    gguf_file._block_format.cache_clear()
    assert tried == [gguf.GGMLQuantizationType.Q8_0]


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    prints = []
    for kind in ("F32", "F16", "F32"):
        write_gguf(tmp_path / "model.gguf", kind=kind)
        opened: Checkpoint = open_gguf(tmp_path / "model.gguf")
        prints.append(opened.fingerprint)
    assert prints[0] == prints[2] != prints[1]
