"""Event loops: many tasks, loops of several kinds, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any
from weakref import ref

import pytest

from gpt2fast import GPT2
from gpt2fast.inference.results import Generation
from support.event_loops import ENDLESS, LoopWithoutReaders, run_in
from support.processes import SECONDS, end_of, run_python, start_python

PUMP = "gpt2fast-event-loop"
KINDS: list[dict[str, Any]] = [
    {},
    {"seed": 3, "temperature": 0.9, "top_k": 40},
    {"logprobs": 2},
    {"stop_strings": " the", "echo": True},
    {"num_beams": 3},
    {"seed": 5, "num_return_sequences": 2, "repetition_penalty": 1.3},
    {"prompt_lookup_num_tokens": 4},
    {"logits_processor": lambda prompt, output, scores: scores.__setitem__(output[-3:], -1e9)},
]
STREAMED = {"max_new_tokens": 12, "eos_token_id": []}


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(max_sequences=8)


def plain(result: Generation | list[Generation]) -> list[tuple[Any, ...]]:
    """What of a result depends on its prompt and options alone."""
    results = result if isinstance(result, list) else [result]
    return [(one.text, one.token_ids, one.finish_reason, one.seed, one.score) for one in results]


async def read(model: GPT2, prompt: str, **options: Any) -> list[int]:
    return [token async for chunk in model.astream(prompt, **options) for token in chunk.token_ids]


async def running_after_a_call(model: GPT2) -> int:
    """How many texts run when a later call has ended: the loop has then let go of all that had to end."""
    await model.agenerate("Twice", max_new_tokens=1)
    return model.stats().running


def test_32_tasks_equal_their_twins_alone(model: GPT2) -> None:
    work = [(f"The {number} men", KINDS[number % len(KINDS)]) for number in range(32)]
    alone = [plain(model.generate(prompt, max_new_tokens=16, **options)) for prompt, options in work]

    async def main() -> list[list[tuple[Any, ...]]]:
        tasks = [model.agenerate(prompt, max_new_tokens=16, **options) for prompt, options in work]
        return [plain(one) for one in await asyncio.gather(*tasks)]

    assert run_in(asyncio.new_event_loop(), main()) == alone


# In a process of its own: what it holds is measured. Python's objects come from malloc there, too.
MANY_STREAMS = """
import asyncio, json, os, threading
from gpt2fast import GPT2
from support.processes import allocated_bytes

COUNT, OPTIONS = 1000, {"max_new_tokens": 12, "eos_token_id": []}
model = GPT2.from_pretrained(generation_config=None)
prompts = [f"The {number} men" for number in range(COUNT)]
expected = [one.token_ids for one in model.generate(prompts, **OPTIONS)]
most = before = threading.active_count()
tasks_before = len(os.listdir("/proc/self/task"))
most_tasks = most_bytes = begun = 0

async def read(prompt, all_begun):
    # Every stream stays open until all have got their first token.
    global most, most_tasks, most_bytes, begun
    token_ids = []
    async for chunk in model.astream(prompt, **OPTIONS):
        if not token_ids:
            begun += 1
            if begun == COUNT:
                most = max(most, threading.active_count())
                most_tasks = len(os.listdir("/proc/self/task"))
                most_bytes = allocated_bytes()
                all_begun.set()
            await all_begun.wait()
        token_ids += chunk.token_ids
    return token_ids

async def main():
    all_begun = asyncio.Event()
    return await asyncio.gather(*(read(prompt, all_begun) for prompt in prompts))

