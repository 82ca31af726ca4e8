"""SentencePiece models: texts and ids as the library ``sentencepiece`` has them; broken and hostile files."""

from __future__ import annotations

import json
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast import GPT2
from gpt2fast.checkpoints.sentencepiece_merges import merges_of
from gpt2fast.checkpoints.sentencepiece_model import read_sentencepiece
from gpt2fast.errors import ModelError
from gpt2fast.text.incremental import IncrementalDecoder
from gpt2fast.text.tokenizer import Tokenizer

GOLDENS = Path(__file__).resolve().parents[2] / "goldens" / "sentencepiece"
ANSWERS = json.loads((GOLDENS / "answers.json").read_text("utf-8"))
NAMES = ("normalized", "plain", "bpe", "bytes")
TOKENIZERS = {name: Tokenizer.from_source(GOLDENS / f"{name}.model") for name in NAMES}

# A character has one mark at most: several are put in order by one of the two alone.
characters = "猫犬王様が森で眠りました。 the old king\t\n\u3000ABC１２ﾘｶﾞガéξ🦙!?▁"
some_text = st.lists(
    st.sampled_from([*characters, "e\u0301", "か\u3099", "[SEP]", " a little girl"]), max_size=16
).map("".join)


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_encoded_and_decoded_as_by_the_library(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    assert [tokenizer.encode(text) for text in ANSWERS["texts"]] == ANSWERS[name]["ids"]
    assert tokenizer.encode_batch(ANSWERS["texts"]) == ANSWERS[name]["ids"]
    assert [tokenizer.decode(ids) for ids in ANSWERS[name]["ids"]] == ANSWERS[name]["texts"]


@pytest.mark.parametrize("name", NAMES)
@given(text=some_text)
def test_any_text_is_encoded_as_by_the_library(name: str, text: str) -> None:
    library = pytest.importorskip("sentencepiece").SentencePieceProcessor(
        model_file=str(GOLDENS / f"{name}.model")
    )
    ids = library.encode(text)
    assert TOKENIZERS[name].encode(text) == ids
    known = [token for token in ids if token != library.unk_id()]
    assert TOKENIZERS[name].decode(known) == library.decode(known)


@pytest.mark.parametrize("name", NAMES)
@given(places=st.lists(st.integers(0, 99), max_size=12))
def test_streamed_pieces_are_the_text(name: str, places: list[int]) -> None:
    tokenizer = TOKENIZERS[name]
    decoder = IncrementalDecoder(tokenizer)
    pieces = [decoder.feed([token]) for token in places]
    assert "".join(pieces) + decoder.feed([], final=True) == tokenizer.decode(places)


def test_tokens_have_the_roles_of_the_file() -> None:
    assert TOKENIZERS["normalized"].roles() == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    assert TOKENIZERS["plain"].pad_token is None
    assert TOKENIZERS["normalized"].end_of_text_id == 2


@pytest.fixture(scope="module")
def checkpoint(embedded_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose only tokenizer is a SentencePiece model, as Japanese GPT-2s have it."""
    directory = tmp_path_factory.mktemp("japanese") / "model"
    shutil.copytree(embedded_dir, directory, ignore=shutil.ignore_patterns("tokenizer*"))
    shutil.copyfile(GOLDENS / "normalized.model", directory / "spiece.model")
    config = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "sep_token": "[SEP]", "extra_ids": 0}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def test_a_model_with_one_reads_and_writes_text(checkpoint: Path) -> None:
    model = GPT2.from_pretrained(checkpoint)
    prompt = "猫が森で"
    options: dict[str, Any] = {"seed": 1, "max_new_tokens": 20, "eos_token_id": []}
    options["suppress_tokens"] = list(range(100, 4096))
    out = model.generate(prompt, **options)
    assert out.prompt_token_ids == TOKENIZERS["normalized"].encode(prompt)
    assert out.text.strip(" ") == TOKENIZERS["normalized"].decode(out.token_ids).strip(" ")
    assert len(out.text) > 5
    assert "".join(chunk.text for chunk in model.stream(prompt, **options)) == out.text
    assert model.tokenizer.roles()["sep_token"] == "[SEP]"
    assert model.tokenizer.decode([*model.tokenizer.encode("犬"), 2]) == "犬"


def test_lower_case_where_the_tokenizer_has_it(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copyfile(checkpoint / "spiece.model", tmp_path / "spiece.model")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    lowered = Tokenizer.from_source(tmp_path)
    assert lowered.encode("THE ＯＬＤ King") == TOKENIZERS["normalized"].encode("the old king")
    assert Tokenizer.from_source(tmp_path / "spiece.model").encode("THE") == lowered.encode("the")


DATA = (GOLDENS / "plain.model").read_bytes()


def field(number: int, payload: bytes) -> bytes:
    """A field of bytes; the payload is shorter than 128."""
    return bytes([number << 3 | 2, len(payload)]) + payload


def piece(text: bytes, score: float = -1.0, kind: int = 1) -> bytes:
    return field(1, field(1, text) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))


UNKNOWN, SETTINGS = piece(b"<unk>", 0, 2), field(2, b"\x18\x01") + field(3, b"\x18\x01")


BPE_SETTINGS = field(2, b"\x18\x02") + field(3, b"\x18\x00")


def long_piece(length: int) -> bytes:
    """A piece of more than 100 letters, whose sizes take two bytes each."""
    inner = b"\x0a" + bytes([0x80 | length & 127, length >> 7]) + b"a" * length
    return b"\x0a" + bytes([0x80 | len(inner) & 127, len(inner) >> 7]) + inner


def test_the_leftmost_of_two_ways_to_one_piece_is_joined() -> None:
    scores = {b"a": -9.0, b"b": -8.0, b"ba": -1.0, b"ab": -2.0, b"aba": -3.0}
    pieces = b"".join(piece(one, score) for one, score in scores.items())
    tokenizer = Tokenizer(read_sentencepiece(UNKNOWN + pieces + BPE_SETTINGS, "x")[0])
    # "ab" + "a" and "a" + "ba" are "aba"; "ba" is joined before "ab".
    assert tokenizer.encode("aba") == [5]
    assert tokenizer.encode("ababa") == [5, 3]
    assert tokenizer.encode("bab") == [3, 2]
    assert merges_of({"a": -9, "aa": -1, "aaa": -2}, "x") == [("a", "a"), ("a", "aa"), ("aa", "a")]
    assert merges_of({"a": 0, "b": 0, "ab": -1, "ba": -2, "aba": -3}, "x") == [
        ("a", "b"),
        ("b", "a"),
        ("ab", "a"),
        ("a", "ba"),
    ]


def test_a_model_made_by_hand() -> None:
    text, roles = read_sentencepiece(UNKNOWN + piece(b"a") + piece("▁a".encode()) + SETTINGS, "x")
    tokenizer = Tokenizer(text)
    assert tokenizer.encode("a  aa") == [2, 2, 1]
    assert roles == {"unk_token": "<unk>", "bos_token": "a", "eos_token": "▁a"}


@pytest.mark.parametrize("length", [*range(200), *range(200, len(DATA), 97), len(DATA) - 1])
def test_a_file_that_is_cut_short(length: int) -> None:
    with pytest.raises(ModelError, match=r"^x\.model: not a SentencePiece model: "):
        read_sentencepiece(DATA[:length], "x.model")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut short, or has no settings"),
        (b"\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01abc", "a field is longer than it"),
        (b"\n" + b"\xff" * 11, "a number does not end"),
        (UNKNOWN + SETTINGS + field(9, b"new"), "its model has the field 9 of kind 2"),
        (UNKNOWN + SETTINGS + SETTINGS, "its model has the field 2 of kind 2 2 times"),
        (UNKNOWN + field(2, field(99 >> 3, b"")) + field(3, b""), "trainer's settings has the field 12"),
        (piece(b"\xff") + SETTINGS, "is not UTF-8"),
        (UNKNOWN + piece(b"a") + piece(b"a") + SETTINGS, "piece 2 ('a') is empty or occurs twice"),
        (UNKNOWN + piece(b"") + SETTINGS, "piece 1 ('') is empty"),
        (UNKNOWN + piece(b"a", float("nan")) + SETTINGS, "the score of piece 1 ('a') is nan"),
        (UNKNOWN + piece(b"a", float("-inf")) + SETTINGS, "the score of piece 1 ('a') is -inf"),
        (UNKNOWN + piece(b"a", -1, 5) + SETTINGS, "piece 1 ('a') is of the kind 5"),
        (piece(b"a") + SETTINGS, "has one piece for unknown words, this one 0"),
        (UNKNOWN + field(2, b"\x18\x03") + field(3, b""), "of the kind word; unigram and bpe are read"),
        (
            UNKNOWN + b"".join(piece(one) for one in (b"a", b"b", b"ab", b"ba")) + BPE_SETTINGS,
            "the pieces 'ab' and 'ba' have the same score, -1.0; a tokenizer.json can't tell which",
        ),
        (UNKNOWN + long_piece(129) + BPE_SETTINGS, "has 129 characters, more than 128"),
        (UNKNOWN + field(2, b"\xc0\x01\x01") + field(3, b""), "marks spaces in another way"),
        (UNKNOWN + field(2, b"") + field(3, b"\x28\x00"), "marks spaces in another way"),
    ],
)
def test_what_is_broken_or_not_read_is_said(data: bytes, message: str) -> None:
    with pytest.raises(ModelError) as error:
        read_sentencepiece(data, "x.model")
    assert str(error.value).startswith("x.model: ")
    assert message in str(error.value)


@given(charsmap=st.binary(min_size=1, max_size=60))
def test_rules_of_random_bytes_are_an_error_at_most(charsmap: bytes) -> None:
    data = UNKNOWN + piece(b"a") + field(2, b"") + field(3, field(2, charsmap))
    text, _ = read_sentencepiece(data, "x.model")
    with suppress(ModelError, ValueError):
        Tokenizer(text).encode("aé猫")


def test_the_weights_of_a_model_with_a_broken_one_are_read(checkpoint: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(checkpoint, directory)
    (directory / "spiece.model").write_bytes(DATA[:1000])
    with pytest.warns(
        UserWarning, match=r"not a SentencePiece model: .*; the model takes token ids, but no text"
    ):
        model = GPT2.from_pretrained(directory)
    assert not model.has_tokenizer
    assert len(model.generate([5, 6], max_new_tokens=2).token_ids) == 2
    with pytest.raises(ModelError, match="not a SentencePiece model"):
        Tokenizer.from_source(directory)
