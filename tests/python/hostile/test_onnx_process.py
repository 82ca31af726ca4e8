"""Graphs that take memory or time out of proportion run in a process that ends, and ours goes on."""

from __future__ import annotations

import io
import json
import os
import select
import struct
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gpt2fast import GPT2
from gpt2fast.checkpoints import onnx_session
from gpt2fast.checkpoints.onnx_child import MAX_FIELDS_BYTES, read_message
from gpt2fast.checkpoints.onnx_graph import open_onnx
from gpt2fast.checkpoints.onnx_session import open_session
from gpt2fast.checkpoints.onnx_verify import verify_against_source
from gpt2fast.errors import ModelError
from gpt2fast.export.standard import StandardOptions, export_onnx
from gpt2fast.export.verify import verify_model
from support.zoo_samples import random_checkpoint

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")


def save(path: Path, nodes: list[Any], constants: dict[str, Any], kind: int = TensorProto.FLOAT) -> Path:
    """A graph from ``x``, a vector of floats, to ``y``."""
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def doubling(path: Path, times: int) -> Path:
    """Sums what has 2 ** times floats for each that comes in."""
    names = ["x", *(f"x{number}" for number in range(times))]
    nodes = [helper.make_node("Concat", [one, one], [two], axis=0) for one, two in pairwise(names)]
    return save(path, [*nodes, helper.make_node("ReduceSum", [names[-1]], ["y"])], {})


def endless(path: Path) -> Path:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["in"], ["out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("out", TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["count", "true", "x"], ["y"], body=body)]
    return save(path, nodes, {"count": np.int64(1 << 62), "true": True})


def run(path: Path, count: int = 1) -> Any:
    with open_session(path) as session:
        return session.run({"x": np.ones(count, np.float32)}, path)[0]


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@linux
@pytest.mark.parametrize(
    ("times", "fits"), [(20, True), (26, False), (40, False)], ids=["8 MB", "512 MB", "8 TB"]
)
def test_memory_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, fits: bool) -> None:
    monkeypatch.setattr(onnx_session, "MEMORY_BYTES", 128 << 20)
    path = doubling(tmp_path / "model.onnx", times)
    if fits:
        assert run(path) == 2.0**times
        return
    with pytest.raises(ModelError, match=r"model\.onnx: its graph .* 128 MiB of memory"):
        run(path)


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from gpt2fast.checkpoints.onnx_session import open_session
path = Path(sys.argv[1])
try:
    with open_session(path) as session:
        session.run({"x": np.ones(1, np.float32)}, path)
except ValueError:
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)
"""


@linux
def test_the_limit_is_what_a_small_graph_takes(tmp_path: Path) -> None:
    """Gigabytes are asked for in steps that fit."""
    path = doubling(tmp_path / "model.onnx", 33)
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 800


@linux
def test_constants_that_are_folded_count(tmp_path: Path) -> None:
    """The memory is asked for while the model is loaded."""
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["large"]),
        helper.make_node("Sin", ["large"], ["larger"]),
        helper.make_node("Add", ["larger", "x"], ["y"]),
    ]
    path = save(tmp_path / "model.onnx", nodes, {"size": np.array([1 << 31])})
    with pytest.raises(ModelError, match=r"model\.onnx: its graph .* 512 MiB of memory"):
        run(path)


def test_outputs_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_session, "OUTPUT_BYTES", 1 << 20)
    monkeypatch.setattr(onnx_session, "OUTPUT_FACTOR", 0)
    path = save(tmp_path / "model.onnx", [helper.make_node("Sin", ["x"], ["y"])], {})
    assert run(path, 1 << 18).shape == (1 << 18,)
    with pytest.raises(ModelError, match=r"outputs are refused: arrays of 1048580 bytes"):
        run(path, (1 << 18) + 1)


@pytest.mark.skipif(sys.platform == "win32", reason="only the clock is limited")
def test_time_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_session, "SECONDS", 1)
    monkeypatch.setattr(onnx_session, "CLOCK_FACTOR", 100)
    with pytest.raises(
        ModelError, match=r"model\.onnx: its graph takes more than 1 seconds of the processor"
    ):
        run(endless(tmp_path / "model.onnx"))


def test_the_clock_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = endless(tmp_path / "model.onnx")
    with open_session(path) as session:
        monkeypatch.setattr(onnx_session, "CLOCK_FACTOR", 0.01)
        with pytest.raises(ModelError, match=r"or 0\.6 of the clock"):
            session.run({"x": np.ones(1, np.float32)}, path)


@linux
def test_conversion_refuses_a_graph_that_takes_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a whole GPT-2 lies an output of 16 GB."""
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(), path, StandardOptions())
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 32]), "size"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["more"]))
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, None))
    path.write_bytes(model.SerializeToString())
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"model\.onnx: its graph .* MiB of memory"):
        GPT2.from_pretrained(path, tokenizer=None)


