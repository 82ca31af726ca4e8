"""A model used by what it runs itself: hooks, signal handlers; and from interpreters that it can't serve."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import gpt2fast
from gpt2fast import GPT2, ModelError
from support.processes import run_python

# Whatever a model does for its callers; closing comes last.
_USES = """
uses = (
    lambda: model.generate("Once", max_new_tokens=2),
    lambda: model.score("Once upon"),
    lambda: model.embed("Once upon"),
    lambda: model.prefill("Once"),
    model.clear_prefix_cache,
    model.close,
)
"""

_PROGRAM = (
    """
import signal, threading
from gpt2fast import GPT2
model = GPT2.from_pretrained(threads=2, generation_config=None)
wanted = model.generate("Once", max_new_tokens=5).text
said = []
"""
    + _USES
    + """

def use(*_):
    for one in uses:
        try:
            one()
            said.append("used")
        except RuntimeError as error:
            said.append(str(error))

others = []
def other():
    for _ in range(5):
        others.append(model.generate("Once", max_new_tokens=5).text == wanted)
thread = threading.Thread(target=other)
thread.start()
"""
)

_HOOK = """
model.generate("Once", max_new_tokens=3, logits_processor=use)
"""

_THREADS_HOOK = """
worker = threading.Thread(target=lambda: model.generate("Once", max_new_tokens=3, logits_processor=use))
worker.start()
worker.join()
"""

# The signal comes while the main thread waits for the engine, for a text that ends when it has been handled.
_SIGNAL = """
import os, sys, time, traceback
from gpt2fast import CancelToken

token = CancelToken()
def use_and_end(*_):
    use()
    token.cancel()

def send():
    main = threading.main_thread().ident
    while traceback.extract_stack(sys._current_frames()[main])[-1].line != "call.wait()":
        time.sleep(0)
    os.kill(os.getpid(), signal.SIGUSR1)

signal.signal(signal.SIGUSR1, use_and_end)
sender = threading.Thread(target=send)
sender.start()
model.generate("Once", max_new_tokens=10_000_000, overflow="slide", eos_token_id=[], cancel=token)
sender.join()
"""

_END = """
thread.join()
assert {text.partition("; ")[0] for text in said} == {
    "a logits processor, constraint or signal handler must not use the model that is running it"
}, said
assert all(others) and len(others) == 5
print(model.generate("Once", max_new_tokens=5).text == wanted)
"""


@pytest.mark.parametrize("where", [_HOOK, _THREADS_HOOK], ids=["hook", "hook of a thread"])
def test_a_hook_that_uses_its_own_model_gets_an_error(where: str) -> None:
    assert run_python(_PROGRAM + where + _END) == "True"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGUSR1")
def test_a_signal_handler_that_uses_the_model_it_interrupts_gets_an_error() -> None:
    assert run_python(_PROGRAM + _SIGNAL + _END) == "True"


# The handler closes streams of the model that its thread makes steps of, as the garbage collector may.
_CLOSE_IN_A_HANDLER = """
import os, signal, threading
from gpt2fast import GPT2
from support.event_loops import ENDLESS

model = GPT2.from_pretrained(max_sequences=2, generation_config=None)
streams, closed, done = [], threading.Event(), threading.Event()

def close(*_):
    streams.pop().close()
    closed.set()

def stream():
    for _ in range(20):
        streams.append(model.stream("Once", **ENDLESS))
        next(streams[-1])
        os.kill(os.getpid(), signal.SIGUSR1)
        closed.wait()
        closed.clear()
    done.set()

signal.signal(signal.SIGUSR1, close)
thread = threading.Thread(target=stream, daemon=True)
thread.start()
while not done.is_set():
    model.score([5] * 400)
thread.join()
model.generate("Once", max_new_tokens=1)
print(model.stats().running, model.stats().slots_used)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGUSR1")
def test_a_signal_handler_closes_a_stream_of_the_model_it_interrupts() -> None:
    assert run_python(_CLOSE_IN_A_HANDLER) == "0 0"


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the module has another name there")
def test_subinterpreters_are_refused() -> None:
    code = """
import _xxsubinterpreters as interpreters
import gpt2fast
other = interpreters.create()
try:
    interpreters.run_string(other, "import gpt2fast; gpt2fast.GPT2")
except Exception as error:
    print(error)
interpreters.destroy(other)
"""
    assert "in the main interpreter of a process only" in run_python(code)


@pytest.mark.parametrize("source", [5, None, 1.5, object(), ["a"]], ids=repr)
def test_a_prefix_of_no_source_is_a_type_error(source: object) -> None:
    model = GPT2.from_pretrained()
    with pytest.raises(TypeError, match="source must be a path, bytes or an open binary file, got "):
        model.load_prefix(source)  # type: ignore[arg-type]


def test_a_prefix_of_a_text_file_is_a_type_error(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no prefix")
    model = GPT2.from_pretrained()
    with (tmp_path / "x").open() as file, pytest.raises(TypeError, match="open for binary reading"):
        model.load_prefix(file)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="not a saved prefix"):
        model.load_prefix(tmp_path / "x")


def test_a_hook_cannot_choose_what_the_options_forbid() -> None:
    model = gpt2fast.GPT2.from_pretrained()

    def prefer_seven(prompt: object, output: object, scores: object) -> None:
        scores[7] = 1e4  # type: ignore[index]

    chosen = model.generate("Once", max_new_tokens=3, logits_processor=prefer_seven).token_ids
    suppressed = model.generate(
        "Once", max_new_tokens=3, logits_processor=prefer_seven, suppress_tokens=[7]
    ).token_ids
    assert list(chosen) == [7, 7, 7]
    assert 7 not in suppressed
