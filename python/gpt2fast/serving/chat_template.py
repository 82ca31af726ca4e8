"""How the service makes prompts of conversations: by the template that was given, or the model's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt2fast.serving.errors import bad_request
from gpt2fast.storage.files import MAX_CONFIG_BYTES, find_inside, read_text
from gpt2fast.storage.model_directory import CHAT_TEMPLATE_NAME
from gpt2fast.text.conversation import EOS_TEMPLATE, Turn, template_turns

if TYPE_CHECKING:
    from gpt2fast.serving.openai import Message
    from gpt2fast.storage.model_directory import ModelDirectory
    from gpt2fast.text.tokenizer import Tokenizer

# Conversations of fewer characters are read while the event loop waits, where no template is rendered.
_SHORT = 20_000

LOG = logging.getLogger("gpt2fast.serving")


class ChatTemplate:
    """Makes prompts of conversations.

    Attributes
    ----------
    source : str
        The template, as ``/tokenizer_info`` shows it.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, end: int | None) -> None:
        self._format = template_turns(source, tokenizer, end)
        self.source = EOS_TEMPLATE if self._format.name == "eos" else source

    async def prompt(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation; errors as of :class:`gpt2fast.serving.errors.ApiError`."""
        turns = [Turn(message.role, message.text()) for message in messages]
        if self._format.name == "eos" and sum(len(turn.text) for turn in turns) < _SHORT:
            return self._format.prompt(turns)
        return await asyncio.to_thread(self._render, turns, add_generation_prompt)

    def _render(self, turns: Sequence[Turn], add_generation_prompt: bool) -> list[int]:
        try:
            return self._format.prompt(turns, add_generation_prompt=add_generation_prompt)
        except ValueError as error:
            raise bad_request(str(error), "messages") from None


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
        return ChatTemplate(given, tokenizer, end)
    try:
        own = _own_template(directory)
        return None if own is None else ChatTemplate(own, tokenizer, end)
    except ValueError as error:
        LOG.warning("%s has no conversations: %s", directory.path, error)
        return None


def _own_template(directory: ModelDirectory) -> str | None:
    template = find_inside(directory.path, CHAT_TEMPLATE_NAME)
    return None if template is None else read_text(template, MAX_CONFIG_BYTES)
