"""Lines that the user types at a terminal, with editing and history, or that come through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

import click

_QUOTES = '"""'


class Lines:
    """Lines of standard input; those between triple quotes are one.

    Attributes
    ----------
    interactive : bool
        Whether they come from a terminal.
    """

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty()
        self._piped = iter(()) if self.interactive else _decoded(sys.stdin.buffer)
        if self.interactive:
            with suppress(ImportError):  # not on every system
                import readline  # noqa: F401 - gives input() its editing and its history

    def read(self) -> str | None:
        """The next line, without its line break; None when there is none.

        Raises
        ------
        ValueError
            It is not text.
        KeyboardInterrupt
            Ctrl-C at a terminal.
        """
        line = self._line(">>> ")
        if line is None or not line.startswith(_QUOTES):
            return line
        text = line.removeprefix(_QUOTES)
        while not text.endswith(_QUOTES):
            line = self._line("... ")
            if line is None:
                return text
            text = f"{text}\n{line}"
        return text.removesuffix(_QUOTES)

    def _line(self, prompt: str) -> str | None:
        if not self.interactive:
            return next(self._piped, None)
        if not sys.stdout.isatty():  # input() would write the prompt there
            click.echo(prompt, nl=False, err=True)
            prompt = ""
        try:
            return input(prompt)
        except EOFError:
            return None
        except UnicodeDecodeError as error:
            raise ValueError(f"the line is not UTF-8 text: {error.reason}") from None


def _decoded(stream: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        try:
            # Editors of Windows begin a text with a byte order mark.
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number} of standard input is not UTF-8 text: {error.reason}") from None
        yield text.removesuffix("\n").removesuffix("\r")
