"""The model as users see it: what can be done with a loaded model."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, overload

from gpt2fast.inference import outputs
from gpt2fast.inference.model_defaults import model_defaults
from gpt2fast.inference.options import GenerationOptions
from gpt2fast.inference.other_names import NotOfModels, refuse_settings
from gpt2fast.inference.requests import choose_options, read_call
from gpt2fast.inference.results import AnyClassification, Generation, RankedChoice, StreamChunk, TextScore
from gpt2fast.inference.work import arun, run
from gpt2fast.loading.loaded_model import (
    DEFAULT_PREFIX_CACHE_BYTES,
    EngineSettings,
    KvCache,
    LoadedModel,
    find_model,
)
from gpt2fast.loading.sources import Precision
from gpt2fast.text.prompts import Prompt

# NumPy and the tokenizer are imported when arrays or text first go in or out: token ids need neither, and
# each takes as long to import as a small model to load.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from gpt2fast._native import Runtime
    from gpt2fast.config import ModelConfig
    from gpt2fast.inference.prefix import Prefix
    from gpt2fast.inference.results import ForwardOutput
    from gpt2fast.inference.statistics import EngineStats
    from gpt2fast.storage.model_directory import ModelDirectory
    from gpt2fast.text.arrays import Past
    from gpt2fast.text.tokenizer import Tokenizer


class GPT2(NotOfModels):
    """A loaded GPT-2 model; make one with :meth:`from_pretrained`.

    The model is immutable and may be used from many threads at once. A text depends only on its prompt,
    options and seed, bit for bit: not on what is generated beside it, nor on the number of threads.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        *,
        precision: Precision | None = None,
        calibrate: str | os.PathLike[str] | None = None,
        threads: int | None = None,
        tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
        adapter: str | os.PathLike[str] | None = None,
        revision: str | None = None,
        token: str | None = None,
        kv_cache: KvCache | None = None,
        max_sequences: int = 32,
        prefix_cache_bytes: int = DEFAULT_PREFIX_CACHE_BYTES,
        max_waiting: int | None = None,
        read_ahead: int = 16,
        decode_slowdown: float = 2.0,
        generation_config: Literal["model"] | None = "model",
        **other: Any,
    ) -> GPT2:
        """Load a model; the first use of a checkpoint converts it into the user's cache, with a progress bar.

        Parameters
        ----------
        source : str or path, optional
            A model directory made by ``gpt2fast convert``, a Hugging Face checkpoint directory, a single
            model file, or the id of a model on the hub. Default: the small model in the package.
        precision : {"int8", "int4", "int4-all", "bf16", "fp32"}, optional
            Precision of the weights. Default: ``"int8"``, or that of the model directory.
        calibrate : str or path, optional
            For int4: a UTF-8 text like those that the model will read, of 1,024 tokens or more; less is lost.
        threads : int, optional
            Default: the cores that this process may use, at most one for every 524,288 weights of the model.
        tokenizer : Tokenizer, path or str, optional
            Replaces the model's own: a tokenizer, a ``tokenizer.json``, a ``vocab.json`` beside its
            ``merges.txt``, a SentencePiece model, a directory with one of these, or the id of a model on the
            hub that has one.
        adapter : str or path, optional
            The directory or hub id of a LoRA adapter of PEFT, which is merged into the model. An adapter as
            ``source`` is merged into the base model that it names.
        revision, token : str, optional
            Branch, tag or commit, and access token, for a model on the hub.
        kv_cache : {"int8", "fp16", "fp32"}, optional
            The format of keys and values: ``"int8"`` rounds the key and the value of each head and
            position, each with its own scale. Default: ``"int8"`` for int8 and int4 weights, ``"fp16"`` for
            bf16, ``"fp32"`` for fp32.
        max_sequences : int
            The most texts that share a step; others wait. Each holds memory for keys and values while it is
            generated.
        prefix_cache_bytes : int
            Memory for keys and values of finished texts, which later prompts with the same beginning reuse.
        max_waiting : int, optional
            How many texts may wait for their turn, a search counted as ``num_beams``. A call that finds as
            many waiting, and no place free, gets :class:`BusyError` at once. Default: any number may wait.
        read_ahead : int
            By how many tokens a streamed text may be ahead of its reader. A text that is further ahead
            pauses, and leaves its place to others that wait for one.
        decode_slowdown : float
            While texts are streamed, prompts of others make a step at most this many times as long as
            without them, where all of several prompts but one count as texts that are streamed, too.
        generation_config : "model" or None
            ``"model"``: what the model's generation_config.json says (``repetition_penalty``, ``do_sample``,
            ``max_new_tokens``, ...) are the defaults of options that a call leaves out, as in
            ``transformers``. None: the file is ignored.
        **other
            Refused, with a word on what to write for what ``transformers`` takes here (``torch_dtype``, ...).

        Notes
        -----
        A given tokenizer is read here, the model's own when text first goes in or out. A server that wants
        it ready, and its errors at once, reads the attribute :attr:`tokenizer`.

        A model with GPT-2's vocabulary (50,257 tokens) and no tokenizer takes GPT-2's own, with a warning.
        It is fetched from the hub when text first goes in or out, and kept in the user's cache.

        Raises
        ------
        ModelError
            The files don't hold a GPT-2 model, or the tokenizer given doesn't fit it.
        FileNotFoundError
            There is no such source.
        ImportError
            ONNX Runtime's library is missing or unusable.
        """
        refuse_settings(other, cls.from_pretrained)
        if generation_config not in ("model", None):
            raise ValueError(f"generation_config must be 'model' or None, got {generation_config!r}")
        settings = EngineSettings(
            threads=threads,
            kv_cache=kv_cache,
            max_sequences=max_sequences,
            prefix_cache_bytes=prefix_cache_bytes,
            max_waiting=max_waiting,
            read_ahead=read_ahead,
            decode_slowdown=decode_slowdown,
        )  # checked before a long conversion
        directory, given = find_model(
            source, precision, calibrate, tokenizer, adapter=adapter, revision=revision, token=token
        )
        defaults = None if generation_config is None else model_defaults(directory)
        return cls(LoadedModel(directory, settings, given, defaults))

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
        return self._loaded.generation_config

    @property
    def precision(self) -> str:
        """The weights' precision: ``"fp32"``, ``"bf16"``, ``"int8"``, ``"int4"`` or ``"int4-all"``."""
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
        """Whether the model can read and write text; if not, it takes token ids and its texts are empty."""
        return self._loaded.tokenizer is not None

    def close(self) -> None:
        """Free the model's memory; what is being generated ends, and later calls raise RuntimeError.

        May be called more than once. ``with`` calls it at the end of its block.
        """
        self._loaded.engine.close()

    def __enter__(self) -> GPT2:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        config = self.config
        return (
            f"GPT2({str(self.directory.path)!r}, precision={self.precision!r}, n_layer={config.n_layer}, "
            f"n_embd={config.n_embd}, n_positions={config.n_positions}, threads={self.threads})"
        )

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

    @overload
    def generate(
        self, *, input_ids: ArrayLike, attention_mask: ArrayLike | None = None, **overrides: Any
    ) -> Generation | list[Generation]: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        options: GenerationOptions | None = None,
        **overrides: Any,
    ) -> Generation | list[Generation]:
        """Continue one prompt, or several at once.

        Parameters
        ----------
        prompts : str, token ids, or a list of these
            Token ids are a sequence of int or an integer array (tokens,); an array (batch, tokens) is a list.
            Prompts of a list may differ in length. An empty prompt starts from the end-of-text token.
            ``input_ids=`` with ``attention_mask=``, as for ``transformers``, says the same: tokens that the
            mask leaves out are padding and are dropped.
        options : GenerationOptions, optional
            How to generate.
        **overrides
            Single options by name: see :class:`GenerationOptions`. ``generation_config=None`` leaves out the
            model's own defaults.

        Returns
        -------
        Generation or list of Generation
            A list when ``prompts`` is one or ``num_return_sequences`` is given: in the order of the
            prompts, the texts of a prompt one after another. A beam search may find fewer than requested.

        Raises
        ------
        TypeError, ValueError, BusyError
            A wrong prompt or option, or ``max_waiting`` texts wait already; raised before any work.
        """
        call = read_call(self._loaded, prompts, options, overrides)
        return run(outputs.generation(self._loaded, call), call.options.cancel)

    def stream(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        options: GenerationOptions | None = None,
        **overrides: Any,
    ) -> Generator[StreamChunk, None, None]:
        """Like :meth:`generate`, but yields text as it is made: a chunk for each text that a step advanced.

        A chunk's ``index`` is the index of its text in the list that :meth:`generate` would return. It
        begins (and ``max_time``) when one is asked for, and holds memory until it is exhausted, closed or
        dropped. ``num_beams`` and ``best_of`` choose whole texts and can't stream.
        """
        return outputs.stream(self._loaded, read_call(self._loaded, prompts, options, overrides))

    @overload
    def generate_many(
        self,
        prompts: Iterable[Prompt],
        options: GenerationOptions | None = None,
        *,
        ordered: Literal[True] = True,
        **overrides: Any,
    ) -> Iterator[Generation | list[Generation]]: ...

    @overload
    def generate_many(
        self,
        prompts: Iterable[Prompt],
        options: GenerationOptions | None = None,
        *,
        ordered: Literal[False],
        **overrides: Any,
    ) -> Iterator[tuple[int, Generation | list[Generation]]]: ...

    def generate_many(
        self,
        prompts: Iterable[Prompt],
        options: GenerationOptions | None = None,
        *,
        ordered: bool = True,
        **overrides: Any,
    ) -> Iterator[Any]:
        """Continue any number of prompts, with steps as full as can be and memory for a few at a time.

        Parameters
        ----------
        prompts : iterable of str or token ids
            Read as far as there is room; may be a generator over a file, and endless. While it waits for its
            next prompt, results wait too.
        options, **overrides
            As for :meth:`generate`. Once ``cancel`` is cancelled, no further prompts are read.
        ordered : bool
            Results in the order of their prompts; otherwise as they end, each with its prompt's number.

        Yields
        ------
        Generation or list of Generation
            What :meth:`generate` returns for the prompt; without ``ordered``, ``(number, result)``.

        Raises
        ------
        TypeError, ValueError
            A wrong option or a single text as ``prompts``, at once. A wrong prompt by its number: it ends the
            iteration, after the results of all prompts before it, as any error does, also one of a hook.
        BusyError
            As many texts of other callers wait as may wait; those of its own never refuse a prompt.
        """
        from gpt2fast.inference.many import generate_many

        chosen = choose_options(self._loaded, options, overrides)
        outcomes = generate_many(self._loaded, prompts, chosen, ordered=ordered)
        return (outcome for _, outcome in outcomes) if ordered else outcomes

    @overload
    async def agenerate(
        self,
        prompts: Prompt,
        options: GenerationOptions | None = None,
        *,
        num_return_sequences: None = None,
        **overrides: Any,
    ) -> Generation: ...

    @overload
    async def agenerate(
        self, prompts: Sequence[Prompt], options: GenerationOptions | None = None, **overrides: Any
    ) -> list[Generation]: ...

    @overload
    async def agenerate(
        self,
        prompts: Prompt,
        options: GenerationOptions | None = None,
        *,
        num_return_sequences: int,
        **overrides: Any,
    ) -> list[Generation]: ...

    @overload
    async def agenerate(
        self, *, input_ids: ArrayLike, attention_mask: ArrayLike | None = None, **overrides: Any
    ) -> Generation | list[Generation]: ...

    async def agenerate(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        options: GenerationOptions | None = None,
        **overrides: Any,
    ) -> Generation | list[Generation]:
        """:meth:`GPT2.generate` for asyncio: the event loop stays free while the model works.

        Cancelling the task ends the generation within a step.
        Any number of tasks may generate at once; those beyond ``max_sequences`` texts wait.
        """
        call = read_call(self._loaded, prompts, options, overrides)
        return await arun(outputs.generation(self._loaded, call), call.options.cancel)

    def astream(
        self,
        prompts: Prompt | Sequence[Prompt] | None = None,
        options: GenerationOptions | None = None,
        **overrides: Any,
    ) -> AsyncGenerator[StreamChunk, None]:
        """:meth:`GPT2.stream` for asyncio: ``async for chunk in model.astream(...)``.

        If the loop is left early, the generation runs a little ahead until the generator is closed or
        dropped; ``contextlib.aclosing`` closes it at once. Cancelling the task ends it within a step.
        """
        from gpt2fast.inference.async_calls import astream

        return astream(self._loaded, read_call(self._loaded, prompts, options, overrides))

    @overload
    def forward(
        self,
        input_ids: ArrayLike,
        past: Sequence[ArrayLike] | None = None,
        *,
        output_hidden_states: Literal[False] = False,
    ) -> tuple[NDArray[np.float32], Past]: ...

    @overload
    def forward(
        self,
        input_ids: ArrayLike,
        past: Sequence[ArrayLike] | None = None,
        *,
        output_hidden_states: Literal[True],
    ) -> ForwardOutput: ...

    def forward(
        self,
        input_ids: ArrayLike,
        past: Sequence[ArrayLike] | None = None,
        *,
        output_hidden_states: bool = False,
    ) -> tuple[NDArray[np.float32], Past] | ForwardOutput:
        """The hidden states after the last LayerNorm, and the keys and values to continue from.

        The contract of the ONNX Model Zoo's GPT-2.

        Parameters
        ----------
        input_ids : integer array, shape (tokens,) or (batch, tokens)
            At least one token.
        past : sequence of array, optional
            The result of an earlier call; ``input_ids`` continue where it ended.
        output_hidden_states : bool
            Give those of all layers, too, as a third part of the result: a :class:`ForwardOutput`.

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
        from gpt2fast.inference.forward import forward

        return run(forward(self._loaded, input_ids, past, output_hidden_states))

    def logits(self, input_ids: ArrayLike, *, rows: ArrayLike | None = None) -> NDArray[np.float32]:
        """The scores of every possible next token after each token.

        Parameters
        ----------
        input_ids : integer array, shape (tokens,) or (batch, tokens)
            At least one token.
        rows : int or list of int, optional
            Only the scores after the tokens at these positions; negative ones count from the end. The rest
            is not computed.

        Returns
        -------
        float32 array, shape (batch, tokens, vocab_size) or (batch, len(rows), vocab_size)
        """
        from gpt2fast.inference.forward import logits

        return run(logits(self._loaded, input_ids, rows))

    # To the type checker a str is also a sequence of texts; here it is one text.
    @overload
    def score(  # type: ignore[overload-overlap]
        self, texts: Prompt, *, context: Prompt | None = None, stride: int | None = None
    ) -> TextScore: ...

    @overload
    def score(
        self,
        texts: Sequence[Prompt],
        *,
        context: Prompt | Sequence[Prompt] | None = None,
        stride: int | None = None,
    ) -> list[TextScore]: ...

    def score(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        context: Prompt | Sequence[Prompt] | None = None,
        stride: int | None = None,
    ) -> TextScore | list[TextScore]:
        """The log-probability of each token, given those before it, without keeping the vocabulary's scores.

        Parameters
        ----------
        texts : str, token ids, or a list of these
            As for :meth:`gpt2fast.GPT2.generate`, of any length.
        context : str, token ids, or a list of these, optional
            Precedes the texts, or each; not scored, while the token after it is. :meth:`rank` reads one once.
        stride : int, optional
            A text longer than the model's context is read in windows as long as that, which start this many
            tokens apart. Default: half of it. Each token is scored once, in the first window in which a token
            precedes it; with windows side by side (``stride=n_positions``) the first of each is not.

        Returns
        -------
        TextScore or list of TextScore
            A list when ``texts`` is one.

        Raises
        ------
        TypeError, ValueError
            A wrong text or stride; raised before any work.
        """
        from gpt2fast.inference.scoring import score

        return run(score(self._loaded, texts, stride, context))

    def perplexity(self, text: Prompt, *, stride: int | None = None) -> float:
        """``exp`` of the mean negative log-likelihood of the text's tokens after the first.

        Parameters and errors are those of :meth:`score`; the text must have at least two tokens.
        """
        from gpt2fast.inference.scoring import perplexity

        return run(perplexity(self._loaded, text, stride))

    def rank(
        self,
        prompt: Prompt,
        choices: Sequence[Prompt],
        *,
        by: Literal["mean", "total"] = "mean",
        prefix: Prefix | None = None,
        overflow: Literal["error", "truncate"] = "error",
    ) -> list[RankedChoice]:
        """Choices ordered by their likelihood after a prompt, the likeliest first.

        The prompt is read once, whatever the number of choices.

        Parameters
        ----------
        prompt : str or token ids
            What the choices follow.
        choices : list of str or of token ids
            At least one, none empty. A choice's tokens follow the prompt's, so a word usually begins with
            its space: ``" yes"``.
        by : {"mean", "total"}
            The log-probability per token, or the sum, which favours short choices.
        prefix : Prefix, optional
            Precedes the prompt; its keys and values are not computed again.
        overflow : {"error", "truncate"}
            When prompt and choice exceed the model's positions: refuse, or leave out the prompt's oldest
            tokens, for each choice as few as necessary, as lm-evaluation-harness does.

        Raises
        ------
        TypeError, ValueError
            A wrong argument, or prompt and choice together exceed the context; raised before any work.
        """
        from gpt2fast.inference.scoring import rank

        return run(rank(self._loaded, prompt, choices, by, prefix, overflow))

    def embed(
        self,
        texts: Prompt | Sequence[Prompt],
        *,
        pooling: Literal["mean", "last", "first", "max"] = "mean",
        normalize: bool = False,
        layer: int | None = None,
    ) -> NDArray[np.float32]:
        """One vector for each text, from the hidden states after the last LayerNorm, or from earlier ones.

        Parameters
        ----------
        texts : str, token ids, or a list of these
            Each at most as long as the context.
        pooling : {"mean", "last", "first", "max"}
            How to combine the tokens; only the last one has seen the whole text.
        normalize : bool
            Scale each vector to length 1.
        layer : int, optional
            Which of :attr:`ForwardOutput.hidden_states`: 0 are the embeddings, n_layer or -1 the
            last, which is the default.

        Returns
        -------
        float32 array, shape (n_embd,) or (texts, n_embd)
            The latter when ``texts`` is a list.

        Raises
        ------
        TypeError, ValueError
            A wrong argument or a text that is too long; raised before any work.
        """
        from gpt2fast.inference.scoring import embed

        return run(embed(self._loaded, texts, pooling, normalize, layer))

    @overload
    def classify(self, texts: Prompt) -> AnyClassification: ...  # type: ignore[overload-overlap]

    @overload
    def classify(self, texts: Sequence[Prompt]) -> list[AnyClassification]: ...

    def classify(self, texts: Prompt | Sequence[Prompt]) -> AnyClassification | list[AnyClassification]:
        """Label texts by the head of a ``GPT2ForSequenceClassification`` or ``GPT2ForTokenClassification``.

        ``texts`` as for :meth:`embed`; a list gives a list. As in ``transformers``, a text's label is read
        from its last token that is not the configuration's ``pad_token_id``. A text that is too long is a
        ``ValueError``, a model without such a head a :class:`ModelError`, before any work.
        """
        from gpt2fast.inference.classification import classify

        return run(classify(self._loaded, texts))

    def prefill(self, text: Prompt) -> Prefix:
        """Compute the keys and values of a text once, so that many texts can start from it.

        Parameters
        ----------
        text : str or token ids
            At most as long as the context.

        Returns
        -------
        Prefix
            For the option ``prefix`` of :meth:`generate`, :meth:`stream` and :meth:`rank`, or to save.
        """
        from gpt2fast.inference.prefix import prefill

        return prefill(self._loaded, text)

    def load_prefix(self, source: str | os.PathLike[str] | bytes | BinaryIO) -> Prefix:
        """A prefix that was saved with this model, from a path, bytes or an open binary file.

        Raises
        ------
        ModelError
            It is not a prefix, is damaged, or was made by another model.
        TypeError
            ``source`` is none of these.
        """
        from gpt2fast.inference.prefix import load_prefix

        return load_prefix(self._loaded, source)

    def stats(self) -> EngineStats:
        """What the model is doing and has done since it was loaded; cheap enough to ask every second."""
        from gpt2fast.inference.statistics import EngineStats

        return EngineStats(**self._loaded.engine.stats())

    def clear_prefix_cache(self) -> None:
        """Forget keys and values of finished texts, and give the memory of idle ones back to the system."""
        self._loaded.engine.clear_prefix_cache()
