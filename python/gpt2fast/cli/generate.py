"""``gpt2fast generate``: continue a text, shown as it is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2fast.cli.generation_options import collect, generation_options
from gpt2fast.cli.result_fields import result_fields
from gpt2fast.cli.shared import (
    ModelChoice,
    generation_config_option,
    model_options,
    print_json,
    read_text,
)

if TYPE_CHECKING:
    from gpt2fast.inference.options import GenerationOptions
    from gpt2fast.model import GPT2


_BETWEEN_TEXTS = "---"


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
    help='Continue the prompts of FILE instead: lines of JSON, {"prompt": TEXT or token ids, "id": ...}.',
)
@click.option(
    "--output",
    "results_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
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

    Without options it always takes the likeliest token, unless the model's generation_config.json says
    otherwise; with a sampling option or a seed it samples. Several texts have a line of three dashes between
    them.
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
    if as_json or whole:
        _print_whole(model, text, options, as_json=as_json)
    else:
        _print_stream(model, text, options)


def _print_stream(model: GPT2, prompt: str, options: GenerationOptions) -> None:
    for chunk in model.stream(prompt, options):
        if chunk.text:
            click.echo(chunk.text, nl=False)
    click.echo()


def _print_whole(model: GPT2, prompt: str, options: GenerationOptions, *, as_json: bool) -> None:
    for index, result in enumerate(model.generate([prompt], options)):
        if as_json:
            print_json({**result_fields(result), "cached_tokens": result.cached_tokens})
            continue
        if index > 0:
            click.echo(_BETWEEN_TEXTS)
        click.echo(result.text)
