"""A conversation as a text, by a Jinja template in Hugging Face's form, in Jinja's sandbox."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

_LONGEST_PROMPT = 1 << 22
_RENDER_SECONDS = 5.0


class CompiledTemplate:
    """A template that is ready to render.

    Parameters
    ----------
    source : str
        Its text.
    names : mapping of str to str
        What it may refer to besides the conversation: ``eos_token`` and so on.

    Raises
    ------
    ValueError
        It is broken.
    ImportError
        jinja2 is not installed.
    """

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        self._names = dict(names)
        self._template = _compile(source)

    def render(self, conversation: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """The text of a conversation, whose turns have ``role`` and ``content``.

        Raises
        ------
        ValueError
            The template refuses the conversation, takes too long, or makes too long a text of it.
        """
        from jinja2 import TemplateError

        turns = list(map(dict, conversation))
        pieces, length, end = [], 0, time.monotonic() + _RENDER_SECONDS
        values = {**self._names, "messages": turns, "add_generation_prompt": add_generation_prompt}
        try:
            for piece in self._template.generate(values):
                pieces.append(piece)
                length += len(piece)
                if length > _LONGEST_PROMPT or time.monotonic() > end:
                    raise ValueError("The chat template makes too much of these messages.")
        except (TemplateError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
            raise ValueError(f"The chat template refuses these messages: {error}") from None
        return "".join(pieces)


def _compile(source: str) -> Template:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ImportError("chat templates need the package jinja2: pip install 'gpt2fast[server]'") from None

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=False, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = time.strftime
    environment.filters["tojson"] = to_json
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ValueError(f"the chat template is broken: {error}") from None
