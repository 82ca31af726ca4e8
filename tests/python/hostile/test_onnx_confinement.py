"""What a graph that takes ONNX Runtime's process over could still do with it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gpt2fast.checkpoints import onnx_session
from gpt2fast.checkpoints.onnx_session import open_session
from gpt2fast.storage.files import stored_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limits")

_LANDLOCK_CREATE = 444


def landlock() -> int:
    """The version that the kernel has; -1 without."""
    return int(ctypes.CDLL(None).syscall(_LANDLOCK_CREATE, None, 0, 1)) if sys.platform == "linux" else -1


def model(path: Path, count: int = 4) -> Path:
    """A sum with numbers that are in a file beside it."""
    weights = numpy_helper.from_array(np.arange(count, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [count])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [count])],
        [weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(made, path, save_as_external_data=True, location="weights", size_threshold=0)
    return path


ATTEMPTS = """
import json, os, socket, subprocess, sys
from gpt2fast.checkpoints.onnx_child import confine
home, port, parent = sys.argv[1], int(sys.argv[2]), os.getppid()
attempts = {
    "read": lambda: open(f"{home}/there").read(),
    "write": lambda: os.write(os.open(f"{home}/there", os.O_WRONLY), b"x"),
    "create": lambda: os.open(f"{home}/new", os.O_CREAT | os.O_WRONLY),
    "remove": lambda: os.unlink(f"{home}/there"),
    "link": lambda: os.symlink("there", f"{home}/link"),
    "rename": lambda: os.rename(f"{home}/there", f"{home}/new"),
    "truncate": lambda: os.truncate(f"{home}/there", 0),
    "execute": lambda: subprocess.run(["/bin/true"], check=True),
    "connect": lambda: socket.create_connection(("127.0.0.1", port)),
    "signal": lambda: os.kill(parent, 0),
}
confine()
found = {}
for name, attempt in attempts.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""


@pytest.mark.skipif(landlock() < 6, reason="the kernel's Landlock is older, or there is none")
def test_files_can_be_read_alone(tmp_path: Path) -> None:
    import socket

    (tmp_path / "there").write_text("content", "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        program = [sys.executable, "-c", ATTEMPTS, str(tmp_path), port]
        run = subprocess.run(program, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found.pop("read") == "done"
    assert set(found.values()) == {"PermissionError"}, found
    assert sorted(os.listdir(tmp_path)) == ["there"]
    assert (tmp_path / "there").read_text("utf-8") == "content"


def test_the_process_has_its_limits(tmp_path: Path) -> None:
    """It runs a graph when it can open no file."""
    import resource

    path = model(tmp_path / "model.onnx")
    with open_session(path) as session:
        process = Path(f"/proc/{session._process.pid}")
        assert session.run({"x": np.ones(4, np.float32)}, path)[0].tolist() == [1, 2, 3, 4]
        for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
            assert resource.prlimit(session._process.pid, kind) == (0, 0)
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
        assert status["NoNewPrivs"] == "1"
        # Pipes for messages, and where nothing is heard.
        open_files = {os.readlink(one).partition(":")[0] for one in (process / "fd").iterdir()}
        assert open_files <= {"pipe", "/dev/null"}


def test_holes_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a terabyte, made in an instant, would give its graph eight."""
    path = model(tmp_path / "model.onnx")
    with open(tmp_path / "weights", "r+b") as file:
        file.truncate(1 << 40)
    if os.stat(tmp_path / "weights").st_blocks > 1 << 20:
        pytest.skip("the disk stores holes")
    stored = stored_bytes(tmp_path / "weights")
    assert 16 <= stored <= 1 << 16
    with open_session(path) as session:
        whole = stored + stored_bytes(path)
        assert session.max_output_bytes == onnx_session.OUTPUT_BYTES + onnx_session.OUTPUT_FACTOR * whole


def test_stored_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    assert stored_bytes(path) == 10_000
    path.write_bytes(b"")
    assert stored_bytes(path) == 0
