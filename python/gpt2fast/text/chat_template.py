"""A conversation as a text, by a Jinja template in Hugging Face's form, in a sandbox with bounds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

    from gpt2fast.text.bounded_jinja import BoundedEnvironment

_LONGEST_PROMPT = 1 << 22


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
        self._environment = _environment()
        self._template = _compile(self._environment, source)

    def render(
        self, conversation: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, **variables: Any
    ) -> str:
        """The text of a conversation, whose turns have ``role`` and ``content``; None counts as not given.

        ``variables`` are what else the template may refer to; ``tools`` and ``documents`` are None unless
        they are among them, as in ``transformers``.

        Raises
        ------
        ValueError
            The template refuses the conversation, takes too long, or makes too long a text of it.
        """
        turns = [{key: value for key, value in turn.items() if value is not None} for turn in conversation]
        pieces, length = [], 0
        values = {"tools": None, "documents": None, **self._names, **variables}
        values |= {"messages": turns, "add_generation_prompt": add_generation_prompt}
        self._environment.begin()
        try:
            for piece in self._template.generate(values):
                pieces.append(piece)
                length += len(piece)
                if length > _LONGEST_PROMPT:
                    raise ValueError("it makes too much of them")
        except Exception as error:  # a template is a program, which may raise whatever its functions do
            raise ValueError(
                f"The chat template refuses these messages: {str(error) or 'no memory'}"
            ) from None
        return "".join(pieces)


def _environment() -> BoundedEnvironment:
    try:
        from jinja2 import TemplateError

        from gpt2fast.text.bounded_jinja import BoundedEnvironment, GenerationTag
    except ImportError:
        raise ImportError("chat templates need the package jinja2: pip install 'gpt2fast[server]'") from None

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag]
    )
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = time.strftime
    return environment


def _compile(environment: BoundedEnvironment, source: str) -> Template:
    environment.begin()
    try:
        return environment.from_string(source)
    except Exception as error:  # Python's compiler has limits of its own
        raise ValueError(f"the chat template is broken: {error}") from None
