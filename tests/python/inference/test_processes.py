"""A model in several processes: forked, spawned, pickled, under servers that fork."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import signal
import socket
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import GPT2
from gpt2fast.text.lazy_tokenizer import LazyTokenizer
from gpt2fast.text.tokenizer import Tokenizer
from support.forking import forked
from support.processes import SECONDS, end_of, run_python, start_python

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")

# Children of os.fork(), all of one program: it prints each one's status, and what they found wrong.
FORKS = """
import json, sys, threading
from gpt2fast import GPT2
from support.forking import forked

model = GPT2.from_pretrained(threads=int(sys.argv[1]), generation_config=None)
TEXT = model.generate("Once", max_new_tokens=20).text
LONG = model.generate("Twice", max_new_tokens=200, eos_token_id=[]).text
ended = {}

def generate():
    assert model.generate("Once", max_new_tokens=20).text == TEXT

ended["holds the model"] = [forked(lambda: None)]
ended["generates"] = [forked(generate)]

done, texts = threading.Event(), []
def generate_on():
    while not done.is_set():
        texts.append(model.generate("Twice", max_new_tokens=200, eos_token_id=[]).text)
thread = threading.Thread(target=generate_on)
thread.start()
ended["generates as the parent does"] = [forked(generate) for _ in range(5)]
done.set()
thread.join()
assert set(texts) == {LONG}

stream = model.stream("Once", max_new_tokens=20)
chunks = [next(stream)]
def read_on():
    try:
        next(stream)
    except RuntimeError as error:
        assert "belongs to the parent process" in str(error), error
    else:
        raise AssertionError("a child read its parent's stream")
    generate()
ended["reads the parent's stream"] = [forked(read_on)]
chunks += stream
assert "".join(chunk.text for chunk in chunks) == TEXT

def fork_again():
    generate()
    assert forked(generate) == 0
ended["forks again"] = [forked(fork_again)]
generate()
print(json.dumps(ended))
"""


@needs_fork
@pytest.mark.parametrize("threads", ["2", "4"])
def test_children_of_fork_generate_and_exit(threads: str) -> None:
    ended = end_of(start_python("-c", FORKS, threads))
    assert (ended.status, ended.stderr) == (0, "")
    assert {name: set(statuses) for name, statuses in json.loads(ended.stdout).items()} == {
        "holds the model": {0},
        "generates": {0},
        "generates as the parent does": {0},
        "reads the parent's stream": {0},
        "forks again": {0},
    }


# A signal handler forks while the main thread waits for the model; the child comes back from the handler.
IN_A_HANDLER = """
import os, signal, sys
from gpt2fast import GPT2, CancelToken
from support.event_loops import ENDLESS

model = GPT2.from_pretrained(threads=2, generation_config=None)
TEXT = model.generate("Once", max_new_tokens=20).text
cancel, parent, child = CancelToken(), os.getpid(), None

def fork(*_):
    global child
    child = os.fork()
    if child > 0:
        cancel.cancel()
    elif sys.argv[2] == "exits":
        sys.exit(0)

ways = {
    "generate": lambda: model.generate("Once", cancel=cancel, **ENDLESS),
    "stream": lambda: list(model.stream("Once", cancel=cancel, **ENDLESS)),
    "generate_many": lambda: list(model.generate_many(["Once"], cancel=cancel, **ENDLESS)),
}
signal.signal(signal.SIGALRM, fork)
signal.setitimer(signal.ITIMER_REAL, 0.02)
try:
    ways[sys.argv[1]]()
except RuntimeError as error:
    assert os.getpid() != parent and "belongs to the parent process" in str(error), error
    assert model.generate("Once", max_new_tokens=20).text == TEXT
else:
    assert os.getpid() == parent
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_fork
@pytest.mark.parametrize("child", ["goes on", "exits"])
@pytest.mark.parametrize("way", ["generate", "stream", "generate_many"])
def test_a_child_forked_by_a_signal_handler(way: str, child: str) -> None:
    # Python 3.12 and later warn of the threads.
    ended = end_of(start_python("-W", "ignore::DeprecationWarning", "-c", IN_A_HANDLER, way, child))
    assert (ended.status, ended.stdout, ended.stderr) == (0, "0\n", "")


