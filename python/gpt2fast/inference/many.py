"""Generation from any number of prompts, a few steps' worth of them in the engine at once."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from gpt2fast._native import core
from gpt2fast._validation import Flag, shown
from gpt2fast.errors import BusyError, ModelError
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

    Raises at once if ``prompts`` is a single text, or nothing to go through, and for wrong options.
    """
    Flag()("ordered", ordered)
    try:
        all_prompts = None if isinstance(prompts, (str, bytes, bytearray, memoryview)) else iter(prompts)
    except TypeError:
        all_prompts = None
    if all_prompts is None:
        raise TypeError(
            f"prompts must be an iterable of texts or of lists of token ids, got {shown(prompts)}; put a "
            f"single one in a list"
        )
    read_call(model, [], options)  # checks the options against the model
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
        running.raise_failure()
    finally:
        running.cancel()


class _Failure(NamedTuple):
    """What ends the iteration, and the number of the prompt that it belongs to."""

    number: int
    error: Exception


class _Running(NamedTuple):
    """A call in the engine."""

    number: int
    work: Work[Outcome]
    call: core.Call
    watch: ExitStack

    def cancel(self) -> None:
        """End it."""
        self.watch.close()
        self.call.cancel()


class _RunningPrompts:
    """Prompts that have been started and not finished.

    Those that are ``at_hand`` begin together. The next of others may keep the engine waiting. After an error
    no more are read, and those after its own prompt are ended; those before it go on.
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
        self._calls: dict[int, _Running] = {}
        # Calls that the engine has not accepted yet, because too many were waiting.
        self._unstarted: deque[tuple[int, Work[Outcome], Start]] = deque()
        # Calls that have been made and are to begin together.
        self._held: list[core.Call] = []
        self._finished: list[tuple[int, Outcome]] = []
        self._failure: _Failure | None = None

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
            self._start_next()
        self._begin_held()
        return bool(self._calls or self._finished)

    def take(self) -> list[tuple[int, Outcome]]:
        """Wait until a prompt has finished, or all have been ended; what has finished since the last call."""
        while self._calls and not self._finished:
            self._queue.wait()
            for key in self._queue.take():
                if key in self._calls:  # if not, it has been done for longer than the queue knows
                    self._look_at(key)
            self._begin_held()
        finished, self._finished = self._finished, []
        return finished

    def raise_failure(self) -> None:
        """Raise the error that ended the iteration, if one did."""
        failure, self._failure = self._failure, None
        if failure is None:
            return
        try:
            raise failure.error
        finally:
            del failure  # its traceback refers to this frame

    def cancel(self) -> None:
        """End what is running."""
        for one in self._calls.values():
            one.cancel()

    def _start_next(self) -> None:
        index = self._next
        try:
            work = generation(self._model, self._read(next(self._prompts)))
        except StopIteration:
            self._exhausted = True
        except Exception as error:
            self._fail(index, error)
        else:
            self._next += 1
            self._advance(index, work, None)

    def _look_at(self, key: int) -> None:
        one = self._calls[key]
        try:
            done = one.call.done()
        except Exception as error:
            del self._calls[key]
            one.watch.close()
            self._fail(one.number, _noted(error, one.number))
            return
        if done:
            del self._calls[key]
            one.watch.close()
            self._advance(one.number, one.work, one.call)

    def _read(self, prompt: Prompt) -> Call:
        try:
            call = read_call(self._model, prompt, self._options)
        except ModelError:  # of the tokenizer, whatever the prompt
            raise
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"prompts[{self._next}]: {error}") from None
        if call.single or self._options.num_return_sequences is not None:
            return call
        raise TypeError(f"prompts[{self._next}] is a list of prompts: give each prompt as an item of its own")

    def _advance(self, index: int, work: Work[Outcome], call: Any) -> None:
        try:
            start = work.send(call)
        except StopIteration as end:
            self._finished.append((index, end.value))
        except Exception as error:
            self._fail(index, _noted(error, index))
        else:
            self._unstarted.append((index, work, start))
            self._start_calls()

    def _start_calls(self) -> None:
        """Start what has not been; when the engine takes no more, the rest waits for what it has."""
        while self._unstarted:
            index, work, start = self._unstarted[0]
            key = next(self._keys)
            try:
                call = start(queue=self._queue, key=key)
            except Exception as error:
                if isinstance(error, BusyError) and self._calls:
                    return
                self._fail(index, _noted(error, index))
                continue
            self._unstarted.popleft()
            watch = ExitStack()
            watch.enter_context(watched(call, self._options.cancel))
            self._calls[key] = _Running(index, work, call, watch)
            self._held.append(call)
            if not self._at_hand:
                self._begin_held()

    def _begin_held(self) -> None:
        held, self._held = self._held, []
        for call in held:
            call.begin()

    def _fail(self, index: int, error: Exception) -> None:
        """End the iteration by an error, after the results of the prompts before this one."""
        if self._failure is None or index < self._failure.number:
            self._failure = _Failure(index, error)
        self._exhausted = True
        last = self._failure.number
        for key in [key for key, one in self._calls.items() if one.number > last]:
            self._calls.pop(key).cancel()
        self._unstarted = deque(one for one in self._unstarted if one[0] < last)


def _noted(error: Exception, index: int) -> Exception:
    """The error with the prompt's number, where Python has notes."""
    if hasattr(error, "add_note"):  # from 3.11 on
        error.add_note(f"of prompts[{index}]")
    return error
