"""What every checkpoint reader returns: configuration, tensors by canonical name, tokenizer files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LazyTensor:
    """One tensor of a checkpoint, read on demand.

    Attributes
    ----------
    shape : tuple of int
        As Hugging Face's GPT-2 has it: linear weights are ``[in_features, out_features]``.
    read_rows : callable
        ``read_rows(start, stop)`` returns rows ``start:stop`` of the first axis as a float32 array of shape
        ``(stop - start, *shape[1:])``; it takes memory for those rows only.
    """

    shape: tuple[int, ...]
    read_rows: Callable[[int, int], NDArray[np.float32]]

    def read(self) -> NDArray[np.float32]:
        """The whole tensor, float32, of shape ``shape``."""
        return self.read_rows(0, self.shape[0])

    @classmethod
    def from_array(cls, array: NDArray[np.generic]) -> LazyTensor:
        """A tensor that is already in memory (any real dtype)."""
        return cls(tuple(array.shape), lambda start, stop: array[start:stop].astype("f4"))


@dataclass(frozen=True)
class TokenizerFiles:
    """The text of a tokenizer's files; at most one of the three forms is set.

    ``tokenizer_json`` is the text of a Hugging Face ``tokenizer.json``; ``vocab_json`` and ``merges_txt``
    are the texts of GPT-2's two original files; ``vocab_txt`` is that of BERT's. ``tokenizer_config``,
    ``special_tokens_map`` and ``added_tokens`` are the texts of the files of these names beside them.
    ``chat_template`` is a Jinja template for conversations, where the checkpoint has one.
    """

    tokenizer_json: str | None = None
    vocab_json: str | None = None
    merges_txt: str | None = None
    vocab_txt: str | None = None
    tokenizer_config: str | None = None
    special_tokens_map: str | None = None
    added_tokens: str | None = None
    chat_template: str | None = None

    def __bool__(self) -> bool:
        return any(text is not None for text in (self.tokenizer_json, self.vocab_json, self.vocab_txt))


@dataclass(frozen=True)
class Checkpoint:
    """A GPT-2 model from any source.

    ``tensors`` maps the canonical names to tensors; the canonical names are Hugging Face's without the
    leading ``transformer.``: ``wte.weight`` ``[vocab_size, n_embd]``, ``wpe.weight`` ``[n_positions,
    n_embd]``, ``h.{i}.ln_1.weight|bias``, ``h.{i}.attn.c_attn.weight`` ``[n_embd, 3 * n_embd]``,
    ``h.{i}.attn.c_attn.bias``, ``h.{i}.attn.c_proj.weight|bias``, ``h.{i}.ln_2.weight|bias``,
    ``h.{i}.mlp.c_fc.weight|bias``, ``h.{i}.mlp.c_proj.weight|bias``, ``ln_f.weight|bias``, and
    ``lm_head.weight`` ``[vocab_size, n_embd]`` exactly when the head is untied. Construction through
    :meth:`checked` guarantees names and shapes.
    """

    config: ModelConfig
    tensors: Mapping[str, LazyTensor]
    source: str
    fingerprint: str
    tokenizer: TokenizerFiles = field(default_factory=TokenizerFiles)
    #: The tensors of :func:`classifier_shapes`, where the configuration has a classifier.
    classifier: Mapping[str, LazyTensor] = field(default_factory=dict)
    #: What ``config.json`` holds, where there is one; it describes an adapter's head for classification too.
    config_values: Mapping[str, Any] = field(default_factory=dict)
    #: What ``generation_config.json`` holds; empty without one.
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    #: Runs the source itself, where it can run, and raises ModelError unless it agrees; conversions call it.
    check_source: Callable[[], None] | None = field(default=None, compare=False)
    #: What a user should know of what was left out or assumed; conversions keep it for later loads.
    warnings: tuple[str, ...] = ()
    #: What is wrong with the source's own tokenizer, if it has one that can't be read.
    tokenizer_fault: str | None = None
    #: Whether a user named the tokenizer; one that does not fit is then an error.
    tokenizer_is_given: bool = False

    @classmethod
    def checked(
        cls,
        config: ModelConfig,
        tensors: Mapping[str, LazyTensor],
        *,
        source: str | Path,
        fingerprint: str,
        tokenizer: TokenizerFiles | None = None,
    ) -> Checkpoint:
        """A checkpoint whose tensors are exactly those that the configuration requires.

        Raises
        ------
        ModelError
            A tensor is missing or has another shape; the message names source, tensor and both shapes.
        """
        kept: dict[str, LazyTensor] = {}
        # One by one: a configuration may claim millions of layers that the source does not have.
        for name, shape in expected_shapes(config):
            if name not in tensors:
                raise ModelError(f"{source}: the tensor {name!r} is missing")
            if tensors[name].shape != shape:
                raise ModelError(
                    f"{source}: the tensor {name!r} has shape {list(tensors[name].shape)}; "
                    f"the configuration requires {list(shape)}"
                )
            kept[name] = tensors[name]
        return cls(config, kept, str(source), fingerprint, tokenizer or TokenizerFiles())


def expected_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Canonical name and shape of every tensor of a model, in the order of use."""
    width, inner = config.n_embd, config.n_inner
    yield "wte.weight", (config.vocab_size, width)
    yield "wpe.weight", (config.n_positions, width)
    for layer in range(config.n_layer):
        prefix = f"h.{layer}"
        yield from _norm(f"{prefix}.ln_1", width)
        yield from _linear(f"{prefix}.attn.c_attn", width, 3 * width)
        yield from _linear(f"{prefix}.attn.c_proj", width, width)
        yield from _norm(f"{prefix}.ln_2", width)
        yield from _linear(f"{prefix}.mlp.c_fc", width, inner)
        yield from _linear(f"{prefix}.mlp.c_proj", inner, width)
    yield from _norm("ln_f", width)
    if not config.tie_word_embeddings:
        yield "lm_head.weight", (config.vocab_size, width)


def classifier_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of the classification head; its matrix is ``[labels, n_embd]``."""
    if config.classifier is None:
        return {}
    labels = len(config.classifier.labels)
    if config.classifier.kind == "sequence":
        return {"score.weight": (labels, config.n_embd)}
    return {"classifier.weight": (labels, config.n_embd), "classifier.bias": (labels,)}


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _linear(name: str, in_features: int, out_features: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (in_features, out_features)
    yield f"{name}.bias", (out_features,)
