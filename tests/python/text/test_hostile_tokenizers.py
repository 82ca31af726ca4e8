"""Tokenizer files that are broken or trapped: a ModelError or ValueError that says what is wrong, at once."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast import ModelError, Tokenizer
from gpt2fast.checkpoints.base import TokenizerFiles
from gpt2fast.loading.sources import embedded_model
from gpt2fast.text import growth
from gpt2fast.text.backend import explained, written
from gpt2fast.text.clean_up import IncrementalCleanUp, clean_up
from gpt2fast.text.incremental import IncrementalDecoder
from support.tokenizer_samples import SAMPLES, write_sample

FILE: dict[str, Any] = json.loads((embedded_model() / "tokenizer.json").read_text("utf-8"))
VOCABULARY = FILE["model"]["vocab"]
END = FILE["added_tokens"][0]
SPACES = {"pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None, "added_tokens": []}


def template(token_id: int | None) -> dict[str, Any]:
    """A template with a token in front, which may not be defined."""
    named = {} if token_id is None else {"<q>": {"id": "<q>", "ids": [token_id], "tokens": ["<q>"]}}
    single = [{"SpecialToken": {"id": "<q>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": named}


def made(model: dict[str, Any] | None = None, **parts: Any) -> Tokenizer:
    """The embedded model's tokenizer with parts replaced."""
    return Tokenizer(json.dumps({**FILE, **parts, "model": {**FILE["model"], **(model or {})}}))


def charsmap_of(claimed: int) -> dict[str, str]:
    """A map of characters that claims so many bytes and has two."""
    return {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(struct.pack("<I", claimed) + b"ab").decode(),
    }


@pytest.mark.parametrize(
    ("model", "parts", "message"),
    [
        ({"vocab": {**VOCABULARY, "z": 200_000_000}}, {}, "largest token id is 200000000.* may be unused"),
        ({"vocab": {**VOCABULARY, "zzzz": 5}}, {}, "the tokens '%' and 'zzzz' have one id, 5"),
        ({"vocab": {"a": 1.5}}, {}, "ids must be integers"),
        ({"vocab": {"a": True}}, {}, "ids must be integers"),
        ({}, {"added_tokens": [END, {**END, "id": 200_000_000, "content": "<x>"}]}, "id 200000000.* be 4096"),
        ({}, {"added_tokens": [END, {**END, "id": 5, "content": "<x>"}]}, "'<x>' has the id 5; .* be 4096"),
        ({}, {"added_tokens": [END, END]}, r"the added token '<\|endoftext\|>' occurs twice"),
        ({}, {"added_tokens": ["x"]}, "not a tokenizer"),
        ({}, {"pre_tokenizer": None}, "decoder is ByteLevel, and neither pre_tokenizer nor normalizer is"),
        (
            {},
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
            "not a tokenizer: Prec",
        ),
        ({}, {"normalizer": charsmap_of(2**32 - 4096)}, "claims 4294963200 bytes and has 2"),
        (
            {},
            {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, charsmap_of(3)]}},
            r"the map of characters in its normalizer .* claims 3 bytes and has 2",
        ),
        ({}, {"post_processor": template(None)}, "not a tokenizer: no entry found"),
        ({}, {"post_processor": template(99_999)}, "post_processor adds the token id 99999.* ends at 4095"),
        (
            {"vocab": {"a": 0, "b": 2}, "merges": []},
            {"added_tokens": [{**END, "id": 2}]},
            "id of another token",
        ),
    ],
)
def test_it_is_refused(model: dict[str, Any], parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        made(model, **parts)


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}, SPACES),
        (
            {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "<unk>", "max_input_chars_per_word": 9},
            SPACES,
        ),
        ({"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": None}, SPACES),
        ({}, {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}}),
    ],
)
def test_a_text_that_it_cannot_encode(model: dict[str, Any], parts: dict[str, Any]) -> None:
    """The package's errors, one of them a panic; without an unknown token a word may have no id."""
    model = {"continuing_subword_prefix": "##", **model} if model else FILE["model"]
    tokenizer = Tokenizer(json.dumps({**FILE, **parts, "model": model}))
    for encode in (
        tokenizer.encode,
        lambda text: tokenizer.encode_batch([text]),
        tokenizer,
        tokenizer.tokenize,
    ):
        with pytest.raises(ValueError, match="can't be encoded"):
            encode("Once ☃")


