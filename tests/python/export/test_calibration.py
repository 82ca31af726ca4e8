"""Calibration texts: what of a text is read, what is refused, and that int4 layers come closer by one."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.export import convert
from gpt2fast.export.calibration import MAX_TOKENS, MIN_TOKENS, CalibrationText, read_calibration
from gpt2fast.export.written_tokens import written_tokens
from gpt2fast.storage.model_directory import Calibration, open_model_directory
from gpt2fast.text.tokenizer import Tokenizer
from support.huggingface_samples import write_directory
from support.rounding_errors import rounding_errors

_ROOT = Path(__file__).resolve().parents[3]


class CharacterTokenizer(Tokenizer):
    """A token for every character: its code point."""

    def __init__(self) -> None:
        """Without a file."""

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]


def made_of(text: str) -> CalibrationText:
    return CalibrationText("a.txt", text, sha256(text.encode()).hexdigest())


def letters(count: int, seed: int = 0) -> str:
    generator = np.random.default_rng(seed)
    return "".join(map(chr, generator.integers(ord("A"), ord("Z") + 1, count)))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(letters(4000), "utf-8")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "source")


def test_all_of_a_short_text_is_read() -> None:
    text = letters(MIN_TOKENS + 5)
    tokens = made_of(text).tokens(CharacterTokenizer(), 16)
    assert tokens.shape == (MIN_TOKENS // 16, 16)
    assert "".join(map(chr, tokens.reshape(-1))) == text[:MIN_TOKENS]


def test_sequences_of_a_longer_text_are_at_equal_distances() -> None:
    text = "".join(map(chr, range(0x10000, 0x10000 + 4 * MAX_TOKENS)))
    tokens = made_of(text).tokens(CharacterTokenizer(), 128) - 0x10000
    assert tokens.size == MAX_TOKENS
    np.testing.assert_array_equal(tokens[:, 0], np.arange(0, 4 * MAX_TOKENS, 4 * 128))
    np.testing.assert_array_equal(tokens - tokens[:, :1], np.tile(np.arange(128), (len(tokens), 1)))


def test_excerpts_of_a_very_long_text_reach_its_end() -> None:
    # A character says in which of a hundred parts of the text it is.
    text = "".join(chr(0x100 + part) * 10_000 for part in range(100))
    tokens = made_of(text).tokens(CharacterTokenizer(), 128) - 0x100
    assert tokens.size == MAX_TOKENS
    assert tokens.min() == 0
    assert set(np.diff(tokens[:, 0])) <= {2, 3, 4}  # 32 sequences
    assert tokens.max() in (95, 96)


def test_a_short_text_is_refused() -> None:
    message = rf"calibrate='a.txt' is too short: a text must have at least {MIN_TOKENS} tokens, got 1023"
    with pytest.raises(ValueError, match=message):
        made_of("x" * (MIN_TOKENS - 1)).tokens(CharacterTokenizer(), 128)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"caf\xe9 and more", "is not UTF-8 text: invalid continuation byte at byte 3"),
        ("text".encode("utf-16"), "is not UTF-8 text: invalid start byte at byte 0"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_calibration(path, "int4")
    assert str(caught.value).startswith(f"calibrate={str(path)!r} ")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the text that calibrate names .*No such file.*missing"):
        read_calibration(tmp_path / "missing", "int4")
    with pytest.raises(ValueError, match=r"calibrate=.* is no text to calibrate by: .*not a regular file"):
        read_calibration(tmp_path, "int4")
    with pytest.raises(ValueError, match="calibrate must be the path of a text file, got ''"):
        read_calibration("", "int4")
    with pytest.raises(TypeError, match=r"calibrate must be the path of a text file, got 3 \(int\)"):
        read_calibration(3, "int4")  # type: ignore[arg-type]


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ValueError, match=r"calibrate=.*the limit for such a file is 67108864"):
        read_calibration(tmp_path / "large", "int4")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_it_needs_a_precision_that_it_has_an_effect_on(source: Path, text: Path, precision: str) -> None:
    out = source.with_name("out")
    with pytest.raises(ValueError, match=rf"calibrate=.* has no effect with precision='{precision}'"):
        convert(source, out, precision=precision, calibrate=text)
    assert not out.exists()


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfabc")
    assert read_calibration(tmp_path / "marked.txt", "int4").text == "abc"


def test_the_directory_records_the_text(source: Path, text: Path) -> None:
    paths = [convert(source, source.with_name(name), precision="int4", calibrate=text) for name in "ab"]
    plain = convert(source, source.with_name("plain"), precision="int4")
    weights = [(path / "weights.bin").read_bytes() for path in (*paths, plain)]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]
    assert (paths[0] / "gpt2fast.json").read_bytes() == (paths[1] / "gpt2fast.json").read_bytes()
    directory = open_model_directory(paths[0])
    tokens = 4000 // 24 * 24  # whole sequences of the model's positions
    assert directory.calibration == Calibration(sha256(text.read_bytes()).hexdigest(), tokens)
    assert open_model_directory(plain).calibration is None
    fingerprints = {open_model_directory(path).metadata["fingerprint"] for path in (*paths, plain)}
    assert len(fingerprints) == 2


@pytest.mark.parametrize("stored", ["x", {}, {"sha256": "a" * 64}, {"sha256": "A" * 64, "tokens": 1}])
def test_a_record_that_makes_no_sense_is_ignored(source: Path, stored: object) -> None:
    path = convert(source, source.with_name("out"))
    values = json.loads((path / "gpt2fast.json").read_text())
    (path / "gpt2fast.json").write_text(json.dumps({**values, "calibration": stored}))
    assert open_model_directory(path).calibration is None


def test_without_a_tokenizer_a_text_is_refused(tmp_path: Path, text: Path) -> None:
    source = write_directory(tmp_path / "bare", with_tokenizer=False)
    with pytest.raises(ValueError, match=r"calibrate=.* is a text, but .*bare has no tokenizer; name one"):
        convert(source, tmp_path / "out", precision="int4", calibrate=text)
    assert not (tmp_path / "out").exists()


def test_layers_come_closer_by_a_text_than_by_the_models_own_tokens(embedded_dir: Path) -> None:
    checkpoint = open_checkpoint(embedded_dir)
    tokenizer = Tokenizer((embedded_dir / "tokenizer.json").read_text("utf-8"))
    text = "\n".join(path.read_text("utf-8") for path in sorted((_ROOT / "docs").glob("*.md")))
    other = tokenizer.encode((_ROOT / "README.md").read_text("utf-8"))[:1024]
    rounded_by = (written_tokens(checkpoint), made_of(text).tokens(tokenizer, 128)[:16])
    for name, errors in rounding_errors(checkpoint, other, rounded_by, layers=3):
        assert errors[1] < errors[0], name
