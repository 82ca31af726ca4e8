"""Incremental decoding: the deltas joined equal the decoded whole, and no delta splits a character."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpt2fast import IncrementalDecoder, Tokenizer
from gpt2fast.loading import embedded_model

TINY = Tokenizer.from_source(embedded_model())
TOKENS = st.lists(st.integers(0, TINY.vocab_size - 1), max_size=60)


def deltas(ids: list[int], sizes: list[int]) -> list[str]:
    """What a decoder gives when it is fed ``sizes[i]`` tokens at a time, and then the rest."""
    decoder = IncrementalDecoder(TINY)
    texts = []
    for size in sizes:
        texts.append(decoder.feed(ids[:size]))
        ids = ids[size:]
    return [*texts, decoder.feed(ids, final=True)]


@given(TOKENS, st.lists(st.integers(0, 5), max_size=30))
def test_joined_deltas_are_the_decoded_whole(ids: list[int], sizes: list[int]) -> None:
    assert "".join(deltas(ids, sizes)) == TINY.decode(ids)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_valid_text_never_shows_a_broken_character(text: str) -> None:
    single_bytes = [TINY.encode_bytes(bytes([byte]))[0] for byte in text.encode()]
    shown = deltas(single_bytes, [1] * len(single_bytes))
    assert "".join(shown) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in delta for delta in shown)


@given(st.binary(max_size=60), st.integers(1, 7))
def test_any_bytes_decode_as_they_do_at_once(data: bytes, size: int) -> None:
    decoder = IncrementalDecoder(TINY)
    parts = [decoder.feed_bytes(data[i : i + size]) for i in range(0, len(data), size)]
    parts.append(decoder.feed_bytes(b"", final=True))
    assert "".join(parts) == data.decode("utf-8", "replace")


def test_a_character_waits_for_its_last_byte() -> None:
    ids = [TINY.encode_bytes(bytes([byte]))[0] for byte in "🦙".encode()]
    assert deltas(ids, [1, 1, 1, 1]) == ["", "", "", "🦙", ""]


def test_an_unfinished_character_shows_at_the_end() -> None:
    ids = [TINY.encode_bytes(bytes([byte]))[0] for byte in "🦙".encode()[:2]]
    assert deltas(ids, [1]) == ["", "\ufffd"]


def test_special_tokens_are_shown_on_request() -> None:
    assert IncrementalDecoder(TINY).feed([0], final=True) == ""
    assert IncrementalDecoder(TINY, skip_special_tokens=False).feed([0], final=True) == "<|endoftext|>"
