"""Tokenizer: reference cases, round trips of any text and bytes, tables, files that don't fit."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2fast import ModelError, Tokenizer
from gpt2fast.checkpoints.base import TokenizerFiles
from gpt2fast.loading.sources import embedded_model
from gpt2fast.text.byte_level import BYTE_ALPHABET

TINY = Tokenizer.from_source(embedded_model())
UNICODE_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def gpt2_data(shared_dir: Path) -> Path:
    """The folder with OpenAI's vocabulary and the reference cases."""
    return shared_dir / "data" / "gpt2-tokenizer"


def test_reference_cases(gpt2_data: Path) -> None:
    tokenizer = Tokenizer.from_source(gpt2_data / "vocab.json")
    texts = (gpt2_data / "cases.inp.txt").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = (gpt2_data / "cases.out.txt").read_bytes().decode().split("\n")
    wanted = [[int(word) for word in line.split()] for line in lines[: len(texts)]]
    assert len(texts) == 47
    assert [tokenizer.encode(text) for text in texts] == wanted
    assert tokenizer.encode_batch(texts) == wanted
    assert tokenizer.decode_batch(wanted) == texts


def test_gpt2_vocabulary(gpt2_data: Path) -> None:
    tokenizer = Tokenizer.from_source(gpt2_data)
    assert (tokenizer.vocab_size, tokenizer.end_of_text_id) == (50257, 50256)
    assert tokenizer.encode("a<|endoftext|>b") == [64, 50256, 65]
    assert tokenizer.encode_bytes(b"Hello world") == [15496, 995]


def test_threads_go_on_while_a_long_text_is_encoded() -> None:
    line = "hello world.\n"
    done = threading.Event()
    found: list[list[int]] = []

    def encode() -> None:
        found.append(TINY.encode(line * 30_000))
        done.set()

    thread = threading.Thread(target=encode)
    thread.start()
    turns = 0
    while not done.wait(0.001):
        turns += 1
    thread.join()
    assert turns > 3  # one or two while Python's lock is kept
    assert found[0] == TINY.encode(line) * 30_000


@given(UNICODE_TEXT)
def test_text_round_trip(text: str) -> None:
    ids = TINY.encode(text)
    assert all(0 <= token < TINY.vocab_size for token in ids)
    assert TINY.decode(ids, skip_special_tokens=False) == text


@given(st.binary())
def test_bytes_round_trip(data: bytes) -> None:
    assert TINY.decode_bytes(TINY.encode_bytes(data)) == data


@given(UNICODE_TEXT.filter(lambda text: "<|endoftext|>" not in text))
def test_bytes_of_text_are_the_tokens_of_the_text(text: str) -> None:
    assert TINY.encode_bytes(text.encode()) == TINY.encode(text)


@given(st.lists(st.integers(0, TINY.vocab_size - 1)))
@settings(max_examples=50)
def test_decoding_agrees_with_the_tokenizers_package(ids: list[int]) -> None:
    import tokenizers

    reference = tokenizers.Tokenizer.from_file(str(embedded_model() / "tokenizer.json"))
    assert TINY.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_special_tokens() -> None:
    ids = TINY.encode("one<|endoftext|>two")
    assert TINY.end_of_text_id == 0
    assert ids.count(0) == 1
    assert TINY.special_token_ids == {0}
    assert TINY.decode(ids) == "onetwo"
    assert TINY.decode(ids, skip_special_tokens=False) == "one<|endoftext|>two"
    assert 0 not in TINY.encode_bytes(b"one<|endoftext|>two")


def test_token_bytes() -> None:
    table = TINY.token_bytes()
    assert len(table) == TINY.vocab_size
    assert table[0] == b""
    assert TINY.token_bytes(skip_special_tokens=False)[0] == b"<|endoftext|>"
    ids = TINY.encode("Ünïcödé, as bytes 🦙")
    assert b"".join(table[token] for token in ids) == "Ünïcödé, as bytes 🦙".encode()


def test_the_bytes_of_each_token_are_those_of_its_characters() -> None:
    backend = json.loads(TINY.to_json())["model"]["vocab"]
    bytes_of = {c: bytes([byte]) for byte, c in enumerate(BYTE_ALPHABET)}
    table = TINY.token_bytes()
    assert len(backend) > 4000
    for token, token_id in backend.items():
        if token_id not in TINY.special_token_ids:
            assert table[token_id] == b"".join(bytes_of[c] for c in token)
    data, offsets = TINY.byte_table()
    assert data == b"".join(TINY.token_bytes(skip_special_tokens=False))
    assert (len(offsets), offsets[0], offsets[-1]) == (TINY.vocab_size + 1, 0, len(data))


