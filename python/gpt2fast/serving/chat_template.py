"""From a conversation to a prompt: by DialoGPT's turns, or a Jinja template that came with the model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from gpt2fast.serving.errors import bad_request
from gpt2fast.storage.files import MAX_CONFIG_BYTES, find_inside, read_text
from gpt2fast.storage.model_directory import CHAT_TEMPLATE_NAME
from gpt2fast.text.chat_template import CompiledTemplate

if TYPE_CHECKING:
    from gpt2fast.serving.openai import Message
    from gpt2fast.storage.model_directory import ModelDirectory
    from gpt2fast.text.tokenizer import Tokenizer

LOG = logging.getLogger("gpt2fast.serving")

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
        self._names = {"bos_token": end_text, "eos_token": end_text, **tokenizer.roles()}
        try:
            self._template = CompiledTemplate(source, self._names)
        except ImportError as error:
            raise ValueError(f"the model's {error}") from None

    async def prompt(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation."""
        return await asyncio.to_thread(self._render, messages, add_generation_prompt)

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        turns = [{"role": message.role, "content": message.text()} for message in messages]
        try:
            text = self._template.render(turns, add_generation_prompt=add_generation_prompt)
        except ValueError as error:
            raise bad_request(str(error), "messages") from None
        return self._tokenizer.encode(text, add_special_tokens=False)


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
    if end is not None and tokenizer.is_byte_level and "".join(source.split()) == _TURNS:
        return Turns(tokenizer, end)
    return JinjaTemplate(source, tokenizer, end)


def _own_template(directory: ModelDirectory) -> str | None:
    template = find_inside(directory.path, CHAT_TEMPLATE_NAME)
    return None if template is None else read_text(template, MAX_CONFIG_BYTES)
