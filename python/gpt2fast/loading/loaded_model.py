"""A model in memory: its files, its tokenizer and the engine that runs it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from gpt2fast._native import core, load_runtime
from gpt2fast._validation import Check, Choice, Integer, Real
from gpt2fast.errors import ModelError
from gpt2fast.loading.default_threads import default_threads
from gpt2fast.loading.sources import Precision, find_model_directory
from gpt2fast.storage.model_directory import MODEL_NAME, ModelDirectory, no_text, open_model_directory
from gpt2fast.text.lazy_tokenizer import lazy_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.config import ModelConfig
    from gpt2fast.text.tokenizer import Tokenizer

#: How keys and values may be kept.
KV_CACHES = {
    "fp32": core.CacheFormat.FLOAT32,
    "fp16": core.CacheFormat.FLOAT16,
    "int8": core.CacheFormat.INT8,
}
KvCache: TypeAlias = Literal["fp32", "fp16", "int8"]

MAX_THREADS = 1024
MAX_SEQUENCES = 4096
MAX_WAITING = 2**31 - 1
MAX_READ_AHEAD = 1 << 20
MAX_DECODE_SLOWDOWN = 1000.0
DEFAULT_PREFIX_CACHE_BYTES = 256 << 20

# The default for each precision: about as exact as the weights.
_KV_CACHE_OF_PRECISION: dict[str, KvCache] = {
    "fp32": "fp32",
    "bf16": "fp16",
    "int8": "int8",
    "int4": "int8",
    "int4-all": "int8",
}
# Longer prompts are cut into steps of this many tokens: enough for the matrix kernels to run at full speed,
# and few enough for a step's activations to stay in the caches.
_MAX_STEP_TOKENS = 128


@dataclass(frozen=True)
class EngineSettings:
    """How a model is run; fields and errors as of :meth:`gpt2fast.GPT2.from_pretrained`.

    Values are kept in plain form: a NumPy integer as ``int``, a member of an enumeration as the word.
    """

    threads: int | None = None
    kv_cache: KvCache | None = None
    max_sequences: int = 32
    prefix_cache_bytes: int = DEFAULT_PREFIX_CACHE_BYTES
    max_waiting: int | None = None
    read_ahead: int = 16
    decode_slowdown: float = 2.0

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, check(name, value))


_CHECKS: Mapping[str, Check] = {
    "threads": Integer(1, MAX_THREADS),
    "kv_cache": Choice(tuple(KV_CACHES)),
    "max_sequences": Integer(1, MAX_SEQUENCES),
    "prefix_cache_bytes": Integer(0, 2**62),
    "max_waiting": Integer(0, MAX_WAITING),
    "read_ahead": Integer(1, MAX_READ_AHEAD),
    "decode_slowdown": Real(1, MAX_DECODE_SLOWDOWN),
}
# Those that may be None.
_OPTIONAL = ("threads", "kv_cache", "max_waiting")


@dataclass(frozen=True)
class ModelDefaults:
    """What a model's generation_config.json says, in this library's terms; nothing if it is ignored.

    Attributes
    ----------
    options : mapping
        Options of :class:`gpt2fast.GenerationOptions` by name, each checked.
    max_length, min_length : int or None
        Limits of a text's tokens, those of the longest prompt included.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    max_length: int | None = None
    min_length: int | None = None

    def __bool__(self) -> bool:
        return bool(self.options) or self.max_length is not None or self.min_length is not None


