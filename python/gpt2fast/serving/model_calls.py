"""All calls of the service to the model; nothing else in this package uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from gpt2fast._validation import Integer, all_in_range
from gpt2fast.inference import outputs
from gpt2fast.inference.async_calls import astream
from gpt2fast.inference.options import CONSTRAINTS, GenerationOptions
from gpt2fast.inference.requests import Call, choose_options, read_call
from gpt2fast.inference.work import arun
from gpt2fast.serving.errors import ApiError, unavailable
from gpt2fast.serving.openai import Text
from gpt2fast.serving.settings import Limits
from gpt2fast.serving.time_limit import in_time
from gpt2fast.text.prompts import check_token_ids

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.inference.results import Generation, RankedChoice, StreamChunk, TextScore
    from gpt2fast.inference.statistics import EngineStats
    from gpt2fast.model import GPT2
    from gpt2fast.text.tokenizer import Tokenizer

# What has so many characters, ids and words is read while the event loop waits: a thread would take longer.
_SHORT = 20_000
# The types of values in JSON and of checked options that have a length.
_SIZED = frozenset((str, dict, list, tuple))
# Constraints that are compiled at the same time: nothing ends one that has begun, and it may take seconds.
_COMPILING = 2

_Result = TypeVar("_Result")

#: Prompts of requests with the same number may share keys and values; set for each request.
PREFIX_SCOPE: ContextVar[int] = ContextVar("prefix_scope", default=0)


class ModelCalls:
    """A model for the routes; calls are awaited, and their number is bounded.

    Cancelling a call's task ends its work within a step.

    Parameters
    ----------
    model : GPT2
        The model; its tokenizer is read here.
    limits : Limits
        How many requests may wait, and for how long.
    """

    def __init__(self, model: GPT2, limits: Limits) -> None:
        self._model = model
        self._loaded = model.loaded
        self._max_requests = model.max_sequences + limits.waiting
        self._seconds = limits.seconds
        self._requests = 0
        self._compilers = ThreadPoolExecutor(_COMPILING, "gpt2fast-constraints")
        self.tokenizer: Tokenizer = model.tokenizer
        self.config = model.config
        starts = (model.config.bos_token_id, *model.config.eos_token_ids)
        self._start = [token for token in starts if token is not None][:1]
        #: Identifies weights and precision.
        self.fingerprint = f"{model.directory.metadata.get('fingerprint', '')}"[:8] + f"-{model.precision}"

    async def options(self, values: dict[str, Any]) -> GenerationOptions:
        """Options of a request, with the model's own defaults for those that it leaves out."""
        if _size(values.values()) > _SHORT:
            return await asyncio.to_thread(choose_options, self._loaded, None, values)
        return choose_options(self._loaded, None, values)

    def stats(self) -> EngineStats:
        """What the model is doing."""
        return self._model.stats()

    async def token_ids(
        self, texts: Sequence[Text], name: str, *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """The tokens of texts, which errors call by ``name``; of an empty one the token that begins texts.

        Without ``add_special_tokens`` the tokenizer's template adds nothing: for what continues another text.
        """
        if len(texts) + sum(map(len, texts)) > _SHORT:
            return await asyncio.to_thread(self._token_ids, texts, name, add_special_tokens)
        return self._token_ids(texts, name, add_special_tokens)

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text; none if it is empty."""
        if not text:
            return []
        return (await self.token_ids([text], "prompt", add_special_tokens=add_special_tokens))[0]

    async def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        if len(tokens) > _SHORT:
            return await asyncio.to_thread(self._decode, tokens)
        return self._decode(tokens)

    def _decode(self, tokens: Sequence[int]) -> str:
        check_token_ids(tokens, "tokens", self.config)
        return self.tokenizer.decode(tokens, skip_special_tokens=False)

    def _token_ids(self, texts: Sequence[Text], name: str, add_special_tokens: bool) -> list[list[int]]:
        check = Integer(0, self.config.vocab_size - 1)
        found = []
        for index, one in enumerate(texts):
            label = name if len(texts) == 1 else f"{name}[{index}]"
            if isinstance(one, str):
                try:
                    found.append(self.tokenizer.encode(one, add_special_tokens=add_special_tokens))
                except ValueError as error:
                    raise ValueError(f"{label}: {error}") from None
            elif all_in_range(one, check.low, check.high):
                found.append(one)
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
            if options.num_beams > 1:  # a search may find fewer texts than requested
                return list(await asyncio.gather(*(self._generate([one], options) for one in prompts)))
            results = await self._generate(prompts, options)
            count = options.num_return_sequences or 1
            return [results[start : start + count] for start in range(0, len(results), count)]

    async def stream(
        self,
        prompts: Sequence[list[int]],
        options: GenerationOptions,
        ended: Callable[[list[Generation]], None],
    ) -> AsyncGenerator[StreamChunk, None]:
        """The texts of all prompts as they are made; closing the generator ends them.

        ``ended`` gets the whole texts after their last chunk.
        """
        with self._admitted():
            call = await self._read(prompts, options)
            async with aclosing(astream(self._loaded, call, ended)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def echoed(
        self, prompts: Sequence[list[int]], options: GenerationOptions
    ) -> list[list[Generation]]:
        """The prompts themselves, with their log-probabilities if these are requested."""
        alone = await self.options(
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
            work = arun(scoring.score(self._loaded, texts, stride))
            return cast("list[TextScore]", await self._in_time(work))

    async def embed(self, texts: Sequence[list[int]], pooling: str, normalize: bool) -> NDArray[np.float32]:
        """One vector for each text, [texts, n_embd]."""
        from gpt2fast.inference import scoring

        with self._admitted():
            return await self._in_time(arun(scoring.embed(self._loaded, texts, pooling, normalize)))

    async def rank(
        self,
        prompt: list[int],
        choices: Sequence[list[int]],
        by: Literal["mean", "total"],
        overflow: Literal["error", "truncate"],
    ) -> list[RankedChoice]:
        """Choices in the order of their likelihood after a prompt."""
        from gpt2fast.inference import scoring

        with self._admitted():
            work = scoring.rank(self._loaded, prompt, choices, by, None, overflow, PREFIX_SCOPE.get())
            return await self._in_time(arun(work))

    async def answer_once(self) -> None:
        """Generate one token, which shows that the model works."""
        await self._model.agenerate([0], max_new_tokens=1, generation_config=None)

    async def _generate(self, prompts: Sequence[list[int]], options: GenerationOptions) -> list[Generation]:
        call = await self._read(prompts, options)
        return cast("list[Generation]", await arun(outputs.generation(self._loaded, call)))

    async def _read(self, prompts: Sequence[list[int]], options: GenerationOptions) -> Call:
        """The checked call. What may take a second, as a constraint does, is made in a thread."""
        # OpenAI's stop is about the completion: a prompt that ends like the beginning of one changes nothing.
        read = partial(
            read_call,
            self._loaded,
            prompts,
            options,
            prefix_scope=PREFIX_SCOPE.get(),
            stop_begins_in_prompt=False,
        )
        if any(getattr(options, name) is not None for name in CONSTRAINTS):
            return await self._in_time(self._compile(read))
        texts = len(prompts) * (options.best_of or options.num_return_sequences or 1)
        if texts + sum(map(len, prompts)) + _size(vars(options).values()) > _SHORT:
            return await asyncio.to_thread(read)
        return read()

    async def _compile(self, read: Callable[[], Call]) -> Call:
        """Read a call with a constraint, in its turn; one that is cancelled while it waits is never begun."""
        return await asyncio.get_running_loop().run_in_executor(self._compilers, read)

    async def _in_time(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """The result of work that has no time limit of its own."""
        try:
            return await in_time(work, self._seconds)
        except asyncio.TimeoutError:
            raise unavailable(
                f"The request took more than {self._seconds:g} seconds, waiting included. Try again later, "
                f"or ask for less at once."
            ) from None

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Count a request as running; one too many is refused."""
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


def _size(values: Iterable[Any]) -> int:
    """How much there is to check in the values of options: characters, ids and words."""
    size = 0
    for value in values:
        if type(value) in _SIZED:
            size += len(value)
            if type(value) in (list, tuple):
                size += sum(len(one) for one in value if type(one) in _SIZED)
    return size
