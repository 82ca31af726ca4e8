"""Prefixes: the same text as without one, snapshots that survive a round trip, refused hostile ones."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2, ModelError, Prefix

START = "Once upon a time there was a king who had three sons."
ENDS = [" The eldest", " And", "", " One day"]
PRECISIONS = ["fp32", "bf16", "int8", "int4"]


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(prefix_cache_bytes=0)


@pytest.fixture(scope="module")
def prefix(model: GPT2) -> Prefix:
    return model.prefill(START)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("options", [{}, {"seed": 3, "top_p": 0.9}], ids=["greedy", "sampled"])
def test_the_text_is_the_same_as_of_the_whole_prompt(precision: str, options: dict[str, Any]) -> None:
    model = GPT2.from_pretrained(precision=precision, prefix_cache_bytes=0)
    prefix = model.prefill(START)
    restored = model.load_prefix(prefix.to_bytes())
    ids = [prefix.token_ids + model.tokenizer.encode(end) for end in ENDS]
    whole = model.generate(ids, max_new_tokens=20, use_prefix_cache=False, **options)
    for one in (prefix, restored):
        found = model.generate(ENDS, prefix=one, max_new_tokens=20, use_prefix_cache=False, **options)
        assert [out.token_ids for out in found] == [out.token_ids for out in whole]
        assert [out.prompt_token_ids for out in found] == ids
        assert [out.cached_tokens for out in found] == [min(len(prefix), len(one) - 1) for one in ids]
    streamed = "".join(
        chunk.text for chunk in model.stream(ENDS[0], prefix=prefix, max_new_tokens=20, **options)
    )
    assert streamed == whole[0].text


def test_a_prefix_reports_its_tokens(model: GPT2, prefix: Prefix) -> None:
    assert prefix.token_ids == model.tokenizer.encode(START)
    assert len(prefix) == prefix.length == len(prefix.token_ids)
    assert repr(prefix) == f"Prefix(length={len(prefix)})"


def test_one_prefix_in_many_calls(model: GPT2, prefix: Prefix) -> None:
    first = model.generate(ENDS, prefix=prefix, max_new_tokens=12)
    assert model.generate("Something else", max_new_tokens=12).cached_tokens == 0
    assert model.generate(ENDS, prefix=prefix, max_new_tokens=12) == first


def test_prefix_and_output_must_fit_the_context(model: GPT2) -> None:
    prefix = model.prefill([5] * 500)
    with pytest.raises(ValueError, match=r"prompt \(501 tokens\) \+ max_new_tokens \(13\)"):
        model.generate([1], prefix=prefix, max_new_tokens=13)
    assert model.generate([1], prefix=prefix, max_new_tokens=12).cached_tokens == 500
    with pytest.raises(ValueError, match=r"text has 513 tokens, more than the model's n_positions \(512\)"):
        model.prefill([5] * 513)
    with pytest.raises(TypeError, match="text must be a single text"):
        model.prefill(["a", "b"])


def test_files(model: GPT2, prefix: Prefix, tmp_path: Path) -> None:
    path = tmp_path / "prefix.bin"
    path.write_bytes(b"something older")
    prefix.save(path)
    assert os.listdir(tmp_path) == ["prefix.bin"]
    assert path.read_bytes() == prefix.to_bytes()
    memory = io.BytesIO()
    prefix.save(memory)
    memory.seek(0)
    expected = model.generate(" And", prefix=prefix, max_new_tokens=8)
    for source in (path, str(path), path.read_bytes(), memory):
        assert model.generate(" And", prefix=model.load_prefix(source), max_new_tokens=8) == expected


def test_a_file_is_replaced_only_when_the_new_one_is_on_disk(
    prefix: Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prefix.bin"
    path.write_bytes(b"something older")

    def fail(descriptor: int) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="the disk is full"):
        prefix.save(path)
    assert path.read_bytes() == b"something older"
    assert os.listdir(tmp_path) == ["prefix.bin"]


def test_half_the_size_where_the_cache_has_half_the_precision(prefix: Prefix) -> None:
    single = GPT2.from_pretrained(precision="fp32").prefill(START)
    fixed = len(prefix.to_bytes()) - 4 * len(prefix)
    assert len(single.to_bytes()) - 4 * len(prefix) - 80 == 2 * (fixed - 80)


def test_a_prefix_belongs_to_its_model(prefix: Prefix) -> None:
    other = GPT2.from_pretrained(precision="int4")
    with pytest.raises(ValueError, match="prefix was made by another model"):
        other.generate("a", prefix=prefix)
    with pytest.raises(ValueError, match="prefix was made by another model"):
        other.rank("a", ["b"], prefix=prefix)
    with pytest.raises(ModelError, match="made by another model"):
        other.load_prefix(prefix.to_bytes())


def sealed(data: bytes) -> bytes:
    """Give damaged data a correct checksum, as an attacker would."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def test_a_prefix_belongs_to_a_kind_of_cache(prefix: Prefix) -> None:
    other = GPT2.from_pretrained(kv_cache="fp16")
    with pytest.raises(ModelError, match="made by another model"):
        other.load_prefix(prefix.to_bytes())
    with pytest.raises(ValueError, match="prefix was made by another model"):
        other.generate("A", prefix=prefix)


