"""A hook forks: what becomes of the child, and that the parent's call goes on."""

from __future__ import annotations

import os

import pytest

from support.processes import end_of, start_python

# Where a thread waits for the call, the child comes back from the call. A child of the engine's own thread
# has nothing to come back to.
IN_A_HOOK = """
import asyncio, os, sys
from gpt2fast import GPT2

model = GPT2.from_pretrained(threads=2, generation_config=None)
TEXT = model.generate("Once", max_new_tokens=20).text
parent, child = os.getpid(), None

def end_child():
    assert model.generate("Once", max_new_tokens=20).text == TEXT
    print("the child generates", flush=True)
    os._exit(0)

def hook(prompt, output, scores):
    global child
    if child is None and len(output) == 3:
        child = os.fork()
        if child == 0:
            {"exits": lambda: sys.exit(3), "generates": end_child, "returns": lambda: None}[sys.argv[2]]()

async def read():
    return "".join([chunk.text async for chunk in model.astream("Once", **OPTIONS)])

OPTIONS = {"max_new_tokens": 20, "logits_processor": hook}
WAYS = {
    "generate": lambda: model.generate("Once", **OPTIONS).text,
    "stream": lambda: "".join(chunk.text for chunk in model.stream("Once", **OPTIONS)),
    "generate_many": lambda: next(model.generate_many(["Once"], **OPTIONS)).text,
    "agenerate": lambda: asyncio.run(model.agenerate("Once", **OPTIONS)).text,
    "astream": lambda: asyncio.run(read()),
}
try:
    text = WAYS[sys.argv[1]]()
except RuntimeError as error:
    print("the child:", error, flush=True)
    end_child()
assert os.getpid() == parent and text == TEXT
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
OF_THE_PARENT = "the call belongs to the parent process: make a new one in this process"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.parametrize("child", ["exits", "generates", "returns"])
@pytest.mark.parametrize("way", ["generate", "stream", "generate_many", "agenerate", "astream"])
def test_a_child_forked_by_a_hook(way: str, child: str) -> None:
    # Python 3.12 and later warn of the threads.
    ended = end_of(start_python("-W", "ignore::DeprecationWarning", "-c", IN_A_HOOK, way, child))
    output, errors = {"exits": "3\n", "generates": "the child generates\n0\n"}.get(child, ""), ""
    if child == "returns" and way in ("generate", "stream"):
        output = f"the child: {OF_THE_PARENT}\nthe child generates\n0\n"
    elif child == "returns":
        output, errors = "1\n", f"RuntimeError: {OF_THE_PARENT}\n"
    assert (ended.status, ended.stdout, ended.stderr) == (0, output, errors)