# The child goes on where the parent forked, and its program ends by coming to its end.
RETURNING = """
import os, sys, threading
from gpt2fast import GPT2

model = GPT2.from_pretrained(threads=2, generation_config=None)
TEXT = model.generate("Once", max_new_tokens=20).text
begun, done = threading.Event(), threading.Event()

def generate_on():
    while not done.is_set():
        for _ in model.stream("Twice", max_new_tokens=200, eos_token_id=[]):
            begun.set()

thread = threading.Thread(target=generate_on)
if sys.argv[1] == "at work":
    thread.start()
    begun.wait()
child = os.fork()
if child == 0:
    assert model.generate("Once", max_new_tokens=20).text == TEXT
else:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    done.set()
"""


@needs_fork
@pytest.mark.parametrize("parent", ["at rest", "at work"])
def test_a_child_of_fork_that_comes_to_the_end_of_the_program(parent: str) -> None:
    # Python 3.12 and later warn of the threads.
    ended = end_of(start_python("-W", "ignore::DeprecationWarning", "-c", RETURNING, parent))
    assert (ended.status, ended.stdout, ended.stderr) == (0, "0\n", "")


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_while_a_thread_reads_the_tokenizer(embedded_dir: Path) -> None:
    """The thread holds the tokenizer's lock, and does not exist in the child."""
    parent, begun, over = os.getpid(), threading.Event(), threading.Event()

    def load() -> Tokenizer:
        if os.getpid() == parent:
            begun.set()
            assert over.wait(SECONDS)
        return Tokenizer.from_source(embedded_dir)

    tokenizer = LazyTokenizer(load)
    thread = threading.Thread(target=tokenizer.get)
    thread.start()
    assert begun.wait(SECONDS)
    status = forked(tokenizer.get, exit=os._exit)
    over.set()
    thread.join()
    assert status == 0


MULTIPROCESSING = """
import json, multiprocessing
from gpt2fast import GPT2
from support.forking import send_text
from support.processes import SECONDS

model = GPT2.from_pretrained(max_sequences=2, generation_config=None)
text = model.generate("Once", max_new_tokens=20).text
found = {}
for method in multiprocessing.get_all_start_methods():
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_text, args=(sender, model, "Once"))
    process.start()
    same = receiver.poll(SECONDS / 4) and receiver.recv() == text
    process.join(SECONDS / 4)
    found[method] = same, process.exitcode
    process.kill()
print(json.dumps(found))
"""


REPLACED = {
    "replaced": "other.replace(weights)",
    "rewritten": "open(weights, 'r+b').write(other.read_bytes())",
}


@needs_fork
@pytest.mark.parametrize("change", REPLACED.values(), ids=REPLACED)
def test_a_child_of_fork_refuses_other_weights_than_its_parent_has(tmp_path: Path, change: str) -> None:
    directory = Path(shutil.copytree(GPT2.from_pretrained().directory.path, tmp_path / "model"))
    code = f"""
import os
from pathlib import Path
from gpt2fast import GPT2, ModelError
from support.forking import forked

model = GPT2.from_pretrained({str(directory)!r})
weights = Path({str(directory / "weights.bin")!r})
other = weights.with_name("other")  # as large, with the same bytes
other.write_bytes(weights.read_bytes())

def generate():
    try:
        model.generate([1, 2], max_new_tokens=2)
    except ModelError as error:
        assert "between loading and fork()" in str(error)
    else:
        raise AssertionError

{change}
print(forked(generate))
"""
    assert run_python(code) == "0"


@needs_fork
def test_a_closed_model_is_closed_in_children_of_fork_too() -> None:
    code = """
from gpt2fast import GPT2
from support.forking import forked

model = GPT2.from_pretrained(generation_config=None)
model.close()

def generate():
    try:
        model.generate("Once", max_new_tokens=2)
    except RuntimeError as error:
        assert str(error) == "the model is closed"
    else:
        raise AssertionError
print(forked(generate))
"""
    assert run_python(code) == "0"


def test_processes_of_multiprocessing() -> None:
    found = json.loads(run_python(MULTIPROCESSING))
    assert "spawn" in found
    assert [(method, found[method]) for method in found] == [(method, [True, 0]) for method in found]


SETTINGS: dict[str, Any] = {
    "threads": 1,
    "kv_cache": "fp16",
    "max_sequences": 3,
    "prefix_cache_bytes": 1 << 20,
    "max_waiting": 7,
    "read_ahead": 5,
    "decode_slowdown": 3.0,
}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_the_same_files_and_settings(copied: Any) -> None:
    model = GPT2.from_pretrained(precision="int4", **SETTINGS)
    other = copied(model)
    assert isinstance(other, GPT2)
    assert other.directory.path == model.directory.path
    assert other.loaded.settings == model.loaded.settings
    assert (other.threads, other.kv_cache, other.max_sequences) == (1, "fp16", 3)
    model.close()
    with other, GPT2.from_pretrained(precision="int4", **SETTINGS) as fresh:
        assert other.generate("Once", max_new_tokens=9) == fresh.generate("Once", max_new_tokens=9)


