"""A web service of your own: requests share each step, and a client that leaves ends its text.

For OpenAI's interface there is `gpt2fast serve`. This one is for an application with its own routes.

pip install starlette uvicorn
python examples/async_service.py
curl localhost:8000/generate -d '{"prompt": "Once upon a time"}'
curl -N localhost:8000/stream -d '{"prompt": "Once upon a time", "max_new_tokens": 200}'
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from json import JSONDecodeError
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gpt2fast import GPT2, BusyError, StreamChunk

SECONDS = 30.0  # after which a request is given up
WAITING = 200  # texts that may wait; more are refused at once

T = TypeVar("T")

model = GPT2.from_pretrained(max_waiting=WAITING)


async def generate(request: Request) -> Response:
    """The whole text, in one answer."""
    prompt, max_new_tokens = await read(request)
    work = model.agenerate(prompt, max_new_tokens=max_new_tokens, max_time=SECONDS)
    out = await unless_client_leaves(request, work)
    if out is None:
        return Response(status_code=499)  # which nobody reads
    return JSONResponse({"text": out.text, "finish_reason": out.finish_reason})


async def stream(request: Request) -> Response:
    """The text as it is made. Starlette cancels what is sent when the client leaves."""
    prompt, max_new_tokens = await read(request)

    async def begin() -> tuple[StreamChunk, AsyncGenerator[StreamChunk, None]]:
        chunks = model.astream(prompt, max_new_tokens=max_new_tokens, max_time=SECONDS)
        return await anext(chunks), chunks

    begun = await unless_client_leaves(request, begin())
    return Response(status_code=499) if begun is None else StreamingResponse(pieces(*begun))


async def pieces(first: StreamChunk, others: AsyncGenerator[StreamChunk, None]) -> AsyncIterator[str]:
    """The text of chunks. However this ends, it ends what is generated."""
    async with aclosing(others):
        yield first.text
        async for chunk in others:
            yield chunk.text


async def stats(request: Request) -> Response:
    """What is going on."""
    now = model.stats()
    return JSONResponse({"running": now.running, "waiting": now.waiting, "cancelled": now.cancelled})


async def read(request: Request) -> tuple[str, int]:
    """The prompt and the length of a request."""
    try:
        fields = await request.json()
        prompt, max_new_tokens = fields["prompt"], fields.get("max_new_tokens", 40)
    except (JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        raise HTTPException(400, "send a JSON object with a prompt") from None
    if not isinstance(prompt, str) or type(max_new_tokens) is not int:
        raise HTTPException(400, "prompt must be text, and max_new_tokens an integer")
    return prompt, max_new_tokens


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work returns; None if the client left, which cancels it. Call it when the body is read."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    except ValueError as error:  # what the model can't take
        raise HTTPException(400, str(error)) from None
    except BusyError as error:
        raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def left(request: Request) -> None:
    """Wait until the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


app = Starlette(
    routes=[
        Route("/generate", generate, methods=["POST"]),
        Route("/stream", stream, methods=["POST"]),
        Route("/stats", stats),
    ]
)

if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