bytes_before = allocated_bytes()
right = asyncio.run(main()) == expected
counts = [most - before, most_tasks - tasks_before, most_bytes - bytes_before, model.stats().running]
print(json.dumps([right, *counts]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_1000_streams_at_once() -> None:
    found = run_python(MANY_STREAMS, PYTHONMALLOC="malloc")
    right, threads, all_threads, allocated, running = json.loads(found)
    assert right
    assert threads <= 1
    assert all_threads <= 2  # the loop's and the hooks'
    assert allocated < 24 << 20
    assert running == 0


def test_a_cancelled_task_ends_its_text() -> None:
    """Also while it waits for a slot, or for its first step."""
    model = GPT2.from_pretrained(max_sequences=2)

    async def main() -> None:
        for begun_first in (True, False):
            begun = asyncio.Event()
            tasks = [asyncio.create_task(model.agenerate(f"Once {i}", **ENDLESS)) for i in range(5)]
            if begun_first:
                async for _ in model.astream("Twice", max_new_tokens=2, priority=1000):
                    begun.set()
                await begun.wait()
            else:
                await asyncio.sleep(0)  # the tasks begin
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert all(task.cancelled() for task in tasks)
            assert await running_after_a_call(model) == 0

    run_in(asyncio.new_event_loop(), main())
    stats = model.stats()
    assert (stats.running, stats.waiting, stats.slots_used) == (0, 0, 0)
    assert stats.cancelled == 10


def test_one_cancelled_task_leaves_the_others_alone(model: GPT2) -> None:
    expected = [model.generate(f"Once {i}", **STREAMED).token_ids for i in range(6)]

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(read(model, f"Once {i}", **STREAMED)) for i in range(6)]
        doomed = asyncio.create_task(read(model, "Twice", **ENDLESS))
        await tasks[0]
        doomed.cancel()
        return await asyncio.gather(*tasks)

    assert run_in(asyncio.new_event_loop(), main()) == expected


# Streams that are left in all ways; the model has one slot, so that each has to give it back.
LEAVING = """
import asyncio, gc
from contextlib import aclosing
from gpt2fast import GPT2
from support.event_loops import ENDLESS

model = GPT2.from_pretrained(max_sequences=1, generation_config=None)
expected = model.generate("Twice", max_new_tokens=2).text
held = []

async def leave(keep, close):
    stream = model.astream("Once", **ENDLESS)
    if keep:
        held.append(stream)
    if close:
        async with aclosing(stream):
            async for chunk in stream:
                break
    else:
        async for chunk in stream:
            break
    assert chunk.token_ids
    del stream
    if close or not keep:
        assert (await model.agenerate("Twice", max_new_tokens=2)).text == expected
        assert model.stats().running == 0

async def fail():
    async for _ in model.astream("Once", **ENDLESS):
        raise KeyError("mine")

for keep in (False, True):
    for close in (False, True):
        for _ in range(3):
            asyncio.run(leave(keep, close))
            assert model.generate("Twice", max_new_tokens=2).text == expected
            assert model.stats().running == 0
try:
    asyncio.run(fail())
except KeyError:
    pass
assert model.generate("Twice", max_new_tokens=2).text == expected

# A loop that is closed without a word to its streams.
loop = asyncio.new_event_loop()
stream = model.astream("Once", **ENDLESS)
loop.run_until_complete(anext(stream))
loop.close()
del stream
gc.collect()
assert model.generate("Twice", max_new_tokens=2).text == expected
assert model.stats().running == 0

held.append(model.astream("Once", **ENDLESS))  # which nobody reads
print("done")
"""


def test_streams_that_are_left_are_silent_and_give_their_slots_back() -> None:
    ended = end_of(start_python("-c", LEAVING))
    assert (ended.status, ended.stdout, ended.stderr) == (0, "done\n", "")


def loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "without readers": LoopWithoutReaders, "uvloop": uvloop_loop}


def uvloop_loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


@pytest.fixture(params=loops())
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return loops()[request.param]


def test_every_kind_of_loop(model: GPT2, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    expected = [model.generate(f"Once {i}", **STREAMED).token_ids for i in range(12)]

    async def main() -> list[list[int]]:
        doomed = asyncio.create_task(model.agenerate("Twice", **ENDLESS))
        async with aclosing(model.astream("Thrice", **ENDLESS)) as stream:
            async for _ in stream:
                break
        streams = (read(model, f"Once {i}", **STREAMED) for i in range(6))
        tasks = (model.agenerate(f"Once {i}", **STREAMED) for i in range(6, 12))
        found = await asyncio.gather(*streams, *tasks)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        assert await running_after_a_call(model) == 0
        return found[:6] + [one.token_ids for one in found[6:]]

    for _ in range(3):
        assert run_in(new_loop(), main()) == expected


def test_two_loops_in_two_threads(model: GPT2, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    expected = [model.generate(f"Once {i}", **STREAMED).token_ids for i in range(10)]

    async def main() -> list[list[int]]:
        return await asyncio.gather(*(read(model, f"Once {i}", **STREAMED) for i in range(10)))

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(lambda: run_in(new_loop(), main())) for _ in range(3)]
        assert [one.result(SECONDS) for one in running] == [expected] * 3


def test_a_loop_that_is_closed_while_tasks_wait_leaves_nothing(
    model: GPT2, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    def leave() -> ref[asyncio.AbstractEventLoop]:
        loop = new_loop()
        loop.set_exception_handler(lambda _, context: None)  # asyncio's word on tasks that are destroyed
        doomed = [model.agenerate("Once", **ENDLESS), read(model, "Twice", **ENDLESS)]
        tasks = [loop.create_task(one) for one in doomed]
        loop.run_until_complete(read(model, "Thrice", **STREAMED))
        assert not any(task.done() for task in tasks)
        loop.close()
        return ref(loop)

    closed, end = leave(), time.monotonic() + SECONDS
    while closed() is not None and time.monotonic() < end:  # a thread may be about to let go of it
        gc.collect()
    assert closed() is None
    model.generate("Twice", max_new_tokens=1)
    assert model.stats().running == 0


def pumps() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == PUMP]


def test_the_thread_of_a_loop_without_readers_ends_with_it(model: GPT2) -> None:
    gc.collect()
    before = set(pumps())

    async def main() -> threading.Thread:
        await model.agenerate("Once", max_new_tokens=2)
        (thread,) = set(pumps()) - before
        return thread

    thread = run_in(LoopWithoutReaders(), main())
    gc.collect()
    thread.join(SECONDS)
    assert not thread.is_alive()


WITHOUT_READERS = """
import asyncio
from gpt2fast import GPT2
from support.event_loops import ENDLESS, LoopWithoutReaders

model = GPT2.from_pretrained(generation_config=None)
loop = LoopWithoutReaders()
stream = model.astream("Once", **ENDLESS)
loop.run_until_complete(anext(stream))
"""


@pytest.mark.parametrize("end", ["", "loop.close()", "import sys; loop.close(); del loop; sys.exit(0)"])
def test_a_program_ends_with_such_a_loop(end: str) -> None:
    ended = end_of(start_python("-c", WITHOUT_READERS + end))
    assert (ended.status, ended.stderr) == (0, "")
