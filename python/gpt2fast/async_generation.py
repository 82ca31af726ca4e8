"""The methods of a model for asyncio; asyncio itself is imported when one is called."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, overload

from gpt2fast.inference.options import GenerationOptions

if TYPE_CHECKING:
    from gpt2fast.inference.async_calls import AsyncCalls
    from gpt2fast.inference.results import Generation, StreamChunk
    from gpt2fast.text.prompts import Prompt


class _Model(Protocol):
    """What the methods need of a model."""

    @property
    def _async_calls(self) -> AsyncCalls: ...

    def generate(self, prompts: Any, options: GenerationOptions | None = None) -> Any: ...

    def stream(self, prompts: Any, options: GenerationOptions | None = None) -> Any: ...


class AsyncGeneration:
    """``agenerate`` and ``astream``, made of a class's ``generate`` and ``stream``."""

    max_sequences: Any

    @cached_property
    def _async_calls(self) -> AsyncCalls:
        from gpt2fast.inference.async_calls import AsyncCalls

        return AsyncCalls(self.max_sequences)

    @overload
    async def agenerate(
        self: _Model,
        prompts: Prompt,
        options: GenerationOptions | None = None,
        *,
        num_return_sequences: None = None,
        **overrides: Any,
    ) -> Generation: ...

    @overload
    async def agenerate(
        self: _Model, prompts: Sequence[Prompt], options: GenerationOptions | None = None, **overrides: Any
    ) -> list[Generation]: ...

    @overload
    async def agenerate(
        self: _Model,
        prompts: Prompt,
        options: GenerationOptions | None = None,
        *,
        num_return_sequences: int,
        **overrides: Any,
    ) -> list[Generation]: ...

    async def agenerate(
        self: _Model,
        prompts: Prompt | Sequence[Prompt],
        options: GenerationOptions | None = None,
        **overrides: Any,
    ) -> Generation | list[Generation]:
        """:meth:`GPT2.generate` for asyncio: the event loop stays free while the model works.

        Cancelling the task ends the generation within a step.
        Any number of tasks may generate at once; more than ``max_sequences`` wait their turn.
        """
        chosen = GenerationOptions.make(options, overrides)
        result: Generation | list[Generation]
        result = await self._async_calls.generate(lambda own: self.generate(prompts, own), chosen)
        return result

    def astream(
        self: _Model,
        prompts: Prompt | Sequence[Prompt],
        options: GenerationOptions | None = None,
        **overrides: Any,
    ) -> AsyncGenerator[StreamChunk, None]:
        """:meth:`GPT2.stream` for asyncio: ``async for chunk in model.astream(...)``.

        Leaving the loop early leaves the generation running a little ahead until the generator is closed or
        dropped; ``contextlib.aclosing`` closes it at once. Cancelling the task ends it within a step.
        """
        chosen = GenerationOptions.make(options, overrides)
        return self._async_calls.stream(lambda own: self.stream(prompts, own), chosen)
