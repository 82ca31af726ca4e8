"""``python -m benchmarks.service``: many callers of one model against one, and what they do to each other.

Random weights of 124M's size in int8. Variants take turns; ratios are of medians. Beside it, what programs
with continuous batching do with the same requests, where they are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.checkpoints import EMBEDDED, checkpoint_directory
from benchmarks.report import target_table
from benchmarks.service_neighbours import beside_neighbours
from benchmarks.service_peers import beside_peers
from benchmarks.targets import Target
from gpt2fast import GPT2
from gpt2fast._native import core

Prompt = list[int]
_CALLERS = 32
_NEW_TOKENS = 48
_SHORT, _PROMPT, _LONG = 20, 64, 900


@dataclass
class Service:
    """A model, prompts that are new each time, and how often everything is repeated."""

    model: GPT2
    repeats: int
    random: np.random.Generator

    def prompts(self, count: int, tokens: int) -> list[Prompt]:
        """Prompts of random tokens: the prefix cache has none of them."""
        table = self.random.integers(1, self.model.config.vocab_size, (count, tokens))
        return [list(map(int, row)) for row in table]

    def alternate(self, variants: dict[str, Callable[[], float]]) -> dict[str, float]:
        """The median of what each variant returns, all taking turns, after a turn that does not count."""
        taken: dict[str, list[float]] = {name: [] for name in variants}
        for repeat in range(self.repeats + 1):
            for name, variant in variants.items():
                value = variant()
                if repeat > 0:
                    taken[name].append(value)
        return {name: median(values) for name, values in taken.items()}


def generating(service: Service) -> list[Target]:
    """Tokens a second of 32 callers with one prompt each, against one call with 32."""
    model = service.model
    options: dict[str, Any] = {"max_new_tokens": _NEW_TOKENS, "eos_token_id": []}

    def rate(work: Callable[[list[Prompt]], object]) -> Callable[[], float]:
        def measure() -> float:
            prompts = service.prompts(_CALLERS, _PROMPT)
            begin = time.perf_counter()
            work(prompts)
            return _CALLERS * _NEW_TOKENS / (time.perf_counter() - begin)

        return measure

    async def read(prompt: Prompt) -> None:
        async for _ in model.astream(prompt, **options):
            pass

    def threads(prompts: list[Prompt]) -> None:
        with ThreadPoolExecutor(_CALLERS) as pool:
            list(pool.map(lambda prompt: model.generate(prompt, **options), prompts))

    rates = service.alternate(
        {
            "one call": rate(lambda prompts: model.generate(prompts, **options)),
            "threads": rate(threads),
            "tasks": rate(lambda prompts: _gather(model.agenerate(one, **options) for one in prompts)),
            "readers": rate(lambda prompts: _gather(read(one) for one in prompts)),
            "many": rate(lambda prompts: list(model.generate_many(prompts, **options))),
        }
    )
    targets = (
        (f"{_CALLERS} threads calling generate", "threads", 0.95),
        (f"{_CALLERS} tasks awaiting agenerate", "tasks", 0.95),
        (f"{_CALLERS} astream readers", "readers", 0.90),
        ("generate_many", "many", 0.95),
    )
    return [
        Target(name, f"one call with {_CALLERS}", rates[way] / rates["one call"], wanted, True)
        for name, way, wanted in targets
    ]


def _gather(work: Any) -> None:
    async def all_of_it() -> None:
        await asyncio.gather(*work)

    asyncio.run(all_of_it())


def scoring(service: Service) -> Target:
    """Texts a second: 2,000 of 30 tokens by 32 callers, one text a call, against one call."""
    model, count = service.model, 2000
    texts = service.prompts(count, 30)

    def alone() -> float:
        begin = time.perf_counter()
        model.score(texts)
        return count / (time.perf_counter() - begin)

    def callers() -> float:
        begin = time.perf_counter()
        with ThreadPoolExecutor(_CALLERS) as pool:
            list(pool.map(model.score, texts))
        return count / (time.perf_counter() - begin)

    rates = service.alternate({"alone": alone, "callers": callers})
    what = f"scoring {count} texts of 30 tokens by {_CALLERS} callers"
    return Target(what, "one call with all", rates["callers"] / rates["alone"], 0.95, True)


def arriving(service: Service) -> Target:
    """The median time of a request among callers that arrive at random at 60 % of capacity, against alone."""
    model = service.model
    options: dict[str, Any] = {"max_new_tokens": 24, "eos_token_id": []}
    callers = 8

    def seconds(work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    def alone() -> float:
        return seconds(lambda: model.generate(service.prompts(1, _PROMPT)[0], **options))

    full = [seconds(lambda: model.generate(service.prompts(callers, _PROMPT), **options)) for _ in range(3)]
    rate = 0.6 * callers / median(full)  # requests a second

    def at_random() -> float:
        waits = random.Random(service.repeats)
        times: list[float] = []

        def request(prompt: Prompt) -> None:
            times.append(seconds(lambda: model.generate(prompt, **options)))

        threads = []
        for prompt in service.prompts(5 * callers, _PROMPT):
            time.sleep(waits.expovariate(rate))
            threads.append(threading.Thread(target=request, args=(prompt,)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        return median(times)

    times = service.alternate({"alone": alone, "at random": at_random})
    what = f"request among {callers} callers at random, 60 % of capacity"
    return Target(what, "alone", times["at random"] / times["alone"], 1.6, False)


def streaming_beside_prompts(service: Service) -> Target:
    """The 95th percentile of the time between tokens of 4 streams, while long prompts arrive and without.

    In a service that has run for a while: the prefix cache is full, so that new texts get the memory of old
    ones. Memory that the system has to find first delays the steps that reach it, once.
    """
    model, streams = service.model, 4
    long = min(_LONG, model.config.n_positions - 2)
    tokens = min(200, model.config.n_positions - _PROMPT)

    def percentile(with_prompts: bool) -> float:
        gaps: list[float] = []
        end = threading.Event()

        def read(prompt: Prompt) -> None:
            last = None
            for _ in model.stream(prompt, max_new_tokens=tokens, eos_token_id=[]):
                now = time.perf_counter()
                if last is not None:
                    gaps.append(now - last)
                last = now

        def disturb() -> None:
            while not end.is_set():
                model.generate(service.prompts(1, long)[0], max_new_tokens=1)

        readers = [
            threading.Thread(target=read, args=(prompt,)) for prompt in service.prompts(streams, _PROMPT)
        ]
        disturber = threading.Thread(target=disturb)
        for thread in readers:
            thread.start()
        if with_prompts:
            disturber.start()
        for thread in readers:
            thread.join()
        end.set()
        if with_prompts:
            disturber.join()
        return float(np.percentile(gaps[streams * 5 :], 95))

    for _ in range(2):
        for prompt in service.prompts(model.max_sequences, long):
            model.generate(prompt, max_new_tokens=1)
        percentile(True)
    times = service.alternate({"with": lambda: percentile(True), "without": lambda: percentile(False)})
    what = f"time between tokens of {streams} streams while {long}-token prompts arrive, 95th percentile"
    return Target(what, "without them", times["with"] / times["without"], 2.2, False)


def first_token_beside_a_prompt(service: Service) -> Target:
    """The time to the first token of a short prompt, while a long one is being read and alone."""
    model = service.model
    long = min(_LONG, model.config.n_positions - 2)

    def first_token() -> float:
        prompt = service.prompts(1, _SHORT)[0]
        begin = time.perf_counter()
        for _ in model.stream(prompt, max_new_tokens=1, eos_token_id=[]):
            break
        return time.perf_counter() - begin

    def beside() -> float:
        started = model.stats().prompt_tokens
        other = threading.Thread(
            target=lambda: model.generate(service.prompts(1, long)[0], max_new_tokens=1, eos_token_id=[])
        )
        other.start()
        while model.stats().prompt_tokens == started and other.is_alive():
            time.sleep(0.001)
        taken = first_token()
        other.join()
        return taken

    times = service.alternate({"beside": beside, "alone": first_token})
    what = f"first token of {_SHORT} while {long} tokens are being read"
    return Target(what, "alone", times["beside"] / times["alone"], 3.0, False)


_MANY_STREAMS = r"""
import asyncio, json, re, threading
from pathlib import Path
from gpt2fast import GPT2

