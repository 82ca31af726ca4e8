"""Which of a process's Python interpreters this is."""

from __future__ import annotations

from importlib import import_module


def refuse_subinterpreters() -> None:
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
