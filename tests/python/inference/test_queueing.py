"""Who waits for a slot: order, bounds, deadlines."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from gpt2fast import GPT2, BusyError, CancelToken
from support.event_loops import ENDLESS, run_in
from support.processes import SECONDS


def run(main: Coroutine[Any, Any, None]) -> None:
    run_in(asyncio.new_event_loop(), main)


# A reader that falls behind, on a busy machine, keeps its slot with this.
_ANY = 1_000_000


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
        with GPT2.from_pretrained(max_sequences=1, read_ahead=_ANY, max_waiting=2) as model:
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


def test_a_search_waits_for_as_many_slots_as_it_has_beams() -> None:
    async def main() -> None:
        with GPT2.from_pretrained(max_sequences=3, read_ahead=_ANY, max_waiting=3) as model:
            holders = [await hold(model) for _ in range(2)]
            search = asyncio.create_task(model.agenerate("Once", num_beams=3, max_new_tokens=2))
            while model.stats().waiting < 1:
                await asyncio.sleep(0)
            # Two of its three beams wait for a slot.
            last = asyncio.create_task(model.agenerate("Twice", max_new_tokens=2))
            while model.stats().waiting < 2:
                await asyncio.sleep(0)
            with pytest.raises(BusyError, match=r"^3 texts wait for a slot already, and max_waiting is 3"):
                model.generate("Thrice")
            await end(*holders)
            assert [len(one.token_ids) for one in await asyncio.gather(search, last)] == [2, 2]
            assert len(model.generate("Thrice", max_new_tokens=2).token_ids) == 2

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
        with GPT2.from_pretrained(max_sequences=1, read_ahead=_ANY) as model:
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
        with GPT2.from_pretrained(max_sequences=1, read_ahead=_ANY) as model:
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


@pytest.mark.parametrize("max_waiting", [0, 1])
def test_the_prompts_of_generate_many_wait_for_each_other(max_waiting: int) -> None:
    options = {"max_new_tokens": 4, "echo": True, "logprobs": 1}  # which takes two calls in the engine
    prompts = [f"Once {i}" for i in range(9)]
    with GPT2.from_pretrained(max_sequences=2, max_waiting=max_waiting) as model:
        expected = [model.generate(prompt, **options) for prompt in prompts]
        found = list(model.generate_many(prompts, **options))
        assert [one.text for one in found] == [one.text for one in expected]
        assert {number for number, _ in model.generate_many(prompts, ordered=False, **options)} == {*range(9)}


def test_generate_many_is_refused_while_others_wait() -> None:
    async def main() -> None:
        with GPT2.from_pretrained(max_sequences=1, read_ahead=_ANY, max_waiting=0) as model:
            holder = await hold(model)
            with pytest.raises(BusyError):
                next(model.generate_many(["Once"]))
            await end(holder)

    run(main())


def test_a_token_ends_generate_many() -> None:
    token = CancelToken()
    read = 0

    def prompts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "Once"

    with GPT2.from_pretrained(max_sequences=2) as model:
        options = {"logits_processor": lambda *_: token.cancel(), **ENDLESS}
        found = list(model.generate_many(prompts(), cancel=token, **options))
        assert {one.finish_reason for one in found} == {"cancelled"}
        assert len(found) == read
        assert list(model.generate_many(prompts(), cancel=token)) == []


@pytest.mark.parametrize("prompts", ["Once upon a time", b"Once", None, 7])
def test_generate_many_takes_no_single_prompt(prompts: Any) -> None:
    no_flag: Any = "no"
    with GPT2.from_pretrained() as model:
        with pytest.raises(TypeError, match="prompts must be an iterable of texts"):
            model.generate_many(prompts)
        with pytest.raises(TypeError, match="ordered must be True or False, got 'no'"):
            model.generate_many(["Once"], ordered=no_flag)


def test_prompts_that_come_one_by_one_begin_as_they_come() -> None:
    model = GPT2.from_pretrained()
    limit, turn = time.monotonic() + SECONDS, threading.Event()

    def prompts() -> Iterator[str]:
        yield "The wolf"
        while model.stats().finished == 0:
            assert time.monotonic() < limit, "the first prompt waits for the second"
            turn.wait(0.005)  # the engine's thread goes on
        yield "The king"

    expected = [model.generate(prompt, max_new_tokens=3, seed=1).text for prompt in ("The wolf", "The king")]
    model = GPT2.from_pretrained()
    found = model.generate_many(prompts(), max_new_tokens=3, seed=1)
    assert [one.text for one in found] == expected
