"""What names and shapes in a state dictionary say: canonical names, and a configuration without a file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2fast.checkpoints.base import LazyTensor
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TABLE, _HEAD = "wte.weight", "lm_head.weight"
#: What wrappers put in front: DataParallel, torch.compile, a module that holds the model, the model itself.
_PREFIXES = re.compile(r"((module|_orig_mod|model)\.)*(transformer\.)?")
# Causal masks that old versions of transformers saved with the weights.
_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_LAYER = re.compile(r"h\.(\d{1,6})\.")
_LINEAR = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_JOINT = "h.0.attn.c_attn.weight"
_NORM = re.compile(r"(h\.\d+\.ln_[12]|ln_f)\.weight")
_NANOGPT_KEYS = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
}
_READ_BYTES = 16 << 20
_GPT2_END_OF_TEXT = 50256
_USUAL_HEAD_DIM = 64
_NAMES_SHOWN = 5


class StateDict(Mapping[str, LazyTensor]):
    """The tensors of a model by canonical name and in canonical layout, ``[in_features, out_features]``.

    Prefixes of wrappers are dropped, and causal masks. nanoGPT and its kin use ``torch.nn.Linear`` where
    OpenAI and ``transformers`` have the transposed ``Conv1D``, and may have no biases. Which of the two it is
    follows from the shape of the joint projection, which is three times as long on one side.

    Parameters
    ----------
    tensors : mapping
        As the file has them.
    source : Path
        Named in errors.

    Attributes
    ----------
    names : dict
        Canonical name -> name in the file.
    is_transposed : bool
        Whether the file has linear weights as ``[out_features, in_features]``.

    Raises
    ------
    ModelError
        Two names mean the same tensor.
    """

    def __init__(self, tensors: Mapping[str, LazyTensor], source: Path) -> None:
        self._tensors = tensors
        self.names = _canonical_names(tensors, source)
        joint = tensors[self.names[_JOINT]].shape if _JOINT in self.names else ()
        self.is_transposed = len(joint) == 2 and joint[0] == 3 * joint[1]
        # Name of a bias that is zero -> the weight that it goes with.
        self._zeros: dict[str, str] = {}
        if self.is_transposed and not any(name.endswith(".bias") for name in self.names):
            weights = (name for name in self.names if _LINEAR.fullmatch(name) or _NORM.fullmatch(name))
            self._zeros = {name.removesuffix("weight") + "bias": name for name in weights}

    def __getitem__(self, name: str) -> LazyTensor:
        if name in self._zeros:
            return LazyTensor.from_array(np.zeros(self[self._zeros[name]].shape[-1:], np.float32))
        tensor = self._tensors[self.names[name]]
        is_linear = len(tensor.shape) == 2 and _LINEAR.fullmatch(name) is not None
        return _transposed(tensor) if self.is_transposed and is_linear else tensor

    def __contains__(self, name: object) -> bool:
        return name in self.names or name in self._zeros

    def __iter__(self) -> Iterator[str]:
        yield from self.names
        yield from self._zeros

    def __len__(self) -> int:
        return len(self.names) + len(self._zeros)


def _transposed(tensor: LazyTensor) -> LazyTensor:
    """A matrix with its axes swapped; the original is read in pieces of bounded size."""
    rows, columns = tensor.shape
    step = max(1, _READ_BYTES // (4 * max(1, columns)))

    def read_rows(start: int, stop: int) -> NDArray[np.float32]:
        result = np.empty((stop - start, rows), np.float32)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            result[:, first:last] = tensor.read_rows(first, last)[:, start:stop].T
        return result

    return LazyTensor((columns, rows), read_rows)


def _canonical_names(tensors: Iterable[str], source: Path) -> dict[str, str]:
    """Canonical name -> name in the file, without the mask buffers."""
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
    if not names:
        return ()
    text = f"{source}: {len(names)} tensors are not used: {_some(names)}"
    if any("multiple_choice_head." in name for name in names):
        text += "; a head that chooses among texts is not supported: rank() orders them by likelihood"
    return (text,)


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:_NAMES_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "") if shown else "no tensors"


def infer_config(state: StateDict, path: Path, n_head: int | None) -> tuple[ModelConfig, str | None]:
    """The configuration that follows from the shapes, and what had to be assumed.

    Without ``n_head``, heads of width 64 are assumed, as all GPT-2 models have. A file with transposed
    weights is taken for nanoGPT's, whose GELU is exact.

    Raises
    ------
    ModelError
        A matrix is missing, or there is no ``n_head`` and the width is not a multiple of 64.
    """

    def matrix(canonical: str) -> tuple[int, int]:
        shape = state[canonical].shape if canonical in state else ()
        if len(shape) != 2:
            raise ModelError(
                f"{path}: no config.json beside it, and no matrix {canonical!r} in it for the sizes; "
                f"it holds {_some(state.names.values())}"
            )
        return shape[0], shape[1]

    vocab_size, width = matrix(_TABLE if _TABLE in state else _HEAD)
    assumption = None
    if n_head is None:
        n_head = _usual_heads(width, path)
        assumption = (
            f"{path}: no config.json beside it; assuming {n_head} heads of {_USUAL_HEAD_DIM} and "
            f"{'nanoGPT' if state.is_transposed else 'GPT-2'}'s conventions"
        )
    layers = [int(match[1]) for match in map(_LAYER.match, state) if match]
    values = {
        "n_layer": max(layers, default=-1) + 1,
        "n_head": n_head,
        "n_embd": width,
        "n_inner": matrix("h.0.mlp.c_fc.weight")[1],
        "n_positions": matrix("wpe.weight")[0],
        "vocab_size": vocab_size,
        "activation_function": "gelu" if state.is_transposed else "gelu_new",
        "bos_token_id": _GPT2_END_OF_TEXT,
        "eos_token_id": _GPT2_END_OF_TEXT,
        # Whether the head differs from the table follows from its values: see settle_head.
        "tie_word_embeddings": True,
    }
    return ModelConfig.from_dict(values, where=str(path)), assumption


def nanogpt_config(model_args: Mapping[str, Any], path: Path) -> ModelConfig:
    """The configuration that nanoGPT saves as ``model_args``; its GELU is exact, its head the token table."""
    values = {ours: model_args[theirs] for theirs, ours in _NANOGPT_KEYS.items() if theirs in model_args}
    values |= {
        "activation_function": "gelu",
        "bos_token_id": _GPT2_END_OF_TEXT,
        "eos_token_id": _GPT2_END_OF_TEXT,
    }
    return ModelConfig.from_dict(values, where=f"{path}: model_args")


def _usual_heads(width: int, path: Path) -> int:
    if width % _USUAL_HEAD_DIM:
        raise ModelError(
            f"{path}: the number of heads does not follow from the shapes (width {width} is not a multiple "
            f"of {_USUAL_HEAD_DIM}); put the model's config.json beside it, or convert it with n_head given "
            f"(gpt2fast convert --n-head N)"
        )
    return width // _USUAL_HEAD_DIM
