"""The model as its users see it: load, generate, stream. Arrays and scores have modules of their own."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, overload

from gpt2fast._native import Runtime, core, load_runtime
from gpt2fast._validation import Integer
from gpt2fast.async_generation import AsyncGeneration
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError
from gpt2fast.inference import outputs
from gpt2fast.inference.forward import ForwardPass
from gpt2fast.inference.options import GenerationOptions
from gpt2fast.inference.requests import build_requests
from gpt2fast.inference.results import Generation, StreamChunk
from gpt2fast.loading.sources import (
    KV_CACHES,
    KvCache,
    Precision,
    check_kv_cache,
    choose_kv_cache,
    find_model_directory,
)
from gpt2fast.scoring import Scoring
from gpt2fast.storage.model_directory import ModelDirectory
from gpt2fast.text.lazy_tokenizer import lazy_tokenizer
from gpt2fast.text.prompts import Prompt, read_prompt, read_prompts

# NumPy and the tokenizer are imported when arrays or text are first given or asked for: from token ids to
# token ids takes neither, and each takes as long to import as a small model to load.
if TYPE_CHECKING:
    from gpt2fast.inference.prefix import CacheFormat, Prefix
    from gpt2fast.text.tokenizer import Tokenizer

MAX_THREADS = 1024
MAX_SEQUENCES = 4096
DEFAULT_PREFIX_CACHE_BYTES = 256 << 20
# Longer prompts are cut into steps of so many tokens: enough for the matrix kernels to run at full speed, and
# few enough for a step's activations to stay in the caches.
_MAX_STEP_TOKENS = 128


class GPT2(ForwardPass, Scoring, AsyncGeneration):
    """A loaded GPT-2 model; make one with :meth:`from_pretrained`.

    The model is immutable and may be used from many threads at once. A text depends on its prompt, options
    and seed alone, bit for bit: not on what else is generated beside it, nor on the number of threads.
    """

    def __init__(
        self,
        directory: ModelDirectory,
        *,
        tokenizer: Tokenizer | None = None,
        threads: int | None = None,
        kv_cache: KvCache | None = None,
        max_sequences: int = 32,
        prefix_cache_bytes: int = DEFAULT_PREFIX_CACHE_BYTES,
    ) -> None:
        kv_cache = choose_kv_cache(kv_cache, directory.precision)
        _check_limits(threads, max_sequences, prefix_cache_bytes)
        threads = core.usable_cores() if threads is None else threads
        config = directory.config
        if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise ModelError(
                f"the tokenizer does not fit the model: it has {tokenizer.vocab_size} tokens, the model's "
                f"vocabulary {config.vocab_size}"
            )
        self._directory = directory
        self._kv_cache = kv_cache
        self._tokenizer = lazy_tokenizer(directory, tokenizer)
        self._runtime = load_runtime()
        self._engine = core.Engine(
            str(directory.model_path),
            n_layer=config.n_layer,
            n_head=config.n_head,
            head_dim=config.head_dim,
            n_positions=config.n_positions,
            vocab_size=config.vocab_size,
            cache_format=KV_CACHES[kv_cache],
            threads=threads,
            max_sequences=max_sequences,
            max_step_tokens=max(_MAX_STEP_TOKENS, max_sequences),
            prefix_cache_bytes=prefix_cache_bytes,
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        precision: Precision | None = None,
        threads: int | None = None,
        tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
        revision: str | None = None,
        token: str | None = None,
        kv_cache: KvCache | None = None,
        max_sequences: int = 32,
        prefix_cache_bytes: int = DEFAULT_PREFIX_CACHE_BYTES,
    ) -> GPT2:
        """Load a model; the first use of a checkpoint converts it into the user's cache, with a progress bar.

        Parameters
        ----------
        source : str or path, optional
            A model directory made by ``gpt2fast convert``, a Hugging Face checkpoint directory, a single
            model file, or the id of a model on the Hugging Face hub. Default: the small model that comes with
            the package.
        precision : {"int8", "int4", "bf16", "fp32"}, optional
            Of the weights. Default: ``"int8"``, or what a model directory has.
        threads : int, optional
            Default: the cores that this process may use.
        tokenizer : Tokenizer, path or str, optional
            In place of the model's own: a tokenizer, a ``tokenizer.json``, a ``vocab.json`` beside its
            ``merges.txt``, a directory with one of these, or the id of a model on the hub that has one.
        revision, token : str, optional
            Branch, tag or commit, and access token, for a model on the hub.
        kv_cache : {"int8", "fp16", "fp32"}, optional
            How keys and values are kept: ``"int8"`` rounds the key and the value of each head and position,
            with a scale of its own. Default: ``"int8"`` for int8 and int4 weights, ``"fp16"`` for bf16,
            ``"fp32"`` for fp32.
        max_sequences : int
            How many texts share a step; more wait their turn. Each holds memory for keys and values while it
            is generated.
        prefix_cache_bytes : int
            Memory that keys and values of finished texts may keep, for prompts that begin alike.

        Notes
        -----
        A tokenizer that is given is read here. The model's own is read when text first goes in or out: a
        prompt or stop string, the ``text`` of a result, :attr:`tokenizer`. A server that would rather have
        it ready, and know at once that it can be read, reads that attribute: ``model.tokenizer``.

        A model of GPT-2's vocabulary (50,257 tokens) that comes without a tokenizer takes GPT-2's own, with a
        warning: fetched once from the hub, when text first goes in or out, and then kept in the user's cache.

        Raises
        ------
        ModelError
            The files don't hold a GPT-2 model, or the tokenizer given doesn't fit it.
        FileNotFoundError
            There is no such source.
        ImportError
            ONNX Runtime's library is missing or unusable.
        """
        check_kv_cache(kv_cache)  # mistakes, and a missing library, show before a long conversion
        _check_limits(threads, max_sequences, prefix_cache_bytes)
        load_runtime()
        directory = find_model_directory(source, precision, revision=revision, token=token)
        return cls(
            directory,
            tokenizer=None if tokenizer is None else _given_tokenizer(tokenizer, directory.config, token),
            threads=threads,
            kv_cache=kv_cache,
            max_sequences=max_sequences,
            prefix_cache_bytes=prefix_cache_bytes,
        )

    def __repr__(self) -> str:
        config = self.config
        return (
            f"GPT2({str(self._directory.path)!r}, precision={self.precision!r}, n_layer={config.n_layer}, "
            f"n_embd={config.n_embd}, n_positions={config.n_positions}, threads={self.threads})"
        )

    @property
    def config(self) -> ModelConfig:
        """Sizes and conventions of the model."""
        return self._directory.config

    @property
    def directory(self) -> ModelDirectory:
        """The files of the model."""
        return self._directory

    @property
    def precision(self) -> str:
        """The weights' precision: ``"fp32"``, ``"bf16"``, ``"int8"`` or ``"int4"``."""
        return self._directory.precision

    @property
    def kv_cache(self) -> str:
        """How keys and values are kept: ``"fp32"``, ``"fp16"`` or ``"int8"``."""
        return self._kv_cache

    @property
    def runtime(self) -> Runtime:
        """The ONNX Runtime in use."""
        return self._runtime

    @property
    def threads(self) -> int:
        """Threads that share the work of a step."""
        return self._engine.threads

    @property
    def max_sequences(self) -> int:
        """How many texts share a step at most."""
        return self._engine.max_sequences

    @property
    def cache_bytes_per_sequence(self) -> int:
        """Memory of one text's keys and values at full length."""
        return self._engine.cache_bytes_per_sequence

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back; read when it is first asked for.

        Raises
        ------
        ModelError
            The model came without one, its file is broken or doesn't fit, or it is GPT-2's own and neither in
            the cache nor to be had from the hub.
        """
        if self._tokenizer is None:
            raise ModelError(
                f"{self._directory.path} has no tokenizer; give one to from_pretrained(tokenizer=...)"
            )
        return self._tokenizer.get()

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model can read and write text; without, it takes token ids and returns texts empty.

        It can with a tokenizer of its own or a given one, and with GPT-2's vocabulary.
        """
        return self._tokenizer is not None

    @overload
    def generate(
        self,
        prompts: Prompt,
        options: GenerationOptions | None = None,
        *,
        num_return_sequences: None = None,
        **overrides: Any,
    ) -> Generation: ...

    @overload
    def generate(
        self, prompts: Sequence[Prompt], options: GenerationOptions | None = None, **overrides: Any
    ) -> list[Generation]: ...

    @overload
    def generate(
        self,
        prompts: Prompt,
        options: GenerationOptions | None = None,
        *,
        num_return_sequences: int,
        **overrides: Any,
    ) -> list[Generation]: ...

    def generate(
        self, prompts: Prompt | Sequence[Prompt], options: GenerationOptions | None = None, **overrides: Any
    ) -> Generation | list[Generation]:
        """Continue one prompt, or several at once.

        Parameters
        ----------
        prompts : str, token ids, or a list of these
            Token ids are a sequence of int or an integer array (tokens,); an array (batch, tokens) is a list.
            Prompts of a list may differ in length. An empty prompt starts from the end-of-text token.
        options : GenerationOptions, optional
            How to generate.
        **overrides
            Single options by name: see :class:`GenerationOptions`.

        Returns
        -------
        Generation or list of Generation
            A list when ``prompts`` is one or ``num_return_sequences`` is given: in the order of the prompts,
            the texts of a prompt one after another. A search with beams may find fewer than asked for.

        Raises
        ------
        TypeError, ValueError
            A wrong prompt or option; raised before any work.
        """
        requests, chosen, single = self._requests(prompts, options, overrides)
        results = outputs.finish(self._engine, requests, chosen, self._tokenizer, self.config)
        return results[0] if single else results

    def stream(
        self, prompts: Prompt | Sequence[Prompt], options: GenerationOptions | None = None, **overrides: Any
    ) -> Generator[StreamChunk, None, None]:
        """Like :meth:`generate`, but yields text as it is made: one chunk for each text that a step advanced.

        A chunk's ``index`` is the place of its text in the list that :meth:`generate` would return. The
        stream holds memory for its texts until it is exhausted, closed or dropped. ``num_beams`` and
        ``best_of`` choose whole texts and can't stream.
        """
        requests, chosen, _ = self._requests(prompts, options, overrides)
        for name in ("num_beams", "best_of"):
            if (getattr(chosen, name) or 1) > 1:
                raise ValueError(f"{name} chooses whole texts and can't stream; use generate")
        return outputs.stream(self._engine, requests, chosen, self._tokenizer)

    def prefill(self, text: Prompt) -> Prefix:
        """Compute the keys and values of a text's beginning once, to start many texts from.

        Parameters
        ----------
        text : str or token ids
            At most as long as the context.

        Returns
        -------
        Prefix
            For the option ``prefix`` of :meth:`generate`, :meth:`stream` and :meth:`rank`, or a file.
        """
        import numpy as np

        from gpt2fast.inference.prefix import Prefix

        ids = np.array(read_prompt(text, self.config, self._tokenizer, name="text"), np.int32)
        _, past = self.forward(ids)
        return Prefix(self._cache_format, ids, list(past))

    def load_prefix(self, source: str | os.PathLike[str] | bytes | BinaryIO) -> Prefix:
        """A prefix that was saved with this model, from a path, from bytes or from an open binary file.

        Raises
        ------
        ModelError
            It is none, is damaged, or was made by another model.
        """
        from gpt2fast.inference.prefix import load_prefix

        return load_prefix(source, self._cache_format)

    @cached_property
    def _cache_format(self) -> CacheFormat:
        from gpt2fast.inference.prefix import CacheFormat

        return CacheFormat.of(self._directory, self._kv_cache)

    def clear_prefix_cache(self) -> None:
        """Forget the keys and values of finished texts."""
        self._engine.clear_prefix_cache()

    def _requests(
        self, prompts: Any, options: GenerationOptions | None, overrides: dict[str, Any]
    ) -> tuple[list[core.Request], GenerationOptions, bool]:
        """The checked requests of a call, its options, and whether it wants one result rather than a list."""
        chosen = GenerationOptions.make(options, overrides)
        if chosen.num_beams > self.max_sequences:
            raise ValueError(
                f"num_beams ({chosen.num_beams}) must not exceed max_sequences ({self.max_sequences}), with "
                f"which the model was loaded"
            )
        before = None
        if chosen.prefix is not None:
            chosen.prefix.check_model(self._cache_format)
            before = chosen.prefix.token_ids
        token_ids, single = read_prompts(prompts, self.config, self._tokenizer, before=before)
        requests = build_requests(token_ids, chosen, self.config, self._tokenizer)
        return requests, chosen, single and chosen.num_return_sequences is None


def _check_limits(threads: int | None, max_sequences: int, prefix_cache_bytes: int) -> None:
    if threads is not None:
        Integer(1, MAX_THREADS)("threads", threads)
    Integer(1, MAX_SEQUENCES)("max_sequences", max_sequences)
    Integer(0, 2**62)("prefix_cache_bytes", prefix_cache_bytes)


def _given_tokenizer(
    tokenizer: Tokenizer | str | os.PathLike[str], config: ModelConfig, token: str | None
) -> Tokenizer:
    from gpt2fast.text.tokenizer import Tokenizer

    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    return Tokenizer.from_source(tokenizer, vocab_size=config.vocab_size, token=token)
