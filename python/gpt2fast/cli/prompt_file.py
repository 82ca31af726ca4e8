"""A file of prompts: JSON lines, all of them checked before any work is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

from gpt2fast._validation import is_bool, shown
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import open_regular, parse_json_object

#: The longest line that is read.
MAX_LINE_BYTES = 16 << 20

_Prompt: TypeAlias = "str | list[int]"


@dataclass(frozen=True)
class PromptLine:
    """One prompt: its line's number, from 1, and the caller's name for it, if any."""

    number: int
    prompt: _Prompt
    id: str | int | None


class PromptFile:
    """Prompts, read line by line as often as needed.

    Each line is an object with the fields ``prompt`` (text, or a list of token ids) and, if the caller wants
    it, ``id`` (text or an integer), which goes to the result.

    Parameters
    ----------
    path : path
        A regular file.
    accept : callable
        Raises TypeError or ValueError for a prompt that the model can't take.

    Attributes
    ----------
    lines : int
        How many there are.
    sha256 : str
        Hash of the content.

    Raises
    ------
    ModelError, ValueError
        A line is wrong; the message begins with the file's name and the line's number.
    """

    def __init__(self, path: str | os.PathLike[str], accept: Callable[[_Prompt], object]) -> None:
        self._path = Path(path)
        self.lines = 0
        content = sha256()
        for where, raw in self._raw_lines():
            content.update(raw)
            self.lines += 1
            try:
                accept(self._parsed(self.lines, where, raw).prompt)
            except (TypeError, ValueError) as error:
                if isinstance(error, ModelError):
                    raise
                raise ValueError(f"{where}: {error}") from None
        self.sha256 = content.hexdigest()

    def __iter__(self) -> Iterator[PromptLine]:
        content = sha256()
        for number, (where, raw) in enumerate(self._raw_lines(), 1):
            content.update(raw)
            yield self._parsed(number, where, raw)
        if content.hexdigest() != self.sha256:
            raise ModelError(f"{self._path}: changed while it was being read; start over with another output")

    def _raw_lines(self) -> Iterator[tuple[str, bytes]]:
        with open_regular(Path(os.path.realpath(self._path))) as file:
            for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
                where = f"{self._path}, line {number}"
                if len(raw) == MAX_LINE_BYTES:
                    raise ModelError(f"{where}: longer than {MAX_LINE_BYTES} bytes")
                yield where, raw

    def _parsed(self, number: int, where: str, raw: bytes) -> PromptLine:
        fields = parse_json_object(raw, where)
        unknown = sorted(fields.keys() - {"prompt", "id"})
        if unknown:
            raise ModelError(
                f"{where}: unknown field {unknown[0]!r}; a line has 'prompt', and 'id' if you like"
            )
        if "prompt" not in fields:
            raise ModelError(f"{where}: has no 'prompt'")
        prompt, name = fields["prompt"], fields.get("id")
        ids = isinstance(prompt, list) and len(prompt) > 0 and set(map(type, prompt)) == {int}
        if not ids and not isinstance(prompt, str):
            raise ModelError(f"{where}: prompt must be text or a list of token ids, got {shown(prompt)}")
        if not _is_name(name):
            raise ModelError(f"{where}: id must be text or an integer, got {shown(name)}")
        return PromptLine(number, prompt, name)


def _is_name(value: Any) -> bool:
    return value is None or isinstance(value, str) or (isinstance(value, int) and not is_bool(value))
