"""All that the service asks of the model; nothing else in this package touches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from gpt2fast._validation import Integer
from gpt2fast.inference.options import GenerationOptions
from gpt2fast.serving.errors import ApiError
from gpt2fast.serving.openai import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.inference.results import Generation, RankedChoice, StreamChunk, TextScore
    from gpt2fast.model import GPT2
    from gpt2fast.text.tokenizer import Tokenizer

_Result = TypeVar("_Result")

# Texts of so many characters are made into tokens while the event loop waits: a thread would take longer.
_SHORT = 20_000


@dataclass(frozen=True)
class Stats:
    """What the model is doing.

    Attributes
    ----------
    running, waiting : int
        Texts that share the steps, and those that wait for their turn.
    requests : int
        Those to which they belong.
    slots : int
        Texts that can share the steps.
    """

    running: int
    waiting: int
    requests: int
    slots: int


class ModelCalls:
    """A model for the routes: awaitable, bounded, counted.

    Parameters
    ----------
    model : GPT2
        The model; its tokenizer is read here.
    max_waiting : int
        Requests beyond those whose texts share the steps.
    changed : callable
        Told the new numbers when work comes or goes.
    """

    def __init__(self, model: GPT2, max_waiting: int, changed: Callable[[Stats], None]) -> None:
        self._model = model
        self._max_requests = model.max_sequences + max_waiting
        self._changed = changed
        self._requests = 0
        self._texts = 0
        self.tokenizer: Tokenizer = model.tokenizer
        self.config = model.config
        starts = [
            token for token in (model.config.bos_token_id, *model.config.eos_token_ids) if token is not None
        ]
        self._start = starts[:1]
        #: Which weights, in which precision.
        self.fingerprint = f"{model.directory.metadata.get('fingerprint', '')}"[:8] + f"-{model.precision}"
        changed(self.stats())

    def stats(self) -> Stats:
        """The numbers now."""
        slots = self._model.max_sequences
        running = min(self._texts, slots)
        return Stats(running, self._texts - running, self._requests, slots)

    async def token_ids(self, texts: Sequence[Text], name: str) -> list[list[int]]:
        """The tokens of texts, which errors call by ``name``; of an empty one the token that begins texts."""
        if sum(len(one) for one in texts if isinstance(one, str)) > _SHORT:
            return await asyncio.to_thread(self._token_ids, texts, name)
        return self._token_ids(texts, name)

    async def encode(self, text: str) -> list[int]:
        """The tokens of a text; none if it is empty."""
        return (await self.token_ids([text], "prompt"))[0] if text else []

    def _token_ids(self, texts: Sequence[Text], name: str) -> list[list[int]]:
        check = Integer(0, self.config.vocab_size - 1)
        found = []
        for index, one in enumerate(texts):
            label = name if len(texts) == 1 else f"{name}[{index}]"
            if isinstance(one, str):
                try:
                    found.append(self.tokenizer.encode(one))
                except ValueError as error:
                    raise ValueError(f"{label}: {error}") from None
            else:
                found.append([check(f"{label}[{place}]", token) for place, token in enumerate(one)])
            found[-1] = found[-1] or self._start
            if not found[-1]:
                raise ValueError(f"{label} is empty, and the model has no end-of-text token to start from")
        return found

    async def complete(
        self, prompts: Sequence[list[int]], options: GenerationOptions
    ) -> list[list[Generation]]:
        """The texts of each prompt."""
        with self._admitted(len(prompts) * _copies(options)):
            if options.num_beams > 1:  # a search may find fewer texts than were asked for
                found = [self._model.agenerate([prompt], options) for prompt in prompts]
                return list(await asyncio.gather(*found))
            results = await self._model.agenerate(prompts, options)
            count = options.num_return_sequences or 1
            return [results[start : start + count] for start in range(0, len(results), count)]

    async def stream(
        self, prompts: Sequence[list[int]], options: GenerationOptions
    ) -> AsyncGenerator[StreamChunk, None]:
        """The texts of all prompts as they are made; closing the generator ends them."""
        with self._admitted(len(prompts) * _copies(options)):
            async with aclosing(self._model.astream(prompts, options)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def echoed(
        self, prompts: Sequence[list[int]], options: GenerationOptions
    ) -> list[list[Generation]]:
        """The prompts themselves, with their log-probabilities if the options ask for them."""
        alone = GenerationOptions(
            max_new_tokens=0,
            echo=True,
            logprobs=options.logprobs,
            overflow=options.overflow,
            use_prefix_cache=options.use_prefix_cache,
            max_time=options.max_time,
        )
        return await self.complete(prompts, alone)

    async def score(self, texts: Sequence[list[int]], stride: int | None) -> list[TextScore]:
        """The log-probabilities of texts."""
        return await self._in_thread(len(texts), lambda: self._model.score(texts, stride=stride))

    async def embed(
        self,
        texts: Sequence[list[int]],
        pooling: Literal["mean", "last", "first", "max"],
        normalize: bool,
    ) -> NDArray[np.float32]:
        """One vector for each text, [texts, n_embd]."""
        return await self._in_thread(
            len(texts), lambda: self._model.embed(texts, pooling=pooling, normalize=normalize)
        )

    async def rank(
        self, prompt: list[int], choices: Sequence[list[int]], by: Literal["mean", "total"]
    ) -> list[RankedChoice]:
        """Choices in the order of their likelihood after a prompt."""
        return await self._in_thread(1, lambda: self._model.rank(prompt, choices, by=by))

    async def answer_once(self) -> None:
        """Let the model make one token: after that it is known to work."""
        await self._model.agenerate([0], GenerationOptions(max_new_tokens=1))

    async def _in_thread(self, texts: int, function: Callable[[], _Result]) -> _Result:
        with self._admitted(texts):
            return await asyncio.to_thread(function)

    @contextmanager
    def _admitted(self, texts: int) -> Iterator[None]:
        """While inside, a request with so many texts counts as in work."""
        if self._requests >= self._max_requests:
            raise ApiError(
                429,
                f"The server is busy: {self.stats().waiting} texts wait for their turn. Try again later.",
                code="rate_limit_exceeded",
            )
        self._count(1, texts)
        try:
            yield
        finally:
            self._count(-1, -texts)

    def _count(self, requests: int, texts: int) -> None:
        self._requests += requests
        self._texts += texts
        self._changed(self.stats())


def _copies(options: GenerationOptions) -> int:
    return max(options.num_beams, options.best_of or options.num_return_sequences or 1)
