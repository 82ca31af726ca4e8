"""Generation from any number of prompts, a few steps' worth of them in the engine at once."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeAlias

from gpt2fast._native import core
from gpt2fast._validation import Flag, shown
from gpt2fast.errors import BusyError
from gpt2fast.inference.outputs import generation
from gpt2fast.inference.requests import Call, read_call
from gpt2fast.inference.results import Generation
from gpt2fast.inference.work import watched
from gpt2fast.loading.loaded_model import LoadedModel

if TYPE_CHECKING:
    from gpt2fast.inference.options import GenerationOptions
    from gpt2fast.inference.work import Start, Work
    from gpt2fast.text.prompts import Prompt

Outcome: TypeAlias = Generation | list[Generation]

# Texts in the engine for each of its slots, so that steps stay full while some texts end and others begin.
_TEXTS_PER_SLOT = 2
# How far prompts may be started ahead of the oldest without a result, for each text in the engine.
_PROMPTS_AHEAD = 4


def generate_many(
    model: LoadedModel, prompts: Iterable[Prompt], options: GenerationOptions, *, ordered: bool
) -> Iterator[tuple[int, Outcome]]:
    """The number of each prompt and its result: in the order of the prompts, or as they end.

    Raises TypeError at once if ``prompts`` is a single text, or nothing to go through.
    """
    Flag()("ordered", ordered)
    try:
        all_prompts = None if isinstance(prompts, (str, bytes)) else iter(prompts)
    except TypeError:
        all_prompts = None
    if all_prompts is None:
        raise TypeError(
            f"prompts must be an iterable of texts or of lists of token ids, got {shown(prompts)}; put a "
            f"single one in a list"
        )
    running = _RunningPrompts(model, all_prompts, options, at_hand=isinstance(prompts, Sequence))
    return _outcomes(running, ordered)


def _outcomes(running: _RunningPrompts, ordered: bool) -> Iterator[tuple[int, Outcome]]:
    waiting: dict[int, Outcome] = {}
    wanted = 0
    try:
        while running.go_on(oldest=wanted if ordered else None):
            for index, outcome in running.take():
                if not ordered:
                    yield index, outcome
                    continue
                waiting[index] = outcome
                while wanted in waiting:
                    yield wanted, waiting.pop(wanted)
                    wanted += 1
    finally:
        running.cancel()


class _RunningPrompts:
    """Prompts that have been started and not finished.

    Those that are ``at_hand`` begin together. The next of others may keep the engine waiting.
    """

    def __init__(
        self, model: LoadedModel, prompts: Iterator[Prompt], options: GenerationOptions, *, at_hand: bool
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._options = options
        self._at_hand = at_hand
        texts = max(1, options.num_beams, options.best_of or 1, options.num_return_sequences or 1)
        self._most = max(1, _TEXTS_PER_SLOT * model.engine.max_sequences // texts)
        self._next = 0
        self._exhausted = False
        self._queue = core.ReadyQueue()
        self._keys = itertools.count(1)
        self._calls: dict[int, tuple[int, Work[Outcome], core.Call, ExitStack]] = {}
        # Calls that the engine has not accepted yet, because too many were waiting.
        self._unstarted: deque[tuple[int, Work[Outcome], Start]] = deque()
        # Calls that have been made and are to begin together.
        self._held: list[core.Call] = []
        self._finished: list[tuple[int, Outcome]] = []

    def go_on(self, oldest: int | None) -> bool:
        """Start prompts as far as there is room; False when all are finished and taken.

        ``oldest`` is the first prompt whose result is still awaited, if results are wanted in order.
        """
        self._start_calls()
        while not self._exhausted and not self._unstarted and len(self._calls) < self._most:
            if self._options.cancel is not None and self._options.cancel.cancelled:
                self._exhausted = True
                break
            if oldest is not None and self._next - oldest >= _PROMPTS_AHEAD * self._most:
                break
            try:
                prompt = next(self._prompts)
            except StopIteration:
                self._exhausted = True
                break
            self._advance(self._next, generation(self._model, self._read(prompt)), None)
            self._next += 1
        self._begin_held()
        return bool(self._calls or self._finished)

    def take(self) -> list[tuple[int, Outcome]]:
        """Wait until a prompt has finished; what has finished since the last call."""
        while not self._finished:
            self._queue.wait()
            for key in self._queue.take():
                if key not in self._calls:  # it has been done for longer than the queue knows
                    continue
                index, work, call, watch = self._calls[key]
                if call.done():
                    watch.close()
                    del self._calls[key]
                    self._advance(index, work, call)
            self._begin_held()
        finished, self._finished = self._finished, []
        return finished

    def cancel(self) -> None:
        """End what is running."""
        for _, _, call, watch in self._calls.values():
            watch.close()
            call.cancel()

    def _read(self, prompt: Prompt) -> Call:
        try:
            call = read_call(self._model, prompt, self._options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"prompts[{self._next}]: {error}") from None
        if call.single or self._options.num_return_sequences is not None:
            return call
        raise TypeError(f"prompts[{self._next}] is a list of prompts: give each prompt as an item of its own")

    def _advance(self, index: int, work: Work[Outcome], call: Any) -> None:
        try:
            start = work.send(call)
        except StopIteration as end:
            self._finished.append((index, end.value))
            return
        self._unstarted.append((index, work, start))
        self._start_calls()

    def _start_calls(self) -> None:
        """Start what has not been; when the engine takes no more, the rest waits for what it has."""
        while self._unstarted:
            index, work, start = self._unstarted[0]
            key = next(self._keys)
            try:
                call = start(queue=self._queue, key=key)
            except BusyError:
                if not self._calls:
                    raise
                return
            self._unstarted.popleft()
            watch = ExitStack()
            watch.enter_context(watched(call, self._options.cancel))
            self._calls[key] = index, work, call, watch
            self._held.append(call)
            if not self._at_hand:
                self._begin_held()

    def _begin_held(self) -> None:
        held, self._held = self._held, []
        for call in held:
            call.begin()
