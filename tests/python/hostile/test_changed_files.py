"""Files of a model that change while it is loaded, and limits of the system that it reaches while it runs."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from gpt2fast import GPT2, ModelError
from gpt2fast.export import convert
from gpt2fast.loading.loaded_model import EngineSettings, LoadedModel
from gpt2fast.storage.model_directory import open_model_directory
from random_checkpoint import write_random_checkpoint
from support.checkpoint_samples import random_tensors, small_config
from support.huggingface_samples import write_directory
from support.processes import end_of, run_python, start_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs POSIX signals and limits")

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 256, "n_positions": 512, "vocab_size": 300}

_LOAD = """
import os, resource, sys, threading
import numpy as np
from gpt2fast import GPT2, ModelError
model = GPT2.from_pretrained({path!r}, threads=1)
ids = [i * 7 % 300 for i in range(400)]
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("changed")
    path = write_random_checkpoint(root / "source", SIZES)
    return convert(path, root / "model", precision="fp32")


@pytest.fixture
def model(source: Path, tmp_path: Path) -> Path:
    """A model directory to damage."""
    (tmp_path / "model").mkdir()
    for path in source.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "model"


def run(path: Path, code: str) -> str:
    return run_python(_LOAD.format(path=str(path)) + code)


CHANGES = {
    "cut to nothing": "os.truncate(weights, 0)",
    "cut in half": "os.truncate(weights, os.path.getsize(weights) // 2)",
    "written over": "data = bytes(os.path.getsize(weights)); open(weights, 'r+b').write(data)",
    "copied over": "data = open(weights, 'rb').read(); open(weights, 'wb').write(data)",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_that_change_under_a_model_are_an_error(model: Path, change: str) -> None:
    code = f"""
weights = {str(model / "weights.bin")!r}
wanted = model.score(ids).total
os.utime(weights, ns=(1, 1))  # as files of another day have it
model = GPT2.from_pretrained({str(model)!r}, threads=3)
{change}
for call in (model.score, model.embed, lambda ids: model.generate(ids[:9], max_new_tokens=3)):
    try:
        print(call(ids))
    except ModelError as error:
        assert "weights were shortened or rewritten in place" in str(error), error
stats = model.stats()
print("alive", stats.running, stats.waiting)
"""
    assert run(model, code) == "alive 0 0"


def test_weights_that_are_replaced_by_name_do_no_harm(model: Path) -> None:
    code = f"""
weights = {str(model / "weights.bin")!r}
wanted = model.score(ids).total
open(weights + ".new", "wb").write(bytes(os.path.getsize(weights)))
os.replace(weights + ".new", weights)
print(model.score(ids).total == wanted)
os.unlink(weights)
print(model.score(ids).total == wanted)
"""
    assert run(model, code).split() == ["True", "True"]


@pytest.fixture
def replaceable(tmp_path: Path) -> Path:
    """A model directory with a tokenizer, beside the source of another of the same sizes."""
    for number, name in enumerate(("one", "other")):
        tensors = random_tensors(small_config(), seed=number)
        write_directory(tmp_path / name, small_config(), tensors)
    return convert(tmp_path / "one", tmp_path / "model", precision="fp32")


def replace_model(directory: Path) -> None:
    convert(directory.parent / "other", directory, precision="fp32", overwrite=True)


def test_a_model_whose_directory_is_replaced_stays_the_same(replaceable: Path) -> None:
    model, twin = (GPT2.from_pretrained(replaceable, threads=1) for _ in range(2))
    wanted = model.score([1, 2, 3]).total
    saved = twin.prefill([1, 2]).to_bytes()
    replace_model(replaceable)
    other = GPT2.from_pretrained(replaceable, threads=1)
    assert model.score([1, 2, 3]).total == wanted != other.score([1, 2, 3]).total
    assert model.prefill([1, 2]).to_bytes() == saved
    with pytest.raises(ModelError, match="made by another model"):
        other.load_prefix(saved)
    with pytest.raises(ModelError, match="another model has taken its place since this one was opened"):
        model.generate("!", max_new_tokens=1)


def test_a_directory_that_is_replaced_while_it_is_loaded_is_refused(
    replaceable: Path,
) -> None:
    directory = open_model_directory(replaceable)
    replace_model(replaceable)
    with pytest.raises(ModelError, match="another model has taken its place since this one was opened"):
        LoadedModel(directory, EngineSettings(threads=1))
    replace_model(replaceable)  # by the same model again
    LoadedModel(open_model_directory(replaceable), EngineSettings(threads=1))


def test_other_bus_errors_still_reach_their_handler(model: Path) -> None:
    code = (
        _LOAD.format(path=str(model))
        + """
import mmap
with open(sys.argv[1], "w+b") as file:
    file.truncate(8192)
    own = mmap.mmap(file.fileno(), 8192)
    file.truncate(0)
    own[0]
"""
    )
    ended = end_of(start_python("-c", code, str(model.parent / "own")))
    assert ended.status == -7  # SIGBUS
    assert "Fatal Python error: Bus error" in ended.stderr  # of faulthandler, which was there before


def test_out_of_memory_inside_a_step_is_a_memory_error(model: Path) -> None:
    code = f"""
wanted = GPT2.from_pretrained({str(model)!r}, threads=1).score(ids).total
model.score(ids[:2])
calls = {{
    "score": lambda: model.score(ids),
    "embed": lambda: model.embed(ids),
    "logits": lambda: model.logits(ids),
    "generate": lambda: model.generate(ids, max_new_tokens=2, num_beams=4),
}}
pages = int(open("/proc/self/statm").read().split()[0])
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
outcomes = []
for name, call in calls.items():
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), hard))
    try:
        call()
        outcomes.append("fine")
    except MemoryError:
        outcomes.append("MemoryError")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert (model.stats().running, model.stats().waiting) == (0, 0), name
assert model.score(ids).total == wanted
print(*outcomes)
"""
    outcomes = run(model, code).split()
    assert set(outcomes) <= {"MemoryError", "fine"}
    assert outcomes[0] == "MemoryError"


# A user whose threads are those of this process alone: a limit counts the threads of all that a user runs.
_CHANGE_USER = """
user = 20_000 + os.getpid() % 40_000
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
"""


def run_as_another_user(code: str) -> str:
    """What a program of root's prints that becomes another user where it says so."""
    return run_python(code.replace("CHANGE_USER", _CHANGE_USER))


needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="changes the user")


