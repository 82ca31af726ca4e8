"""Runs models that our engine does not run, in ONNX Runtime, in a process of its own, after a check."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, BufferedWriter
from pathlib import Path
from threading import Timer
from typing import Any, cast

from numpy.typing import NDArray

from gpt2fast.checkpoints import onnx_child
from gpt2fast.checkpoints.onnx_limits import OnnxLimits
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import find_inside, read_bytes, stored_bytes

_MAX_MODEL_BYTES = (1 << 31) - 1
#: What a graph may take: so much, and so many times its model's bytes.
MEMORY_BYTES, MEMORY_FACTOR = 512 << 20, 8
#: The most bytes of outputs: so many, and so many times its model's.
OUTPUT_BYTES, OUTPUT_FACTOR = 64 << 20, 4
#: Of the processor, to load the model and again for each run: so many seconds, and more for each GiB.
SECONDS, SECONDS_FOR_GIB = 60, 120
#: Of the clock, for a process that waits for something, or where the system limits no processor time.
CLOCK_FACTOR = 10
_START_SECONDS = 600.0

_NO_PROCESS = (
    "an ONNX file is run once to check it, by ONNX Runtime in a process of its own, which can't be started "
    "(convert the file with `gpt2fast convert`, and load the directory)"
)


@dataclass(frozen=True)
class Declared:
    """An input of a graph, as ONNX Runtime declares it: a type like ``tensor(float)``; sizes may be names."""

    name: str
    type: str
    shape: Sequence[int | str | None]

    def __post_init__(self) -> None:
        texts = isinstance(self.name, str) and isinstance(self.type, str)
        if not texts or not all(size is None or isinstance(size, int | str) for size in self.shape):
            raise TypeError(f"{self!r:.100}")


class Session:
    """A graph in another process.

    Attributes
    ----------
    inputs : list of Declared
    output_names : list of str
    max_output_bytes : int
        The most that a run may give.
    """

    def __init__(self, process: subprocess.Popen[bytes], path: Path, data: bytes, folder: Path, size: int):
        self._process = process
        self._stdin, self._stdout = cast(BufferedWriter, process.stdin), cast(BufferedReader, process.stdout)
        self._memory_bytes = MEMORY_BYTES + MEMORY_FACTOR * size
        self.max_output_bytes = OUTPUT_BYTES + OUTPUT_FACTOR * size
        self._seconds = SECONDS + SECONDS_FOR_GIB * size // (1 << 30)
        self._out_of_time = False
        self._start(len(data), folder)
        fields, _ = self._ask(partial(self._stdin.write, data), path, "can't load it")
        try:
            self.inputs = [Declared(*one) for one in fields["inputs"]]
            self.output_names = [str(name) for name in fields["outputs"]]
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path}: ONNX Runtime's inputs are refused: {error}") from None

    def run(self, feeds: Mapping[str, NDArray[Any]], place: Path) -> list[NDArray[Any]]:
        """All outputs for these inputs; a ModelError names ``place``."""
        send = partial(onnx_child.write_message, self._stdin, {"inputs": list(feeds)}, list(feeds.values()))
        outputs = self._ask(send, place, "can't run it")[1]
        if len(outputs) != len(self.output_names):
            raise ModelError(f"{place}: ONNX Runtime gave {len(outputs)} outputs")
        return outputs

    def _start(self, model_bytes: int, folder: Path) -> None:
        settings = {
            "path": [entry for entry in sys.path if isinstance(entry, str)],
            "parent": os.getpid(),
            "folder": str(folder),
            "model_bytes": model_bytes,
            "memory_bytes": self._memory_bytes,
            "seconds": self._seconds,
        }
        fields = None
        with self._clock(_START_SECONDS), suppress(OSError, EOFError, ValueError):
            onnx_child.write_message(self._stdin, settings)
            fields, _ = onnx_child.read_message(self._stdout, 0)
        if fields is None:
            raise RuntimeError(f"{_NO_PROCESS}: {sys.executable!r}, sys.executable, does not run as Python")
        if "error" in fields:
            raise RuntimeError(f"{_NO_PROCESS}: {fields['error']}")

    def _ask(
        self, send: Callable[[], object], place: Path, fault: str
    ) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """What comes back, within the limits; any other end is a ModelError that says ``fault``."""
        try:
            with self._clock(self._seconds * CLOCK_FACTOR):
                send()
                self._stdin.flush()
                answer, outputs = onnx_child.read_message(self._stdout, self.max_output_bytes)
        except (OSError, EOFError):
            raise self._ended(place) from None
        except ValueError as error:
            raise ModelError(f"{place}: ONNX Runtime's outputs are refused: {error}") from None
        if "error" not in answer:
            return answer, outputs
        if answer.get("no_memory"):
            raise ModelError(f"{place}: its graph takes more than {self._memory}: {answer['error']}")
        raise ModelError(f"{place}: ONNX Runtime {fault}: {answer['error']}")

    def _ended(self, place: Path) -> ModelError:
        """Why the process ended, or is about to: a pipe is closed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        status = self._process.returncode
        if self._out_of_time or status == -getattr(signal, "SIGXCPU", 0):
            return ModelError(
                f"{place}: its graph takes more than {self._seconds} seconds of the processor, or "
                f"{self._seconds * CLOCK_FACTOR} of the clock, in ONNX Runtime"
            )
        return ModelError(
            f"{place}: its graph ended ONNX Runtime's process (status {status}), which had {self._memory}"
        )

    @property
    def _memory(self) -> str:
        return f"{self._memory_bytes >> 20} MiB of memory"

    @contextmanager
    def _clock(self, seconds: float) -> Iterator[None]:
        """End the process after so many seconds."""
        timer = Timer(seconds, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._out_of_time = True
        self._process.kill()


@contextmanager
def open_session(path: Path) -> Iterator[Session]:
    """A graph in ONNX Runtime on the CPU, of the bytes that were checked, in a process of its own.

    Its memory is limited on Linux, its time everywhere. The process ends with the context.

    Raises
    ------
    ModelError
        The model is broken, its external data is not in regular files beside it, or ONNX Runtime refuses it.
    RuntimeError
        There is no Python to start.
    """
    resolved = Path(os.path.realpath(path))
    data = read_bytes(resolved, _MAX_MODEL_BYTES)
    data, folder, external = _with_resolved_links(data, path)
    size = sum(map(stored_bytes, {resolved, *external}))
    process = _start_process()
    try:
        session = Session(process, path, data, folder, size)
        del data  # of up to two gigabytes
        yield session
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # of what could not be written
                pipe.close()  # type: ignore[union-attr]
        process.wait()


def _start_process() -> subprocess.Popen[bytes]:
    if not sys.executable or getattr(sys, "frozen", False):
        raise RuntimeError(f"{_NO_PROCESS}: sys.executable is {sys.executable!r}")
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    try:
        return subprocess.Popen(
            # Isolated from the environment and the user's site; its search path comes in the first message.
            [sys.executable, "-I", "-S", onnx_child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **one_thread},
        )
    except OSError as error:
        raise RuntimeError(f"{_NO_PROCESS}: {error}") from None


def _with_resolved_links(data: bytes, path: Path) -> tuple[bytes, Path, set[Path]]:
    """The model, the folder of its external data, which is where links of the hub's cache lead to, its files.

    ONNX Runtime takes no links out of a folder. Raises ModelError unless every external tensor lies in a
    regular file beside the model.
    """
    from onnx import ModelProto, TensorProto

    OnnxLimits(str(path)).check(data, ModelProto)
    try:
        model = ModelProto.FromString(data)
    except Exception as error:  # protobuf's DecodeError derives from Exception
        raise ModelError(f"{path}: not an ONNX model, or cut short: {error}") from None
    external = [tensor for tensor in _tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    entries = [entry for tensor in external for entry in tensor.external_data if entry.key == "location"]
    if len(entries) != len(external):
        raise ModelError(f"{path}: an external tensor names no file, or several")
    places = {}
    for location in sorted({entry.value for entry in entries}):
        found = find_inside(path.parent, location.removeprefix("./"))
        if found is None:
            raise ModelError(f"{path}: its weights are in {location!r}, which is not beside it")
        places[location] = found
    home = Path(os.path.realpath(path.parent))
    folders = {place.parent for place in places.values()}
    if folders <= {home} or len(folders) > 1:
        return data, home, set(places.values())
    for entry in entries:
        entry.value = places[entry.value].name
    return model.SerializeToString(), folders.pop(), set(places.values())


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of a model, wherever it is; OnnxLimits has bounded how deep graphs are nested."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)
    for info in model.training_info:
        yield from _graph_tensors(info.initialization)
        yield from _graph_tensors(info.algorithm)


def _graph_tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Sequence[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (attribute.g, *attribute.graphs):
                if inner.ByteSize():
                    yield from _graph_tensors(inner)
