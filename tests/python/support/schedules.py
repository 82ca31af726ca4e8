"""Random schedules: callers of all kinds share one model, and each must get what it gets alone, bit for bit.

Everything but the threads' timing follows from a schedule's number.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gpt2fast import GPT2, CancelToken
from support.processes import SECONDS

#: Few slots, so that texts wait for them and lose them; engines that are cut in several ways.
SETTINGS: list[dict[str, Any]] = [
    {"max_sequences": 1, "read_ahead": 1},
    {"max_sequences": 2, "read_ahead": 3, "threads": 1},
    {"max_sequences": 3, "prefix_cache_bytes": 0},
    {"max_sequences": 8, "decode_slowdown": 1.0, "threads": 2},
]
_WORDS = ["the", "king", "queen", "wolf", "went", "into", "a wood", "and", "said", "to his daughter", "old"]
_TEXTS = 36
_MAX_NEW_TOKENS = 24


def forbid_repeats(prompt: Any, output: Any, scores: Any) -> None:
    """A caller's own processor of scores."""
    scores[output[-2:]] = -1e9


# One of each group at random, and any number of groups.
_GROUPS: list[list[dict[str, Any]]] = [
    [{}, {"temperature": 0.9}, {"top_k": 20, "top_p": 0.9}, {"min_p": 0.05}, {"num_return_sequences": 2}],
    [{}, {}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"frequency_penalty": 0.5}],
    [{}, {}, {}, {"logits_processor": forbid_repeats}, {"prompt_lookup_num_tokens": 4}, {"logprobs": 2}],
    [{}, {}, {"stop_strings": ["e", "th"]}, {"eos_token_id": []}, {"use_prefix_cache": False}],
]


@dataclass(frozen=True)
class Spec:
    """What a caller requests, and nothing of how it does so."""

    what: str  # "text", "score", "embed" or "forward"
    prompt: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def beams(self) -> int:
        return int(self.options.get("num_beams", 1))


def pool() -> list[Spec]:
    """The requests of all schedules: prompts of all lengths, many of which begin alike."""
    rng = random.Random(15)
    stories = [" ".join(rng.choices(_WORDS, k=80)) for _ in range(3)]

    def prompt() -> str:
        begin = rng.choice(["", *stories])[: rng.choice([5, 40, 400])]
        return f"{begin} {' '.join(rng.choices(_WORDS, k=rng.randint(0, 8)))}"

    specs = []
    for _ in range(_TEXTS):
        options: dict[str, Any] = {"seed": rng.randrange(100)}
        options["max_new_tokens"] = rng.randint(1, _MAX_NEW_TOKENS)
        for group in _GROUPS:
            options |= rng.choice(group)
        specs.append(Spec("text", prompt(), options))
    for beams, options in ((2, {}), (2, {"logprobs": 1}), (3, {"logprobs": 0, "stop_strings": ["e", "th"]})):
        specs.append(Spec("text", prompt(), {"num_beams": beams, "max_new_tokens": 8, **options}))
    return specs + [Spec(what, f"The {prompt()}") for what in ("score", "embed", "forward") for _ in range(3)]


def answer(model: GPT2, spec: Spec, **options: Any) -> list[Any]:
    """What a model answers, in a form that can be compared."""
    if spec.what == "score":
        return [model.score(spec.prompt).logprobs.tobytes()]
    if spec.what == "embed":
        return [model.embed(spec.prompt).tobytes()]
    if spec.what == "forward":
        hidden, past = model.forward(model.tokenizer.encode(spec.prompt))
        return [hidden.tobytes(), *(layer.tobytes() for layer in past)]
    return plain(model.generate(spec.prompt, **spec.options, **options))


def plain(result: Any) -> list[Any]:
    """Of each text: ids, text, the end's reason, its log-probabilities' bits and its score."""
    results = result if isinstance(result, list) else [result]
    return [(one.token_ids, one.text, one.finish_reason, [bits(one.logprobs)], one.score) for one in results]


def bits(logprobs: Any) -> bytes:
    if logprobs is None:
        return b""
    return b"".join(part.tobytes() for part in (logprobs.chosen, logprobs.top_ids, logprobs.top))


class Chunks:
    """Puts the texts of a stream together again."""

    def __init__(self, texts: int) -> None:
        self.count = 0
        self._texts: list[list[Any]] = [[[], "", None, []] for _ in range(texts)]

    def add(self, chunk: Any) -> None:
        self.count += 1
        text = self._texts[chunk.index]
        text[0] += chunk.token_ids
        text[1] += chunk.text
        text[2] = chunk.finish_reason
        text[3].append(chunk.logprobs)

    def plain(self) -> list[Any]:
        return [(ids, text, reason, [self._bits(parts)], None) for ids, text, reason, parts in self._texts]

    @staticmethod
    def _bits(parts: list[Any]) -> bytes:
        known = [part for part in parts if part is not None]
        return b"".join(
            getattr(part, name).tobytes() for name in ("chosen", "top_ids", "top") for part in known
        )


