"""The configuration of a GPT-2 model, in Hugging Face's terms."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gpt2fast.errors import ModelError

#: The activations that the kernels have, by Hugging Face's names.
ACTIVATIONS = ("gelu_new", "gelu", "relu", "gelu_pytorch_tanh", "gelu_fast")

_REQUIRED = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
_ALIASES = {
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "n_ctx": "n_positions",
}
#: A model with this many tokens has GPT-2's own vocabulary.
GPT2_VOCAB_SIZE = 50257
#: The largest dimension of a model; keeps every product of two within 64 bits.
MAX_DIMENSION = 1 << 24


#: The classes of ``transformers`` that have the heads.
_CLASSIFIER_CLASSES: Mapping[str, Literal["sequence", "token"]] = {
    "GPT2ForSequenceClassification": "sequence",
    "GPT2ForTokenClassification": "token",
}
_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


@dataclass(frozen=True)
class ClassifierConfig:
    """What a model's classification head says, in Hugging Face's terms.

    Attributes
    ----------
    kind : {"sequence", "token"}
        Whether it labels whole texts or each of their tokens.
    labels : tuple of str
        ``id2label`` in the order of the ids; ``LABEL_0``, ... where the file has none.
    problem_type : str or None
        ``"regression"``, ``"single_label_classification"``, ``"multi_label_classification"``, or unset.
    pad_token_id : int or None
        The head of a whole text reads the last token that is not this one.
    """

    kind: Literal["sequence", "token"]
    labels: tuple[str, ...]
    problem_type: str | None = None
    pad_token_id: int | None = None

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, Any],
        kind: Literal["sequence", "token"],
        *,
        count: int | None = None,
        where: str = "config.json",
    ) -> ClassifierConfig:
        """Check and read what a Hugging Face configuration says of a head with ``count`` labels.

        Raises
        ------
        ModelError
            The labels are no numbered names, or not as many; the problem type is unknown.
        """
        problem_type = values.get("problem_type")
        if problem_type is not None and problem_type not in _PROBLEM_TYPES:
            raise ModelError(
                f"{where}: problem_type must be one of {', '.join(_PROBLEM_TYPES)}, got {problem_type!r}"
            )
        labels = _labels(values.get("id2label"), count, where)
        pad = _token_id(values.get("pad_token_id"), "pad_token_id", MAX_DIMENSION, where)
        return cls(kind, labels, problem_type, pad)

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``config.json``."""
        classes = {kind: name for name, kind in _CLASSIFIER_CLASSES.items()}
        return {
            "architectures": [classes[self.kind]],
            "id2label": {str(index): label for index, label in enumerate(self.labels)},
            "label2id": {label: index for index, label in enumerate(self.labels)},
            "problem_type": self.problem_type,
            "pad_token_id": self.pad_token_id,
        }


