"""``gpt2fast generate``: continue a text, shown as it is made."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2fast.cli.generation_options import collect, generation_options
from gpt2fast.cli.result_fields import result_fields
from gpt2fast.cli.shared import (
    ModelChoice,
    generation_config_option,
    model_options,
    new_seed,
    note,
    print_json,
    read_text,
)

if TYPE_CHECKING:
    from gpt2fast.inference.options import GenerationOptions
    from gpt2fast.model import GPT2


_BETWEEN_TEXTS = "---"


def _no_stream(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    if path == Path("-"):
        raise click.BadParameter("give the name of a file: an interrupted run goes on from what is in files")
    return path


@click.command()
@click.argument("prompt", required=False)
@model_options
@generation_config_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object for each text, when it is complete."
)
@click.option(
    "--input",
    "prompts_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    callback=_no_stream,
    help='Continue the prompts of FILE instead: lines of JSON, {"prompt": TEXT or token ids, "id": ...}.',
)
@click.option(
    "--output",
    "results_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    callback=_no_stream,
    help="Where their results go, a line of JSON each. What an interrupted run has written is kept.",
)
@click.option(
    "--ordered/--unordered",
    default=True,
    help="Write results in the order of the prompts, or as they end. Default: in order.",
)
@generation_options
def command(
    prompt: str | None,
    as_json: bool,
    prompts_file: Path | None,
    results_file: Path | None,
    ordered: bool,
    **values: Any,
) -> None:
    r"""Continue PROMPT; `-` reads it from standard input, without its last line break.

    \b
    gpt2fast generate "Once upon a time"
    gpt2fast generate "Once upon a time" --max-new-tokens 60 --temperature 0.8 --top-k 50 --seed 7
    gpt2fast generate --model openai-community/gpt2 "Dear Sir," --stop-strings "Yours"
    cat story.txt | gpt2fast generate - --overflow truncate
    gpt2fast generate "A" --json --num-return-sequences 3 --temperature 1
    gpt2fast generate --input prompts.jsonl --output results.jsonl

    Options that are left out are those of the model's generation_config.json. The embedded model's draws its
    texts, and the seed that repeats one is shown on standard error. A model without such a file takes the
    likeliest token each time, unless a sampling option or a seed is given. Several texts have a line of three
    dashes between them.
    """
    from gpt2fast.inference.requests import choose_options

    choice = ModelChoice.take(values)
    options = collect(values)
    if prompt is None and prompts_file is not None and results_file is not None:
        from gpt2fast.cli.generate_file import generate_file

        generate_file(choice.load(), options, prompts_file, results_file, ordered=ordered)
        return
    if prompt is None or prompts_file is not None or results_file is not None:
        raise click.UsageError("give either PROMPT, or --input and --output")
    text = read_text(prompt)
    if prompt == "-":
        text = text.removesuffix("\n").removesuffix("\r")
    model = choice.load_for_text()
    options = choose_options(model.loaded, options, None)
    whole = options.num_beams > 1 or options.best_of is not None or options.num_return_sequences is not None
    if as_json:
        for result in model.generate([text], options):
            print_json({**result_fields(result), "cached_tokens": result.cached_tokens})
        return
    show = _print_whole if whole else _print_stream
    if not options.sampling or options.seed is not None:
        show(model, text, options)
        return
    options = options.changed(seed=new_seed())
    try:
        show(model, text, options)
    except KeyboardInterrupt:
        note(f"\nseed {options.seed}")
        raise
    note(f"seed {options.seed}: --seed {options.seed} repeats this")


def _print_stream(model: GPT2, prompt: str, options: GenerationOptions) -> None:
    tokens, start = 0, 0.0
    for chunk in model.stream(prompt, options):
        if start == 0.0:
            start = time.perf_counter()
        else:
            tokens += len(chunk.token_ids)
        if chunk.text:
            click.echo(chunk.text, nl=False)
    click.echo()
    _note_speed(tokens, time.perf_counter() - start)


def _print_whole(model: GPT2, prompt: str, options: GenerationOptions) -> None:
    start = time.perf_counter()
    results = model.generate([prompt], options)
    seconds = time.perf_counter() - start
    for index, result in enumerate(results):
        if index > 0:
            click.echo(_BETWEEN_TEXTS)
        click.echo(result.text)
    _note_speed(sum(len(result.token_ids) for result in results), seconds)


def _note_speed(tokens: int, seconds: float) -> None:
    """Show the speed if standard error is a terminal."""
    if sys.stderr.isatty() and tokens > 0:
        note(f"{tokens / seconds:,.0f} tokens per second")
