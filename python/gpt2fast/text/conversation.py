"""From a conversation to a prompt: DialoGPT's turns, a Jinja template, or one text that both sides write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from gpt2fast.text.chat_template import CompiledTemplate

if TYPE_CHECKING:
    from gpt2fast.text.tokenizer import Tokenizer

#: DialoGPT's template, as its tokenizer's configuration has it.
EOS_TEMPLATE = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"


@dataclass(frozen=True)
class Turn:
    """What one side said.

    Attributes
    ----------
    role : str
        ``"user"``, ``"assistant"``, or another that the model's template knows.
    text : str
        What was said.
    ids : list of int, optional
        Its tokens, if it was generated. Default: those of the text.
    """

    role: str
    text: str
    ids: list[int] | None = None


class TurnFormat(Protocol):
    """Makes prompts of conversations."""

    @property
    def name(self) -> Literal["eos", "template", "plain"]:
        """What it is called on the command line."""

    def prompt(self, turns: Sequence[Turn], *, add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation; ValueError if it can't be one."""


class EosTurns:
    """Each turn is followed by the end-of-text token, whoever speaks: DialoGPT's form.

    What is said can't end a turn: a byte-level tokenizer takes the text of a special token literally.

    Parameters
    ----------
    tokenizer : Tokenizer
        The model's.
    end : int
        The end-of-text token.
    """

    name: Literal["eos"] = "eos"

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer = tokenizer
        self._end = end

    def prompt(self, turns: Sequence[Turn], *, add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation."""
        ids: list[int] = []
        for turn in turns:
            own = _literal_ids(self._tokenizer, turn.text) if turn.ids is None else turn.ids
            ids += own if own[-1:] == [self._end] else [*own, self._end]
        return ids


class TemplateTurns:
    """A template in Hugging Face's form, rendered in Jinja's sandbox.

    Parameters
    ----------
    source : str
        The template.
    tokenizer : Tokenizer
        The model's.
    end : int or None
        The end-of-text token, for templates that name it where the tokenizer doesn't.

    Raises
    ------
    ValueError
        It is broken, or jinja2 is not installed.
    """

    name: Literal["template"] = "template"

    def __init__(self, source: str, tokenizer: Tokenizer, end: int | None) -> None:
        self._tokenizer = tokenizer
        end_text = "" if end is None else tokenizer.decode([end], skip_special_tokens=False)
        names = {"bos_token": end_text, "eos_token": end_text, **tokenizer.roles()}
        try:
            self._template = CompiledTemplate(source, names)
        except ImportError as error:
            raise ValueError(f"the model's {error}") from None

    def prompt(self, turns: Sequence[Turn], *, add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation; ValueError if the template refuses it."""
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        text = self._template.render(messages, add_generation_prompt=add_generation_prompt)
        return self._tokenizer.encode(text, add_special_tokens=False)


class PlainText:
    """The turns are one text, which the model goes on with: for models that never saw a conversation.

    What the user adds to a text begins a line.
    """

    name: Literal["plain"] = "plain"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def prompt(self, turns: Sequence[Turn], *, add_generation_prompt: bool = True) -> list[int]:
        """The tokens of the text; ``add_generation_prompt`` changes nothing."""
        ids: list[int] = []
        for turn in turns:
            if turn.ids is not None:
                ids += turn.ids
            elif turn.text:
                text = f"\n{turn.text}" if ids else turn.text
                ids += self._tokenizer.encode(text, add_special_tokens=not ids)
        return ids


def template_turns(source: str, tokenizer: Tokenizer, end: int | None) -> TurnFormat:
    """The format of a template; DialoGPT's own needs no jinja2. Errors as of :class:`TemplateTurns`."""
    is_dialogpts = "".join(source.split()) == "".join(EOS_TEMPLATE.split())
    if end is not None and tokenizer.is_byte_level and is_dialogpts:
        return EosTurns(tokenizer, end)
    return TemplateTurns(source, tokenizer, end)


def _literal_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    if tokenizer.is_byte_level:
        return tokenizer.encode_bytes(text.encode())
    return tokenizer.encode(text, add_special_tokens=False)
