"""The nodes of a step graph, as its writer and its check both have them.

They follow from the configuration, but for the formats of the packed weights, which the precision chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from gpt2fast.config import ModelConfig

DOMAIN = "gpt2fast"
#: Versions of the operators by domain.
OPSETS = {"": 17, DOMAIN: 1}
INPUT_NAMES = (
    *("input_ids", "positions", "sequence_starts", "slots", "cached_lengths", "hidden_rows", "logits_rows"),
    "kv_cache",
)
OUTPUT_NAMES = ("logits", "logits_maxima", "hidden")

#: Weight format by name, for every packed weight.
Formats: TypeAlias = Mapping[str, int]

# Values of Activation in the kernels. The polynomial of gelu_fast is gelu_new's with its constant rounded.
_NO_ACTIVATION = 0
_ACTIVATIONS = {"gelu_new": 1, "gelu_pytorch_tanh": 1, "gelu_fast": 1, "gelu": 2, "relu": 3}


class StepNode(NamedTuple):
    """One node; attributes are int64 or float32 by their type."""

    operator: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int | float]


def step_nodes(config: ModelConfig, formats: Formats) -> Iterator[StepNode]:
    """The nodes in their order; ``formats[name]`` is read when the node of that weight is reached."""
    table = "wte.weight"
    yield StepNode(
        "Embed",
        DOMAIN,
        "embed",
        ("input_ids", "positions", table, "wpe.weight"),
        ("x.0",),
        {"width": config.n_embd, "vocabulary": config.vocab_size, "format": formats[table]},
    )
    for layer in range(config.n_layer):
        yield from _layer(config, formats, layer)
    yield StepNode(
        "LayerNorm",
        DOMAIN,
        "ln_f",
        (f"x.{config.n_layer}", "ln_f.weight", "ln_f.bias"),
        ("hidden",),
        {"epsilon": config.layer_norm_epsilon},
    )
    yield _gather("hidden", "logits_rows", "wanted")
    head = table if config.tie_word_embeddings else "lm_head.weight"
    sizes = (config.n_embd, config.vocab_size)
    yield _linear(config, formats, "lm_head", ("wanted", head), ("logits", "logits_maxima"), sizes)


def _layer(config: ModelConfig, formats: Formats, layer: int) -> Iterator[StepNode]:
    prefix, width, inner = f"h.{layer}", config.n_embd, config.n_inner
    last = layer == config.n_layer - 1

    def linear(
        part: str,
        x: str,
        y: str,
        sizes: tuple[int, int],
        norm: str = "",
        residual: str = "",
        activation: int = 0,
    ) -> StepNode:
        name = f"{prefix}.{part}"
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        inputs += [f"{prefix}.{norm}.weight", f"{prefix}.{norm}.bias"] if norm else ["", ""]
        inputs.append(residual)
        while not inputs[-1]:
            inputs.pop()
        return _linear(config, formats, name, tuple(inputs), (y,), sizes, activation)

    x, qkv, attended, middle, hidden = f"x.{layer}", *(f"{prefix}.{part}" for part in ("qkv", "a", "x", "f"))
    yield linear("attn.c_attn", x, qkv, (width, 3 * width), norm="ln_1")
    wanted = ("hidden_rows",) if last else ()
    yield StepNode(
        "CachedAttention",
        DOMAIN,
        f"{prefix}.attn",
        (qkv, "sequence_starts", "slots", "cached_lengths", "kv_cache", *wanted),
        (attended,),
        {
            "layer": layer,
            "layers": config.n_layer,
            "heads": config.n_head,
            "head_dim": config.head_dim,
            "positions": config.n_positions,
            "scale": config.attention_scale(layer),
        },
    )
    if last:
        for name in (attended, x):
            yield _gather(name, "hidden_rows", f"{name}.rows")
        attended, x = f"{attended}.rows", f"{x}.rows"
    activation = _ACTIVATIONS[config.activation_function]
    yield linear("attn.c_proj", attended, middle, (width, width), residual=x)
    yield linear("mlp.c_fc", middle, hidden, (width, inner), norm="ln_2", activation=activation)
    yield linear("mlp.c_proj", hidden, f"x.{layer + 1}", (inner, width), residual=middle)


def _linear(
    config: ModelConfig,
    formats: Formats,
    name: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    sizes: tuple[int, int],
    activation: int = _NO_ACTIVATION,
) -> StepNode:
    attributes: dict[str, int | float] = {
        "in_features": sizes[0],
        "out_features": sizes[1],
        "format": formats[inputs[1]],
        "activation": activation,
        "epsilon": config.layer_norm_epsilon,
    }
    return StepNode("Linear", DOMAIN, name, inputs, outputs, attributes)


def _gather(x: str, rows: str, y: str) -> StepNode:
    return StepNode("Gather", "", y, (x, rows), (y,), {"axis": 0})
