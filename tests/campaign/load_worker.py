"""Eight threads with requests of all kinds, a fifth of them cancelled; each answer must equal the one alone.

One that was cancelled must be the beginning of it, or the best that a search alone has found so far.

``python -m tests.campaign.load_worker COUNT SEED DIRECTORY``: COUNT requests a thread; prints a JSON line.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2fast import GPT2, CancelToken
from gpt2fast.export import convert
from support.processes import resident_bytes
from support.random_models import write_shape
from tests.campaign.fault_operations import texts_left

_THREADS = 8
_KINDS_OF_EACH = 8
_CANCELLED = 0.2
#: Requests, of all threads, before memory is taken as settled; and by how much it may grow afterwards.
_WARM_UP = 0.4
_GROWTH_ALLOWED = 8 << 20
_PROMPT_TOKENS, _NEW_TOKENS, _SEARCH_TOKENS = 90, 24, 6

Request = Callable[[GPT2, CancelToken | None], Any]


@dataclass(frozen=True)
class _Search:
    """A search with beams; the best of fewer tokens need not be the beginning of the best of all."""

    ids: list[int]

    def __call__(self, model: GPT2, cancel: CancelToken | None) -> Any:
        return self.after(_SEARCH_TOKENS, model, cancel)

    def after(self, tokens: int, model: GPT2, cancel: CancelToken | None = None) -> Any:
        """The best of so many tokens."""
        return _plain(model.generate(self.ids, cancel=cancel, num_beams=3, max_new_tokens=tokens))


def requests(model: GPT2, generator: random.Random) -> list[Request]:
    """A few of each kind, with options at random."""
    made: list[Request] = []
    for _ in range(_KINDS_OF_EACH):
        ids = [
            generator.randrange(model.config.vocab_size)
            for _ in range(generator.randrange(1, _PROMPT_TOKENS))
        ]
        others = [[generator.randrange(model.config.vocab_size) for _ in range(5)] for _ in range(3)]
        options = _options(generator)
        prefix = model.prefill(ids[:5]) if generator.random() < 0.3 else None
        made += [
            lambda model, cancel, ids=ids, options=options, prefix=prefix: _plain(
                model.generate(ids, cancel=cancel, prefix=prefix, **options)
            ),
            lambda model, cancel, ids=ids, others=others, options=options: _plain(
                model.generate([ids, *others], cancel=cancel, **options)
            ),
            lambda model, cancel, ids=ids, options=options: _streamed(model, ids, cancel, options),
            _Search(ids),
            lambda model, cancel, ids=ids: _scored(model.score([ids, ids[: len(ids) // 2 + 1]])),
            lambda model, cancel, ids=ids, others=others: _scored(model.rank(ids, others)),
            lambda model, cancel, ids=ids: model.embed(ids).tobytes(),
            lambda model, cancel, ids=ids: model.logits([ids]).tobytes(),
            lambda model, cancel, others=others, options=options: _plain(
                list(model.generate_many(others, cancel=cancel, **options))
            ),
        ]
    return made


def _options(generator: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {"max_new_tokens": generator.randrange(1, _NEW_TOKENS)}
    if generator.random() < 0.6:
        options |= {
            "do_sample": True,
            "seed": generator.randrange(1000),
            "temperature": generator.uniform(0.5, 2),
        }
        options |= generator.choice(({}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.1}, {"typical_p": 0.7}))
    options |= generator.choice(
        ({}, {"repetition_penalty": 1.3}, {"no_repeat_ngram_size": 2}, {"logprobs": 2})
    )
    return options | generator.choice(({}, {"use_prefix_cache": False}, {"prompt_lookup_num_tokens": 3}))


def _plain(found: Any) -> Any:
    if isinstance(found, list):
        return [_plain(one) for one in found]
    logprobs = found.logprobs and (found.logprobs.chosen.tobytes(), found.logprobs.top_ids.tobytes())
    return list(found.token_ids), found.finish_reason, logprobs


def _scored(found: Any) -> Any:
    return [(one.token_ids, one.logprobs.tobytes()) for one in found]


def _streamed(model: GPT2, ids: list[int], cancel: CancelToken | None, options: dict[str, Any]) -> Any:
    stream = model.stream(ids, cancel=cancel, **options)
    tokens: list[int] = []
    for chunk in stream:
        tokens += chunk.token_ids
        if cancel is not None and len(tokens) > 2:
            stream.close()  # the reader leaves
            break
    return tokens


def _begins(part: Any, whole: Any) -> bool:
    """Whether what a cancelled call gave is the beginning of the whole answer, or all of it."""
    if isinstance(part, list):
        return len(part) <= len(whole) and all(map(_begins, part, whole))
    if isinstance(part, tuple) and part[1] == "cancelled":
        tokens, _, logprobs = part
        agree = logprobs is None or all(map(bytes.startswith, whole[2], logprobs))
        return agree and tokens == whole[0][: len(tokens)]
    return bool(part == whole)


def _run_threads(work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _growth(memory: list[int]) -> int:
    """How much more memory was used in the last quarter than before, in bytes, after the warm-up."""
    settled = memory[int(len(memory) * _WARM_UP) :]
    quarter = len(settled) // 4 or 1
    return max(settled[-quarter:]) - max(settled[:-quarter], default=settled[-1])


def main(count: int, seed: int, directory: Path) -> dict[str, Any]:
    """Put the load on a model."""
    source = write_shape(directory / "source", "many_small_heads")
    model = GPT2.from_pretrained(
        convert(source, directory / "model", precision="int8"),
        threads=2,
        max_sequences=6,
        prefix_cache_bytes=1 << 20,
    )
    made = requests(model, random.Random(seed))
    expected = [one(model, None) for one in made]
    begun = [
        [one.after(tokens, model) for tokens in range(1, _SEARCH_TOKENS + 1)]
        if isinstance(one, _Search)
        else [whole]
        for one, whole in zip(made, expected, strict=True)
    ]
    counts = {"answers": 0, "cancelled": 0}
    findings: list[str] = []
    memory: list[int] = []
    lock = threading.Lock()

    def work(thread: int) -> None:
        generator = random.Random(f"{seed} {thread}")
        for turn in range(count):
            number = generator.randrange(len(made))
            cancel = CancelToken() if generator.random() < _CANCELLED else None
            timer = None
            if cancel is not None:
                timer = threading.Timer(generator.random() * 0.02, cancel.cancel)
                timer.start()
            try:
                answer = made[number](model, cancel)
                if cancel is None:
                    right = answer == expected[number]
                else:
                    right = any(_begins(answer, whole) for whole in begun[number])
                kind = "" if cancel is None else ", cancelled,"
                fault = "" if right else f"request {number}{kind} has another answer"
            except Exception as error:
                fault = f"request {number}: {type(error).__name__}: {error}"[:300]
            if timer is not None:
                timer.join()
            with lock:
                counts["cancelled" if cancel is not None else "answers"] += 1
                if fault:
                    findings.append(f"thread {thread}, turn {turn}: {fault}")
                memory.append(resident_bytes())

    start = time.monotonic()
    _run_threads(work)
    gc.collect()
    if left := texts_left(model):
        findings.append(f"{left} when all is done")
    growth = _growth(memory)
    if growth > _GROWTH_ALLOWED:
        findings.append(f"memory grew by {growth} bytes in the last part")
    minutes = (time.monotonic() - start) / 60
    shown = {"kinds": len(made), "growth_bytes": growth, "minutes": round(minutes, 2)}
    return {"part": "threads", **counts, **shown, "findings": findings[:20]}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
