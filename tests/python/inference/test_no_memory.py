"""Where Python has no memory for a result, an error says so, and nothing is lost."""

from __future__ import annotations

import json

import pytest

from support.processes import run_python

# Refuses the first, the second, ... piece of memory that a call asks for, until it needs no more.
_PROGRAM = """
import json
import _testcapi
import numpy as np
from gpt2fast import GPT2
from gpt2fast.inference.outputs import start_stream
from gpt2fast.inference.requests import read_call

def errors_of(work, expected):
    names, refused = [], 0
    while not names or names[-1] != "none":
        _testcapi.set_nomemory(refused, refused + 1)
        refused += 1
        try:
            result = work()
        except Exception as error:
            _testcapi.remove_mem_hooks()
            names.append(type(error).__name__)
            continue
        _testcapi.remove_mem_hooks()
        assert expected(result)
        names.append("none")
    return names

model = GPT2.from_pretrained(threads=1)
score = model.loaded.engine.score([np.arange(10, dtype=np.int32)], [1], 3)
score.wait()
whole = [[one.tolist() for one in values] for values in score.results()]
same = lambda result: [[one.tolist() for one in values] for values in result] == whole
print(json.dumps(errors_of(score.results, same)))

call = read_call(model.loaded, [1, 2, 3], None, {"max_new_tokens": 5, "logprobs": 2, "seed": 1})
text = start_stream(model.loaded, call)
text.wait()
tokens = text.results()[0][0][0]
print(json.dumps(errors_of(text.results, lambda result: result[0][0][0] == tokens)))
"""


def test_results_that_python_has_no_memory_for() -> None:
    pytest.importorskip("_testcapi")
    for line in run_python(_PROGRAM).splitlines():
        errors = json.loads(line)
        assert errors[-1] == "none"
        assert len(errors) > 5
        assert set(errors[:-1]) <= {"MemoryError", "RuntimeError"}  # the latter is pybind11's word for it
