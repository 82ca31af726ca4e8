"""ONNX Runtime's Python session, for models that our engine does not run, and a check to make before."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpt2fast.checkpoints.onnx_limits import OnnxLimits
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import find_inside, read_bytes

_MAX_MODEL_BYTES = (1 << 31) - 1
# The setting of a session for the folder of the external data of a model in memory.
_FOLDER_OF_EXTERNAL_DATA = "session.model_external_initializers_file_folder_path"


def open_session(path: Path) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU, of the bytes that were checked.

    Raises
    ------
    ModelError
        The model is broken, its external data is not in regular files beside it, or ONNX Runtime refuses it.
    """
    import onnxruntime

    data = read_bytes(Path(os.path.realpath(path)), _MAX_MODEL_BYTES)
    data, folder = _with_resolved_links(data, path)
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(_FOLDER_OF_EXTERNAL_DATA, str(folder))
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise ModelError(f"{path}: ONNX Runtime can't load it: {error}") from None


def _with_resolved_links(data: bytes, path: Path) -> tuple[bytes, Path]:
    """The model, and the folder of its external data, which is where links of the hub's cache lead to.

    ONNX Runtime takes no links out of a folder. Raises ModelError unless every external tensor lies in a
    regular file beside the model.
    """
    from onnx import ModelProto, TensorProto

    OnnxLimits(str(path)).check(data, ModelProto)
    try:
        model = ModelProto.FromString(data)
    except Exception as error:  # protobuf's DecodeError derives from Exception
        raise ModelError(f"{path}: not an ONNX model, or cut short: {error}") from None
    external = [tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    entries = [entry for tensor in external for entry in tensor.external_data if entry.key == "location"]
    if len(entries) != len(external):
        raise ModelError(f"{path}: an external tensor names no file, or several")
    places = {}
    for location in sorted({entry.value for entry in entries}):
        found = find_inside(path.parent, location.removeprefix("./"))
        if found is None:
            raise ModelError(f"{path}: its weights are in {location!r}, which is not beside it")
        places[location] = found
    home = Path(os.path.realpath(path.parent))
    folders = {place.parent for place in places.values()}
    if folders <= {home} or len(folders) > 1:
        return data, home
    for entry in entries:
        entry.value = places[entry.value].name
    return model.SerializeToString(), folders.pop()


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of a model, wherever it is; OnnxLimits has bounded how deep graphs are nested."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
    for info in model.training_info:
        yield from _graph_tensors(info.initialization)
        yield from _graph_tensors(info.algorithm)


def _graph_tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Sequence[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _graph_tensors(inner)
