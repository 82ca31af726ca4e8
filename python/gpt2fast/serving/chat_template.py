"""From a conversation to a prompt: by DialoGPT's turns, or a Jinja template that came with the model."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gpt2fast.serving.errors import bad_request
from gpt2fast.storage.files import MAX_CONFIG_BYTES, find_inside, read_text
from gpt2fast.storage.model_directory import CHAT_TEMPLATE_NAME

if TYPE_CHECKING:
    from jinja2 import Template

    from gpt2fast.serving.openai import Message
    from gpt2fast.storage.model_directory import ModelDirectory
    from gpt2fast.text.tokenizer import Tokenizer

LOG = logging.getLogger("gpt2fast.serving")

_LONGEST_PROMPT = 1 << 22
_RENDER_SECONDS = 5.0

#: DialoGPT's template, in the words of its tokenizer's configuration, spaces left out.
_TURNS = "{%formessageinmessages%}{{message.content}}{{eos_token}}{%endfor%}"


class ChatTemplate(Protocol):
    """Makes prompts of conversations."""

    #: As ``/tokenizer_info`` shows it.
    source: str

    async def prompt(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation; errors as of :class:`gpt2fast.serving.errors.ApiError`."""


class Turns:
    """Each turn is followed by the end-of-text token, whoever speaks: DialoGPT's form.

    What is said can't end a turn: the text of a special token in it is taken literally.
    """

    source = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer = tokenizer
        self._end = end

    async def prompt(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation."""
        ids: list[int] = []
        for message in messages:
            ids += [*self._tokenizer.encode_bytes(message.text().encode()), self._end]
        return ids


class JinjaTemplate:
    """A template in Hugging Face's form, rendered in Jinja's sandbox."""

    def __init__(self, source: str, tokenizer: Tokenizer, end: int | None) -> None:
        self.source = source
        self._tokenizer = tokenizer
        end_text = "" if end is None else tokenizer.decode([end], skip_special_tokens=False)
        self._names = {"bos_token": end_text, "eos_token": end_text}
        self._template = _compile(source)

    async def prompt(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation."""
        return await asyncio.to_thread(self._render, messages, add_generation_prompt)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        from jinja2 import TemplateError

        turns = [{"role": message.role, "content": message.text()} for message in messages]
        pieces, length, end = [], 0, time.monotonic() + _RENDER_SECONDS
        values = {**self._names, "messages": turns, "add_generation_prompt": add_generation_prompt}
        try:
            for piece in self._template.generate(values):
                pieces.append(piece)
                length += len(piece)
                if length > _LONGEST_PROMPT or time.monotonic() > end:
                    raise bad_request("The chat template makes too much of these messages.", "messages")
        except (TemplateError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
            raise bad_request(f"The chat template refuses these messages: {error}", "messages") from None
        return self._tokenizer.encode("".join(pieces))


def find_chat_template(
    directory: ModelDirectory, given: str | None, tokenizer: Tokenizer
) -> ChatTemplate | None:
    """The template given, else the model's own; None if it has none, or a broken one, which is logged.

    Raises
    ------
    ValueError
        The one given is broken, or needs a package that isn't installed.
    """
    ends = directory.config.eos_token_ids
    end = ends[0] if ends else None
    if given is not None:
        return _template(given, tokenizer, end)
    try:
        own = _own_template(directory)
        return None if own is None else _template(own, tokenizer, end)
    except ValueError as error:
        LOG.warning("%s has no conversations: %s", directory.path, error)
        return None


def _template(source: str, tokenizer: Tokenizer, end: int | None) -> ChatTemplate:
    if end is not None and "".join(source.split()) == _TURNS:
        return Turns(tokenizer, end)
    return JinjaTemplate(source, tokenizer, end)


def _own_template(directory: ModelDirectory) -> str | None:
    template = find_inside(directory.path, CHAT_TEMPLATE_NAME)
    return None if template is None else read_text(template, MAX_CONFIG_BYTES)


def _compile(source: str) -> Template:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ValueError(
            "the model's chat template needs the package jinja2: pip install 'gpt2fast[server]'"
        ) from None

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
