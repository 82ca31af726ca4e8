"""All that the service asks of the model; nothing else in this package touches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from gpt2fast._validation import Integer
from gpt2fast.inference import outputs
from gpt2fast.inference.async_calls import astream
from gpt2fast.inference.options import CONSTRAINTS, GenerationOptions
from gpt2fast.inference.requests import Call, choose_options, read_call
from gpt2fast.inference.work import arun
from gpt2fast.serving.errors import ApiError
from gpt2fast.serving.openai import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.inference.results import Generation, RankedChoice, StreamChunk, TextScore
    from gpt2fast.inference.statistics import EngineStats
    from gpt2fast.model import GPT2
    from gpt2fast.text.tokenizer import Tokenizer

# Texts of so many characters are made into tokens while the event loop waits: a thread would take longer.
_SHORT = 20_000

#: Whose prompts those of the request at hand may share keys and values with: those of the same number.
PREFIX_SCOPE: ContextVar[int] = ContextVar("prefix_scope", default=0)


class ModelCalls:
    """A model for the routes: awaitable, and bounded.

    Cancelling a call's task ends its work within a step.

    Parameters
    ----------
    model : GPT2
        The model; its tokenizer is read here.
    max_waiting : int
        Requests beyond those that find a place in the steps.
    """

    def __init__(self, model: GPT2, max_waiting: int) -> None:
        self._model = model
        self._loaded = model.loaded
        self._max_requests = model.max_sequences + max_waiting
        self._requests = 0
        self.tokenizer: Tokenizer = model.tokenizer
        self.config = model.config
        starts = (model.config.bos_token_id, *model.config.eos_token_ids)
        self._start = [token for token in starts if token is not None][:1]
        #: Which weights, in which precision.
        self.fingerprint = f"{model.directory.metadata.get('fingerprint', '')}"[:8] + f"-{model.precision}"

    def options(self, values: dict[str, Any]) -> GenerationOptions:
        """Options of a request, with the model's own defaults for those that it leaves out."""
        return choose_options(self._loaded, None, values)

    def stats(self) -> EngineStats:
        """What the model is doing."""
        return self._model.stats()

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
        with self._admitted():
            if options.num_beams > 1:  # a search may find fewer texts than were asked for
                return list(await asyncio.gather(*(self._generate([one], options) for one in prompts)))
            results = await self._generate(prompts, options)
            count = options.num_return_sequences or 1
            return [results[start : start + count] for start in range(0, len(results), count)]

    async def stream(
        self, prompts: Sequence[list[int]], options: GenerationOptions
    ) -> AsyncGenerator[StreamChunk, None]:
        """The texts of all prompts as they are made; closing the generator ends them."""
        with self._admitted():
            call = await self._read(prompts, options)
            async with aclosing(astream(self._loaded, call)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def echoed(
        self, prompts: Sequence[list[int]], options: GenerationOptions
    ) -> list[list[Generation]]:
        """The prompts themselves, with their log-probabilities if the options ask for them."""
        alone = self.options(
            {
                "max_new_tokens": 0,
                "echo": True,
                "logprobs": options.logprobs,
                "overflow": options.overflow,
                "use_prefix_cache": options.use_prefix_cache,
                "max_time": options.max_time,
                "generation_config": None,
            }
        )
        return await self.complete(prompts, alone)

    async def score(self, texts: Sequence[list[int]], stride: int | None) -> list[TextScore]:
        """The log-probabilities of texts."""
        from gpt2fast.inference import scoring

        with self._admitted():
            return cast("list[TextScore]", await arun(scoring.score(self._loaded, texts, stride)))

    async def embed(self, texts: Sequence[list[int]], pooling: str, normalize: bool) -> NDArray[np.float32]:
        """One vector for each text, [texts, n_embd]."""
        from gpt2fast.inference import scoring

        with self._admitted():
            return await arun(scoring.embed(self._loaded, texts, pooling, normalize))

    async def rank(
        self, prompt: list[int], choices: Sequence[list[int]], by: Literal["mean", "total"]
    ) -> list[RankedChoice]:
        """Choices in the order of their likelihood after a prompt."""
        from gpt2fast.inference import scoring

        with self._admitted():
            return await arun(
                scoring.rank(self._loaded, prompt, choices, by, None, prefix_scope=PREFIX_SCOPE.get())
            )

    async def answer_once(self) -> None:
        """Let the model make one token: after that it is known to work."""
        await self._model.agenerate([0], max_new_tokens=1, generation_config=None)

    async def _generate(self, prompts: Sequence[list[int]], options: GenerationOptions) -> list[Generation]:
        call = await self._read(prompts, options)
        return cast("list[Generation]", await arun(outputs.generation(self._loaded, call)))

    async def _read(self, prompts: Sequence[list[int]], options: GenerationOptions) -> Call:
        """The checked call. A constraint is compiled in a thread, as that may take a second."""
        scope = PREFIX_SCOPE.get()
        # OpenAI's stop is about the completion: a prompt that ends like the beginning of one changes nothing.
        read = partial(
            read_call, self._loaded, prompts, options, prefix_scope=scope, stop_begins_in_prompt=False
        )
        if any(getattr(options, name) is not None for name in CONSTRAINTS):
            return await asyncio.to_thread(read)
        return read()

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """While inside, a request is in work; one too many is refused."""
        if self._requests >= self._max_requests:
            waiting = self.stats().waiting
            raise ApiError(
                429,
                f"The server is busy: {waiting} texts wait for their turn. Try again later.",
                code="rate_limit_exceeded",
            )
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
