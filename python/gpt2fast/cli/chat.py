"""``gpt2fast chat``: talk to a model, or write a text with it line by line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from gpt2fast.cli.chat_commands import chat_option_names, run_command
from gpt2fast.cli.generation_options import collect, generation_options
from gpt2fast.cli.line_input import Lines
from gpt2fast.cli.shared import ModelChoice, generation_config_option, model_options, note

if TYPE_CHECKING:
    from gpt2fast.cli.chat_session import ChatSession
    from gpt2fast.inference.cancellation import CancelToken
    from gpt2fast.model import GPT2
    from gpt2fast.text.conversation import TurnFormat

# A model of this family converses, also where its files have no template.
_DIALOGUE_MODELS = "dialogpt"


@click.command()
@model_options
@generation_config_option
@click.option(
    "--turns",
    type=click.Choice(("auto", "template", "eos", "plain")),
    default="auto",
    help="How turns become a prompt: by the model's chat template; each with the end-of-text token behind "
    "it, as DialoGPT has them; or as one text that the model goes on with. Default: the template, if there "
    "is one; eos for a DialoGPT; else plain.",
)
@partial(generation_options, names=chat_option_names())
def command(turns: str, **values: Any) -> None:
    r"""Talk to a model; one that never saw a conversation goes on with what you write.

    \b
    gpt2fast chat
    gpt2fast chat --model microsoft/DialoGPT-small
    gpt2fast chat --model ./my-finetune --turns eos --temperature 0.7
    printf 'Once upon a time\n\n' | gpt2fast chat --seed 7

    Ctrl-C stops a text, Ctrl-D leaves, and /help lists what else can be typed. Lines of a pipe are answered
    one after another. Answers are drawn unless --no-do-sample or --temperature 0 is given. When a
    conversation exceeds the model's window, the oldest turns are forgotten.
    """
    from gpt2fast.cli.chat_session import ChatSession

    choice = ModelChoice.take(values)
    options = collect(values)
    model = choice.load_for_text()
    session = ChatSession(model, _turn_format(model, turns), options, note)
    lines = Lines()
    if lines.interactive:
        _greet(session, choice.source)
        _converse(session, lines)
    else:
        while (line := lines.read()) is not None and _take(session, line):
            pass


def _turn_format(model: GPT2, turns: str) -> TurnFormat:
    """The requested format, or the one that suits the model."""
    from gpt2fast.text.conversation import EosTurns, PlainText, template_turns

    tokenizer = model.tokenizer
    end = next(iter(model.config.eos_token_ids), tokenizer.end_of_text_id)
    template = tokenizer.chat_template
    if turns == "auto":
        is_dialogue = _DIALOGUE_MODELS in str(model.directory.metadata.get("source", "")).lower()
        own = "eos" if is_dialogue and end is not None else "plain"
        turns = own if template is None else "template"
    if turns == "template":
        if template is None:
            raise click.ClickException("the model has no chat template; give --turns eos or --turns plain")
        return template_turns(template, tokenizer, end)
    if turns == "eos":
        if end is None:
            raise click.ClickException("the model has no end-of-text token; give --turns plain")
        return EosTurns(tokenizer, end)
    return PlainText(tokenizer)


def _greet(session: ChatSession, source: str | None) -> None:
    does = "goes on with what you write" if session.turn_format.name == "plain" else "answers"
    name = "The small model that comes with gpt2fast" if source is None else source
    note(f"{name} {does}. Ctrl-C stops a text, Ctrl-D leaves, /help shows more.")


def _converse(session: ChatSession, lines: Lines) -> None:
    """Read and answer until the user leaves; mistakes are explained, and the conversation goes on."""
    goes_on = True
    while goes_on:
        try:
            line = lines.read()
            if line is None:
                click.echo()
                return
            goes_on = _take(session, line, stoppable=True)
        except KeyboardInterrupt:
            note("\nCtrl-D or /bye leaves.")
        except (ValueError, TypeError) as error:
            click.echo(str(error), err=True)


def _take(session: ChatSession, line: str, *, stoppable: bool = False) -> bool:
    """Do what a command says, or answer; whether the conversation goes on."""
    from gpt2fast.inference.cancellation import CancelToken

    if line.startswith("/"):
        return run_command(session, line)
    if not line and session.turn_format.name != "plain":
        return True
    cancel = CancelToken()
    with _interrupt_cancels(cancel, stoppable):
        for piece in session.answer(line, cancel):
            click.echo(piece, nl=False)
    click.echo()
    return True


@contextmanager
def _interrupt_cancels(cancel: CancelToken, wanted: bool) -> Iterator[None]:
    """If wanted, let Ctrl-C end the text instead of the program while the block runs."""
    if not wanted:
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: cancel.cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
