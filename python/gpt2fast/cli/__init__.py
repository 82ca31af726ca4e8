"""The command line. Each command is a module here, imported when it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from shlex import quote
from typing import NoReturn

import click

from gpt2fast.cli.group import Group, keep_line_breaks

__all__ = ["cli", "main"]

# Command -> the line that `gpt2fast --help` shows. The module of that name has the click command `command`.
_COMMANDS = {
    "generate": "Continue a text.",
    "chat": "Talk to a model, or write a text with it line by line.",
    "classify": "Label a text, with a model that was trained for it.",
    "serve": "Serve a model over HTTP, with OpenAI's interface.",
    "convert": "Turn a checkpoint into a model directory.",
    "info": "Show what a model and this installation are.",
    "tokenize": "Show the tokens of a text.",
    "export": "Write standard ONNX or a Hugging Face checkpoint.",
    "verify": "Run an ONNX model's test data.",
    "eval": "Measure a model on a text or a benchmark.",
    "bench": "Measure how fast a model runs here.",
}

_EXAMPLES = """\b
gpt2fast generate "Once upon a time"              with the small embedded model
gpt2fast generate --model gpt2 "The King said"    with a model from the hub
gpt2fast chat                                     line by line
gpt2fast serve                                    a page and OpenAI's interface
gpt2fast convert gpt2 my-model --precision int4   a directory that loads at once
gpt2fast info --model my-model"""

# What `gpt2fast` alone says.
_OVERVIEW = """\
gpt2fast runs GPT-2 models fast on the CPU. Three commands to try:

  gpt2fast generate "Once upon a time"   a text by the small model that comes with the package
  gpt2fast chat                          write one together with it, line by line
  gpt2fast bench                         how fast that is on this machine

All take --model: the id of a model on the Hugging Face hub (openai-community/gpt2, microsoft/DialoGPT-small),
a directory, or a file (GGUF, ONNX, safetensors). `gpt2fast --help` lists all commands, among them `serve`,
with a page to try a model; `gpt2fast COMMAND --help` shows examples of one."""


class _LazyGroup(Group):
    """A group that imports the module of a command when it is called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As in click; without arguments, what to try first."""
        if not args and not ctx.resilient_parsing:
            click.echo(_OVERVIEW)
            ctx.exit()
        return super().parse_args(ctx, ["--help"] if args == ["help"] else args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in the base class; a text in place of a command gets the command that continues it."""
        if " " in args[0]:
            raise click.UsageError(
                f"no command {args[0]!r}; did you mean: gpt2fast generate {quote(args[0])}", ctx
            )
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command = import_module(f"gpt2fast.cli.{name}").command
        assert isinstance(command, click.Command)
        keep_line_breaks(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from gpt2fast import __version__

        click.echo(f"gpt2fast {__version__}")
        ctx.exit()


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"Run GPT-2 models fast on the CPU.\n\n{_EXAMPLES}\n\n`gpt2fast COMMAND --help` shows more.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
def cli() -> None:
    """Run GPT-2 models fast on the CPU."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 for success, 1 for failure, 2 for wrong usage, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal lacks is replaced by another.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = cli.main(arguments, prog_name="gpt2fast", standalone_mode=False)
        sys.stdout.flush()
    except click.NoSuchOption as error:
        from gpt2fast.cli.wording import unknown_option

        _fail(unknown_option(error), 2, error.ctx)
    except click.UsageError as error:
        from gpt2fast.cli.wording import wrong_usage

        _fail(wrong_usage(error), 2, error.ctx)
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("\n")
        sys.exit(130)
    except BrokenPipeError:
        # The reader has closed the pipe; the interpreter's last flush must not fail on it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except click.ClickException as error:
        _fail(error.format_message(), 1)
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        _fail(_describe(error), 1)
    # Commands return nothing; an integer is the code of a `ctx.exit`.
    sys.exit(code if isinstance(code, int) else 0)


def _describe(error: Exception) -> str:
    """The message of an error, without the system's error number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _fail(message: str, code: int, ctx: click.Context | None = None) -> NoReturn:
    from gpt2fast.cli.wording import in_words_of_the_command_line

    click.echo(f"gpt2fast: error: {in_words_of_the_command_line(message)}", err=True)
    if ctx is not None:
        click.echo(f"Try '{ctx.command_path} --help'.", err=True)
    sys.exit(code)