@pytest.mark.parametrize("shape", [[1, 1 << 40], [1 << 24, 8], [1 << 62, 1 << 62]])
def test_inputs_of_our_own_are_limited(tmp_path: Path, shape: list[int]) -> None:
    """A graph says how many tokens it takes; NumPy runs as many in our process."""
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(), path, StandardOptions())
    model = onnx.load(path)
    for size, wanted in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        size.dim_value = wanted
    path.write_bytes(model.SerializeToString())
    checkpoint = open_onnx(path)
    tracemalloc.start()
    try:
        with pytest.raises(
            ModelError, match=r"model\.onnx: .*(more than its check may take|MiB of memory|can't load it)"
        ):
            verify_against_source(checkpoint, path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@linux
def test_verify_refuses_a_graph_that_takes_too_much(tmp_path: Path) -> None:
    path = doubling(tmp_path / "model.onnx", 40)
    (tmp_path / "test_data_set_0").mkdir()
    for name, values in (("input_0.pb", np.ones(1, np.float32)), ("output_0.pb", np.ones(1, np.float32))):
        data = numpy_helper.from_array(values).SerializeToString()
        (tmp_path / "test_data_set_0" / name).write_bytes(data)
    with pytest.raises(ModelError, match=r"test_data_set_0: its graph .* 512 MiB of memory"):
        verify_model(path)


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", [helper.make_node("Sin", ["x"], ["y"])], {})
    with open_session(path) as session:
        session._process.kill()
        with pytest.raises(ModelError, match=r"model\.onnx: its graph ended ONNX Runtime's process \(status"):
            session.run({"x": np.ones(1, np.float32)}, path)


def test_outputs_that_are_no_numbers(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)]
    path = save(tmp_path / "model.onnx", nodes, {}, TensorProto.STRING)
    with pytest.raises(ModelError, match=r"can't run it: an output is not an array of numbers"):
        run(path)


@linux
@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ModelError])
def test_nothing_is_left(tmp_path: Path, error: type[BaseException] | None) -> None:
    path = save(tmp_path / "model.onnx", [helper.make_node("Sin", ["x"], ["y"])], {})
    run(path)
    before = descriptors()
    sessions = []
    with nullcontext() if error is None else pytest.raises(error), open_session(path) as session:
        sessions.append(session)
        if error is not None:
            raise error
    assert sessions[0]._process.returncode is not None
    assert descriptors() == before


@linux
def test_the_process_ends_with_ours(tmp_path: Path) -> None:
    """Also in the middle of a run, and when ours is killed."""
    program = f"""
import sys, threading
from pathlib import Path
import numpy as np
from gpt2fast.checkpoints.onnx_session import open_session
path = Path({str(endless(tmp_path / "model.onnx"))!r})
with open_session(path) as session:
    print(session._process.pid, flush=True)
    session.run({{"x": np.ones(1, np.float32)}}, path)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as ours:
        assert ours.stdout is not None
        handle = os.pidfd_open(int(ours.stdout.readline()))
        try:
            ours.kill()
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            assert ended.poll(20_000)
        finally:
            os.close(handle)


def test_several_threads_at_once(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", [helper.make_node("Add", ["x", "x"], ["y"])], {})
    with ThreadPoolExecutor(4) as pool:
        for count, found in zip(
            range(1, 9), pool.map(lambda count: run(path, count), range(1, 9)), strict=True
        ):
            assert found.tolist() == [2.0] * count


@pytest.mark.parametrize("program", ["", "true", "absent"])
def test_without_a_python_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    path = save(tmp_path / "model.onnx", [helper.make_node("Sin", ["x"], ["y"])], {})
    monkeypatch.setattr(sys, "executable", f"/bin/{program}" if program else "")
    with pytest.raises(RuntimeError, match=r"which can't be started .*gpt2fast convert"):
        run(path)


def test_a_frozen_program_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "model.onnx", [helper.make_node("Sin", ["x"], ["y"])], {})
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(RuntimeError, match="can't be started"):
        run(path)


def test_variables_of_python_are_not_the_childs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)", "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run(save(tmp_path / "model.onnx", [helper.make_node("Neg", ["x"], ["y"])], {})).tolist() == [-1.0]


def message(fields: Any, data: bytes = b"") -> bytes:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (struct.pack("<Q", MAX_FIELDS_BYTES + 1), "more than 1048576"),
        (message(b"no JSON"), "Expecting value"),
        (message(b"\xff\xff"), "can't decode"),
        (message(b"[" * 100_000), "no message"),
        (message([]), "no message"),
        (message({}), "no message: 'arrays'"),
        (message({"arrays": 3}), "no message"),
        (message({"arrays": [["float32", [None]]]}), "no message"),
        (message({"arrays": [["float32", [float("inf")]]]}), "no message"),
        (message({"arrays": [["object", [1]]]}), "values of the type 'object'"),
        (message({"arrays": [["float32", [-1, -4]]]}), r"float32 \[-1, -4\]"),
        (message({"arrays": [["float32", [1 << 62, 1 << 62]]]}), "beyond 64"),
        (message({"arrays": [["float32", [17]]]}), "arrays of 68 bytes"),
        (message({"arrays": [["float32", [9]], ["int8", [29]]]}, bytes(65)), r"int8 \[29\], beyond 28"),
        (message({"arrays": [["int8", [1] * 65]]}, b"\0"), "maximum"),
    ],
)  # fmt: skip
def test_answers_that_are_no_messages(sent: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read_message(io.BufferedReader(io.BytesIO(sent)), 64)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 4, 20, 40, 60])
def test_answers_that_end_early(size: int) -> None:
    sent = message({"arrays": [["float32", [2, 3]]]}, bytes(range(24)))
    with pytest.raises(EOFError):
        read_message(io.BufferedReader(io.BytesIO(sent[:size])), 64)  # type: ignore[arg-type]
    fields, arrays = read_message(io.BufferedReader(io.BytesIO(sent)), 24)  # type: ignore[arg-type]
    assert fields == {}
    assert arrays[0].tobytes() == bytes(range(24))
    assert arrays[0].shape == (2, 3)
