"""``gpt2fast serve``: its first lines, its mistakes, its end, and workers."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from gpt2fast import GPT2
from gpt2fast.serving import workers
from gpt2fast.serving.server import listen
from gpt2fast.serving.workers import Supervisor, WorkersFailedError, _Worker
from support.live_server import DEADLINE, command, events
from support.processes import run_python

PATH = "/v1/completions"
SETUPS = Path(__file__).resolve().parents[3] / "docs" / "serving"


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit status and standard error of a command that ends by itself."""
    completed = subprocess.run(
        [sys.executable, "-m", "gpt2fast", "serve", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert completed.stdout == ""
    return completed.returncode, completed.stderr


def test_the_first_lines_say_what_and_where_and_how_to_try(model: GPT2) -> None:
    with command() as served:
        title, page, docs, curl = served.first_lines
        assert re.fullmatch(rf"gpt2fast [\d.]+ serves gpt2fast-tiny at {served.url}/v1", title)
        assert page.split() == ["page", f"{served.url}/"]
        assert docs.split() == ["docs", f"{served.url}/docs"]
        words = shlex.split(curl)
        assert words[:3] == ["try", "curl", f"{served.url}{PATH}"]
        answer = httpx.post(
            words[2],
            content=words[words.index("-d") + 1],
            headers=[words[words.index("-H") + 1].split(": ")],  # type: ignore[arg-type]
            timeout=DEADLINE,
        )
        assert answer.json()["usage"]["completion_tokens"] == 40
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(DEADLINE) == 0


def test_options_reach_the_service(tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("# of the team\nsk-file\n\n", "utf-8")
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}", "utf-8")
    arguments = ["--served-model-name", "mine", "--api-key", "sk-option", "--api-key-file", str(keys)]
    arguments += ["--chat-template", str(template), "--max-n", "2", "--log-format", "json"]
    arguments += [
        "--root-path",
        "llm/",
        "--allowed-host",
        "Proxy.example",
        "--cors-origin",
        "https://a.example",
    ]
    with command(*arguments, GPT2FAST_API_KEY="sk-variable") as served:
        assert "Bearer $GPT2FAST_API_KEY" in served.first_lines[3]
        for key in ("sk-option", "sk-file", "sk-variable"):
            answer = served.get("/v1/models", headers={"authorization": f"Bearer {key}"})
            assert answer.json()["data"][0]["id"] == "mine"
        assert served.get("/v1/models").status_code == 401
        headers = {"authorization": "Bearer sk-file"}
        message = {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 3}
        assert served.post("/v1/chat/completions", message, headers=headers).is_success
        refused = served.post(PATH, {"n": 3}, headers=headers)
        assert "n must be from 1 to 2, got 3" in refused.json()["error"]["message"]
        # On an address of this machine alone, only its own names are answered.
        assert served.get("/health", headers={"host": "rebound.example"}).status_code == 400
        # A proxy's name is answered too; a redirect and the schema lead to where the proxy shows them.
        for host, status in (("proxy.example", 200), ("proxy.example:443", 200), ("other.example", 400)):
            headers["host"] = host
            assert served.get("/llm/openapi.json", headers=headers).status_code == status
        headers |= {"host": "localhost", "origin": "https://a.example"}
        answer = served.get("/docs/", headers=headers)
        assert answer.headers["location"] == "/llm/docs"
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        (line, *_) = served.wait_for_log(r'^\{.*"path":"/v1/models","status":200.*\}$')
        assert "sk-" not in line[0]


def container_command() -> list[str]:
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", (SETUPS / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    return json.loads(entry)  # type: ignore[no-any-return]


def unit_command() -> list[str]:
    unit = (SETUPS / "gpt2fast.service").read_text("utf-8")
    return shlex.split(re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)[0])


@pytest.mark.parametrize("given", [container_command, unit_command])
def test_the_commands_of_the_documented_setups(given: Callable[[], list[str]]) -> None:
    dockerfile = (SETUPS / "Dockerfile").read_text("utf-8")
    (check,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", dockerfile, re.MULTILINE)
    python, *code = json.loads(check)
    assert python == "python"
    program, *arguments = given()
    assert (Path(program).name, arguments.pop(0)) == ("gpt2fast", "serve")
    arguments = ["127.0.0.1" if argument == "0.0.0.0" else argument for argument in arguments]
    with command(*arguments) as served:
        port = served.url.rpartition(":")[2]
        check = code[-1].replace(":8000", f":{port}").replace("timeout=2", f"timeout={DEADLINE}")
        assert port in check
        checking = [sys.executable, *code[:-1], check]
        assert subprocess.run(checking, timeout=DEADLINE).returncode == 0
        served.wait_for_log(r'^\{.*"path":"/health","status":200.*\}$')
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(DEADLINE) == 0
        ended = subprocess.run(checking, capture_output=True, timeout=DEADLINE)
        assert ended.returncode != 0


def test_addresses_that_can_t_be_are_one_line_and_a_status() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, text = run("--port", port)
        where = f"port {port} of 127.0.0.1"
        message = f"gpt2fast: error: {where} is taken; name another by --port (0 takes a free one)\n"
        assert (status, text) == (1, message)
        assert run("--port", port, "--workers", "2") == (status, text)
    status, text = run("--host", "192.0.2.1")
    assert (status, text.count("\n")) == (1, 1)
    assert "192.0.2.1 is no address of this machine" in text


def test_files_that_can_t_be_read_are_one_line_and_a_status(tmp_path: Path) -> None:
    status, text = run("--port", "0", str(tmp_path / "none"))
    assert (status, text.count("\n")) == (1, 1)
    assert "no such file or directory" in text
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for %}", "utf-8")
    status, text = run("--port", "0", "--chat-template", str(broken))
    assert (status, text.count("\n")) == (1, 1)
    assert "the chat template is broken" in text


def test_keys_that_can_t_be_are_refused(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text("# nothing\n", "utf-8")
    binary.write_bytes(b"\xff\xfe")
    for file, message in ((empty, "no key in it"), (binary, "not UTF-8 text"), (tmp_path, "is a directory")):
        status, text = run("--api-key-file", str(file))
        assert status == 2
        assert message in text
        assert "Traceback" not in text
    for key in ("a b", ""):
        status, text = run("--api-key", key)
        assert status == 2
        assert "printable" in text


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--cors-origin", "foo", "--cors-origin must hold origins as browsers send them"),
        ("--root-path", "x?y", "--root-path must be the path of a URL"),
    ],
)
def test_addresses_that_match_nothing_are_refused(option: str, value: str, message: str) -> None:
    status, text = run(option, value)
    assert status == 2
    assert message in text
    assert "Traceback" not in text


