"""The heart of an asyncio service: concurrent requests, a deadline for each, cancellation.

Each line of standard input is a request, answered on a line of standard output as it comes ready. A client
that goes away is a task that is cancelled, which ends its generation within a step.

python examples/async_service.py < prompts.txt
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from gpt2fast import GPT2


@dataclass
class Service:
    """Answers prompts; any number of tasks may ask at once.

    Parameters
    ----------
    model : GPT2
        What answers.
    seconds : float
        After which a request is given up.
    """

    model: GPT2
    seconds: float = 30.0
    _running: set[asyncio.Task[str]] = field(default_factory=set)

    async def answer(self, prompt: str, *, max_new_tokens: int = 40) -> dict[str, str]:
        """The reply to one request: its text, or an error."""
        task = asyncio.create_task(self._generate(prompt, max_new_tokens))
        self._running.add(task)
        try:
            text = await asyncio.wait_for(task, self.seconds)
        except asyncio.TimeoutError:
            return {"prompt": prompt, "error": f"not done within {self.seconds:g} seconds"}
        except ValueError as error:  # a prompt that the model can't take
            return {"prompt": prompt, "error": str(error)}
        finally:
            self._running.discard(task)
        return {"prompt": prompt, "text": text}

    async def pieces(self, prompt: str, *, max_new_tokens: int = 40) -> AsyncIterator[str]:
        """The text as it is made, for a client that shows it."""
        async for chunk in self.model.astream(prompt, max_new_tokens=max_new_tokens):
            yield chunk.text

    def shut_down(self) -> None:
        """End all requests; whoever waits for one gets ``CancelledError``."""
        for task in self._running:
            task.cancel()

    async def _generate(self, prompt: str, max_new_tokens: int) -> str:
        return (await self.model.agenerate(prompt, max_new_tokens=max_new_tokens)).text


async def serve(prompts: Iterable[str]) -> None:
    service = Service(GPT2.from_pretrained())
    for reply in asyncio.as_completed([service.answer(prompt) for prompt in prompts]):
        print(json.dumps(await reply), flush=True)


if __name__ == "__main__":
    asyncio.run(serve([line.rstrip("\n") for line in sys.stdin]))
