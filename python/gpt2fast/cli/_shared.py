"""What several commands share: choosing and loading a model, reading text, printing JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
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
tokenizer_option = click.option(
    "--tokenizer",
    metavar="SOURCE",
    help="Directory, file or hub id to take the tokenizer from. Default: the model's own.",
)


def decorated(function: _Function, decorators: Sequence[Callable[[_Function], _Function]]) -> _Function:
    """The function under decorators as they would stand above it."""
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def model_options(function: _Function) -> _Function:
    """Add ``--model``, ``--precision``, ``--threads``, ``--tokenizer``, as :func:`load_model` takes them."""
    decorators = [
        model_option,
        click.option(
            "--precision",
            type=PRECISION_TYPE,
            help="Of the weights. Default: int8, or the model directory's.",
        ),
        threads_option,
        tokenizer_option,
    ]
    return decorated(function, decorators)


def source_options(function: _Function) -> _Function:
    """Add ``--tokenizer``, ``--n-head`` and ``--revision``, as ``open_checkpoint`` takes them."""
    decorators = [
        tokenizer_option,
        click.option(
            "--n-head",
            type=int,
            metavar="N",
            help="Attention heads, for a lone weight file or an ONNX graph that does not tell.",
        ),
        click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub id."),
    ]
    return decorated(function, decorators)


def load_model(
    source: str | None, precision: Precision | None, threads: int | None, tokenizer: str | None
) -> GPT2:
    """The model that the options of :func:`model_options` name."""
    from gpt2fast.model import GPT2

    return GPT2.from_pretrained(source, precision=precision, threads=threads, tokenizer=tokenizer)


def load_text_model(
    source: str | None, precision: Precision | None, threads: int | None, tokenizer: str | None
) -> GPT2:
    """:func:`load_model` for text in or out: without a tokenizer an error, which names the option."""
    model = load_model(source, precision, threads, tokenizer)
    if not model.has_tokenizer:
        raise click.ClickException(
            f"{source} came without a tokenizer; name one by --tokenizer (a directory, a file or a hub id)"
        )
    return model


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
