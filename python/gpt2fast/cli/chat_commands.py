"""What a line that begins with a slash does in ``gpt2fast chat``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpt2fast.cli.generation_options import option_names, parse_value
from gpt2fast.cli.shared import note

if TYPE_CHECKING:
    from gpt2fast.cli.chat_session import ChatSession

#: Options that choose among whole texts, or report what a conversation doesn't show.
_NOT_IN_A_CHAT = (
    *("num_return_sequences", "best_of", "num_beams", "length_penalty", "early_stopping"),
    *("logprobs", "echo", "priority"),
)


def chat_option_names() -> list[str]:
    """The options of generation that a conversation has."""
    return [name for name in option_names() if name not in _NOT_IN_A_CHAT]


def run_command(session: ChatSession, line: str) -> bool:
    """Do what a line says; whether the conversation goes on.

    Raises
    ------
    ValueError, TypeError
        There is no such command, or its value is wrong.
    """
    name, _, rest = line[1:].partition(" ")
    command = _COMMANDS.get(_ALIASES.get(name, name))
    if command is None:
        raise ValueError(f"no command /{name}; /help lists them. A space before the slash sends it as text.")
    return command.run(session, rest.strip()) is not _LEAVE


_LEAVE = object()


@dataclass(frozen=True)
class _Command:
    run: Callable[[ChatSession, str], object]
    usage: str
    help: str


def _help(session: ChatSession, rest: str) -> None:
    width = max(len(command.usage) for command in _COMMANDS.values()) + 2
    lines = [f"{command.usage:<{width}}{command.help}" for command in _COMMANDS.values()]
    lines.append(f"{'Ctrl-C':<{width}}stop the text that is being written")
    lines.append(f"{'Ctrl-D':<{width}}leave")
    lines.append('Three quotes (""") begin and end a text of several lines.')
    if session.turn_format.name == "plain":
        lines.append("What you write and what the model writes is one text; an empty line lets it go on.")
    note("\n".join(lines))


def _reset(session: ChatSession, rest: str) -> None:
    session.reset()
    note("A new conversation.")


def _seed(session: ChatSession, rest: str) -> None:
    session.change("seed", parse_value("seed", rest) if rest else None)
    note(f"Each text is drawn with seed {rest}." if rest else "Each text is drawn with a seed of its own.")


def _set(session: ChatSession, rest: str) -> None:
    typed, _, text = rest.partition(" ")
    name, text = typed.replace("-", "_").lower(), text.strip()
    if not name:
        note(f"Options: {', '.join(chat_option_names())}")
        return
    if name not in chat_option_names():
        from difflib import get_close_matches

        near = get_close_matches(name, chat_option_names(), n=1)
        raise ValueError(
            f"no option {typed!r}; {f'did you mean {near[0]!r}?' if near else '/set lists them.'}"
        )
    session.change(name, parse_value(name, text) if text else None)
    note(f"{name} = {getattr(session.options, name)!r}" if text else f"{name} is the model's to choose.")


def _show(session: ChatSession, rest: str) -> None:
    lines = [f"model: {session.model!r}", f"turns: {session.turn_format.name}"]
    for name, value in session.model.generation_config.items():
        if name not in session.options.given:
            lines.append(f"{name}: {value!r} (of the model)")
    lines += [f"{name}: {value!r}" for name, value in sorted(session.options.given_values().items())]
    last = session.last
    if last is not None:
        seed = "" if last.seed is None else f"seed {last.seed}, "
        lines.append(f"last answer: {seed}{last.tokens} tokens in {last.seconds:.2f} s")
    note("\n".join(lines))


def _leave(session: ChatSession, rest: str) -> object:
    return _LEAVE


_COMMANDS = {
    "help": _Command(_help, "/help", "show this"),
    "reset": _Command(_reset, "/reset", "forget what was said"),
    "seed": _Command(_seed, "/seed N", "repeat texts exactly; without N: a new seed for each"),
    "set": _Command(_set, "/set OPTION VALUE", "such as /set temperature 0.7; without VALUE: the default"),
    "show": _Command(_show, "/show", "show the model, the options and the last answer's seed"),
    "bye": _Command(_leave, "/bye", "leave"),
}
_ALIASES = {"?": "help", "clear": "reset", "exit": "bye", "quit": "bye"}
