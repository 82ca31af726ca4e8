"""Groups of commands with help for a missing or misspelt command."""

from __future__ import annotations

import click


class Group(click.Group):
    """A group of commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As in click; without arguments the help is shown, with the exit code of wrong usage."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click; the error for an unknown command suggests the nearest."""
        name, names = args[0], self.list_commands(ctx)
        if not name.startswith("-") and name not in names:
            from difflib import get_close_matches

            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(names)}."
            raise click.UsageError(f"no command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


def keep_line_breaks(command: click.Command) -> None:
    """Keep the examples in the help of a command, and of its subcommands, on separate lines.

    Click keeps a paragraph's line breaks after a backspace; raw docstrings spell it in two characters.
    """
    command.help = (command.help or "").replace("\\b\n", "\b\n")
    if isinstance(command, click.Group):
        for below in command.commands.values():
            keep_line_breaks(below)
