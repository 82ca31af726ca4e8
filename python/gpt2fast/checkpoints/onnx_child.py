"""The process that runs a stranger's graph in ONNX Runtime, within limits, and how it speaks with its parent.

The parent runs this file as a script, so it imports nothing of the package: it starts in the time that ONNX
Runtime takes. A message is the length of its JSON, the JSON, and the arrays that it names, as plain bytes.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from io import BufferedReader, BufferedWriter
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The most bytes of a message's JSON; a GPT-2 of 48 layers declares 100 inputs and outputs.
MAX_FIELDS_BYTES = 1 << 20
_SIZES = ("8", "16", "32", "64")
DTYPES = frozenset(
    ("bool", "float16", "float32", "float64", *(kind + size for kind in ("int", "uint") for size in _SIZES))
)
#: The words of ONNX Runtime, and of C++, where there is no memory.
_NO_MEMORY = ("bad_alloc", "bad allocation", "allocate memory", "out of memory", "length_error")
# The setting of a session for the folder of the external data of a model in memory.
_FOLDER_OF_EXTERNAL_DATA = "session.model_external_initializers_file_folder_path"
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
# Linux's Landlock: numbers of its calls, and the rights that each version knows, as in linux/landlock.h.
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_VERSION = 1
_READING = 1 << 2 | 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP, _TCP_SINCE = 1 << 0 | 1 << 1, 4
_SCOPES, _SCOPES_SINCE = 1 << 0 | 1 << 1, 6


def write_message(
    stream: BufferedWriter, fields: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()
) -> None:
    """Send fields and arrays."""
    described = {**fields, "arrays": [[array.dtype.name, array.shape] for array in arrays]}
    text = json.dumps(described).encode()
    stream.write(struct.pack("<Q", len(text)) + text)
    for array in arrays:
        import numpy as np

        stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    stream.flush()


def read_message(stream: BufferedReader, max_array_bytes: int) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Fields and arrays from a process that may send anything.

    Raises
    ------
    EOFError
        The other side ended.
    ValueError
        It sent something else than a message, or one that is too large.
    """
    (size,) = struct.unpack("<Q", read_exactly(stream, 8))
    if size > MAX_FIELDS_BYTES:
        raise ValueError(f"names and shapes of {size} bytes, more than {MAX_FIELDS_BYTES}")
    try:
        fields = json.loads(read_exactly(stream, size))
        described = [(str(name), tuple(map(int, shape))) for name, shape in fields.pop("arrays")]
    except (AttributeError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no message: {error}") from None
    arrays = []
    for name, shape in described:
        if name not in DTYPES:
            raise ValueError(f"values of the type {name[:40]!r}")
        array = _read_array(stream, name, shape, max_array_bytes)
        max_array_bytes -= array.nbytes
        arrays.append(array)
    return fields, arrays


def _read_array(stream: BufferedReader, dtype: str, shape: tuple[int, ...], max_bytes: int) -> NDArray[Any]:
    import numpy as np

    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > max_bytes or min(shape, default=0) < 0:
        raise ValueError(f"arrays of {size} bytes more, {dtype} {str(list(shape))[:80]}, beyond {max_bytes}")
    array = np.empty(shape, dtype)
    rest = memoryview(array.reshape(-1).view(np.uint8).data)
    while rest:
        count = stream.readinto(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return array


def read_exactly(stream: BufferedReader, size: int) -> bytes:
    """So many bytes, or EOFError."""
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def main() -> None:
    """Take settings, a model and inputs from standard input, as long as it is open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the parent's to handle
    # What native code prints must not come between the messages.
    requests, answers = cast(BufferedReader, sys.stdin.buffer), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with suppress(EOFError, BrokenPipeError):
        settings, _ = read_message(requests, 0)
        _end_with(settings["parent"])
        sys.path[:] = settings["path"]
        session = _answer(answers, partial(_session, requests, answers, settings))
        while session is not None:
            feeds = read_message(requests, sys.maxsize)
            _answer(answers, partial(_run, session, settings["seconds"], *feeds))


def _answer(answers: BufferedWriter, work: Callable[[], tuple[Any, dict[str, Any], list[Any]]]) -> Any:
    """Send fields and arrays that ``work`` gives, and return what else it does; None if it failed."""
    try:
        result, fields, arrays = work()
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        text = str(error) or type(error).__name__
        no_memory = isinstance(error, MemoryError) or any(word in text for word in _NO_MEMORY)
        result, arrays = None, []
        fields = {"error": text[: MAX_FIELDS_BYTES // 16], "no_memory": no_memory}
    write_message(answers, fields, arrays)
    return result


def _session(
    requests: BufferedReader, answers: BufferedWriter, settings: dict[str, Any]
) -> tuple[Any, dict[str, Any], list[Any]]:
    confine()  # before the library starts a thread, which would keep its rights
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    _allow_none("RLIMIT_NPROC")  # threads and processes; root may still start some
    _limit_memory(settings["memory_bytes"])
    _limit_time(settings["seconds"])
    write_message(answers, {"ready": True})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # A pool's threads and an arena's reserves would take memory from what the graph may have.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry(_FOLDER_OF_EXTERNAL_DATA, settings["folder"])
    session = onnxruntime.InferenceSession(
        read_exactly(requests, settings["model_bytes"]), options, providers=["CPUExecutionProvider"]
    )
    _allow_none("RLIMIT_NOFILE")  # the model is loaded with its external data
    inputs = [[one.name, one.type, one.shape] for one in session.get_inputs()]
    return session, {"inputs": inputs, "outputs": [one.name for one in session.get_outputs()]}, []


def _run(
    session: Any, seconds: int, names: dict[str, Any], feeds: list[NDArray[Any]]
) -> tuple[None, dict[str, Any], list[Any]]:
    import numpy as np

    _limit_time(seconds)
    outputs = session.run(None, dict(zip(names["inputs"], feeds, strict=True)))
    for output in outputs:
        if not isinstance(output, np.ndarray) or output.dtype.name not in DTYPES:
            raise TypeError("an output is not an array of numbers")
    return None, {}, outputs


def confine() -> None:
    """Give up what no graph needs, where the system has such limits, in case a graph takes this process over.

    It writes no files, and on Linux with Landlock changes and runs no files, makes no connections by TCP, and
    signals no other process. It can still read what its user can.
    """
    _allow_none("RLIMIT_FSIZE")
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _restrict_files(libc)


def _restrict_files(libc: ctypes.CDLL) -> None:
    """Rights to read alone; nothing happens where the kernel has no Landlock."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return
    files = (1 << _FILE_RIGHTS.get(version, max(_FILE_RIGHTS.values()))) - 1
    rights = [files & ~_READING]
    if version >= _TCP_SINCE:
        rights.append(_TCP)
    if version >= _SCOPES_SINCE:
        rights.append(_SCOPES)
    attributes = struct.pack(f"={len(rights)}Q", *rights)
    ruleset = libc.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    if ruleset >= 0:
        libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
        os.close(ruleset)


def _allow_none(limit: str) -> None:
    """Set one of the system's limits to nothing, where it has them."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(getattr(resource, limit), (0, 0))


def _limit_memory(more: int) -> None:
    """Let this process map so many bytes more than it has; only Linux says how many it has."""
    if not sys.platform.startswith("linux"):
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    _limit(resource.RLIMIT_AS, mapped + more, resource.getrlimit(resource.RLIMIT_AS))
    _limit(resource.RLIMIT_CORE, 0, resource.getrlimit(resource.RLIMIT_CORE))


def _limit_time(seconds: int) -> None:
    """Let this process use so much of the processor from now on, where the system can tell."""
    if sys.platform == "win32":
        return
    import resource

    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]  # the other is of the run before
    _limit(resource.RLIMIT_CPU, math.ceil(sum(os.times()[:2])) + seconds, (hard, hard))


def _limit(kind: int, limit: int, inherited: tuple[int, int]) -> None:
    """Set a limit, unless one that was inherited is lower."""
    import resource

    known = [one for one in inherited if one != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min([limit, *known]), inherited[1]))


def _end_with(parent: int) -> None:
    """End this process when its parent ends, at once on Linux; elsewhere by the pipe, after what it runs."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            raise EOFError


if __name__ == "__main__":
    main()
