"""Writes two ONNX models merged by an If, as optimum merges a decoder with and without a past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper

from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.export.standard import StandardOptions, export_onnx

CHOICE = "use_cache_branch"


def merged(with_past: Any, without: Any, *, shared: bool = True) -> Any:
    """One model with an If around the graphs of two; weights of both are kept once, outside of it."""
    common: dict[bytes, Any] = {}
    branches = {}
    for key, model, prefix in (("then_branch", with_past, "a/"), ("else_branch", without, "b/")):
        graph = onnx.GraphProto()
        graph.CopyFrom(model.graph)
        names = {}
        for initializer in graph.initializer:
            content = str(list(initializer.dims)).encode() + numpy_helper.to_array(initializer).tobytes()
            kept = common.setdefault(content, initializer) if shared else initializer
            names[initializer.name] = kept.name if shared else prefix + initializer.name
        for node in graph.node:
            names.update({name: prefix + name for name in node.output if name})
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for value in graph.output:
            value.name = names[value.name]
        for initializer in graph.initializer:
            initializer.name = names[initializer.name]
        if shared:
            graph.ClearField("initializer")
        graph.ClearField("input")
        graph.ClearField("value_info")
        branches[key] = graph
    outputs = [value.name for value in without.graph.output]
    choice = helper.make_tensor_value_info(CHOICE, onnx.TensorProto.BOOL, [1])
    graph = helper.make_graph(
        [helper.make_node("If", [CHOICE], outputs, "merge", **branches)],
        "merged",
        [*with_past.graph.input, choice],
        list(without.graph.output),
        [*common.values()] if shared else [],
    )
    return helper.make_model(
        graph, opset_imports=list(with_past.opset_import), ir_version=with_past.ir_version
    )


def exports(checkpoint: Checkpoint, directory: Path, *, opset: int = 17) -> list[Any]:
    """Our own exports of one model, with a past and without."""
    models = []
    for past in (True, False):
        path = directory / f"{past}.onnx"
        export_onnx(checkpoint, path, StandardOptions(past=past, opset=opset))
        models.append(onnx.load(path))
    return models
