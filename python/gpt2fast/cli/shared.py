"""Shared by several commands: choosing and loading a model, reading text, printing JSON."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gpt2fast.loading.loaded_model import KV_CACHES, KvCache
from gpt2fast.loading.sources import Precision
from gpt2fast.storage.model_directory import PRECISIONS

if TYPE_CHECKING:
    from gpt2fast.model import GPT2

_Function = TypeVar("_Function", bound=Callable[..., Any])

PRECISION_TYPE = click.Choice(PRECISIONS)

calibrate_option = click.option(
    "--calibrate",
    metavar="FILE",
    help="A UTF-8 text like those that the model will read, of 1,024 tokens or more: int4 then loses less.",
)

model_option = click.option(
    "-m",
    "--model",
    "source",
    metavar="SOURCE",
    help="Model directory, checkpoint, model file or hub id. Default: the small embedded model.",
)
threads_option = click.option(
    "--threads",
    type=int,
    metavar="N",
    help="Default: the cores it may use, fewer for a small model.",
)
kv_cache_option = click.option(
    "--kv-cache",
    type=click.Choice(tuple(KV_CACHES)),
    help="Format of keys and values. Default: int8 for int8 and int4, fp16 for bf16, fp32 for fp32.",
)
tokenizer_option = click.option(
    "--tokenizer",
    metavar="SOURCE",
    help="Directory, file or hub id to take the tokenizer from. Default: the model's own.",
)


generation_config_option = click.option(
    "--generation-config/--no-generation-config",
    default=True,
    help="Take options that are left out from the model's generation_config.json. Default: yes.",
)


def decorated(function: _Function, decorators: Sequence[Callable[[_Function], _Function]]) -> _Function:
    """Apply decorators in the order in which they would stand above the function."""
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def model_options(function: _Function) -> _Function:
    """Add ``--model``, ``--precision`` and the like, for :meth:`ModelChoice.take`."""
    decorators = [
        model_option,
        click.option(
            "--precision",
            type=PRECISION_TYPE,
            help="Precision of the weights. Default: int8, or the model directory's.",
        ),
        threads_option,
        kv_cache_option,
        tokenizer_option,
    ]
    return decorated(function, decorators)


def source_options(function: _Function) -> _Function:
    """Add ``--adapter``, ``--tokenizer``, ``--n-head`` and ``--revision``, as for ``open_checkpoint``."""
    decorators = [
        click.option("--adapter", metavar="SOURCE", help="A LoRA adapter to merge: a directory or a hub id."),
        tokenizer_option,
        click.option(
            "--n-head",
            type=int,
            metavar="N",
            help="Attention heads, for a lone weight file or an ONNX graph that does not reveal them.",
        ),
        click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub id."),
    ]
    return decorated(function, decorators)


@dataclass(frozen=True)
class ModelChoice:
    """The options that say which model runs, and how."""

    source: str | None
    threads: int | None
    tokenizer: str | None
    kv_cache: KvCache | None
    precision: Precision | None = None
    calibrate: str | None = None
    generation_config: bool = True

    @classmethod
    def take(cls, options: dict[str, Any]) -> ModelChoice:
        """Take them out of a command's parameters; the others stay in ``options``."""
        names = [field.name for field in fields(cls) if field.name in options]
        return cls(**{name: options.pop(name) for name in names})

    def load(self, **settings: Any) -> GPT2:
        """The model, with further settings of :meth:`GPT2.from_pretrained`."""
        from gpt2fast.model import GPT2

        return GPT2.from_pretrained(
            self.source,
            precision=self.precision,
            calibrate=self.calibrate,
            threads=self.threads,
            tokenizer=self.tokenizer,
            kv_cache=self.kv_cache,
            generation_config="model" if self.generation_config else None,
            **settings,
        )

    def load_for_text(self) -> GPT2:
        """The model, for text in or out; without a tokenizer an error names the option."""
        model = self.load()
        if not model.has_tokenizer:
            raise click.ClickException(
                f"{self.source} came without a tokenizer; name one by --tokenizer (a directory, a file or a "
                f"hub id)"
            )
        return model


def new_seed() -> int:
    """A seed for a text, short enough to be typed again."""
    return secrets.randbelow(1 << 31)


def note(text: str) -> None:
    """Say something about the output, beside it: on standard error, faint on a terminal."""
    click.secho(text, err=True, dim=True)


def read_text(text: str) -> str:
    """The text of an argument; ``-`` means standard input."""
    if text != "-":
        return text
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8-sig")  # editors of Windows begin a text with a byte order mark
    except UnicodeDecodeError as error:
        raise click.ClickException(
            f"standard input is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from None


def print_json(value: Any) -> None:
    """One line of JSON; NaN and infinities, which JSON lacks, are null."""
    from gpt2fast.inference.results import plain

    click.echo(json.dumps(plain(value), ensure_ascii=False))
