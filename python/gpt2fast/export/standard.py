"""Exports any checkpoint as standard ONNX, without custom operators, for any ONNX backend."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto, defs, helper

from gpt2fast._validation import Check, Choice, Flag, Integer
from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.config import ModelConfig
from gpt2fast.export import standard_layers as layers
from gpt2fast.export.onnx_stream import data_path, write_model
from gpt2fast.storage.atomic import check_free

MIN_OPSET = 10
#: The newest opset of the installed onnx package; the tests cover all.
MAX_OPSET = defs.onnx_opset_version()
DEFAULT_OPSET = 17

_CHECKS: Mapping[str, Check] = {
    "head": Choice(("lm", "hidden")),
    "past": Flag(),
    "opset": Integer(MIN_OPSET, MAX_OPSET),
    "layout": Choice(("gpt2fast", "zoo")),
}


@dataclass(frozen=True)
class StandardOptions:
    """Inputs and outputs of a standard ONNX model.

    Attributes
    ----------
    head : {"lm", "hidden"}
        First output: the scores of the next token, or the hidden states after the last LayerNorm.
    past : bool
        Whether there are inputs for the keys and values of earlier tokens; the outputs always include the
        new ones.
    opset : int
        Version of ONNX's operators, from ``MIN_OPSET`` to ``MAX_OPSET``.
    layout : {"gpt2fast", "zoo"}
        ``"gpt2fast"``: ``input_ids`` int64 [batch, tokens], ``past.{i}``; ``last_hidden_state`` or
        ``logits``, ``present.{i}``. ``"zoo"``, as the ONNX Model Zoo's GPT-2: ``input1`` int64
        [batch, choices, tokens], pasts from ``input2`` on; ``output1`` [batch, choices, tokens, n_embd or
        vocab_size], pasts from ``output2`` on. A past is float32
        [2, batch (times choices), n_head, tokens, head_dim]: keys, then values.
    """

    head: str = "lm"
    past: bool = False
    opset: int = DEFAULT_OPSET
    layout: str = "gpt2fast"

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))

    @property
    def is_zoo(self) -> bool:
        """Whether the layout is the Zoo's."""
        return self.layout == "zoo"

    @property
    def input_name(self) -> str:
        """The name of the token ids."""
        return "input1" if self.is_zoo else "input_ids"

    @property
    def output_name(self) -> str:
        """The name of the first output."""
        if self.is_zoo:
            return "output1"
        return "logits" if self.head == "lm" else "last_hidden_state"

    def past_name(self, layer: int) -> str:
        """The name of a layer's past among the inputs."""
        return f"input{layer + 2}" if self.is_zoo else f"past.{layer}"

    def present_name(self, layer: int) -> str:
        """The name of a layer's past among the outputs."""
        return f"output{layer + 2}" if self.is_zoo else f"present.{layer}"


def export_onnx(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    options: StandardOptions | None = None,
    *,
    external_data: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a checkpoint as a standard ONNX model with float32 weights.

    Tensors are streamed, so memory stays small for any size of model.

    Parameters
    ----------
    checkpoint : Checkpoint
        From :func:`gpt2fast.checkpoints.open_checkpoint`.
    path : path
        The ``.onnx`` file to write.
    options : StandardOptions, optional
        The model's inputs and outputs.
    external_data : bool
        Keep the weights in a second file, ``path`` with ``.data`` appended. A model above 2 GiB always does,
        because no protobuf message may be larger.
    overwrite : bool
        Replace existing files.
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)``.

    Returns
    -------
    list of Path
        The files written, the model first.

    Raises
    ------
    FileExistsError
        A file to write exists and may not be replaced.
    OSError
        There is no room, or no permission to write.
    ModelError
        A tensor can't be read.
    """
    options = options or StandardOptions()
    target = Path(path)
    for file in (target, data_path(target)):
        check_free(file, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    model = build_standard_model(checkpoint.config, options)
    tensors = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if name != "lm_head.weight" or options.head == "lm"
    }
    written = write_model(target, model, tensors, external_data=external_data, progress=progress)
    if len(written) == 1:
        data_path(target).unlink(missing_ok=True)
    return written


def build_standard_model(config: ModelConfig, options: StandardOptions) -> ModelProto:
    """The model without its weights: the initializers are added later, named as in ``Checkpoint.tensors``."""
    graph = layers.NodeList(options.opset)
    input_ids = options.input_name
    if options.is_zoo:
        # [batch, choices, tokens] -> [batch * choices, tokens]
        input_ids = graph.add("Flatten", [input_ids], "flat_input", axis=2)
    context = layers.add_context(graph, input_ids, options.past_name(0) if options.past else None)
    x = layers.add_embedding(graph, input_ids, context)
    for layer in range(config.n_layer):
        past = options.past_name(layer) if options.past else None
        x = layers.add_layer(graph, config, layer, x, context, past, options.present_name(layer))
    _add_first_output(graph, config, options, layers.add_layer_norm(graph, config, x, "ln_f"))
    inputs, outputs = _interface(config, options)
    proto = helper.make_graph(graph.nodes, "gpt2", inputs, outputs, list(graph.constants.values()))
    opset = helper.make_opsetid("", options.opset)
    model = helper.make_model(
        proto,
        producer_name="gpt2fast",
        opset_imports=[opset],
        ir_version=helper.find_min_ir_version_for([opset]),
    )
    helper.set_model_props(model, {"config": json.dumps(config.to_dict(), sort_keys=True)})
    return model


def _add_first_output(
    graph: layers.NodeList, config: ModelConfig, options: StandardOptions, hidden: str
) -> None:
    rows, width = hidden, config.n_embd
    if options.head == "lm":
        rows, width = layers.add_scores(graph, config, hidden), config.vocab_size
    input_shape = graph.add("Shape", [options.input_name], "input_shape")
    shape = graph.add("Concat", [input_shape, graph.integers(width)], "output_shape", axis=0)
    graph.add("Reshape", [rows, shape], options.output_name)


def _interface(
    config: ModelConfig, options: StandardOptions
) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    """Inputs and outputs with their shapes, dynamic axes by name."""
    axes: list[str | int | None] = ["batch", "choices", "tokens"] if options.is_zoo else ["batch", "tokens"]
    width = config.vocab_size if options.head == "lm" else config.n_embd
    inputs = [helper.make_tensor_value_info(options.input_name, TensorProto.INT64, axes)]
    outputs = [helper.make_tensor_value_info(options.output_name, TensorProto.FLOAT, [*axes, width])]
    rows = "batch_choices" if options.is_zoo else "batch"

    def past(name: str, tokens: str) -> ValueInfoProto:
        shape: list[str | int | None] = [2, rows, config.n_head, tokens, config.head_dim]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    for layer in range(config.n_layer):
        if options.past:
            inputs.append(past(options.past_name(layer), "past_tokens"))
        outputs.append(past(options.present_name(layer), "total_tokens" if options.past else "tokens"))
    return inputs, outputs
