"""The checkpoints that are measured: random weights of GPT-2's sizes, with a made-up tokenizer."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from types import ModuleType

from gpt2fast.loading.sources import embedded_model

_ROOT = Path(__file__).resolve().parents[1]
#: The name of the model that comes with the package, among the sizes.
EMBEDDED = "embedded"


def checkpoint_directory(size: str, work: Path) -> Path:
    """A Hugging Face checkpoint of this size, made once below ``work``.

    The embedded model's leaves out its own defaults: all take the likeliest token unless told otherwise.
    """
    if size == EMBEDDED:
        return _undrawn(work / EMBEDDED)
    tool = _random_checkpoint_tool()
    if size not in tool.SIZES:
        raise ValueError(f"size must be one of {', '.join([EMBEDDED, *tool.SIZES])}, got {size!r}")
    directory = work / size
    if not directory.exists():
        unfinished = work / f"{size}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        tool.write_random_checkpoint(unfinished, tool.SIZES[size])
        _write_tokenizer(unfinished, tool.SIZES[size]["vocab_size"])
        unfinished.rename(directory)
    return directory


def _undrawn(directory: Path) -> Path:
    ignored = shutil.ignore_patterns("generation_config.json")
    return Path(shutil.copytree(embedded_model(), directory, ignore=ignored, dirs_exist_ok=True))


def _random_checkpoint_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "random_checkpoint", _ROOT / "tools" / "random_checkpoint.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """A byte-level BPE vocabulary of any size above 256: all bytes, runs of ASCII characters, end-of-text.

    Prompts are token ids, so its merges don't matter; other programs refuse a model without a tokenizer.
    """
    merges = list(islice(_ascii_merges(), vocab_size - 257))
    tokens = [*_byte_characters(), *(first + second for first, second in merges), "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    lines = "\n".join(f"{first} {second}" for first, second in merges)
    (directory / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (directory / "merges.txt").write_text(f"#version: 0.2\n{lines}\n", "utf-8")
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def _ascii_merges() -> Iterator[tuple[str, str]]:
    """Pairs that make all runs of two, then three, printable ASCII characters, each from known parts."""
    characters = [chr(code) for code in range(33, 127)]
    for length in (1, 2):
        for start in product(characters, repeat=length):
            yield from (("".join(start), character) for character in characters)


def _byte_characters() -> list[str]:
    """The printable stand-ins of the 256 bytes in GPT-2's vocabulary: themselves, or codes from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]
