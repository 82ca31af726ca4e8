"""Makes command-line options of :class:`GenerationOptions`, so that each is declared and documented once."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar

import click

from gpt2fast import _validation as checks
from gpt2fast.inference.options import GenerationOptions

# Has no effect without an assistant model, which text can't express.
_OF_AN_ASSISTANT = ("num_assistant_tokens",)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def option_names() -> list[str]:
    """The options that text can express."""
    objects = (checks.Callables, checks.Instance)
    return [
        option.name
        for option in fields(GenerationOptions)
        if option.name not in _OF_AN_ASSISTANT and not isinstance(option.metadata["check"], objects)
    ]


def generation_options(function: _Function, names: Collection[str] | None = None) -> _Function:
    """Add these options, or every one; :func:`collect` makes a ``GenerationOptions`` of them."""
    for name in reversed(option_names()):
        if names is None or name in names:
            function = _click_option(GenerationOptions.__dataclass_fields__[name])(function)
    return function


def collect(values: Mapping[str, Any]) -> GenerationOptions:
    """The generation options among a command's parameters; a bad value is a usage error."""
    names = {option.name for option in fields(GenerationOptions)}
    given = {name: value for name, value in values.items() if name in names and value not in (None, ())}
    if "logit_bias" in given:
        given["logit_bias"] = dict(given["logit_bias"])
    try:
        return GenerationOptions(**given)
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None


def parse_value(name: str, text: str) -> Any:
    """An option's value of one line of text; several texts or tokens are quoted as in a shell.

    Raises
    ------
    ValueError
        It is none.
    """
    settings = _settings(GenerationOptions.__dataclass_fields__[name].metadata["check"])
    convert = click.types.convert_type(settings.get("type", bool))
    try:
        if not settings.get("multiple"):
            return convert(text)
        values = [convert(word) for word in shlex.split(text)]
    except click.BadParameter as error:
        raise ValueError(f"{name}: {error.message}") from None
    return dict(values) if name == "logit_bias" else values


def _flag_or_word(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text.lower(), text)


def _token_weight(text: str) -> tuple[int, float]:
    token, _, weight = text.partition("=")
    try:
        return int(token), float(weight)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not of the form ID=NUMBER") from None


def _click_option(option: Field[Any]) -> Callable[[_Function], _Function]:
    name = option.name.replace("_", "-")
    check, text = option.metadata["check"], option.metadata["help"]
    declaration, settings = f"--{name}", _settings(check)
    if isinstance(check, checks.Flag):
        declaration = f"--{name}/--no-{name}"
    if settings.get("multiple"):
        text = f"{text} May be given several times."
    elif option.default not in (None, "", (), False, True):
        text = f"{text} Default: {option.default}."
    return click.option(declaration, option.name, default=None, help=text, **settings)


def _settings(check: checks.Check) -> dict[str, Any]:
    if isinstance(check, (checks.Integer, checks.Seed)):
        return {"type": int, "metavar": "N"}
    if isinstance(check, checks.Real):
        return {"type": float, "metavar": "X"}
    if isinstance(check, checks.Choice):
        return {"type": click.Choice(check.words)}
    if isinstance(check, checks.FlagOr):
        return {"type": _flag_or_word, "metavar": f"true|false|{check.word}"}
    if isinstance(check, checks.TokenIds):
        return {"type": int, "metavar": "ID", "multiple": True}
    if isinstance(check, checks.TokenWeights):
        return {"type": _token_weight, "metavar": "ID=NUMBER", "multiple": True}
    if isinstance(check, (checks.Strings, checks.Texts)):
        return {"type": str, "metavar": "TEXT", "multiple": True}
    if isinstance(check, (checks.Text, checks.String, checks.JsonSchema)):
        return {"type": str, "metavar": "TEXT"}
    return {}