def replaces(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
METASPACE = {"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": True}
GROWING = {
    "twice as long": replaces({"String": "a"}, "aa"),
    "where nothing is": replaces({"Regex": "b?"}, "a"),
    "in front": {"type": "Prepend", "prepend": "ab"},
    "bytes": {"type": "ByteLevel"},
    "composed": {"type": "NFKD"},
}


def sequence(name: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Sequence", name: steps}


NESTED = sequence("normalizers", [GROWING["twice as long"]] * 2)


@pytest.mark.parametrize(
    "parts",
    [
        *({"normalizer": sequence("normalizers", [step] * 40)} for step in GROWING.values()),
        {"normalizer": sequence("normalizers", [NESTED] * 20)},
        {"pre_tokenizer": sequence("pretokenizers", [BYTE_LEVEL] * 40)},
        {"pre_tokenizer": sequence("pretokenizers", [METASPACE] * 40)},
        {"normalizer": replaces({"String": "a"}, "a" * (1 << 14))},
        {"decoder": sequence("decoders", [GROWING["twice as long"]] * 40)},
    ],
    ids=[*GROWING, "nested", "bytes of bytes", "marks", "at once", "decoder"],
)
def test_texts_can_not_grow_without_bound(parts: dict[str, Any]) -> None:
    """Two kilobytes of steps that double a text would make a terabyte of a word, and end the process."""
    with pytest.raises(ModelError, match=r"steps of its .* can make a text more than 16384 times as long"):
        made(**parts)


@pytest.mark.parametrize(
    ("texts", "characters"),
    [
        (b"", 1),
        (b"a\0", 1),
        (b"\0" * (8 << 20), 1),
        ("ab\0\u0635\u0644\u0649\0c".encode(), 3),
        (b"a" * 40_000, 16385),
    ],
)
def test_the_longest_text_of_a_character_map(texts: bytes, characters: int) -> None:
    charsmap = base64.b64encode(struct.pack("<I", 4) + b"trie" + texts).decode()
    assert growth._growth({"type": "Precompiled", "precompiled_charsmap": charsmap}) == characters


def test_steps_that_do_not_make_texts_longer_may_be_many() -> None:
    steps = [replaces({"String": "a"}, "b"), replaces({"Regex": "c+"}, ""), {"type": "Lowercase"}]
    tokenizer = made(normalizer=sequence("normalizers", [*steps[:2] * 40, steps[2]]))
    assert tokenizer.encode("cacA") == made().encode("ba")


@pytest.mark.parametrize(
    ("model", "length"),
    [
        ({"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a", "max_input_chars_per_word": 5000}, 5000),
        ({"type": "Unigram", "vocab": [["a", -1.0], ["a" * 1001, -1.0]], "unk_id": 0}, 1001),
    ],
)
def test_words_and_pieces_are_not_too_long(model: dict[str, Any], length: int) -> None:
    """A word of 40,000 characters would take WordPiece twenty minutes."""
    model = {"continuing_subword_prefix": "##", **model}
    with pytest.raises(ModelError, match=rf"words or pieces of {length} characters .*the limit is 1000"):
        Tokenizer(json.dumps({**FILE, **SPACES, "model": model}))


def test_a_panic_for_want_of_memory_is_a_memory_error() -> None:
    """Of the package's own classes, as it raises them when Python has no memory for a text."""
    panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

    class Failing:
        def to_str(self) -> str:
            raise panic("PyObject pointer is null")

    with pytest.raises(MemoryError, match="the tokenizer can't be written: PyObject pointer is null"):
        written(Failing())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="it can't: index out of range"), explained("it can't", ValueError):
        raise panic("index out of range")


def streamed(tokenizer: Tokenizer, ids: list[int], **options: Any) -> str:
    decoder = IncrementalDecoder(tokenizer, **options)
    return "".join(decoder.feed([token]) for token in ids) + decoder.feed([], final=True)


def test_special_tokens_that_the_normalizer_changes_are_special() -> None:
    """The package looks for them by what they become."""
    values = SAMPLES["byte_fallback"]()["tokenizer.json"]
    values["added_tokens"][1]["normalized"] = True
    tokenizer = Tokenizer(json.dumps(values))
    ids = tokenizer.encode("at once")
    assert ids[0] == 1
    assert tokenizer.decode(ids) == streamed(tokenizer, ids) == tokenizer.decode(ids[1:])
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    assert streamed(tokenizer, ids, skip_special_tokens=False) == whole
    assert whole.startswith("<s>")


@pytest.mark.parametrize("token", ["o</w>x", "</w>ab", "a</w>b</w>", "</w></w>"])
def test_marks_within_tokens_are_not_streamed(token: str) -> None:
    """What they become depends on what follows, which the end of a stream tells too late."""
    values = SAMPLES["word_end"]()["tokenizer.json"]
    values["model"]["vocab"][token] = len(values["model"]["vocab"])
    with pytest.raises(ValueError, match=r"decoder \(BPEDecoder\) makes a text of all tokens together"):
        IncrementalDecoder(Tokenizer(json.dumps(values)))


def test_dropout_of_training_is_not_applied() -> None:
    plain, random = made(), made({"dropout": 0.9})
    assert {tuple(random.encode("Once upon a time")) for _ in range(20)} == {
        tuple(plain.encode("Once upon a time"))
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokenizer_config", "{", r"here: tokenizer_config\.json: not valid JSON"),
        ("tokenizer_config", '{"bos_token": 5}', "here: bos_token must name a token, got 5"),
        ("tokenizer_config", '{"add_bos_token": "yes"}', "here: add_bos_token must be a bool, got 'yes'"),
        ("tokenizer_config", '{"added_tokens_decoder": {"x": {}}}', "added_tokens_decoder must map ids"),
        ("tokenizer_config", '{"added_tokens_decoder": {"9": {"content": "<x>"}}}', "has the id 9.* be 2"),
        ("tokenizer_config", '{"padding_side": "up"}', "padding_side must be left or right, got 'up'"),
        ("tokenizer_config", '{"extra_special_tokens": 1}', "extra_special_tokens must be a list of tokens"),
        ("special_tokens_map", "[]", r"here: special_tokens_map\.json: must hold a JSON object"),
        ("added_tokens", '{"<x>": "2"}', r"added_tokens\.json must map tokens to ids"),
        ("added_tokens", '{"<x>": 200000000}', "'<x>' has the id 200000000; .* must be 2"),
        ("added_tokens", '{"<x>": 2, "<x>": 2}', "the key '<x>' occurs twice"),
    ],
)
def test_files_beside_a_vocabulary(name: str, value: str, message: str) -> None:
    files: dict[str, str] = {"vocab_json": '{"a": 0, "b": 1}', "merges_txt": "", name: value}
    with pytest.raises(ModelError, match=message):
        Tokenizer.from_files(TokenizerFiles(**files), where="here")


def test_a_file_named_alone_is_read_with_those_beside_it(tmp_path: Path) -> None:
    directory = write_sample("special_tokens_map", tmp_path)
    assert Tokenizer.from_source(directory / "vocab.json").encode("<s>") == [266]
    (directory / "model.safetensors").write_bytes(b"")
    assert Tokenizer.from_source(directory / "model.safetensors").encode("<s>") == [266]


@given(st.text(" .,!?'ntmsvrea", max_size=30), st.lists(st.integers(0, 6), max_size=12))
def test_cleaned_up_parts_are_the_cleaned_up_whole(text: str, sizes: list[int]) -> None:
    cleaner, rest, parts = IncrementalCleanUp(), text, []
    for size in sizes:
        parts.append(cleaner.feed(rest[:size], final=False))
        rest = rest[size:]
    assert "".join([*parts, cleaner.feed(rest, final=True)]) == clean_up(text)
