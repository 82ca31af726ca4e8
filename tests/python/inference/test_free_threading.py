"""What must hold where several Python threads run at once, without the global interpreter lock."""

from __future__ import annotations

import copy
import sysconfig
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2
from gpt2fast._native import core
from support.processes import SECONDS, run_python

READERS = 8


def at_once(function: Callable[[], Any]) -> list[Any]:
    """What a function returns to threads that call it at the same moment."""
    barrier = threading.Barrier(READERS)

    def work() -> Any:
        barrier.wait(SECONDS)
        return function()

    with ThreadPoolExecutor(READERS) as pool:
        return [job.result(SECONDS) for job in [pool.submit(work) for _ in range(READERS)]]


def started(kind: str, engine: core.Engine, ids: np.ndarray[Any, np.dtype[np.int32]]) -> core.Call:
    if kind == "score":
        return engine.score([ids], [1], top=3)
    if kind == "score_continuations":
        return engine.score_continuations(ids[:3], [ids[3:]])
    options = core.GenerationOptions()
    options.max_new_tokens = 4
    options.logprobs = 2
    return engine.generate([core.Request(ids)], options)


@pytest.mark.parametrize("kind", ["score", "score_continuations", "generate"])
def test_every_reader_of_a_call_gets_its_results(kind: str) -> None:
    with GPT2.from_pretrained() as model:
        ids = np.array(model.tokenizer.encode("Once upon a time there was a wolf."), np.int32)
        call = started(kind, model.loaded.engine, ids)
        call.wait()
        expected = copy.deepcopy(call.results())
        lengths = {"score": ids.size - 1, "score_continuations": ids.size - 3, "generate": 4}
        scores = expected[0][0][4] if kind == "generate" else expected[0]
        assert scores[0].shape == (lengths[kind],)
        for results in at_once(call.results):
            np.testing.assert_equal(results, expected)


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python needs its lock")
def test_the_core_runs_without_the_lock() -> None:
    program = "import sys; from gpt2fast._native import core; print(sys._is_gil_enabled())"
    assert run_python(program) == "False"