def classifier_kind(values: Mapping[str, Any]) -> Literal["sequence", "token"] | None:
    """What a configuration's ``architectures`` say of a classification head; None: nothing."""
    names = values.get("architectures")
    for name in names if isinstance(names, list) else []:
        if isinstance(name, str) and name in _CLASSIFIER_CLASSES:
            return _CLASSIFIER_CLASSES[name]
    return None


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and conventions of a GPT-2 model.

    The fields carry the names and meanings of Hugging Face's ``GPT2Config``. ``n_inner`` is always set here
    (``4 * n_embd`` if the file leaves it out), and ``eos_token_ids`` holds every end-of-text id (the
    file's ``eos_token_id`` may be an id, a list, or null). ``classifier`` is set for a model with a head for
    classification; :meth:`from_dict` leaves it out, since only the tensors tell whether there is one.
    """

    n_layer: int
    n_head: int
    n_embd: int
    n_positions: int
    vocab_size: int
    n_inner: int
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    classifier: ClassifierConfig | None = None

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    def attention_scale(self, layer: int) -> float:
        """The factor on the query-key products of a layer."""
        scale = 1.0 / math.sqrt(self.head_dim) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "config.json") -> ModelConfig:
        """Check and read a Hugging Face configuration.

        Parameters
        ----------
        values : mapping
            The parsed ``config.json``.
        where : str
            What to name in errors.

        Raises
        ------
        ModelError
            A key is missing, of the wrong type or out of range, or requires something that GPT-2 does not
            have or that is not supported.
        """
        values = dict(values)
        for alias, name in _ALIASES.items():
            if alias in values:
                values.setdefault(name, values[alias])
        model_type = values.get("model_type", "gpt2")
        if model_type != "gpt2":
            raise ModelError(f"{where}: model_type is {model_type!r}; only GPT-2 ('gpt2') is supported")
        sizes: dict[str, Any] = {name: _size(values, name, where) for name in _REQUIRED}
        n_inner = (
            _size(values, "n_inner", where) if values.get("n_inner") is not None else 4 * sizes["n_embd"]
        )
        if sizes["n_embd"] % sizes["n_head"]:
            raise ModelError(
                f"{where}: n_embd ({sizes['n_embd']}) must be a multiple of n_head ({sizes['n_head']})"
            )
        activation = values.get("activation_function", "gelu_new")
        if activation not in ACTIVATIONS:
            from difflib import get_close_matches

            near = get_close_matches(str(activation), ACTIVATIONS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ModelError(
                f"{where}: activation_function {activation!r} is not supported; it must be one of "
                f"{', '.join(ACTIVATIONS)}{hint}"
            )
        epsilon = values.get("layer_norm_epsilon", 1e-5)
        if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 < epsilon < 1:
            raise ModelError(f"{where}: layer_norm_epsilon must be in (0, 1), got {epsilon!r}")
        if values.get("add_cross_attention"):
            raise ModelError(f"{where}: add_cross_attention is not supported")
        return cls(
            **sizes,
            n_inner=n_inner,
            activation_function=activation,
            layer_norm_epsilon=float(epsilon),
            scale_attn_weights=_flag(values, "scale_attn_weights", True, where),
            scale_attn_by_inverse_layer_idx=_flag(values, "scale_attn_by_inverse_layer_idx", False, where),
            tie_word_embeddings=_flag(values, "tie_word_embeddings", True, where),
            bos_token_id=_token_id(values.get("bos_token_id"), "bos_token_id", sizes["vocab_size"], where),
            eos_token_ids=_token_ids(values.get("eos_token_id"), sizes["vocab_size"], where),
        )

    def to_dict(self) -> dict[str, Any]:
        """The configuration under Hugging Face's keys, as ``config.json`` holds it."""
        eos: int | list[int] | None = list(self.eos_token_ids) or None
        if eos is not None and len(self.eos_token_ids) == 1:
            eos = self.eos_token_ids[0]
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "n_embd": self.n_embd,
            "n_positions": self.n_positions,
            "vocab_size": self.vocab_size,
            "n_inner": self.n_inner,
            "activation_function": self.activation_function,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "scale_attn_weights": self.scale_attn_weights,
            "scale_attn_by_inverse_layer_idx": self.scale_attn_by_inverse_layer_idx,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            **(self.classifier.to_dict() if self.classifier is not None else {}),
        }

    def to_json(self) -> str:
        """The configuration as JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def _size(values: Mapping[str, Any], name: str, where: str) -> int:
    if name not in values:
        raise ModelError(f"{where}: the key {name!r} is missing")
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_DIMENSION:
        raise ModelError(f"{where}: {name} must be an integer from 1 to {MAX_DIMENSION}, got {value!r}")
    return value


def _flag(values: Mapping[str, Any], name: str, default: bool, where: str) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise ModelError(f"{where}: {name} must be true or false, got {value!r}")
    return value


def _token_id(value: Any, name: str, vocab_size: int, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError(f"{where}: {name} must be a token id or null, got {value!r}")
    # Small test models often keep GPT-2's own 50256 with a smaller vocabulary; that id can never occur.
    return value if 0 <= value < vocab_size else None


def _labels(names: Any, count: int | None, where: str) -> tuple[str, ...]:
    """The labels in the order of their ids; ``count`` of them, if that is known."""
    if names is None:
        return tuple(f"LABEL_{index}" for index in range(2 if count is None else count))
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{where}: id2label must map numbers to names")
    ids = [str(index) for index in range(len(names))]
    if set(names) != set(ids) or not names:
        raise ModelError(f"{where}: id2label must have the keys 0, 1, ..., got {', '.join(list(names)[:8])}")
    if count is not None and len(names) != count:
        raise ModelError(f"{where}: id2label names {len(names)} labels, and the head has {count}")
    return tuple(names[index] for index in ids)


def _token_ids(value: Any, vocab_size: int, where: str) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [value]
    checked = (_token_id(one, "eos_token_id", vocab_size, where) for one in ids)
    return tuple(one for one in checked if one is not None)
