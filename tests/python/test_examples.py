"""The examples run on the embedded model."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast import GPT2

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

import compression  # noqa: E402
import json_output  # noqa: E402
from arithmetic_coding import Decoder, Encoder  # noqa: E402

PRECISIONS = ["fp32", "bf16", "int8", "int4"]
STORY = (
    "Once upon a time there was a king who had a daughter, and she was so beautiful that the sun itself, "
    "which has seen so much, was astonished whenever it shone in her face.\n\n"
    "Zażółć gęślą jaźń 🙂 <|endoftext|>\r\n\t0123456789 "
)


def run_example(name: str, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_streaming_chat_answers_every_line() -> None:
    answers = run_example("streaming_chat.py", stdin="Who was the king?\nWhere did he live?\n")
    assert answers.strip()
    assert "Question:" not in answers


def test_ranking_orders_the_endings() -> None:
    lines = run_example("ranking.py", "Once upon a", " time", " zebra", " grandmother").splitlines()
    assert lines[0].startswith("1. ' time'")
    assert len(lines) == 3


def test_json_output_is_of_the_schema() -> None:
    pytest.importorskip("llguidance")
    answer = json.loads(run_example("json_output.py"))
    assert set(answer) == set(json_output.SCHEMA["properties"])
    assert answer["kind"] in ("person", "animal", "thing")
    assert 0 <= answer["age"] <= 120


def test_concurrent_requests_are_compared_with_one_after_another() -> None:
    found = re.findall(r"(.+?) +([\d,]+) tokens/s +([\d.]+) times", run_example("concurrent_requests.py"))
    assert [name for name, _, _ in found] == ["one after another", "32 threads", "32 tasks"]
    assert found[0][2] == "1.00"
    assert all(float(times) > 0 for _, _, times in found)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_compression_is_lossless(precision: str) -> None:
    model = GPT2.from_pretrained(precision=precision)
    data = STORY.encode() + bytes([0xFF, 0x00, 0xC3, 0x28])
    code = compression.compress(model, data)
    assert compression.decompress(model, code) == data


def test_compression_goes_beyond_the_context_window() -> None:
    model = GPT2.from_pretrained()
    words = random.Random(1).choices(re.findall(r"\w+ ?", STORY), k=500)
    data = "".join(words).encode()
    assert len(model.tokenizer.encode_bytes(data)) > model.config.n_positions
    assert compression.decompress(model, compression.compress(model, data)) == data


def test_compression_beats_plain_bytes_and_keeps_the_empty_text(tmp_path: Path) -> None:
    model = GPT2.from_pretrained()
    assert compression.decompress(model, compression.compress(model, b"")) == b""
    text, code, copy = tmp_path / "text", tmp_path / "code", tmp_path / "copy"
    data = STORY.split("\n")[0]
    text.write_text(data, encoding="utf-8")
    report = run_example("compression.py", "compress", str(text), str(code))
    assert float(re.search(r"([0-9.]+) bits per character", report)[1]) < 3
    run_example("compression.py", "decompress", str(code), str(copy))
    assert copy.read_text(encoding="utf-8") == data


_WEIGHTS = st.lists(st.integers(1, 2**40), min_size=5, max_size=5)


@given(st.lists(st.tuples(st.integers(0, 4), _WEIGHTS), max_size=200))
def test_arithmetic_coding_returns_the_symbols(symbols: list[tuple[int, list[int]]]) -> None:
    encoder = Encoder()
    for symbol, weights in symbols:
        limits = np.cumsum([0, *weights]).tolist()
        encoder.encode(limits[symbol], limits[symbol + 1], limits[-1])
    decoder = Decoder(encoder.finish())
    for symbol, weights in symbols:
        limits = np.cumsum([0, *weights]).tolist()
        found = int(np.searchsorted(limits, decoder.place(limits[-1]), side="right")) - 1
        assert found == symbol
        decoder.remove(limits[found], limits[found + 1], limits[-1])
