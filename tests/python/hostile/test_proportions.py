"""Files whose reading would take memory or time out of proportion to their size."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from gpt2fast import Tokenizer
from gpt2fast.checkpoints import gguf_container, open_checkpoint
from gpt2fast.checkpoints.base import TokenizerFiles
from gpt2fast.checkpoints.gguf_tokenizer import tokenizer_files
from gpt2fast.checkpoints.sentencepiece_merges import merges_of
from gpt2fast.errors import ModelError
from gpt2fast.export.test_data import read_tensor
from gpt2fast.storage.files import MAX_JSON_ITEMS, MAX_MERGES, parse_json_object
from support.checkpoint_samples import small_config
from support.protobuf_edits import bytes_field, varint

MEMORY_ALLOWANCE = 64 << 20
#: Of the processor. What is in proportion takes less than one; what is not takes hours.
SECONDS = 20.0
#: A small part of the real limit, to be quick.
GGUF_ITEMS = 1 << 14


def gguf(*entries: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + b"".join(entries)


def gguf_array(key: str, kind: int, count: int, data: bytes) -> bytes:
    head = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<IIQ", 9, kind, count)
    return head + data


def safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def graph(content: bytes) -> bytes:
    return bytes_field(7, content)


def deep(levels: int) -> bytes:
    """A node with a graph in an attribute of a node with a graph ..."""
    content = b""
    for _ in range(levels):
        content = bytes_field(1, bytes_field(5, bytes_field(6, content)))
    return content


GIGANTIC: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "attributes of two bytes": (
        "model.onnx",
        lambda: graph(bytes_field(1, bytes_field(5, b"") * (1 << 18))),
        "more than",
    ),
    "nodes of two bytes": (
        "model.onnx",
        lambda: graph(bytes_field(1, b"") * (1 << 18)),
        "more nodes than any GPT-2",
    ),
    "initializers of two bytes": (
        "model.onnx",
        lambda: graph(bytes_field(5, b"") * (1 << 18)),
        "element type 0",
    ),
    "unknown fields": ("model.onnx", lambda: graph((varint(100 << 3) + b"\0") * (1 << 20)), "more than"),
    "unknown fields of a node": (
        "model.onnx",
        lambda: graph(bytes_field(1, (varint(100 << 3) + b"\0") * (1 << 20))),
        "field 100, which ONNX does not know",
    ),
    "strings of two bytes": (
        "model.onnx",
        lambda: graph(bytes_field(1, bytes_field(5, bytes_field(9, b"") * (5 << 18)))),
        "more than",
    ),
    "short numbers of a weight": (
        "model.onnx",
        lambda: graph(bytes_field(5, bytes_field(7, bytes(9 << 20)))),
        "more than 67108864 bytes of short numbers; store them as raw data",
    ),
    "short numbers of a node": (
        "model.onnx",
        lambda: graph(bytes_field(1, bytes_field(5, bytes_field(8, b"\x80\x01" * (9 << 20))))),
        "more than 67108864 bytes of short numbers",
    ),
    "graphs in graphs": ("model.onnx", lambda: graph(deep(200)), "nested more than"),
    "a wide tag": ("model.onnx", lambda: graph(b"") + bytes_field(7, b"", wide=1), "wider than 32 bits"),
    "a wide tag in a node": (
        "model.onnx",
        lambda: graph(bytes_field(1, bytes_field(5, b"", wide=1))),
        "which ONNX does not know",
    ),
    "arrays of 16 bits": (
        "model.gguf",
        lambda: gguf(*(gguf_array(str(i), 2, GGUF_ITEMS // 2, bytes(GGUF_ITEMS)) for i in range(6))),
        "the limit is 0",
    ),
    "empty strings": (
        "model.gguf",
        lambda: gguf(gguf_array("a", 8, GGUF_ITEMS, bytes(8 * GGUF_ITEMS)), gguf_array("b", 8, 8, bytes(64))),
        "the limit is 0",
    ),
    "strings of a megabyte": (
        "model.gguf",
        lambda: gguf(gguf_array("a", 8, 20, (struct.pack("<Q", 1 << 20) + bytes(1 << 20)) * 20)),
        "more than 16777216 bytes of text",
    ),
    "lists in a header": (
        "model.safetensors",
        lambda: safetensors(b'{"a": [' + b"[]," * (2 << 20) + b"[]]}"),
        f"more than {MAX_JSON_ITEMS} values",
    ),
    "a header of ten megabytes": (
        "model.safetensors",
        lambda: safetensors(b'{"a": "' + b"x" * (10 << 20) + b'"}'),
        "the limit is 8388608",
    ),
    "lists in an index": (
        "model.safetensors.index.json",
        lambda: b'{"weight_map": [' + b"[]," * (4 << 20) + b"[]]}",
        f"more than {MAX_JSON_ITEMS} values",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), GIGANTIC.values(), ids=GIGANTIC)
def test_memory_and_time_are_in_proportion(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: Callable[[], bytes],
    message: str,
) -> None:
    monkeypatch.setattr(gguf_container, "_MAX_ITEMS", GGUF_ITEMS)
    data = content()
    (tmp_path / "config.json").write_text(small_config().to_json())
    (tmp_path / name).write_bytes(data)
    source = tmp_path / name if name.endswith((".onnx", ".gguf")) else tmp_path
    start = time.process_time()
    with pytest.raises(ModelError, match=message):
        open_checkpoint(source)
    assert time.process_time() - start < SECONDS
    tracemalloc.start()  # which makes allocations several times as slow
    try:
        with pytest.raises(ModelError, match=message):
            open_checkpoint(source)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(data) + MEMORY_ALLOWANCE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": [1, Infinity]}', '{"a": -Infinity}'])
def test_what_is_no_json_number_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="is no JSON number"):
        parse_json_object(text, "x.json")


@pytest.mark.parametrize("text", ['{"a": "\\ud83d"}', '{"\\uDC00": 1}', '{"a": [{"b": "\\ud83d\\ud83d"}]}'])
def test_half_a_surrogate_pair_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="surrogates not allowed"):
        parse_json_object(text, "x.json")
    assert parse_json_object('{"a": "\\ud83d\\ude00"}', "x.json") == {"a": "\U0001f600"}


@pytest.mark.parametrize("operator", ["Loop", "Scan"])
def test_operators_that_may_run_for_ever_are_refused(tmp_path: Path, operator: str) -> None:
    import onnx
    from onnx import helper

    body = helper.make_graph([helper.make_node(operator, ["a"], ["b"])], "body", [], [])
    outer = helper.make_node(
        "If", ["c"], ["y"], then_branch=body, else_branch=helper.make_graph([], "e", [], [])
    )
    for node in (helper.make_node(operator, ["a"], ["b"]), outer):
        model = helper.make_model(helper.make_graph([node], "g", [], []))
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(ModelError, match=f"has a {operator}, which no GPT-2 needs"):
            open_checkpoint(tmp_path / "model.onnx")


def costs_little(size: int, read: Callable[[], object], message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=message):
            read()
        assert tracemalloc.get_traced_memory()[1] < 2 * size + MEMORY_ALLOWANCE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"vocab_txt": "ab\n" * (1 << 20)},
            f"1048575 lines of tokens or merges; the limit is {MAX_JSON_ITEMS}",
        ),
        (
            {"vocab_json": '{"a": 0}', "merges_txt": "ab cd\n" * (1 << 20)},
            f"1048576 lines of .*; the limit is {MAX_MERGES}",
        ),
        ({"vocab_json": '{"a": 0}', "merges_txt": "ab " * (6 << 20)}, "with its merges: too many values"),
    ],
    ids=["vocab.txt", "merges.txt", "one line"],
)
def test_vocabularies_in_lines(files: dict[str, str], message: str) -> None:
    read = partial(Tokenizer.from_files, TokenizerFiles(**files))
    costs_little(sum(map(len, files.values())), read, message)


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        (["a b"] * (1 << 19), f"has 524288 merges; the limit is {MAX_MERGES}"),
        (["ab " * 300_000] * 16, "the merge 'ab ab .*' does not join two tokens to a third"),
    ],
    ids=["many", "long"],
)
def test_merges_of_gguf(merges: list[str], message: str) -> None:
    names = {"model": "gpt2", "tokens": ["a", "b", "ab"], "merges": merges}
    metadata = {f"tokenizer.ggml.{name}": value for name, value in names.items()}
    costs_little(sum(map(len, merges)), lambda: tokenizer_files(metadata, Path("x.gguf")), message)


def test_sentencepiece_models_whose_pieces_can_all_be_split() -> None:
    pieces = ["".join(piece) for length in range(1, 15) for piece in product("ab", repeat=length)]
    scores = {piece: -float(place) for place, piece in enumerate(pieces)}
    read = partial(merges_of, scores, "x.model")
    costs_little(sum(map(len, pieces)), read, f"can be split in more than {MAX_MERGES} ways")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes_field(13, b"") * (8 << 20), "more than 262144 messages"),
        (bytes_field(6, b"") * (8 << 20), "more than 1048576 fields"),
        (bytes_field(7, bytes(16 << 20)), "more than 67108864 bytes of short numbers"),
    ],
    ids=["entries", "strings", "short numbers"],
)
def test_tensors_of_test_data(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "input_0.pb"
    path.write_bytes(content)
    costs_little(len(content), partial(read_tensor, path), message)


def test_added_tokens_take_time_in_proportion() -> None:
    """One by one, these would take an hour."""
    count = 15_000
    added = json.dumps({f"<{i}>": 2 + i for i in range(count)})
    files = TokenizerFiles(vocab_json='{"a": 0, "b": 1}', merges_txt="", added_tokens=added)
    start = time.process_time()
    tokenizer = Tokenizer.from_files(files)
    assert time.process_time() - start < SECONDS
    assert tokenizer.encode(f"a<0><{count - 1}>b") == [0, 2, count + 1, 1]


def test_the_largest_vocabularies_fit() -> None:
    vocabulary = {f"token{i}": i for i in range(250_000)}
    assert parse_json_object(json.dumps(vocabulary), "vocab.json") == vocabulary
