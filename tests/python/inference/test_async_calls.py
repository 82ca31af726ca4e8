"""asyncio: the same texts as without it, a free event loop, tasks that can be cancelled."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any
from weakref import ref

import pytest

from gpt2fast import GPT2
from gpt2fast.inference.cancellation import CancelToken
from gpt2fast.inference.results import StreamChunk

WORDS = ["wolf", "king", "queen", "fox", "hen", "boy", "girl", "cat"]
PROMPTS = [f"The {word} went" for word in WORDS]
SAMPLED = {"temperature": 0.9, "seed": 1, "max_new_tokens": 20}
ENDLESS = {"max_new_tokens": 10_000_000, "overflow": "slide", "eos_token_id": []}


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """``asyncio.run``, in which nothing may be reported to the loop's exception handler."""
    problems: list[dict[str, Any]] = []

    async def watched() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        return await main

    result = asyncio.run(watched())
    assert problems == []
    return result


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained()


async def first_chunk(model: GPT2, prompt: str, **options: Any) -> StreamChunk:
    async with aclosing(model.astream(prompt, **options)) as stream:
        async for chunk in stream:
            return chunk
    raise AssertionError("the stream was empty")


def test_many_tasks_give_the_texts_of_the_synchronous_calls() -> None:
    model = GPT2.from_pretrained(max_sequences=3)
    expected = [model.generate(prompt, **SAMPLED).text for prompt in PROMPTS]

    async def main() -> list[str]:
        results = await asyncio.gather(*(model.agenerate(prompt, **SAMPLED) for prompt in PROMPTS * 3))
        return [result.text for result in results]

    assert run(main()) == expected * 3


def test_tasks_that_start_together_share_all_steps() -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": [], "temperature": 0}

    def steps(work: Callable[[GPT2], object]) -> int:
        model = GPT2.from_pretrained(prefix_cache_bytes=0)
        work(model)
        return model.stats().steps

    async def gathered(model: GPT2) -> None:
        await asyncio.gather(*(model.agenerate(prompt, **options) for prompt in PROMPTS))

    alone = steps(lambda model: model.generate(PROMPTS, **options))
    assert steps(lambda model: run(gathered(model))) == alone
    assert steps(lambda model: list(model.generate_many(PROMPTS, **options))) == alone


def test_tasks_that_ask_the_same_read_its_prompt_once(embedded_dir: Path) -> None:
    with GPT2.from_pretrained(embedded_dir) as model:
        prompt = model.tokenizer.encode("Once upon a time there was a king who had " * 9)

        async def ask() -> None:
            await asyncio.gather(*(model.agenerate(prompt, max_new_tokens=4, seed=seed) for seed in range(6)))

        asyncio.run(ask())
        stats = model.stats()
    assert len(prompt) <= stats.prompt_tokens < len(prompt) + 6
    assert stats.prefix_hits == 5 * (len(prompt) - 1)


def test_a_batch_is_a_list(model: GPT2) -> None:
    expected = [one.token_ids for one in model.generate(PROMPTS, **SAMPLED)]
    assert [one.token_ids for one in run(model.agenerate(PROMPTS, **SAMPLED))] == expected
    assert run(model.agenerate(PROMPTS[0], num_beams=2, max_new_tokens=5)).token_ids


def test_streams_side_by_side_give_the_same_texts() -> None:
    model = GPT2.from_pretrained(max_sequences=3)
    expected = [model.generate(prompt, **SAMPLED) for prompt in PROMPTS]

    async def read(prompt: str) -> tuple[str, list[int], str | None]:
        text, token_ids, reason = "", [], None
        async for chunk in model.astream(prompt, **SAMPLED):
            text += chunk.text
            token_ids += chunk.token_ids
            reason = chunk.finish_reason
        return text, token_ids, reason

    async def main() -> list[tuple[str, list[int], str | None]]:
        return await asyncio.gather(*map(read, PROMPTS))

    assert run(main()) == [(one.text, one.token_ids, one.finish_reason) for one in expected]


def test_a_stream_of_a_batch_names_its_texts(model: GPT2) -> None:
    async def main() -> list[str]:
        texts = ["" for _ in PROMPTS]
        async for chunk in model.astream(PROMPTS, **SAMPLED):
            texts[chunk.index] += chunk.text
        return texts

    assert run(main()) == [one.text for one in model.generate(PROMPTS, **SAMPLED)]


def test_the_event_loop_stays_free(model: GPT2) -> None:
    """An endless generation is ended by a task that the loop had to run meanwhile."""

    async def main() -> None:
        task = asyncio.create_task(model.agenerate("Once", **ENDLESS))
        chunk = await first_chunk(model, "Twice", max_new_tokens=5)
        assert chunk.token_ids
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_cancelled_tasks_give_their_slots_back() -> None:
    model = GPT2.from_pretrained(max_sequences=1)
    expected = model.generate("Twice", max_new_tokens=3).text

    async def main() -> None:
        for _ in range(3):
            started = asyncio.create_task(model.agenerate("Once", **ENDLESS))
            waiting = asyncio.create_task(model.agenerate("Once more", **ENDLESS))
            await asyncio.wait([started, waiting], timeout=0.05)
            for task in (waiting, started):
                task.cancel()
            await asyncio.gather(started, waiting, return_exceptions=True)
            assert started.cancelled()
            assert waiting.cancelled()
            assert model.generate("Twice", max_new_tokens=3).text == expected
            assert (await model.agenerate("Twice", max_new_tokens=3)).text == expected

    run(main())


