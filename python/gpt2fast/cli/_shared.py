"""What several commands share: choosing and loading a model, reading text, printing JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gpt2fast.model_directory import PRECISIONS

if TYPE_CHECKING:
    from gpt2fast.loading import Precision
    from gpt2fast.model import GPT2

_Function = TypeVar("_Function", bound=Callable[..., Any])

PRECISION_TYPE = click.Choice(PRECISIONS)

model_option = click.option(
    "-m",
    "--model",
    "source",
    metavar="SOURCE",
    help="Model directory, checkpoint, model file or hub id. Default: the small embedded model.",
)
threads_option = click.option(
    "--threads", type=int, metavar="N", help="Default: the cores this process may use."
)


def model_options(function: _Function) -> _Function:
    """Add ``--model``, ``--precision`` and ``--threads``, as :func:`load_model` takes them."""
    decorators = [
        model_option,
        click.option(
            "--precision",
            type=PRECISION_TYPE,
            help="Of the weights. Default: int8, or the model directory's.",
        ),
        threads_option,
    ]
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def load_model(source: str | None, precision: Precision | None, threads: int | None) -> GPT2:
    """The model that the options of :func:`model_options` name."""
    from gpt2fast.model import GPT2

    return GPT2.from_pretrained(source, precision=precision, threads=threads)


def read_text(text: str) -> str:
    """The text of an argument; ``-`` means standard input."""
    if text != "-":
        return text
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(
            f"standard input is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None


def print_json(value: Any) -> None:
    """One line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))
