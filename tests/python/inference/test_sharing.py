"""Callers that share a model: each gets what it gets alone, bit for bit, in every precision.

``GPT2FAST_SCHEDULES`` is the number of random schedules in each precision; 5000 is the full count.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import GPT2
from random_checkpoint import write_random_checkpoint
from support.event_loops import run_in
from support.schedules import SETTINGS, Chunks, Schedule, Spec, answer, plain, pool

SCHEDULES = int(os.environ.get("GPT2FAST_SCHEDULES", "12"))

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 48, "n_positions": 512, "vocab_size": 4096}

Expected = list[tuple[Spec, list[Any]]]


@pytest.fixture(scope="module", params=["fp32", "bf16", "int8", "int4"])
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def load(precision: Any, embedded_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., GPT2]:
    """Loads one small model with the settings that it is given."""
    checkpoint = write_random_checkpoint(tmp_path_factory.mktemp("small"), SIZES)
    return partial(GPT2.from_pretrained, checkpoint, precision=precision, tokenizer=embedded_dir)


@pytest.fixture(scope="module")
def expected(load: Callable[..., GPT2]) -> Expected:
    """One after another, by a model that keeps nothing between calls."""
    with load(prefix_cache_bytes=0) as model:
        return [(spec, answer(model, spec)) for spec in pool()]


@pytest.fixture(scope="module")
def streamable(expected: Expected) -> Expected:
    return [one for one in expected if one[0].what == "text" and one[0].beams == 1]


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


@pytest.fixture(scope="module")
def model(load: Callable[..., GPT2]) -> Iterator[GPT2]:
    with load(max_sequences=6, read_ahead=4) as model:
        yield model


def test_32_threads(model: GPT2, expected: Expected, threads: ThreadPoolExecutor) -> None:
    asked = (expected * 2)[:64]
    running = [threads.submit(answer, model, spec) for spec, _ in asked]
    for (spec, alone), one in zip(asked, running, strict=True):
        assert one.result() == alone, spec


def test_200_tasks(model: GPT2, streamable: Expected) -> None:
    asked = (streamable * 6)[:200]

    async def main() -> list[Any]:
        return await asyncio.gather(*(model.agenerate(spec.prompt, **spec.options) for spec, _ in asked))

    for (spec, alone), result in zip(asked, run_in(asyncio.new_event_loop(), main()), strict=True):
        assert plain(result) == alone, spec


def test_readers_that_pause(model: GPT2, streamable: Expected) -> None:
    """More of them than there are slots; each goes on when all others have got their first token."""

    async def main() -> None:
        begun, all_begun = 0, asyncio.Event()

        async def read(spec: Spec, alone: list[Any]) -> None:
            nonlocal begun
            chunks = Chunks(len(alone))
            async for chunk in model.astream(spec.prompt, **spec.options):
                chunks.add(chunk)
                if chunks.count == 1:
                    begun += 1
                    if begun == len(streamable):
                        all_begun.set()
                    await all_begun.wait()
            assert chunks.plain() == alone, spec

        await asyncio.gather(*(read(spec, alone) for spec, alone in streamable))

    run_in(asyncio.new_event_loop(), main())
    assert model.stats().recomputed > 0


@pytest.mark.timeout(300 + SCHEDULES)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_random_schedules(
    load: Callable[..., GPT2], expected: Expected, threads: ThreadPoolExecutor, settings: dict[str, Any]
) -> None:
    place = SETTINGS.index(settings)
    with load(**settings) as model:
        for number in range(place, SCHEDULES, len(SETTINGS)):
            schedule = Schedule(model, expected, number, threads)
            run_in(asyncio.new_event_loop(), schedule.run())
            assert not schedule.wrong, "\n".join([f"schedule {number}", *schedule.wrong])
        model.generate("Once", max_new_tokens=1)  # what was ended is gone a step later
        stats = model.stats()
        assert (stats.running, stats.waiting, stats.slots_used) == (0, 0, 0)
