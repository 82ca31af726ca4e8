"""What names and shapes in a state dictionary say: canonical names, and a configuration without a file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from gpt2fast.checkpoints.base import LazyTensor
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError

_TABLE, _HEAD = "wte.weight", "lm_head.weight"
#: What wrappers put in front: DataParallel, torch.compile, a module that holds the model, the model itself.
_PREFIXES = re.compile(r"((module|_orig_mod|model)\.)*(transformer\.)?")
# Causal masks that old versions of transformers saved with the weights.
_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_LAYER = re.compile(r"h\.(\d{1,6})\.")
_GPT2_END_OF_TEXT = 50256
_USUAL_HEAD_DIM = 64
_NAMES_SHOWN = 5


def canonical_names(tensors: Iterable[str], source: Path) -> dict[str, str]:
    """Canonical name -> name in the file, without the mask buffers.

    Raises
    ------
    ModelError
        Two names mean the same tensor.
    """
    names: dict[str, str] = {}
    for name in tensors:
        canonical = _PREFIXES.sub("", name, count=1)
        if _BUFFER.fullmatch(canonical):
            continue
        if canonical in names:
            raise ModelError(f"{source}: both {names[canonical]!r} and {name!r} are in it")
        names[canonical] = name
    return names


def missing_tensor(canonical: str, config: ModelConfig, names: Mapping[str, str], source: Path) -> str:
    """The message for a tensor that the configuration requires and the file has not."""
    message = f"{source}: the tensor {canonical!r} is missing"
    if canonical == _HEAD:
        return f"{message}; the configuration says that the head is not tied (tie_word_embeddings is false)"
    if canonical == _TABLE:
        return f"{message}; is it a GPT-2 model? It holds {_some(names.values())}"
    return f"{message}; the configuration says {config.n_layer} layers"


def unused_tensors(names: Collection[str], source: Path) -> tuple[str, ...]:
    """What to warn of, given the names of the tensors that are not used."""
    return (f"{source}: {len(names)} tensors are not used: {_some(names)}",) if names else ()


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:_NAMES_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "") if shown else "no tensors"


def infer_config(
    tensors: Mapping[str, LazyTensor], path: Path, n_head: int | None
) -> tuple[ModelConfig, str | None]:
    """The configuration that follows from the shapes, and what had to be assumed.

    Without ``n_head``, heads of width 64 are assumed, as all GPT-2 models have.

    Raises
    ------
    ModelError
        A matrix is missing, or there is no ``n_head`` and the width is not a multiple of 64.
    """
    names = canonical_names(tensors, path)

    def matrix(canonical: str) -> tuple[int, int]:
        shape = tensors[names[canonical]].shape if canonical in names else ()
        if len(shape) != 2:
            raise ModelError(
                f"{path}: no config.json beside it, and no matrix {canonical!r} in it for the sizes; "
                f"it holds {_some(names.values())}"
            )
        return shape[0], shape[1]

    vocab_size, width = matrix(_TABLE if _TABLE in names else _HEAD)
    assumption = None
    if n_head is None:
        n_head = _usual_heads(width, path)
        assumption = (
            f"{path}: no config.json beside it; assuming {n_head} heads of {_USUAL_HEAD_DIM} and GPT-2's "
            f"conventions"
        )
    layers = [int(match[1]) for match in map(_LAYER.match, names) if match]
    values = {
        "n_layer": max(layers, default=-1) + 1,
        "n_head": n_head,
        "n_embd": width,
        "n_inner": matrix("h.0.mlp.c_fc.weight")[1],
        "n_positions": matrix("wpe.weight")[0],
        "vocab_size": vocab_size,
        "bos_token_id": _GPT2_END_OF_TEXT,
        "eos_token_id": _GPT2_END_OF_TEXT,
        # A head of its own is told from the table by its numbers.
        "tie_word_embeddings": True,
    }
    return ModelConfig.from_dict(values, where=str(path)), assumption


def _usual_heads(width: int, path: Path) -> int:
    if width % _USUAL_HEAD_DIM:
        raise ModelError(
            f"{path}: the number of heads does not follow from the shapes (width {width} is not a multiple "
            f"of {_USUAL_HEAD_DIM}); put the model's config.json beside it, or convert it with n_head given "
            f"(gpt2fast convert --n-head N)"
        )
    return width // _USUAL_HEAD_DIM