async def main():
    model = GPT2.from_pretrained()
    prompts = [[index % 4000 + 1, 7, 9] for index in range(1000)]

    async def read(prompt):
        ids = []
        async for chunk in model.astream(prompt, max_new_tokens=20, eos_token_id=[], do_sample=False):
            ids += chunk.token_ids
        return ids

    texts = await asyncio.gather(*map(read, prompts))
    served = sum(len(ids) == 20 for ids in texts)
    # Not getrusage's: a program inherits the peak of the one that started it.
    memory = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    print(json.dumps([served, memory, threading.active_count()]))

asyncio.run(main())
"""


def many_streams() -> list[Target]:
    """A thousand streams of the embedded model at once: how many are served, memory, threads of Python."""
    GPT2.from_pretrained().close()  # converted here, so that what conversion needs is not counted
    run = subprocess.run([sys.executable, "-c", _MANY_STREAMS], check=True, capture_output=True, text=True)
    served, megabytes, threads = json.loads(run.stdout)
    return [
        Target("1,000 astreams at once: served", "1,000", served / 1000, 1.0, True),
        Target("their process's memory", "200 MB", megabytes / 200, 1.0, False),
        Target("their process's threads of Python", "1", float(threads), 1.0, False),
    ]


_ALONE = """
import json, sys, time
from gpt2fast import GPT2
model = GPT2.from_pretrained(sys.argv[1] or None)
tokens, runs = int(sys.argv[2]), int(sys.argv[3])
options = {"max_new_tokens": tokens, "eos_token_id": [], "use_prefix_cache": False, "do_sample": False}
for line in sys.stdin:
    kind = line.strip()
    times = []
    for run in range(runs):
        prompt = [run * 7 + 1, 2, 3, 4]
        if kind == "prompt":
            prompt *= model.config.n_positions // 8
        begin = time.perf_counter()
        if kind == "stream":
            for _ in model.stream(prompt, **options):
                pass
        else:
            model.generate(prompt, **{**options, "max_new_tokens": 1 if kind == "prompt" else tokens})
        times.append(time.perf_counter() - begin)
    print(json.dumps(sorted(times)[len(times) // 4]), flush=True)
"""


def against_baseline(source: str, baseline: str, repeats: int, tokens: int, runs: int) -> list[Target]:
    """One caller alone against another installed version, ``baseline`` being its Python, in turns."""
    processes = {
        name: subprocess.Popen(
            [python, "-c", _ALONE, source, str(tokens), str(runs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        for name, python in (("now", sys.executable), ("before", baseline))
    }

    def ask(name: str, kind: str) -> float:
        process = processes[name]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(kind + "\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    whats = {
        "generate": "one generate alone",
        "stream": "one stream alone",
        "prompt": "first token of half the positions",
    }
    targets = []
    for kind, name in whats.items():
        times: dict[str, list[float]] = {"now": [], "before": []}
        for repeat in range(repeats + 1):
            for version, values in times.items():
                taken = ask(version, kind)
                if repeat > 0:
                    values.append(taken)
        ratio = median(a / b for a, b in zip(times["now"], times["before"], strict=True))
        what = f"{name}, {Path(source).name or EMBEDDED}"
        targets.append(Target(what, "before", ratio, 1.02, False))
    for process in processes.values():
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    return targets


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--size", default="124M")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int, default=core.usable_cores())
    parser.add_argument("--repeats", type=int, default=3, help="turns of each variant (default: 3)")
    parser.add_argument("--baseline", default="", help="the Python of another version, for one caller alone")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    parser.add_argument("--full", action="store_true", help="also benchmarks.service_http --full")
    arguments = parser.parse_args()
    source = checkpoint_directory(arguments.size, arguments.work.resolve())
    model = GPT2.from_pretrained(source, precision=arguments.precision, threads=arguments.threads)
    service = Service(model, arguments.repeats, np.random.default_rng(0))
    print(f"## Many callers, {arguments.size} {arguments.precision}, {model.threads} threads\n", flush=True)
    targets: list[Target] = []

    def log(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    def add(measured: Target | Sequence[Target]) -> None:
        """Show what was measured at once: a run takes minutes."""
        rows = [measured] if isinstance(measured, Target) else measured
        for one in rows:
            log(f"{one.what}: {one.ratio}")
        targets.extend(rows)

    add(generating(service))
    for measure in (arriving, streaming_beside_prompts, first_token_beside_a_prompt, scoring):
        add(measure(service))
    add(many_streams())
    if arguments.baseline:
        add(against_baseline(str(source), arguments.baseline, arguments.repeats, 32, 6))
        add(against_baseline("", arguments.baseline, arguments.repeats, 48, 40))
    add(beside_peers(source, arguments.work.resolve(), arguments.threads, arguments.repeats))
    model.close()
    beside, lines = beside_neighbours(
        source, arguments.work.resolve(), arguments.threads, arguments.repeats, log
    )
    add(beside)
    print(target_table(targets), f"\nMilliseconds, first tokens and a token:\n\n{lines}", flush=True)
    if arguments.full:
        same = [f"--{name}={getattr(arguments, name)}" for name in ("size", "precision", "threads", "work")]
        subprocess.run([sys.executable, "-m", "benchmarks.service_http", *same, "--full"], check=True)


if __name__ == "__main__":
    main()
