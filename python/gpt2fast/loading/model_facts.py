"""What a loaded model says of itself: its sizes, its files, how it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpt2fast._native import Runtime
from gpt2fast.config import ModelConfig
from gpt2fast.loading.loaded_model import LoadedModel
from gpt2fast.storage.model_directory import ModelDirectory

if TYPE_CHECKING:
    from gpt2fast.text.tokenizer import Tokenizer


class ModelFacts:
    """The properties of :class:`gpt2fast.GPT2`."""

    _loaded: LoadedModel

    @property
    def loaded(self) -> LoadedModel:
        """Files, tokenizer and engine in one object, which the methods work with."""
        return self._loaded

    @property
    def config(self) -> ModelConfig:
        """Sizes and conventions of the model."""
        return self._loaded.directory.config

    @property
    def directory(self) -> ModelDirectory:
        """The files of the model."""
        return self._loaded.directory

    @property
    def generation_config(self) -> dict[str, Any]:
        """The model's own defaults of options by name; ``max_length``, ``min_length`` count the prompt."""
        defaults = self._loaded.defaults
        if defaults is None:
            return {}
        lengths = {"max_length": defaults.max_length, "min_length": defaults.min_length}
        return {**defaults.options, **{name: value for name, value in lengths.items() if value is not None}}

    @property
    def precision(self) -> str:
        """The weights' precision: ``"fp32"``, ``"bf16"``, ``"int8"`` or ``"int4"``."""
        return self._loaded.directory.precision

    @property
    def kv_cache(self) -> str:
        """The format of keys and values: ``"fp32"``, ``"fp16"`` or ``"int8"``."""
        return self._loaded.kv_cache

    @property
    def runtime(self) -> Runtime:
        """The ONNX Runtime in use."""
        return self._loaded.runtime

    @property
    def threads(self) -> int:
        """Threads that share the work of a step."""
        return self._loaded.engine.threads

    @property
    def max_sequences(self) -> int:
        """The most texts that share a step."""
        return self._loaded.engine.max_sequences

    @property
    def cache_bytes_per_sequence(self) -> int:
        """Memory of one text's keys and values at full length."""
        return self._loaded.engine.cache_bytes_per_sequence

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back; read at first use.

        Raises
        ------
        ModelError
            The model has none, its file is broken or doesn't fit, or it is GPT-2's own and neither in the
            cache nor available from the hub.
        """
        return self._loaded.read_tokenizer()

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model can read and write text; if not, it takes token ids and its texts are empty.

        It can with its own tokenizer, a given one, or GPT-2's vocabulary.
        """
        return self._loaded.tokenizer is not None