class LoadedModel:
    """The parts of a model in memory; immutable, and shared by any number of threads.

    Parameters
    ----------
    directory : ModelDirectory
        The files.
    settings : EngineSettings, optional
        How it is run.
    tokenizer : Tokenizer, optional
        In place of the model's own.
    defaults : ModelDefaults, optional
        For options that a caller leaves out.

    Attributes
    ----------
    directory : ModelDirectory
        The files.
    config : ModelConfig
        Sizes and conventions.
    settings : EngineSettings
        As given.
    tokenizer : LazyTokenizer or None
        Read when text first goes in or out; None if there is none.
    given_tokenizer : Tokenizer or None
        As given.
    defaults : ModelDefaults or None
        As given; None if it holds nothing.
    kv_cache : {"fp32", "fp16", "int8"}
        How keys and values are kept.
    runtime : Runtime
        The ONNX Runtime in use.
    engine : core.Engine
        What runs the model.
    """

    def __init__(
        self,
        directory: ModelDirectory,
        settings: EngineSettings = EngineSettings(),
        tokenizer: Tokenizer | None = None,
        defaults: ModelDefaults | None = None,
    ) -> None:
        config = directory.config
        if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise ModelError(
                f"the tokenizer does not fit the model: it has {tokenizer.vocab_size} tokens, the model's "
                f"vocabulary {config.vocab_size}"
            )
        self.directory = directory
        self.config: ModelConfig = config
        self.settings = settings
        self.given_tokenizer = tokenizer
        self.defaults = defaults or None
        self.tokenizer = lazy_tokenizer(directory, tokenizer)
        self.kv_cache: KvCache = settings.kv_cache or _KV_CACHE_OF_PRECISION[directory.precision]
        self.runtime = load_runtime()
        self.engine = core.Engine(
            directory.graph,
            name=str(directory.path / MODEL_NAME),
            weights_path=str(directory.weights_path),
            tensors=directory.tensors,
            n_layer=config.n_layer,
            n_head=config.n_head,
            head_dim=config.head_dim,
            n_positions=config.n_positions,
            vocab_size=config.vocab_size,
            cache_format=KV_CACHES[self.kv_cache],
            threads=settings.threads or default_threads(config, core.usable_cores()),
            max_sequences=settings.max_sequences,
            max_step_tokens=max(_MAX_STEP_TOKENS, settings.max_sequences),
            prefix_cache_bytes=settings.prefix_cache_bytes,
            max_waiting=-1 if settings.max_waiting is None else settings.max_waiting,
            read_ahead=settings.read_ahead,
            decode_slowdown=settings.decode_slowdown,
        )
        directory.check_same()

    def __reduce__(self) -> tuple[Any, ...]:
        """A model pickles as its directory and how it is run; unpickling opens it again."""
        return _reopen, (str(self.directory.path), self.settings, self.given_tokenizer, self.defaults)

    @property
    def generation_config(self) -> dict[str, Any]:
        """The defaults of options by name, as :attr:`gpt2fast.GPT2.generation_config` gives them."""
        if self.defaults is None:
            return {}
        lengths = {"max_length": self.defaults.max_length, "min_length": self.defaults.min_length}
        known = {name: value for name, value in lengths.items() if value is not None}
        return {**self.defaults.options, **known}

    def read_tokenizer(self) -> Tokenizer:
        """The tokenizer, read at the first call; raises the errors of :attr:`gpt2fast.GPT2.tokenizer`."""
        if self.tokenizer is None:
            fault = self.directory.tokenizer_fault
            reason = f"{self.directory.path} has no tokenizer" if fault is None else fault
            raise ModelError(f"{reason}; give one to from_pretrained(tokenizer=...)")
        return self.tokenizer.get()

    @cached_property
    def classifier(self) -> dict[str, NDArray[np.float32]]:
        """The tensors of the classification head by name; empty without one.

        Raises
        ------
        ModelError
            Their file is broken, or does not fit the configuration.
        """
        from gpt2fast.checkpoints.base import classifier_shapes
        from gpt2fast.checkpoints.safetensors_file import SafetensorsFile

        path = self.directory.classifier_path
        if path is None:
            return {}
        tensors, shapes = SafetensorsFile(path), classifier_shapes(self.config)
        if {name: tensors[name].shape for name in tensors} != shapes:
            raise ModelError(
                f"{path}: must hold exactly {', '.join(f'{n} {list(s)}' for n, s in shapes.items())}"
            )
        read = {name: tensors[name].read() for name in shapes}
        self.directory.check_same()
        return read

    @cached_property
    def cache_hash(self) -> bytes:
        """Identifies the keys and values of this model: 32 bytes, from its files and ``kv_cache``."""
        # Imported here because hashlib is slow to import and only prefixes need it.
        import hashlib
        import struct

        digest = hashlib.sha256()
        for data in self.directory.identity:
            digest.update(hashlib.sha256(data).digest())
        digest.update(struct.pack("<Q", self.directory.weights_bytes))
        digest.update(self.kv_cache.encode())
        return digest.digest()


def _reopen(
    path: str, settings: EngineSettings, tokenizer: Tokenizer | None, defaults: ModelDefaults | None
) -> LoadedModel:
    """The model that was pickled."""
    return LoadedModel(open_model_directory(path), settings, tokenizer, defaults)


class ModelLike(Protocol):
    """Anything that holds a loaded model, such as :class:`gpt2fast.GPT2`."""

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        ...


def find_model(
    source: str | os.PathLike[str] | None,
    precision: Precision | None,
    calibrate: str | os.PathLike[str] | None,
    tokenizer: Tokenizer | str | os.PathLike[str] | None,
    *,
    adapter: str | os.PathLike[str] | None,
    revision: str | None,
    token: str | None,
) -> tuple[ModelDirectory, Tokenizer | None]:
    """The files of a model, converted first if necessary, and the tokenizer given for it, if any.

    Parameters and errors are those of :meth:`gpt2fast.GPT2.from_pretrained`.
    """
    if calibrate is not None and tokenizer is not None:
        raise ValueError(
            f"calibrate={str(calibrate)!r} is read by the model's own tokenizer, which tokenizer replaces; "
            f"for another tokenizer convert the model: gpt2fast convert --tokenizer --calibrate"
        )
    # A missing library is reported before a long conversion, and so are missing files of a tokenizer.
    load_runtime()
    make_tokenizer = None if tokenizer is None else _read_tokenizer(tokenizer, token)
    directory = find_model_directory(
        source, precision, calibrate=calibrate, adapter=adapter, revision=revision, token=token
    )
    if make_tokenizer is None:
        if directory.tokenizer_fault is not None:
            warnings.warn(no_text(directory.tokenizer_fault), stacklevel=3)
        return directory, None
    return directory, make_tokenizer(directory.config.vocab_size)


def _read_tokenizer(
    tokenizer: Tokenizer | str | os.PathLike[str], token: str | None
) -> Callable[[int], Tokenizer]:
    """What makes the given tokenizer for a vocabulary of some size; its files are read here."""
    from gpt2fast.text.tokenizer import Tokenizer

    if isinstance(tokenizer, Tokenizer):
        return lambda vocab_size: tokenizer
    if isinstance(tokenizer, (str, os.PathLike)):
        from gpt2fast.checkpoints.tokenizer_files import read_tokenizer_files

        files, where = read_tokenizer_files(tokenizer, token=token), str(tokenizer)
        return lambda vocab_size: Tokenizer.from_files(files, vocab_size=vocab_size, where=where)
    from gpt2fast.text.foreign import foreign_tokenizer

    foreign_tokenizer(tokenizer)  # one that can't be copied is refused before a long conversion
    return lambda vocab_size: Tokenizer.from_transformers(tokenizer, vocab_size=vocab_size)