class Schedule:
    """One schedule on one model.

    Parameters
    ----------
    model : GPT2
        Shared by all callers, and by other schedules before.
    expected : list of (Spec, answer)
        What callers may ask for, and what they get alone.
    number : int
        Says what happens.
    threads : Executor
        For callers that block; has room for all of a schedule.
    """

    def __init__(
        self, model: GPT2, expected: list[tuple[Spec, list[Any]]], number: int, threads: Executor
    ) -> None:
        self._model = model
        self._rng = random.Random(number)
        self._expected = [one for one in expected if one[0].beams <= model.max_sequences]
        self._streamable = [one for one in expected if one[0].what == "text" and one[0].beams == 1]
        self._threads = threads
        self._others_done = threading.Event()  # what paused readers wait for
        self.wrong: list[str] = []

    async def run(self) -> None:
        """Run all callers to their ends."""
        rng = self._rng
        ways: list[Callable[..., Awaitable[None]]] = [
            *(self._call, self._call, self._task, self._task),
            *(self._end_call, self._cancel_task, self._late, self._leave, self._many),
        ]
        pausing = [self._read_paused, self._aread_paused]
        callers = [self._arrive(rng.choice(ways), rng.randrange(2**32)) for _ in range(rng.randint(2, 8))]
        readers = [self._arrive(rng.choice(pausing), rng.randrange(2**32)) for _ in range(rng.randint(0, 4))]
        paused = [asyncio.create_task(one) for one in readers]
        try:
            await asyncio.wait_for(asyncio.gather(*callers), SECONDS)
        finally:
            self._others_done.set()
        await asyncio.wait_for(asyncio.gather(*paused), SECONDS)

    async def _arrive(self, way: Callable[..., Awaitable[None]], seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(rng.choice([0, 0, 3, 10, 40])):
            await asyncio.sleep(0)
        streamed = way in (self._leave, self._read_paused, self._aread_paused)
        texts = way not in (self._call, self._cancel_task)
        specs = self._streamable if streamed or texts else self._expected
        if way == self._read_paused:  # several texts with hooks, left by their thread, hold up others
            hooked = {"logits_processor", "num_return_sequences"}
            specs = [one for one in specs if not hooked <= one[0].options.keys()]
        spec, expected = rng.choice(specs)
        await way(rng, spec, expected)

    def _check(self, way: str, spec: Spec, found: list[Any], expected: list[Any]) -> None:
        if found != expected:
            self.wrong.append(f"{way} of {spec}:\nfound    {found}\nexpected {expected}")

    def _check_beginning(self, way: str, spec: Spec, found: list[Any], expected: list[Any]) -> None:
        """For texts that were ended from outside, or perhaps before by themselves."""
        for ours, whole in zip(found, expected, strict=True):
            ended = ours[2] in (None, "cancelled", "time")
            if ours[0] != whole[0][: len(ours[0])] or (not ended and ours != whole):
                self.wrong.append(f"{way} of {spec}:\nfound    {ours}\nexpected the beginning of {whole}")

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _call(self, rng: random.Random, spec: Spec, expected: list[Any]) -> None:
        options = {"priority": rng.randint(-3, 3)} if spec.what == "text" else {}
        found = await self._in_thread(partial(answer, self._model, spec, **options))
        self._check("call", spec, found, expected)

    async def _task(self, rng: random.Random, spec: Spec, expected: list[Any]) -> None:
        result = await self._model.agenerate(spec.prompt, priority=rng.randint(-3, 3), **spec.options)
        self._check("task", spec, plain(result), expected)

    async def _end_call(self, rng: random.Random, spec: Spec, expected: list[Any]) -> None:
        token = CancelToken()
        running = asyncio.ensure_future(self._in_thread(partial(answer, self._model, spec, cancel=token)))
        for _ in range(rng.randrange(60)):
            await asyncio.sleep(0)
        token.cancel()
        self._check_beginning("ended call", spec, await running, expected)

    async def _cancel_task(self, rng: random.Random, spec: Spec, expected: list[Any]) -> None:
        if spec.what != "text":
            await self._call(rng, spec, expected)
            return
        task = asyncio.create_task(self._task(rng, spec, expected))
        for _ in range(rng.randrange(60)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled():
            task.result()

    async def _late(self, rng: random.Random, spec: Spec, expected: list[Any]) -> None:
        late = partial(answer, self._model, spec, max_time=rng.choice([1e-9, 1e-3, 1e-2]))
        self._check_beginning("late call", spec, await self._in_thread(late), expected)

    async def _leave(self, rng: random.Random, spec: Spec, expected: list[Any]) -> None:
        chunks, most = Chunks(len(expected)), rng.randint(1, 12)
        async with aclosing(self._model.astream(spec.prompt, **spec.options)) as stream:
            async for chunk in stream:
                chunks.add(chunk)
                if chunks.count == most:
                    break
        self._check_beginning("left stream", spec, chunks.plain(), expected)

    async def _many(self, rng: random.Random, spec: Spec, expected: list[Any]) -> None:
        ordered = rng.random() < 0.5
        prompts = (spec.prompt for _ in range(rng.randint(1, 6)))

        def read() -> list[Any]:
            found = list(self._model.generate_many(prompts, ordered=ordered, **spec.options))
            return [plain(one) for one in (found if ordered else [result for _, result in found])]

        for one in await self._in_thread(read):
            self._check("generate_many", spec, one, expected)

    async def _read_paused(self, rng: random.Random, spec: Spec, expected: list[Any]) -> None:
        pause = rng.randint(1, 8)

        def read() -> list[Any]:
            chunks = Chunks(len(expected))
            for chunk in self._model.stream(spec.prompt, **spec.options):
                chunks.add(chunk)
                if chunks.count == pause:
                    assert self._others_done.wait(SECONDS)
            return chunks.plain()

        self._check("paused stream", spec, await self._in_thread(read), expected)

    async def _aread_paused(self, rng: random.Random, spec: Spec, expected: list[Any]) -> None:
        pause, chunks = rng.randint(1, 8), Chunks(len(expected))
        async for chunk in self._model.astream(spec.prompt, **spec.options):
            chunks.add(chunk)
            if chunks.count == pause:
                await self._in_thread(partial(self._others_done.wait, SECONDS))
        self._check("paused astream", spec, chunks.plain(), expected)