def test_an_added_token_stands_for_its_own_text() -> None:
    values = json.loads(TINY.to_json())
    values["added_tokens"].append(
        {**values["added_tokens"][0], "id": TINY.vocab_size, "content": "<é ▁🦙>", "special": False}
    )
    tokenizer = Tokenizer(json.dumps(values))
    assert tokenizer.encode("a<é ▁🦙>") == [*TINY.encode("a"), TINY.vocab_size]
    assert tokenizer.decode([TINY.vocab_size]) == "<é ▁🦙>"
    assert tokenizer.token_bytes()[: TINY.vocab_size] == TINY.token_bytes()


def test_ids_between_the_tokens_stand_for_nothing() -> None:
    tokenizer = Tokenizer.from_files(
        TokenizerFiles(vocab_json='{"a": 0, "Ġb": 5}', merges_txt=""), vocab_size=8
    )
    assert tokenizer.token_bytes() == [b"a", b"", b"", b"", b"", b" b", b"", b""]
    assert tokenizer.decode([5, 3, 0, 7]) == " ba"


def test_byte_alphabet_is_a_bijection_that_keeps_printable_ascii() -> None:
    assert len(set(BYTE_ALPHABET)) == 256
    assert all(BYTE_ALPHABET[byte] == chr(byte) for byte in range(0x21, 0x7F))
    assert BYTE_ALPHABET[0x20] == "Ġ"
    assert BYTE_ALPHABET[0x0A] == "Ċ"


def test_ids_of_integer_arrays_decode() -> None:
    ids = TINY.encode("The King said")
    assert TINY.decode(np.asarray(ids, dtype=np.int64)) == "The King said"


def test_vocabulary_larger_than_the_tokenizer() -> None:
    tokenizer = Tokenizer.from_source(embedded_model(), vocab_size=TINY.vocab_size + 100)
    assert tokenizer.decode_bytes([TINY.vocab_size + 99]) == b""
    assert len(tokenizer.token_bytes()) == TINY.vocab_size + 100


def test_vocabulary_smaller_than_the_tokenizer() -> None:
    with pytest.raises(
        ModelError, match=r"does not fit the model: its largest token id is 4095.* 4000 tokens"
    ):
        Tokenizer.from_source(embedded_model(), vocab_size=4000)


@pytest.mark.parametrize("token", [-1, 4096, 2**40])
def test_ids_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(
        ValueError, match=rf"token id {token} at position 1 is outside the vocabulary \(0 to 4095\)"
    ):
        TINY.decode([5, token])


def test_ids_that_are_not_integers() -> None:
    with pytest.raises(TypeError):
        TINY.decode([1.5])  # type: ignore[list-item]


@pytest.mark.parametrize("encode", [TINY.encode, lambda text: TINY.encode_batch(["a", text])])
def test_lone_surrogates_are_refused(encode: object) -> None:
    assert callable(encode)
    with pytest.raises(ValueError, match=r"lone surrogate U\+D83D at position 2"):
        encode("ab\ud83dc")


def test_bytes_are_not_text() -> None:
    with pytest.raises(TypeError, match="must be a str, got bytes"):
        TINY.encode(b"abc")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"version": "1.0", "model": 5}'])
def test_broken_files(text: str) -> None:
    with pytest.raises(ModelError, match=r"some\.json: not a tokenizer"):
        Tokenizer(text, where="some.json")


def test_a_token_outside_the_byte_alphabet_stands_for_its_own_text() -> None:
    import tokenizers

    values = json.loads((embedded_model() / "tokenizer.json").read_text("utf-8"))
    values["model"]["vocab"] = {"a": 0, "▁word": 3, "Ġb": 4}
    values["model"]["merges"] = []
    values["added_tokens"] = []
    text = json.dumps(values)
    assert (
        Tokenizer(text).decode([0, 3, 4])
        == "a▁word b"
        == tokenizers.Tokenizer.from_str(text).decode([0, 3, 4])
    )


def test_truncation_of_the_file_is_not_applied() -> None:
    values = json.loads((embedded_model() / "tokenizer.json").read_text("utf-8"))
    values["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    assert Tokenizer(json.dumps(values)).encode("one two three four") == TINY.encode("one two three four")


@pytest.mark.parametrize(
    ("vocabulary", "merges"),
    [("[]", ""), ('{"a": 0}', "a b"), ('{"a": 0}', "a"), ("{", ""), ('{"a": -1}', "")],
)
def test_original_files_that_do_not_fit(vocabulary: str, merges: str) -> None:
    with pytest.raises(ModelError, match=r"x/vocab\.json: not a GPT-2 vocabulary"):
        Tokenizer.from_files(TokenizerFiles(vocab_json=vocabulary, merges_txt=merges), where="x/vocab.json")


def test_original_files_with_windows_line_ends() -> None:
    files = TokenizerFiles(vocab_json='{"a": 0, "b": 1, "ab": 2}', merges_txt="#version: 0.2\r\na b\r\n")
    assert Tokenizer.from_files(files).encode("abba") == [2, 1, 0]
