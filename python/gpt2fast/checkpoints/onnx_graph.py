"""Reads ONNX files exported from a GPT-2; the graph shows which weights they are, and the configuration."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from gpt2fast.checkpoints.base import Checkpoint, LazyTensor, TokenizerFiles
from gpt2fast.checkpoints.fingerprint import fingerprint
from gpt2fast.checkpoints.head import settle_head
from gpt2fast.checkpoints.huggingface import read_config
from gpt2fast.checkpoints.onnx_attention import find_attention_scales, find_heads
from gpt2fast.checkpoints.onnx_file import OnnxFile, read_onnx
from gpt2fast.checkpoints.onnx_pattern import (
    Embeddings,
    Linear,
    Norm,
    find_activation,
    find_embeddings,
    find_linears,
    find_norms,
    follows,
)
from gpt2fast.checkpoints.onnx_walk import Graph
from gpt2fast.checkpoints.stored_tensor import StoredTensor, nearest_decimal
from gpt2fast.checkpoints.tokenizer_files import find_tokenizer_files
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import find_inside

_PER_LAYER = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
_GPT2_VOCABULARY = 50257
_TOLERANCE = 0.01


def open_onnx(
    path: Path, *, n_head: int | None = None, tokenizer: TokenizerFiles | None = None
) -> Checkpoint:
    """Read an ONNX export of a GPT-2, from any exporter and in any opset.

    Sizes, heads, activation, epsilon and the scaling of attention come from the graph. A ``config.json``
    beside the file that agrees with it adds the special tokens, and the number of heads if the graph does
    not reveal it.

    Parameters
    ----------
    path : Path
        The file; external data must be beside it.
    n_head : int, optional
        The number of heads, for a graph that does not reveal it.
    tokenizer : TokenizerFiles, optional
        Default: the tokenizer beside the file, if any.

    Raises
    ------
    ModelError
        The file is truncated or corrupt, its external data leads elsewhere, or the graph is not a GPT-2.
    """
    file = read_onnx(path)
    graph = Graph(file)
    model = _Model(file, graph)
    config, tensors = settle_head(model.config(n_head), model.tensors(), path)
    files = find_tokenizer_files(path.parent) if tokenizer is None else tokenizer
    checkpoint = Checkpoint.checked(
        config,
        tensors,
        source=path,
        fingerprint=fingerprint(config, files, file.files),
        tokenizer=files,
    )
    return replace(checkpoint, check_source=partial(_check, checkpoint, path))


def _check(checkpoint: Checkpoint, path: Path) -> None:
    from gpt2fast.checkpoints.onnx_verify import check_against_source

    check_against_source(checkpoint, path)


class _Model:
    """The parts of the graph and their roles."""

    def __init__(self, file: OnnxFile, graph: Graph) -> None:
        self._file = file
        self._graph = graph
        inputs = [name for name in file.inputs if name not in file.tensors]
        self._embeddings: Embeddings = find_embeddings(graph, inputs)
        self._norms: list[Norm] = find_norms(graph)
        linears = find_linears(graph)
        self._layers: list[list[Linear]] = [linears[i : i + 4] for i in range(0, len(linears) // 4 * 4, 4)]
        self._head: Linear | None = linears[-1] if len(linears) % 4 == 1 else None
        self._width = self._embeddings.tokens.shape[1]
        self._check_layers(len(linears))

    def config(self, n_head: int | None) -> ModelConfig:
        """What the graph reveals, completed from a ``config.json`` that fits."""
        first = self._layers[0]
        found = find_heads(self._graph, first[0], self._width) or _heads_of_past(self._file, self._width)
        beside = self._config_beside(found or n_head)
        heads = found or n_head or (beside and beside.n_head)
        if not heads:
            raise ModelError(
                f"{self._file.path}: the graph does not reveal the number of heads; convert it with n_head "
                f"given (gpt2fast convert --n-head N), or put a config.json beside it"
            )
        if heads < 1 or self._width % heads:  # a file may claim fewer than none
            raise ModelError(f"{self._file.path}: the width {self._width} is not a multiple of {heads} heads")
        vocabulary = self._embeddings.tokens.shape[0]
        end_of_text = vocabulary - 1 if vocabulary == _GPT2_VOCABULARY else None
        values = {
            **self._sizes(),
            "n_head": heads,
            "activation_function": find_activation(self._graph, first[2], first[3]),
            "layer_norm_epsilon": self._epsilon(),
            # Whether the head differs from the table follows from its values: see settle_head.
            "tie_word_embeddings": True,
            "bos_token_id": beside.bos_token_id if beside else end_of_text,
            "eos_token_id": list(beside.eos_token_ids) if beside else end_of_text,
            **self._scaling(self._width // heads),
        }
        return ModelConfig.from_dict(values, where=str(self._file.path))

    def tensors(self) -> dict[str, LazyTensor]:
        """The weights by canonical name."""
        tensors = {
            "wte.weight": self._embeddings.tokens.lazy(),
            "wpe.weight": self._embeddings.positions.lazy(),
            "ln_f.weight": self._norms[-1].gamma.lazy(),
            "ln_f.bias": self._norms[-1].beta.lazy(),
        }
        for i, layer in enumerate(self._layers):
            for norm, part in zip(self._norms[2 * i : 2 * i + 2], ("ln_1", "ln_2"), strict=True):
                tensors[f"h.{i}.{part}.weight"] = norm.gamma.lazy()
                tensors[f"h.{i}.{part}.bias"] = norm.beta.lazy()
            for linear, part in zip(layer, _PER_LAYER, strict=True):
                tensors[f"h.{i}.{part}.weight"] = linear.weight.lazy()
                tensors[f"h.{i}.{part}.bias"] = (linear.bias or _zeros(linear.weight.shape[1])).lazy()
        if self._head is not None:
            tensors["lm_head.weight"] = self._head.weight.transpose().lazy()
        return tensors

    def _check_layers(self, count: int) -> None:
        """Raise ModelError unless linear layers and LayerNorms are those of a GPT-2."""
        path, width = self._file.path, self._width
        if not self._layers or count % 4 > 1 or len(self._norms) != 2 * len(self._layers) + 1:
            raise ModelError(
                f"{path}: a GPT-2 has four linear layers and two LayerNorms a layer, a last LayerNorm, and "
                f"at most one more linear layer; this graph has {count} and {len(self._norms)}"
            )
        inner = self._layers[0][2].weight.shape[1]
        wanted = [(width, 3 * width), (width, width), (width, inner), (inner, width)]
        for i, layer in enumerate(self._layers):
            for linear, part, shape in zip(layer, _PER_LAYER, wanted, strict=True):
                if linear.weight.shape != shape:
                    raise ModelError(
                        f"{path}: the weight that should be h.{i}.{part} has shape "
                        f"{list(linear.weight.shape)}, not {list(shape)}"
                    )
            joined = follows(self._graph, layer[0], self._norms[2 * i])
            if not joined or not follows(self._graph, layer[2], self._norms[2 * i + 1]):
                raise ModelError(f"{path}: in layer {i}, a linear layer does not follow its LayerNorm")
        if self._head is not None and self._head.weight.shape[0] != width:
            raise ModelError(f"{path}: the last linear layer has shape {list(self._head.weight.shape)}")
        if self._head is not None and self._head.bias is not None:
            raise ModelError(f"{path}: its head has a bias, which a GPT-2's has not")

    def _sizes(self) -> dict[str, int]:
        return {
            "n_layer": len(self._layers),
            "n_embd": self._width,
            "n_inner": self._layers[0][2].weight.shape[1],
            "n_positions": self._embeddings.positions.shape[0],
            "vocab_size": self._embeddings.tokens.shape[0],
        }

    def _config_beside(self, heads: int | None) -> ModelConfig | None:
        """The ``config.json`` beside the file, if it describes this model."""
        directory = self._file.path.parent
        if find_inside(directory, "config.json") is None:
            return None
        config = read_config(directory)
        agrees = all(getattr(config, name) == size for name, size in self._sizes().items())
        return config if agrees and heads in (None, config.n_head) else None

    def _epsilon(self) -> float:
        values = {nearest_decimal(norm.epsilon) for norm in self._norms}
        if len(values) != 1:
            raise ModelError(
                f"{self._file.path}: its LayerNorms have different epsilons: {sorted(values)[:5]}"
            )
        return values.pop()

    def _scaling(self, head_dim: int) -> dict[str, bool]:
        """The scaling of the scores, as configuration flags."""
        found = find_attention_scales(self._graph, head_dim)
        layers = range(len(self._layers))
        if len(found) != len(layers):
            raise ModelError(f"{self._file.path}: has {len(layers)} layers and {len(found)} attentions")
        for scaled in (True, False):
            for by_layer in (False, True):
                base = 1 / math.sqrt(head_dim) if scaled else 1.0
                wanted = [base / (layer + 1) if by_layer else base for layer in layers]
                if np.allclose(found, wanted, rtol=_TOLERANCE, atol=0):
                    return {"scale_attn_weights": scaled, "scale_attn_by_inverse_layer_idx": by_layer}
        raise ModelError(f"{self._file.path}: attention scales its scores in an unknown way, by {found[:3]}")


def _heads_of_past(file: OnnxFile, width: int) -> int | None:
    """The heads in the declared shapes of the past: [..., heads, tokens, head_dim]."""
    for shape in (*file.outputs.values(), *file.inputs.values()):
        if shape is not None and len(shape) in (4, 5):
            heads, head_dim = shape[-3], shape[-1]
            if heads and head_dim and heads * head_dim == width:
                return heads
    return None


def _zeros(size: int) -> StoredTensor:
    """The bias that an exporter left out because it is zero."""
    return StoredTensor.of_array(np.zeros(size), "F32")