def test_a_timeout_ends_a_generation() -> None:
    model = GPT2.from_pretrained(max_sequences=1)

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(model.agenerate("Once", **ENDLESS), 0.05)
        assert (await model.agenerate("Twice", max_new_tokens=2)).text

    run(main())


def test_a_closed_stream_gives_its_slot_back() -> None:
    model = GPT2.from_pretrained(max_sequences=1)

    async def main() -> None:
        for _ in range(3):
            assert (await first_chunk(model, "Once", **ENDLESS)).token_ids
            assert model.generate("Twice", max_new_tokens=2).text

    run(main())


def test_a_cancelled_reader_ends_its_stream() -> None:
    model = GPT2.from_pretrained(max_sequences=1)

    async def read(begun: asyncio.Event) -> None:
        async for _ in model.astream("Once", **ENDLESS):
            begun.set()

    async def main() -> None:
        begun = asyncio.Event()
        task = asyncio.create_task(read(begun))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await model.agenerate("Twice", max_new_tokens=2)).text

    run(main())


def test_a_stream_that_was_left_ends_by_itself() -> None:
    model = GPT2.from_pretrained(max_sequences=1)

    async def main() -> None:
        async for _ in model.astream("Once", **ENDLESS):
            break
        assert (await model.agenerate("Twice", max_new_tokens=2)).text

    run(main())


def test_tasks_can_be_cancelled_at_any_moment() -> None:
    model = GPT2.from_pretrained(max_sequences=2)
    expected = model.generate("Twice", max_new_tokens=3).text

    async def main() -> None:
        for turns in range(40):
            tasks = [
                asyncio.create_task(model.agenerate("Once", **ENDLESS)),
                asyncio.create_task(first_chunk(model, "Once", **ENDLESS)),
                asyncio.create_task(model.agenerate(["Once"] * 3, **ENDLESS)),
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert [(task.cancelled() or task is tasks[1]) for task in tasks] == [True] * 3
        assert (await model.agenerate("Twice", max_new_tokens=3)).text == expected

    run(main())


def test_a_slow_reader_pauses_the_stream(model: GPT2) -> None:
    """Nothing is lost, and the stream stays close to its reader."""
    expected = model.generate("Once", max_new_tokens=60, eos_token_id=[]).token_ids

    async def main() -> list[int]:
        token_ids: list[int] = []
        async for chunk in model.astream("Once", max_new_tokens=60, eos_token_id=[]):
            token_ids += chunk.token_ids
            await asyncio.to_thread(model.generate, "Twice", max_new_tokens=1)
        return token_ids

    assert run(main()) == expected


def test_errors_arrive_at_the_caller(model: GPT2) -> None:
    def fail(prompt: Any, output: Any, scores: Any) -> None:
        raise KeyError("mine")

    async def read(**options: Any) -> None:
        async for _ in model.astream("Once", **options):
            pass

    with pytest.raises(TypeError, match="unknown generation option 'top_q'"):
        run(model.agenerate("Once", top_q=1))
    with pytest.raises(ValueError, match="n_positions"):
        run(model.agenerate("Once", max_new_tokens=10_000))
    with pytest.raises(ValueError, match="n_positions"):
        run(read(max_new_tokens=10_000))
    with pytest.raises(KeyError, match="mine"):
        run(model.agenerate("Once", logits_processor=fail))
    with pytest.raises(KeyError, match="mine"):
        run(read(logits_processor=fail))


@pytest.mark.parametrize("how", ["generate", "stream", "generate_many", "agenerate", "astream"])
def test_an_error_of_a_hook_is_not_kept(model: GPT2, how: str) -> None:
    """It refers to the frames of the call that raised it, and these to the call."""

    class MyError(Exception):
        pass

    raised: list[ref[MyError]] = []

    def fail(prompt: Any, output: Any, scores: Any) -> None:
        error = MyError()
        raised.append(ref(error))
        raise error

    async def read() -> None:
        async for _ in model.astream("Once", logits_processor=fail):
            pass

    calls: dict[str, Callable[[], Any]] = {
        "generate": lambda: model.generate("Once", logits_processor=fail),
        "stream": lambda: list(model.stream("Once", logits_processor=fail)),
        "generate_many": lambda: list(model.generate_many(["Once"], logits_processor=fail)),
        "agenerate": lambda: run(model.agenerate("Once", logits_processor=fail)),
        "astream": lambda: run(read()),
    }
    with suppress(MyError):
        calls[how]()
    gc.collect()
    assert [one() for one in raised] == [None]


def test_a_cancel_token_of_the_caller_works_too(model: GPT2) -> None:
    token = CancelToken()

    async def main() -> list[str | None]:
        reasons = []
        async for chunk in model.astream("Once", cancel=token, **ENDLESS):
            token.cancel()
            reasons.append(chunk.finish_reason)
        reasons.append((await model.agenerate("Once", cancel=token, **ENDLESS)).finish_reason)
        return reasons

    assert run(main())[-2:] == ["cancelled", "cancelled"]


def test_one_model_serves_several_event_loops(model: GPT2) -> None:
    expected = model.generate("Once", **SAMPLED).text

    async def main() -> str:
        own = [asyncio.to_thread(asyncio.run, model.agenerate("Once", **SAMPLED)) for _ in range(3)]
        results = await asyncio.gather(*own, model.agenerate("Once", **SAMPLED))
        return "|".join(result.text for result in results)

    assert run(main()) == "|".join([expected] * 4)
