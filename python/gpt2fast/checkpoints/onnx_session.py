"""ONNX Runtime's Python session, for models that our engine does not run, and a check to make before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt2fast.errors import ModelError
from gpt2fast.storage.files import find_inside, read_bytes

_MAX_MODEL_BYTES = (1 << 31) - 1
_MAX_GRAPH_DEPTH = 16


def open_session(path: Path) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU; ModelError if ONNX Runtime refuses the model."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise ModelError(f"{path}: ONNX Runtime can't load it: {error}") from None


def check_external_data(path: Path) -> None:
    """Raise ModelError unless every external tensor of a model lies in a regular file beside it."""
    from onnx import ModelProto, TensorProto

    model = ModelProto()
    try:
        model.ParseFromString(read_bytes(Path(os.path.realpath(path)), _MAX_MODEL_BYTES))
    except ModelError:
        raise
    except Exception as error:  # protobuf's DecodeError derives from Exception
        raise ModelError(f"{path}: not an ONNX model, or cut short: {error}") from None
    locations = set()
    for tensor in _tensors(model.graph, path):
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            locations.add(entries.get("location", ""))
    for location in sorted(locations):
        if find_inside(path.parent, location.removeprefix("./")) is None:
            raise ModelError(f"{path}: its weights are in {location!r}, which is not beside it")


def _tensors(graph: Any, path: Path, depth: int = 0) -> Iterator[Any]:
    if depth > _MAX_GRAPH_DEPTH:
        raise ModelError(f"{path}: graphs nested more than {_MAX_GRAPH_DEPTH} deep")
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _tensors(inner, path, depth + 1)
