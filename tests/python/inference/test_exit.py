"""Programs that end while the model is at work: status and output are what they would be without it."""

from __future__ import annotations

import pytest

from support.processes import end_of, start_python

RUNS = 8

PREAMBLE = """
import asyncio, sys, threading
from gpt2fast import GPT2

model = GPT2.from_pretrained(generation_config=None)
ENDLESS = {"max_new_tokens": 10_000_000, "overflow": "slide", "eos_token_id": []}
begun = threading.Event()

def report(prompt, output, scores):
    begun.set()

async def read(**options):
    async for _ in model.astream("Once", **ENDLESS, **options):
        begun.set()

"""

# What a daemon thread does for ever; it sets `begun`.
WORK = {
    "generate": 'model.generate("Once", logits_processor=report, **ENDLESS)',
    "calls": """
while True:
    model.generate("Once", max_new_tokens=3)
    begun.set()
""",
    "stream": 'for _ in model.stream("Once", **ENDLESS): begun.set()',
    "score": """
while True:
    model.score("Once upon a time there was a king. " * 8)
    begun.set()
""",
    "forward": """
while True:
    model.forward([5, 6, 7] * 30)
    begun.set()
""",
    "generate_many": """
for _ in model.generate_many(iter(lambda: "Once", None), max_new_tokens=3):
    begun.set()
""",
    "agenerate": 'asyncio.run(model.agenerate("Once", logits_processor=report, **ENDLESS))',
    "astream": "asyncio.run(read())",
    "a hook with a model": """
other = GPT2.from_pretrained(generation_config=None)
def process(prompt, output, scores):
    other.generate("Twice", max_new_tokens=2)
    begun.set()
async def main():
    await model.agenerate("Once", logits_processor=process, **ENDLESS)
threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
model.generate("Once", logits_processor=process, **ENDLESS)
""",
    "many tasks": """
async def main():
    await asyncio.gather(read(), read(logits_processor=report), *(
        model.agenerate(f"Once {i}", **ENDLESS) for i in range(40)
    ))
asyncio.run(main())
""",
}


def ends(code: str, runs: int = RUNS) -> set[tuple[int, str, str]]:
    """How runs of a program ended, all side by side: status, standard output, standard error."""
    programs = [start_python("-c", code) for _ in range(runs)]
    try:
        return {(one.status, one.stdout, one.stderr) for one in map(end_of, programs)}
    finally:
        for program in programs:
            program.kill()


def in_a_daemon_thread(work: str) -> str:
    """The end of a program: it comes while a thread does this."""
    body = "\n".join(f"    {line}" for line in work.strip().splitlines())
    return f"def work():\n{body}\nthreading.Thread(target=work, daemon=True).start()\nbegun.wait()\n"


@pytest.mark.parametrize("kind", WORK)
def test_daemon_threads_at_work(kind: str) -> None:
    assert ends(PREAMBLE + in_a_daemon_thread(WORK[kind])) == {(0, "", "")}


def test_daemon_threads_of_all_kinds_at_once() -> None:
    code = "".join(in_a_daemon_thread(work) for work in WORK.values())
    assert ends(PREAMBLE + code, 4) == {(0, "", "")}


# Each ends in its own way, with the status it asks for.
STREAMS = {
    "exit within a stream": 'for _ in model.stream("Once", **ENDLESS): sys.exit(3)',
    "exit within an astream": """
async def main():
    async for _ in model.astream("Once", **ENDLESS):
        sys.exit(3)
asyncio.run(main())
""",
    "a stream that is held": """
stream = model.stream("Once", **ENDLESS)
next(stream)
sys.exit(3)
""",
    "an astream that is held": """
async def main():
    global stream
    stream = model.astream("Once", **ENDLESS)
    await anext(stream)
    loop.stop()
loop = asyncio.new_event_loop()
task = loop.create_task(main())
loop.run_forever()
sys.exit(3)
""",
    "an astream that nobody read": """
stream = model.astream("Once", **ENDLESS)
sys.exit(3)
""",
}


@pytest.mark.parametrize("kind", STREAMS)
def test_the_main_thread_ends_a_program(kind: str) -> None:
    assert ends(PREAMBLE + STREAMS[kind], 3) == {(3, "", "")}


# What is registered first runs last.
LATE = """
import atexit

def use():
    try:
        model.generate("Once")
    except RuntimeError as error:
        print(error)

atexit.register(use)
from gpt2fast import GPT2
model = GPT2.from_pretrained(generation_config=None)
model.generate("Once", max_new_tokens=1)
"""


def test_a_model_that_is_used_at_the_very_end() -> None:
    assert ends(LATE, 1) == {(0, "the program is ending: no model can be used any more\n", "")}


OPENED = {
    "held": 'stream = model.stream("Once", **ENDLESS)\nnext(stream)\n',
    "read by a daemon thread": in_a_daemon_thread(WORK["stream"]),
}


@pytest.mark.parametrize("kind", OPENED)
def test_an_error_at_the_top_while_a_stream_runs(kind: str) -> None:
    """The traceback is Python's own, with nothing after it."""
    for status, stdout, stderr in ends(f"{PREAMBLE}{OPENED[kind]}raise KeyError('mine')", 4):
        assert (status, stdout) == (1, "")
        first, *_, last = stderr.splitlines()
        assert (first, last) == ("Traceback (most recent call last):", "KeyError: 'mine'")
        assert stderr.count("Traceback") == 1
