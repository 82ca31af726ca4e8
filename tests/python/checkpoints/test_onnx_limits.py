"""What is checked of an ONNX message before a library makes objects of it."""

from __future__ import annotations

import onnx
import pytest

from gpt2fast.checkpoints import onnx_limits
from gpt2fast.checkpoints.onnx_limits import OnnxLimits
from gpt2fast.errors import ModelError
from support.protobuf_edits import bytes_field, varint

# Field numbers of onnx.proto.
INPUT, NAME, ATTRIBUTE, GRAPH, NODE, FLOATS = 1, 3, 5, 6, 1, 7
NODE_OF_ALL_KINDS = (
    bytes_field(INPUT, b"x")
    + bytes_field(ATTRIBUTE, varint(2 << 3 | 5) + b"\0\0\0\0" + varint(3 << 3) + varint(300))
    + bytes_field(ATTRIBUTE, bytes_field(FLOATS, b"\0" * 8))
)


def nested(depth: int) -> bytes:
    """A node with a graph of a node with a graph, and so on: three messages a level."""
    node = bytes_field(NAME, b"innermost")
    for _ in range(depth):
        node = bytes_field(ATTRIBUTE, bytes_field(GRAPH, bytes_field(NODE, node)))
    return node


@pytest.mark.parametrize("data", [b"", NODE_OF_ALL_KINDS, nested(10)])
def test_whole_messages_pass(data: bytes) -> None:
    OnnxLimits("here").check(data, onnx.NodeProto)
    onnx.NodeProto.FromString(data)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (nested(11), "nested more than 32 deep"),
        (bytes_field(99, b""), "a NodeProto has the field 99, which ONNX does not know"),
        (bytes_field(ATTRIBUTE, bytes_field(99, b"")), "a AttributeProto has the field 99"),
        (bytes_field(INPUT, b"x", wide=1), "a NodeProto has the field"),
        (bytes_field(INPUT, b"x", size=6), "a NodeProto has the field 1"),
        (varint(INPUT << 3 | 3), "a NodeProto has a field of kind 3"),
        (bytes_field(INPUT, b"xyz")[:-1], "a field is longer than its message"),
        (varint(INPUT << 3 | 5) + b"\0\0\0", "a field is longer than its message"),
        (varint(INPUT << 3 | 1) + b"\0" * 7, "a field is longer than its message"),
        (varint(INPUT << 3) + b"\x80", "a number does not end"),
    ],
)
def test_others_are_refused(data: bytes, fault: str) -> None:
    with pytest.raises(ModelError, match=rf"here: not an ONNX model, cut short or corrupt: .*{fault}"):
        OnnxLimits("here").check(data, onnx.NodeProto)


@pytest.mark.parametrize(("limit", "fits"), [("MAX_FIELDS", 6), ("MAX_MESSAGES", 3)])
def test_all_messages_of_a_file_count_together(
    monkeypatch: pytest.MonkeyPatch, limit: str, fits: int
) -> None:
    monkeypatch.setattr(onnx_limits, limit, 2 * fits)
    limits = OnnxLimits("here")
    for _ in range(2):
        limits.check(NODE_OF_ALL_KINDS, onnx.NodeProto)
    with pytest.raises(ModelError, match=f"more than {2 * fits} "):
        limits.check(NODE_OF_ALL_KINDS, onnx.NodeProto)
    monkeypatch.setattr(onnx_limits, limit, 2 * fits - 1)
    limits = OnnxLimits("here")
    limits.check(NODE_OF_ALL_KINDS, onnx.NodeProto)
    with pytest.raises(ModelError, match=f"more than {2 * fits - 1} "):
        limits.check(NODE_OF_ALL_KINDS, onnx.NodeProto)
