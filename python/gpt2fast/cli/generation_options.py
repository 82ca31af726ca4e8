"""Makes command-line options of :class:`GenerationOptions`, so that each is declared and documented once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar

import click

from gpt2fast import _validation as checks
from gpt2fast.inference.options import GenerationOptions

# Useless without an assistant model, which text can't express.
_OF_AN_ASSISTANT = ("num_assistant_tokens",)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def generation_options(function: _Function) -> _Function:
    """Add every option that text can express; :func:`collect` makes a ``GenerationOptions`` of them."""
    for option in reversed(fields(GenerationOptions)):
        if option.name in _OF_AN_ASSISTANT:
            continue
        if not isinstance(option.metadata["check"], (checks.Callables, checks.Instance)):
            function = _click_option(option)(function)
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
    if isinstance(check, checks.Integer):
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
