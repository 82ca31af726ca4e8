"""Many requests at once: all callers share each step, so together they get several times the speed of one.

python examples/concurrent_requests.py
python examples/concurrent_requests.py openai-community/gpt2
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gpt2fast import GPT2, GenerationOptions

REQUESTS = 32
NEW_TOKENS = 64
# The likeliest tokens, whatever the model's own defaults are: each way must give the same texts.
OPTIONS = GenerationOptions(max_new_tokens=NEW_TOKENS, eos_token_id=[], do_sample=False)


def main(source: str | None) -> None:
    model = GPT2.from_pretrained(source, prefix_cache_bytes=0)
    prompts = [f"In the year {1800 + number} there lived a king who" for number in range(REQUESTS)]

    def answer(prompt: str) -> str:
        return model.generate(prompt, OPTIONS).text

    def one_after_another() -> list[str]:
        return [answer(prompt) for prompt in prompts]

    def threads() -> list[str]:
        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(answer, prompts))

    def tasks() -> list[str]:
        return asyncio.run(answers())

    async def answers() -> list[str]:
        requests = (model.agenerate(prompt, OPTIONS) for prompt in prompts)
        return [out.text for out in await asyncio.gather(*requests)]

    answer(prompts[0])  # the first call sets things up
    alone, expected = timed(one_after_another)
    show("one after another", alone, alone)
    for name, ask in (
        (f"{REQUESTS} threads", threads),
        (f"{REQUESTS} tasks", lambda: asyncio.run(answers())),
    ):
        seconds, texts = timed(ask)
        assert texts == expected  # the same bits, whatever runs beside them
        show(name, seconds, alone)


def timed(ask: Callable[[], list[str]]) -> tuple[float, list[str]]:
    begin = time.perf_counter()
    texts = ask()
    return time.perf_counter() - begin, texts


def show(name: str, seconds: float, alone: float) -> None:
    speed = REQUESTS * NEW_TOKENS / seconds
    print(f"{name:20} {speed:8,.0f} tokens/s   {alone / seconds:5.2f} times the speed")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