@needs_root
@pytest.mark.parametrize(("granted", "threads"), [(2, 6), (0, 2)])
def test_threads_that_the_system_refuses_are_an_error(source: Path, granted: int, threads: int) -> None:
    # The limit holds for no process of root, and another user can't read root's temporary directories.
    code = f"""
import os, resource
from gpt2fast import GPT2
GPT2.from_pretrained(threads=1).close()  # imports what loading needs
CHANGE_USER
used = len(os.listdir("/proc/self/task"))
resource.setrlimit(resource.RLIMIT_NPROC, (used + {granted},) * 2)
try:
    GPT2.from_pretrained(PATH, threads={threads})
except RuntimeError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(shutil.copytree(source, Path(directory) / "model"))
        said = run_as_another_user(code.replace("PATH", repr(str(path))))
    assert said.startswith(f"threads={threads} needs {threads - 1} threads beside the caller's")
    assert f"the system grants {granted} " in said
    assert f"give threads={granted + 1} " in said


@needs_root
def test_a_conversion_does_with_the_threads_that_the_system_grants() -> None:
    code = """
import os, resource
import numpy as np
from gpt2fast._native import core
weight = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)
expected = core.pack_linear(weight, 2, threads=1)
CHANGE_USER
resource.setrlimit(resource.RLIMIT_NPROC, (len(os.listdir("/proc/self/task")) + 1,) * 2)
print((core.pack_linear(weight, 2, threads=4) == expected).all())
"""
    assert run_as_another_user(code) == "True"


@needs_root
def test_threads_that_the_system_refuses_later_fail_their_own_call_alone() -> None:
    # Modules are imported first: another user may not be able to read them.
    code = """
import asyncio, os, resource
import gpt2fast.inference.event_loops, gpt2fast.inference.many, gpt2fast.inference.statistics
from gpt2fast import GPT2
model = GPT2.from_pretrained(threads=1, generation_config=None)
expected = model.generate([1, 2], max_new_tokens=3).token_ids
CHANGE_USER
resource.setrlimit(resource.RLIMIT_NPROC, (len(os.listdir("/proc/self/task")),) * 2)
async def one():
    await model.agenerate([1, 2], max_new_tokens=3)
def many():
    next(model.generate_many([[1, 2]], max_new_tokens=3))
for call in (lambda: asyncio.run(one()), many):
    try:
        call()
    except RuntimeError as error:
        assert "no thread for the engine's loop" in str(error)
        print(model.stats().waiting, model.stats().running)
assert model.generate([1, 2], max_new_tokens=3).token_ids == expected
stream = model.stream([1, 2], max_new_tokens=400)
next(stream)
model.close()
try:
    list(stream)
except RuntimeError as error:
    print(error)
"""
    assert run_as_another_user(code).splitlines() == ["0 0", "0 0", "the model was closed"]
