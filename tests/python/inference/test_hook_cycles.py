"""Hooks that refer to whoever holds their call: Python's garbage collector takes all of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest

from gpt2fast import GPT2
from gpt2fast._native import core
from gpt2fast.inference.hooks import Hooks
from gpt2fast.inference.outputs import start_stream
from gpt2fast.inference.requests import read_call
from support.event_loops import ENDLESS


@pytest.fixture
def model() -> GPT2:
    return GPT2.from_pretrained(max_sequences=2)


class Owner:
    """Holds a call, or whatever runs it, and is what the call's hooks are methods of."""

    def __init__(self) -> None:
        self.held: Any = None

    def process_scores(self, prompt: Any, output: Any, scores: Any) -> None:
        scores[0] += self.held is self

    def allowed_tokens(self, output: Any) -> None:
        assert self.held is not self

    def is_complete(self, output: Any) -> bool:
        return self.held is self


class Refusing(Owner):
    """Its hook raises after the first token; the exception refers to the frame, and that to the owner."""

    def process_scores(self, prompt: Any, output: Any, scores: Any) -> None:
        if len(output) > 0:
            raise KeyError("mine")


def hold_stream(model: GPT2, owner: Owner) -> None:
    owner.held = model.stream("Once", logits_processor=owner.process_scores, **ENDLESS)
    next(owner.held)


def hold_generate_many(model: GPT2, owner: Owner) -> None:
    prompts = (["Once", "Twice"][i % 2] for i in range(100))
    owner.held = model.generate_many(prompts, logits_processor=owner.process_scores, max_new_tokens=3)
    next(owner.held)


def hold_astream(model: GPT2, owner: Owner) -> None:
    loop = asyncio.new_event_loop()
    owner.held = [loop, model.astream("Once", logits_processor=owner.process_scores, **ENDLESS)]
    loop.run_until_complete(anext(owner.held[1]))
    loop.close()


def hold_task(model: GPT2, owner: Owner) -> None:
    loop = asyncio.new_event_loop()
    begun = asyncio.Event()

    def process_scores(prompt: Any, output: Any, scores: Any) -> None:
        owner.process_scores(prompt, output, scores)
        loop.call_soon_threadsafe(begun.set)

    text = model.agenerate("Once", logits_processor=process_scores, **ENDLESS)
    owner.held = [loop, loop.create_task(text)]
    loop.run_until_complete(begun.wait())
    loop.set_exception_handler(lambda loop, context: None)  # which hears of the task when that is freed
    loop.close()


def holding_core_call(**names: bool) -> Callable[[GPT2, Owner], None]:
    """Holds a call of the core itself, which has hooks of these names."""

    def hold(model: GPT2, owner: Owner) -> None:
        call = read_call(model.loaded, "Once", None, ENDLESS)
        call.requests[0].set_hooks(Hooks(**{name: getattr(owner, name) for name in names}))
        owner.held = start_stream(model.loaded, call)
        owner.held.next()

    return hold


HELD: dict[str, Callable[[GPT2, Owner], None]] = {
    "stream": hold_stream,
    "generate_many": hold_generate_many,
    "astream": hold_astream,
    "agenerate": hold_task,
    "allowed_tokens": holding_core_call(allowed_tokens=True),
    "process_scores": holding_core_call(process_scores=True),
    "is_complete": holding_core_call(is_complete=True),
}


@pytest.mark.parametrize("how", HELD)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_unfinished_call_whose_hook_refers_to_its_holder_is_collected(model: GPT2, how: str) -> None:
    owner = Owner()
    HELD[how](model, owner)
    if how != "generate_many":  # whose texts may have ended since the first one did
        assert model.stats().running > 0
    known = ref(owner)
    del owner
    for _ in range(1000):  # the engine's thread may be inside the hook
        gc.collect()
        if known() is None:
            break
    assert known() is None
    # What the collector has given up ends within a step; this call comes after it.
    for _ in range(50):
        model.generate("Once", max_new_tokens=1)
        if model.stats().running == 0:
            break
    assert (model.stats().running, model.stats().waiting, model.stats().slots_used) == (0, 0, 0)


def test_an_exception_that_nobody_asked_for_is_collected_with_its_call(model: GPT2) -> None:
    owner, queue = Refusing(), core.ReadyQueue()
    call = read_call(model.loaded, "Once", None, ENDLESS)
    hooks = Hooks(process_scores=owner.process_scores)
    call.requests[0].set_hooks(hooks)
    owner.held = start_stream(model.loaded, call, queue=queue, key=1)
    owner.held.begin()
    while hooks.error is None:
        queue.wait()
        queue.take()
    known = ref(owner)
    del owner, hooks, call
    gc.collect()
    assert known() is None


def test_the_exception_of_a_hook_reaches_the_caller_with_its_traceback(model: GPT2) -> None:
    with pytest.raises(KeyError, match="mine") as caught:
        model.generate("Once", logits_processor=Refusing().process_scores)
    assert caught.traceback[-1].name == "process_scores"


def test_a_call_whose_hooks_are_gone_ends_with_an_error(model: GPT2) -> None:
    call = read_call(model.loaded, "Once", None, ENDLESS)
    call.requests[0].set_hooks(Hooks(is_complete=lambda output: False))
    running = start_stream(model.loaded, call)
    running.next()
    vars(running).clear()
    vars(call.requests[0]).clear()
    with pytest.raises(RuntimeError, match="hooks are gone"):
        running.wait()
    assert model.stats().running == 0


def test_a_call_keeps_the_hooks_of_its_requests(model: GPT2) -> None:
    request = core.Request([5, 6])
    request.set_hooks(Hooks(is_complete=lambda output: len(output) == 3))
    running = model.loaded.engine.generate([request], core.GenerationOptions())
    del request
    gc.collect()
    running.wait()
    ((text,),) = running.results()
    assert len(text[0]) == 3
