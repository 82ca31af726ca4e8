"""Streamed text: joined deltas equal the whole, no character is split, dropped streams free their slots."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast import GPT2, IncrementalDecoder, Tokenizer
from gpt2fast.loading.sources import embedded_model

TINY = Tokenizer.from_source(embedded_model())
TOKENS = st.lists(st.integers(0, TINY.vocab_size - 1), max_size=60)


def deltas(ids: list[int], sizes: list[int]) -> list[str]:
    """The output of a decoder that is fed ``sizes[i]`` tokens at a time, and then the rest."""
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


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(max_sequences=2)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"seed": 3, "temperature": 2.0},
    {"stop_strings": ["the"]},
    {"stop_strings": ["the"], "include_stop_string": True},
    {"seed": 5, "top_k": 40, "stop_strings": [" and ", "zzz", "."]},
    {"forced_prefix": "Ünï 🦙!"},
    {"forced_prefix": TINY.encode_bytes("🦙".encode()[:2]), "max_new_tokens": 2},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_stream_gives_what_generate_gives(model: GPT2, options: dict[str, Any]) -> None:
    options = {"max_new_tokens": 40, **options}
    whole = model.generate("Once upon a time", **options)
    chunks = list(model.stream("Once upon a time", **options))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [token for chunk in chunks for token in chunk.token_ids] == whole.token_ids
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == whole.finish_reason


def test_no_stop_string_is_ever_shown(model: GPT2) -> None:
    text = model.generate("Once upon a time", max_new_tokens=60).text
    stops = [text[40:42], text[25:35]]  # within a token, across several
    chunks = list(model.stream("Once upon a time", max_new_tokens=60, stop_strings=stops))
    assert chunks[-1].finish_reason == "stop"
    shown = "".join(chunk.text for chunk in chunks)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)


def test_several_texts_stream_side_by_side(model: GPT2) -> None:
    prompts = ["Once", "The King said to the old woman", "", "A"]
    results = model.generate(prompts, max_new_tokens=9, seed=2)
    texts = [""] * len(prompts)
    finished = []
    for chunk in model.stream(prompts, max_new_tokens=9, seed=2):
        assert chunk.index not in finished
        texts[chunk.index] += chunk.text
        if chunk.finish_reason:
            finished.append(chunk.index)
    assert texts == [result.text for result in results]
    assert sorted(finished) == [0, 1, 2, 3]


def test_a_prompt_of_several_steps_streams(model: GPT2) -> None:
    prompt = [5, 6, 7] * 60
    chunks = list(model.stream(prompt, max_new_tokens=4, eos_token_id=[]))
    assert [len(chunk.token_ids) for chunk in chunks] == [1, 1, 1, 1]
    assert (
        "".join(chunk.text for chunk in chunks)
        == model.generate(prompt, max_new_tokens=4, eos_token_id=[]).text
    )


def test_bad_options_are_refused_before_the_first_chunk(model: GPT2) -> None:
    with pytest.raises(ValueError, match="top_p"):
        model.stream("Once", top_p=2.0)


def test_a_stream_begins_with_its_first_chunk() -> None:
    with GPT2.from_pretrained() as model:
        stream = model.stream("Once", max_new_tokens=3, eos_token_id=[])
        assert model.stats().calls == 0
        next(stream)
        assert model.stats().calls == 1


def test_a_stream_dropped_half_way_gives_its_slot_back(model: GPT2) -> None:
    for _ in range(5):
        streams = [model.stream("Once", max_new_tokens=100) for _ in range(2)]
        for stream in streams:
            next(stream)
        streams[0].close()
        del streams, stream
    assert len(model.generate(["a", "b"], max_new_tokens=3)) == 2


def test_paused_streams_hold_up_nobody(model: GPT2) -> None:
    alone = model.generate("Once", max_new_tokens=3)
    streams = [model.stream("Once", max_new_tokens=100) for _ in range(2)]
    for stream in streams:
        next(stream)
    assert model.generate("Once", max_new_tokens=3).token_ids == alone.token_ids
    for stream in streams:
        stream.close()


@contextmanager
def interrupt_soon() -> Iterator[None]:
    """Ctrl-C after a moment."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers of POSIX")
def test_an_interrupt_stops_generate_and_gives_the_slots_back(model: GPT2) -> None:
    with pytest.raises(KeyboardInterrupt), interrupt_soon():
        model.generate(["Once", "The"], max_new_tokens=10**7, overflow="slide", eos_token_id=[])
    assert len(model.generate(["a", "b"], max_new_tokens=3)) == 2