def test_a_given_tokenizer_goes_along(embedded_dir: Path) -> None:
    given = Tokenizer.from_source(embedded_dir)
    model = GPT2.from_pretrained(tokenizer=given)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert other.tokenizer is not given
        assert other.tokenizer.to_json() == given.to_json()
        assert other.generate("Once", max_new_tokens=9).text == model.generate("Once", max_new_tokens=9).text


def test_a_model_of_a_relative_path_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = GPT2.from_pretrained().directory.path
    monkeypatch.chdir(directory.parent)
    pickled = pickle.dumps(GPT2.from_pretrained(directory.name))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickled).directory.path == directory


# Both workers answer at the same time: each waits for the other before it generates.
WSGI = """
import multiprocessing, os
from gpt2fast import GPT2

model = GPT2.from_pretrained(generation_config=None)
model.generate("Once", max_new_tokens=2)
both = multiprocessing.Barrier(2)

def application(environ, start_response):
    both.wait(60)
    text = model.generate("Once", max_new_tokens=20).text
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {text}".encode()]
"""
# How workers ended, which gunicorn itself only writes to its log.
CONFIGURATION = """
import os

waitpid = os.waitpid

def recorded(*arguments):
    pid, status = waitpid(*arguments)
    if pid:
        with open("statuses", "a") as file:
            print(os.waitstatus_to_exitcode(status), file=file)
    return pid, status

os.waitpid = recorded
"""


@needs_fork
def test_the_workers_of_gunicorn(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    (tmp_path / "service.py").write_text(WSGI)
    (tmp_path / "gunicorn.conf.py").write_text(CONFIGURATION)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        options = ["--preload", "-w", "2", "-b", f"fd://{listener.fileno()}", "--timeout", "120"]
        places = ["--chdir", str(tmp_path), "-c", str(tmp_path / "gunicorn.conf.py")]
        server = start_python(
            *("-m", "gunicorn", *options, *places, "service"),
            pass_fds=(listener.fileno(),),
            HOME=str(tmp_path),
        )
    try:
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: _get(url), range(2)))
    finally:
        server.send_signal(signal.SIGTERM)
        ended = end_of(server)
    assert ended.status == 0, ended.stderr
    assert (tmp_path / "statuses").read_text().split() == ["0", "0"], ended.stderr
    workers, texts = zip(*(answer.split(" ", 1) for answer in answers), strict=True)
    assert len(set(workers)) == 2
    assert set(texts) == {GPT2.from_pretrained().generate("Once", max_new_tokens=20).text}


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=100) as answer:
        return answer.read().decode()


# The worker sends itself a task when it is ready; the task ends the worker, which waits for it.
CELERY = """
import os, signal
from celery import Celery
from celery.signals import worker_ready
from gpt2fast import GPT2

model = GPT2.from_pretrained(generation_config=None)
model.generate("Once", max_new_tokens=2)
app = Celery("service", broker="filesystem://")
folder = os.environ["FOLDER"]
app.conf.broker_transport_options = {
    "data_folder_in": folder, "data_folder_out": folder, "control_folder": folder, "polling_interval": 0.05,
}

@app.task
def generate(prompt):
    with open("answer", "w") as file:
        file.write(f"{os.getppid()} {model.generate(prompt, max_new_tokens=20).text}")
    os.kill(os.getppid(), signal.SIGTERM)

@worker_ready.connect
def begin(**_):
    generate.delay("Once")
"""


@needs_fork
def test_the_workers_of_celery(tmp_path: Path) -> None:
    pytest.importorskip("celery")
    (tmp_path / "service.py").write_text(CELERY)
    (tmp_path / "queue").mkdir()
    options = ["--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle"]
    arguments = ["--workdir", str(tmp_path), "-A", "service", "worker", *options, "-l", "info"]
    worker = start_python("-W", "ignore", "-m", "celery", *arguments, FOLDER=str(tmp_path / "queue"))
    ended = end_of(worker)
    assert ended.status == 0, ended.stderr
    assert "exited with" not in ended.stderr  # what it says of a process of its pool that fails
    text = GPT2.from_pretrained().generate("Once", max_new_tokens=20).text
    assert (tmp_path / "answer").read_text() == f"{worker.pid} {text}"
