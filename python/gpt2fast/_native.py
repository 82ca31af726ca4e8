"""Loads the C++ core and ONNX Runtime's library; the only importer of ``_core``."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


def _refuse_subinterpreters() -> None:
    """Raise ImportError in any but the main interpreter, whose lock the core's threads wait for."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # from Python 3.13 on, and before
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        if interpreters.get_current() != interpreters.get_main():
            raise ImportError(
                "gpt2fast runs in the main interpreter of a process only, not in subinterpreters"
            )
        return


_refuse_subinterpreters()

from gpt2fast import _core as core  # noqa: E402  after the check

__all__ = ["Runtime", "core", "find_library", "load_runtime"]

#: Environment variable that names the library, for those who built their own.
LIBRARY_VARIABLE = "GPT2FAST_ORT_LIBRARY"

_INSTALL = 'install it with: pip install "onnxruntime>=1.20.1"'
_PATTERNS = {"win32": "onnxruntime.dll", "darwin": "libonnxruntime.*dylib"}
# A thread that returns from the core after the interpreter has ended would abort the process.
atexit.register(core.end_all_calls)

_lock = threading.Lock()
_runtime: Runtime | None = None


@dataclass(frozen=True)
class Runtime:
    """The loaded ONNX Runtime: its version, and the library's file."""

    version: str
    path: Path


def find_library() -> Path:
    """The ONNX Runtime library: the one ``GPT2FAST_ORT_LIBRARY`` names, or the installed package's.

    The package is found without being imported.

    Raises
    ------
    ImportError
        There is none; the message says what was searched for, where, and what to install.
    """
    override = os.environ.get(LIBRARY_VARIABLE)
    if override:
        path = Path(override)
        if not path.is_file():
            raise ImportError(f"{LIBRARY_VARIABLE} names {override!r}, which is not a file")
        return path
    pattern = _PATTERNS.get(sys.platform, "libonnxruntime.so.*")
    spec = find_spec("onnxruntime")
    folders = [Path(place) / "capi" for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in folders:
        found = sorted(folder.glob(pattern))
        if found:
            return found[-1]
    looked = f"in {', '.join(map(str, folders))}" if folders else "no package 'onnxruntime' is installed"
    raise ImportError(
        f"gpt2fast needs ONNX Runtime's library ({pattern}) and found none: {looked}; {_INSTALL}"
    )


def load_runtime() -> Runtime:
    """Load ONNX Runtime once in this process; later calls are cheap.

    Raises
    ------
    ImportError
        The library is missing, too old or broken.
    """
    global _runtime
    with _lock:
        if _runtime is None:
            path = find_library()
            try:
                version = core.load_library(str(path))
            except ImportError as error:
                raise ImportError(f"{error}; {_INSTALL}") from None
            _runtime = Runtime(version, path)
        return _runtime
