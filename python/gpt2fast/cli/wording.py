"""Errors in the words of the command line: ``--overflow truncate`` for ``overflow='truncate'``."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache

import click

from gpt2fast.inference.options import GenerationOptions
from gpt2fast.inference.other_names import advice, is_foreign, our_name

# name='word', name=5, name=True; not name=... nor a part of a longer expression.
_ASSIGNED = re.compile(r"\b([a-z][a-z_]*)=('([^']*)'|True\b|False\b|-?\d+(?:\.\d+)?)")
# Options of `gpt2fast convert` alone -> what to type.
_OF_CONVERT = {
    "adapter": "give the adapter as --model, if it names its base; gpt2fast convert BASE DIRECTORY --adapter "
    "ADAPTER merges it into another",
    "n_head": "convert the model first: gpt2fast convert SOURCE DIRECTORY --n-head N",
    "revision": "convert the model first: gpt2fast convert ID DIRECTORY --revision NAME",
}
# --option (option=...) says the same twice.
_TWICE = re.compile(r"(--[a-z-]+) \([a-z_]+=[^)]*\)")


@cache
def _names() -> re.Pattern[str]:
    """Options whose names can't be words of a sentence, as a whole and not within another name or a call."""
    names = [option.name for option in fields(GenerationOptions) if "_" in option.name]
    return re.compile(rf"(?<![\w.\-'/])({'|'.join(sorted(names, key=len, reverse=True))})(?![\w(=/'\[])")


def in_words_of_the_command_line(message: str) -> str:
    """The message, with options as they are typed here."""
    message = message.replace("generation_config=None", "--no-generation-config")
    message = _ASSIGNED.sub(_option, _TWICE.sub(r"\1", message))
    return _names().sub(lambda found: _dashed(found[1]), message)


def unknown_option(error: click.NoSuchOption) -> str:
    """The message for an option that doesn't exist: what to type in place of another library's."""
    name = error.option_name.lstrip("-").replace("-", "_")
    if name in _OF_CONVERT:
        return f"No such option: {error.option_name}; {_OF_CONVERT[name]}"
    if not is_foreign(name):
        return error.format_message()
    ours = our_name(name)
    hint = f"did you mean {_dashed(ours)}?" if ours else in_words_of_the_command_line(advice(name, ()))
    return f"No such option: {error.option_name}; {hint}"


def wrong_usage(error: click.UsageError) -> str:
    """The message of an error, with a hint about quotes where words are left over."""
    message = error.format_message()
    if not message.startswith("Got unexpected extra argument"):
        return message
    return f"{message}: a text of several words stands in quotes, and a model is named by --model"


def _option(found: re.Match[str]) -> str:
    name, value, word = found[1], found[2], found[3]
    if value in ("True", "False"):
        return _dashed(name if value == "True" else f"no_{name}")
    return f"{_dashed(name)} {value if word is None else word}"


def _dashed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
