"""Who waits for a slot: order, bounds, deadlines."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any

import pytest

from gpt2fast import GPT2, BusyError
from support.event_loops import ENDLESS, run_in


def run(main: Coroutine[Any, Any, None]) -> None:
    run_in(asyncio.new_event_loop(), main)


async def hold(model: GPT2) -> Any:
    """A text that holds a slot: its stream is read as fast as it comes until the task is cancelled."""
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in model.astream("Once", **ENDLESS):
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    return task


async def end(*tasks: Any) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_texts_beyond_max_waiting_are_refused() -> None:
    async def main() -> None:
        with GPT2.from_pretrained(max_sequences=1, max_waiting=2) as model:
            holder = await hold(model)
            waiting = [asyncio.create_task(model.agenerate(f"Once {i}", max_new_tokens=2)) for i in range(2)]
            while model.stats().waiting < 2:
                await asyncio.sleep(0)
            message = "2 texts wait for a slot already, and max_waiting is 2: try again later"
            with pytest.raises(BusyError, match=re.escape(message)):
                await model.agenerate("Twice")
            with pytest.raises(BusyError, match=re.escape(message)):
                model.generate("Twice")
            with pytest.raises(BusyError):
                model.stream("Twice").__next__()
            assert model.stats().refused == 3
            await end(holder)
            assert [len(one.token_ids) for one in await asyncio.gather(*waiting)] == [2, 2]
            assert len((await model.agenerate("Twice", max_new_tokens=3)).token_ids) == 3

    run(main())


def test_with_no_room_to_wait_free_slots_are_still_used() -> None:
    with GPT2.from_pretrained(max_sequences=2, max_waiting=0) as model:
        assert [len(one.token_ids) for one in model.generate(["Once", "Twice"], max_new_tokens=2)] == [2, 2]
        assert model.stats().refused == 0


@pytest.mark.parametrize(
    ("priorities", "order"),
    [
        ([0, 0, 0, 0], [0, 1, 2, 3]),  # first come, first served
        ([0, 60, -60, 120], [3, 1, 0, 2]),
        ([60, 120, 60, 120], [1, 3, 0, 2]),
    ],
)
def test_slots_are_given_by_priority_and_then_in_the_order_of_the_calls(
    priorities: list[int], order: list[int]
) -> None:
    async def main() -> None:
        with GPT2.from_pretrained(max_sequences=1) as model:
            holder = await hold(model)
            ended: list[int] = []

            async def ask(number: int) -> None:
                await model.agenerate(f"Once {number}", max_new_tokens=3, priority=priorities[number])
                ended.append(number)

            tasks = []
            for number in range(4):
                tasks.append(asyncio.create_task(ask(number)))
                while model.stats().waiting <= number:
                    await asyncio.sleep(0)
            await end(holder)
            await asyncio.gather(*tasks)
            assert ended == order

    run(main())


def test_max_time_counts_from_the_call() -> None:
    """A text that waits for its whole time ends without a token, while another holds the slot."""

    async def main() -> None:
        with GPT2.from_pretrained(max_sequences=1) as model:
            holder = await hold(model)
            loop = asyncio.get_running_loop()
            called = loop.time()
            out = await model.agenerate("Twice", max_time=0.2)
            assert loop.time() - called >= 0.2
            assert (out.finish_reason, out.token_ids, out.text) == ("time", [], "")
            assert not holder.done()
            stats = model.stats()
            assert (stats.timed_out, stats.running, stats.waiting) == (1, 1, 0)
            await end(holder)

    run(main())
