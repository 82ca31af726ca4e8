"""The model as its users see it: load, generate, stream, forward, logits; scores come from :mod:`scoring`."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np

from gpt2fast import _outputs
from gpt2fast._inputs import Past, Prompt, read_batch, read_past, read_prompt, read_prompts, read_rows
from gpt2fast._native import Runtime, core, load_runtime
from gpt2fast._requests import build_requests
from gpt2fast._validation import Integer
from gpt2fast.async_generation import AsyncGeneration
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError
from gpt2fast.generation import GenerationOptions
from gpt2fast.loading import Precision, find_model_directory
from gpt2fast.model_directory import ModelDirectory
from gpt2fast.prefix import CacheFormat, Prefix, load_prefix
from gpt2fast.results import Generation, StreamChunk
from gpt2fast.scoring import Scoring
from gpt2fast.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MAX_THREADS = 1024
MAX_SEQUENCES = 4096
DEFAULT_PREFIX_CACHE_BYTES = 256 << 20
# Longer prompts are cut into steps of so many tokens: enough for the matrix kernels to run at full speed.
_MAX_STEP_TOKENS = 512


class GPT2(Scoring, AsyncGeneration):
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
        max_sequences: int = 32,
        prefix_cache_bytes: int = DEFAULT_PREFIX_CACHE_BYTES,
    ) -> None:
        threads = core.usable_cores() if threads is None else Integer(1, MAX_THREADS)("threads", threads)
        max_sequences = Integer(1, MAX_SEQUENCES)("max_sequences", max_sequences)
        prefix_cache_bytes = Integer(0, 2**62)("prefix_cache_bytes", prefix_cache_bytes)
        config = directory.config
        if tokenizer is None and directory.tokenizer_path is not None:
            tokenizer = Tokenizer.from_source(directory.tokenizer_path, vocab_size=config.vocab_size)
        if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise ModelError(
                f"the tokenizer does not fit the model: it has {tokenizer.vocab_size} tokens, the model's "
                f"vocabulary {config.vocab_size}"
            )
        self._directory = directory
        self._tokenizer = tokenizer
        self._runtime = load_runtime()
        self._engine = core.Engine(
            str(directory.model_path),
            n_layer=config.n_layer,
            n_head=config.n_head,
            head_dim=config.head_dim,
            n_positions=config.n_positions,
            vocab_size=config.vocab_size,
            half_cache=directory.precision != "fp32",
            threads=threads,
            max_sequences=max_sequences,
            max_step_tokens=_MAX_STEP_TOKENS,
            prefix_cache_bytes=prefix_cache_bytes,
            token_bytes=tokenizer.token_bytes() if tokenizer is not None else None,
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
        tokenizer : Tokenizer or path, optional
            In place of the model's own: a tokenizer, a ``tokenizer.json``, a ``vocab.json`` beside its
            ``merges.txt``, or a directory with one of these.
        revision, token : str, optional
            Branch, tag or commit, and access token, for a model on the hub.
        max_sequences : int
            How many texts share a step; more wait their turn. Each holds memory for keys and values while it
            is generated.
        prefix_cache_bytes : int
            Memory that keys and values of finished texts may keep, for prompts that begin alike.

        Raises
        ------
        ModelError
            The files don't hold a GPT-2 model, or the tokenizer doesn't fit it.
        FileNotFoundError
            There is no such source.
        ImportError
            ONNX Runtime's library is missing or unusable.
        """
        load_runtime()  # a missing library shows before a long conversion
        directory = find_model_directory(source, precision, revision=revision, token=token)
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            tokenizer = Tokenizer.from_source(tokenizer, vocab_size=directory.config.vocab_size)
        return cls(
            directory,
            tokenizer=tokenizer,
            threads=threads,
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
        """Text to token ids and back.

        Raises
        ------
        ModelError
            The model came without one.
        """
        if self._tokenizer is None:
            raise ModelError(
                f"{self._directory.path} has no tokenizer; give one to from_pretrained(tokenizer=...)"
            )
        return self._tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model can read and write text; without, it takes token ids and returns texts empty."""
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
        results = _outputs.finish(self._engine, requests, chosen, self._tokenizer, self.config)
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
        return _outputs.stream(self._engine, requests, chosen, self._tokenizer)

    def forward(
        self, input_ids: ArrayLike, past: Sequence[ArrayLike] | None = None
    ) -> tuple[NDArray[np.float32], Past]:
        """The hidden states after the last LayerNorm, and the keys and values to go on from.

        The contract of the ONNX Model Zoo's GPT-2.

        Parameters
        ----------
        input_ids : integer array, shape (tokens,) or (batch, tokens)
            At least one token.
        past : sequence of array, optional
            What an earlier call returned; ``input_ids`` then continue where it ended.

        Returns
        -------
        last_hidden_state : float32 array, shape (batch, tokens, n_embd)
        past : tuple of float32 array
            For each layer one array of shape (2, batch, n_head, past tokens + tokens, head_dim): keys, then
            values.

        Raises
        ------
        TypeError, ValueError
            Ids of a wrong type, shape or range; more tokens than the model has positions; a past of another
            shape.
        """
        layers = None if past is None else read_past(past, self.config)
        past_tokens = 0 if layers is None else layers[0].shape[3]
        batch = read_batch(input_ids, self.config, past_tokens=past_tokens)
        if layers is not None and layers[0].shape[1] != len(batch):
            raise ValueError(f"past has a batch of {layers[0].shape[1]}, input_ids of {len(batch)}")
        hidden, new_past = self._engine.forward(list(batch), layers, True)
        return _stacked(hidden), tuple(new_past or ())

    def logits(self, input_ids: ArrayLike, *, rows: ArrayLike | None = None) -> NDArray[np.float32]:
        """The scores of every possible next token after each token.

        Parameters
        ----------
        input_ids : integer array, shape (tokens,) or (batch, tokens)
            At least one token.
        rows : int or list of int, optional
            Only after the tokens at these positions; negative ones count from the end. Spares the rest of the
            vocabulary projection.

        Returns
        -------
        float32 array, shape (batch, tokens, vocab_size) or (batch, len(rows), vocab_size)
        """
        batch = read_batch(input_ids, self.config)
        if rows is None:
            return _stacked(self._engine.logits(list(batch), None))
        ascending, order = np.unique(read_rows(rows, batch.shape[1]), return_inverse=True)
        return _stacked(self._engine.logits(list(batch), [ascending] * len(batch)))[:, order]

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
        ids = read_prompt(text, self.config, self._tokenizer, name="text")
        _, past = self.forward(ids)
        return Prefix(self._cache_format, ids, list(past))

    def load_prefix(self, source: str | os.PathLike[str] | bytes | BinaryIO) -> Prefix:
        """A prefix that was saved with this model, from a path, from bytes or from an open binary file.

        Raises
        ------
        ModelError
            It is none, is damaged, or was made by another model.
        """
        return load_prefix(source, self._cache_format)

    @cached_property
    def _cache_format(self) -> CacheFormat:
        return CacheFormat.of(self._directory)

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
            before = np.asarray(chosen.prefix.token_ids, np.int32)
        token_ids, single = read_prompts(prompts, self.config, self._tokenizer, before=before)
        requests = build_requests(token_ids, chosen, self.config, self._tokenizer)
        return requests, chosen, single and chosen.num_return_sequences is None


def _stacked(arrays: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The arrays along a new first axis; a single one is not copied."""
    return arrays[0][np.newaxis] if len(arrays) == 1 else np.stack(arrays)
