"""``close`` and ``with``: what runs ends with an error, and later calls get one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gpt2fast import GPT2
from support.event_loops import ENDLESS
from support.processes import SECONDS


async def read_stream(model: GPT2, **options: Any) -> None:
    async for _ in model.astream("Once", **options):
        pass


CALLS: dict[str, Callable[[GPT2], object]] = {
    "generate": lambda model: model.generate("Once"),
    "beams": lambda model: model.generate("Once", num_beams=2),
    "generate_many": lambda model: list(model.generate_many(["Once"])),
    "stream": lambda model: list(model.stream("Once")),
    "agenerate": lambda model: asyncio.run(model.agenerate("Once")),
    "astream": lambda model: asyncio.run(read_stream(model)),
    "forward": lambda model: model.forward([5, 6]),
    "logits": lambda model: model.logits([5, 6]),
    "score": lambda model: model.score("Once upon"),
    "perplexity": lambda model: model.perplexity("Once upon"),
    "rank": lambda model: model.rank("Once", [" upon", " more"]),
    "embed": lambda model: model.embed("Once"),
    "prefill": lambda model: model.prefill("Once"),
    "stats": lambda model: model.stats(),
    "clear_prefix_cache": lambda model: model.clear_prefix_cache(),
}


@pytest.fixture(scope="module")
def closed() -> GPT2:
    with GPT2.from_pretrained() as model:
        model.generate("Once", max_new_tokens=1)
    return model


@pytest.mark.parametrize("name", CALLS)
def test_calls_after_close_get_an_error(closed: GPT2, name: str) -> None:
    with pytest.raises(RuntimeError, match="the model is closed"):
        CALLS[name](closed)


def test_closing_again_does_nothing(closed: GPT2) -> None:
    closed.close()
    with closed:
        pass


def test_what_needs_no_engine_is_there_after_close(closed: GPT2) -> None:
    assert closed.tokenizer.encode("Once")
    assert closed.config.n_layer == 6
    assert "GPT2(" in repr(closed)


def test_with_closes_after_an_error_too() -> None:
    with pytest.raises(KeyError, match="mine"), GPT2.from_pretrained() as model:
        raise KeyError("mine")
    with pytest.raises(RuntimeError, match="the model is closed"):
        model.generate("Once")


def test_a_closed_model_has_no_results_to_give() -> None:
    model = GPT2.from_pretrained()
    stream = model.stream("Once", **ENDLESS)
    next(stream)
    model.close()
    with pytest.raises(RuntimeError, match="the model was closed"):
        list(stream)


def hooked(begun: Callable[[], object]) -> dict[str, Any]:
    """Options of an endless text that reports its first token."""

    def report(prompt: Any, output: Any, scores: Any) -> None:
        begun()

    return {"logits_processor": report, **ENDLESS}


def test_close_ends_what_other_threads_do() -> None:
    """Lone callers, many, those that wait for a slot, and those with hooks."""
    kinds: list[Callable[[GPT2, Callable[[], object]], object]] = [
        lambda model, begun: model.generate("Once", **hooked(begun)),
        lambda model, begun: [begun() for _ in model.stream("Once", **ENDLESS)],
        lambda model, begun: asyncio.run(model.agenerate("Once", **hooked(begun))),
        lambda model, begun: asyncio.run(read_stream(model, **hooked(begun))),
        lambda model, begun: [(begun(), model.score("Once upon a time " * 20)) for _ in iter(int, 1)],
        lambda model, begun: [(begun(), model.forward([5] * 100)) for _ in iter(int, 1)],
    ]
    for chosen in [[kind] for kind in kinds] + [kinds, kinds * 2]:
        model = GPT2.from_pretrained(max_sequences=4)
        with ThreadPoolExecutor(len(chosen)) as pool:
            begun = threading.Event()
            running = [pool.submit(kind, model, begun.set) for kind in chosen]
            assert begun.wait(SECONDS)
            model.close()
            for one in running:
                with pytest.raises(RuntimeError, match=r"the model (was|is) closed"):
                    one.result(SECONDS)


def test_two_threads_may_close_a_model_at_once() -> None:
    for _ in range(10):
        model = GPT2.from_pretrained()
        with ThreadPoolExecutor(3) as pool:
            begun = threading.Event()
            running = pool.submit(model.generate, "Once", **hooked(begun.set))
            assert begun.wait(SECONDS)
            for one in [pool.submit(model.close) for _ in range(2)]:
                one.result(SECONDS)
            with pytest.raises(RuntimeError, match="the model was closed"):
                running.result(SECONDS)