def test_every_byte_counts(model: GPT2, prefix: Prefix) -> None:
    data = prefix.to_bytes()
    places = [*range(48), *np.random.default_rng(0).integers(48, len(data), 60).tolist()]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(ModelError):
            model.load_prefix(bytes(damaged))


def test_every_length_but_the_right_one_is_refused(model: GPT2, prefix: Prefix) -> None:
    data = prefix.to_bytes()
    for length in (0, 1, 7, 8, 47, 48, 49, 80, len(data) // 2, len(data) - 1):
        for source in (data[:length], io.BytesIO(data[:length])):
            with pytest.raises(ModelError):
                model.load_prefix(source)
    with pytest.raises(ModelError, match="more than"):
        model.load_prefix(data + b"\0")


@pytest.mark.parametrize("tokens", [0, 513, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_small_file_that_claims_much_costs_nothing(
    model: GPT2, prefix: Prefix, tmp_path: Path, tokens: int
) -> None:
    """The number of tokens is compared with the model before anything is read or allocated."""
    header = bytearray(prefix.to_bytes()[:48])
    header[12:16] = struct.pack("<I", tokens)
    path = tmp_path / "claims"
    path.write_bytes(sealed(bytes(header) + bytes(100)))
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(ModelError, match=f"says that it has {tokens} tokens"):
            model.load_prefix(source)


def test_an_honest_header_before_too_little(model: GPT2, prefix: Prefix) -> None:
    header = bytearray(prefix.to_bytes()[:48])
    header[12:16] = struct.pack("<I", 512)
    with pytest.raises(ModelError, match="of 512 tokens must have"):
        model.load_prefix(sealed(bytes(header) + bytes(300)))


@pytest.mark.parametrize("token", [-1, 4096, 2**31 - 1])
def test_ids_outside_the_vocabulary(model: GPT2, prefix: Prefix, token: int) -> None:
    data = bytearray(prefix.to_bytes())
    data[48:52] = struct.pack("<i", token)
    with pytest.raises(ModelError, match="ids outside the vocabulary"):
        model.load_prefix(sealed(bytes(data)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(model: GPT2, prefix: Prefix, value: float) -> None:
    data = bytearray(prefix.to_bytes())
    data[-34:-32] = np.float16(value).tobytes()
    with pytest.raises(ModelError, match="no finite numbers"):
        model.load_prefix(sealed(bytes(data)))


def test_a_future_version(model: GPT2, prefix: Prefix) -> None:
    data = bytearray(prefix.to_bytes())
    data[8:12] = struct.pack("<I", 2)
    with pytest.raises(ModelError, match="format version 2"):
        model.load_prefix(sealed(bytes(data)))


def test_only_regular_files_of_a_possible_size(model: GPT2, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelError, match="at most"):
        model.load_prefix(large)
    with pytest.raises((ModelError, OSError)):
        model.load_prefix(tmp_path)
    with pytest.raises(FileNotFoundError):
        model.load_prefix(tmp_path / "absent")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(ModelError, match="not a regular file"):
            model.load_prefix(tmp_path / "fifo")