def test_the_help_names_no_limit_where_there_is_none() -> None:
    code = "from gpt2fast.cli import main; main(['serve', '--help'])"
    shown = run_python(code)
    assert "[default: 256; x>=0]" in shown
    assert "None" not in shown


def test_a_start_is_without_garbage_collection() -> None:
    code = (
        "import gc\nfrom gpt2fast.serving.start import without_garbage_collection as start\n"
        "with start():\n    before = gc.isenabled()\n"
        "print(before, gc.isenabled(), gc.get_freeze_count() > 1000)"
    )
    assert run_python(code) == "False True True"


def test_without_the_extra_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['starlette'] = sys.modules['uvicorn'] = None\n"
        "from gpt2fast.cli import main; main(['serve'])"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE)
    assert completed.returncode == 1
    assert completed.stderr.endswith("pip install 'gpt2fast[server]'\n")
    assert completed.stderr.count("\n") == 1


def test_sigterm_under_load_loses_nothing() -> None:
    """What was accepted is answered whole; what comes later gets 503, or no connection."""
    answers: Counter[str] = Counter()
    broken: list[Any] = []
    started = threading.Barrier(9)

    def ask(url: str, stream: bool) -> None:
        body = {"prompt": "Once", "max_tokens": 400, "eos_token_id": [], "stream": stream, "seed": 1}
        with httpx.Client(base_url=url, timeout=DEADLINE) as client:
            client.get("/health")
            started.wait(DEADLINE)
            status = 200
            while status == 200:
                status, lines = 0, []
                try:
                    with client.stream("POST", PATH, json=body) as response:
                        status = response.status_code
                        lines = list(response.iter_lines())
                except httpx.TransportError as error:
                    if status != 0:  # an answer that had begun
                        broken.append(error)
                answers[str(status)] += 1
                if status == 200 and not (lines[-2] == "data: [DONE]" if stream else lines[0].endswith("}")):
                    broken.append(lines)

    with command("--grace", str(DEADLINE)) as served:
        threads = [threading.Thread(target=ask, args=(served.url, index % 2 == 0)) for index in range(8)]
        for thread in threads:
            thread.start()
        started.wait(DEADLINE)
        served.wait_for_log("POST /v1/completions 200", count=8)
        served.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(DEADLINE)
        assert served.process.wait(DEADLINE) == 0
    assert broken == []
    assert answers["200"] >= 8
    # Every client ended with a 503 or without a connection (0), and what was worked on has arrived.
    assert answers["503"] + answers["0"] == 8
    logged = Counter(match[1] for line in served.log if (match := re.search(r"POST /v1\S+ (\d+)", line)))
    assert logged["200"] == answers["200"]
    assert logged.keys() <= {"200", "503"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
class TestWorkers:
    """Several processes on one port."""

    def pids(self, served: Any) -> set[int]:
        """Processes that have answered so far."""
        return {int(match[1]) for match in served.wait_for_log(r'"process":(\d+).*"path":"/health"')}

    def test_they_share_a_port_and_a_dead_one_is_replaced(self, model: GPT2) -> None:
        sampling: dict[str, Any] = {"seed": 3, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
        expected = model.generate("The", max_new_tokens=20, **sampling).text
        with command("--workers", "2", "--log-format", "json") as served:
            assert "in 2 processes" in served.first_lines[0]
            while len(self.pids_after_a_request(served)) < 2:
                pass
            victim = next(iter(self.pids(served)))
            os.kill(victim, signal.SIGKILL)
            served.wait_for_log(f"worker {victim} ended with status -9; another takes its place")
            while len(self.pids_after_a_request(served) - {victim}) < 2:
                pass
            for _ in range(4):
                answer = served.post(PATH, {"prompt": "The", "max_tokens": 20, **sampling})
                assert answer.json()["choices"][0]["text"] == expected
            # Whichever worker answers has the numbers of all.
            counts = served.get("/metrics").text
            found = re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", counts, re.MULTILINE)
            assert [float(one) for one in found] == [4 * 20.0]
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(DEADLINE) == 0

    def pids_after_a_request(self, served: Any) -> set[int]:
        served.get("/health")
        return self.pids(served)

    @pytest.mark.parametrize("ctrl_c", [False, True])
    def test_streams_finish_when_the_parent_is_told_to_end(self, ctrl_c: bool) -> None:
        body = {"prompt": "Once", "max_tokens": 2000, "overflow": "slide", "eos_token_id": [], "stream": True}
        with command("--workers", "2", "--grace", str(DEADLINE)) as served:
            with httpx.stream("POST", served.url + PATH, json=body, timeout=DEADLINE) as response:
                chunks = events(response.iter_lines())
                next(chunks)
                if ctrl_c:  # the terminal signals a whole group of processes
                    os.killpg(served.process.pid, signal.SIGINT)
                else:
                    served.process.send_signal(signal.SIGTERM)
                *_, last = chunks
            assert last["choices"][0]["finish_reason"] == "length"
            assert served.process.wait(DEADLINE) == 0

    def test_they_end_with_their_parent(self) -> None:
        with command("--workers", "2", "--log-format", "json") as served:
            port = int(served.url.rpartition(":")[2])
            served.process.kill()
            served.process.wait(DEADLINE)
            # Their ends of the log close when they have ended.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))

    def test_a_second_signal_reaches_them_however_soon_it_comes(self) -> None:
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]

        def signal_twice() -> None:
            for _ in range(2):
                supervisor._signalled(signal.SIGTERM, None)

        supervisor = Supervisor(_wait_for_two_signals, listeners, DEADLINE, signal_twice)
        supervisor.run()
        for listener in listeners:
            listener.close()
        assert [worker.process.exitcode for worker in supervisor._workers] == [0, 0]

    def test_one_whose_pipe_closes_before_it_is_gone(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        supervisor = Supervisor(_broken, [listener], 1, lambda: None)
        ended, sentinel = multiprocessing.Pipe()
        ours, theirs = multiprocessing.Pipe()
        dying = types.SimpleNamespace(sentinel=sentinel, pid=0, exitcode=1, join=lambda: None)
        supervisor._workers = [_Worker(cast("Any", dying), ours)]
        replaced: list[int] = []
        with listener, pytest.MonkeyPatch.context() as patch:
            patch.setattr(supervisor, "_replace", replaced.append)
            theirs.close()
            supervisor._look()
            assert not replaced
            ended.close()
            supervisor._look()  # would wait for ever if it did not look at the process, or return at once
        assert replaced == [0]
        sentinel.close()
        supervisor._workers = []
        supervisor._end()

    def test_one_that_never_gets_ready_leaves_the_others_at_work(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workers, "_FIRST_PAUSE", 0.01)
        monkeypatch.setattr(workers, "_LONGEST_PAUSE", 0.02)
        monkeypatch.setattr(workers, "_MOST_FAILURES", 1000)  # the other one may take longer to start
        listeners = [listen("127.0.0.1", 0, shared=True)]
        port = listeners[0].getsockname()[1]
        listeners.append(listen("127.0.0.1", port, shared=True))
        listeners[1].listen()  # as if its worker had been ready, and died
        answers: list[bytes] = []

        def ask() -> None:
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
                    answers.append(client.recv(1))

        work = partial(_greet, os.fstat(listeners[1].fileno()).st_ino)
        supervisor = Supervisor(work, listeners, 1, ask)
        look = supervisor._look

        def look_until_the_end() -> None:
            look()
            if len(self.pauses(caplog)) >= 4:
                supervisor._signalled(signal.SIGTERM, None)

        monkeypatch.setattr(supervisor, "_look", look_until_the_end)
        supervisor.run()
        for listener in listeners:
            listener.close()
        assert answers == [b"!"] * 20
        assert self.pauses(caplog)[-1] == "0.02"

    def pauses(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        """Seconds before each start of a worker while another was at work."""
        return re.findall(r"another starts in (\S+) s; others at work: 1", caplog.text)

    def test_workers_that_never_get_ready_end_it(self) -> None:
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        try:
            supervisor = Supervisor(_broken, listeners, 1, lambda: None)
            with pytest.raises(WorkersFailedError, match="end before they are ready"):
                supervisor.run()
        finally:
            for listener in listeners:
                listener.close()


def _greet(broken: int, listener: socket.socket, ready: Any) -> None:
    """A worker that greets its clients, but for the one with this listener."""
    if os.fstat(listener.fileno()).st_ino == broken:
        raise ValueError("this one can't work")
    listener.listen()
    ready()
    while True:
        with listener.accept()[0] as client:
            client.send(b"!")


def _wait_for_two_signals(listener: socket.socket, ready: Any) -> None:
    """A worker that does not end before."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())  # whichever thread the system gives a signal to
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)
    ready()
    seen = b""
    while len(seen) < 2:
        seen += reader.recv(2)


def _broken(listener: socket.socket, ready: Any) -> None:
    listener.close()
    raise ValueError("this one can't work")
