"""``gpt2fast generate``: continue a text, shown as it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gpt2fast.cli.generation_options import collect, generation_options
from gpt2fast.cli.shared import (
    ModelChoice,
    generation_config_option,
    model_options,
    print_json,
    read_text,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.inference.options import GenerationOptions
    from gpt2fast.inference.results import Generation
    from gpt2fast.model import GPT2


_BETWEEN_TEXTS = "---"


@click.command()
@click.argument("prompt")
@model_options
@generation_config_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object for each text, when it is complete."
)
@generation_options
def command(prompt: str, as_json: bool, **values: Any) -> None:
    r"""Continue PROMPT; `-` reads it from standard input, without its last line break.

    \b
    gpt2fast generate "Once upon a time"
    gpt2fast generate "Once upon a time" --max-new-tokens 60 --temperature 0.8 --top-k 50 --seed 7
    gpt2fast generate --model openai-community/gpt2 "Dear Sir," --stop-strings "Yours"
    cat story.txt | gpt2fast generate - --overflow truncate
    gpt2fast generate "A" --json --num-return-sequences 3 --temperature 1

    Without options it always takes the likeliest token, unless the model's generation_config.json says
    otherwise; with a sampling option or a seed it samples. Several texts have a line of three dashes between
    them.
    """
    from gpt2fast.inference.requests import choose_options

    choice = ModelChoice.take(values)
    options = collect(values)
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
            print_json(_as_dict(result))
            continue
        if index > 0:
            click.echo(_BETWEEN_TEXTS)
        click.echo(result.text)


def _as_dict(result: Generation) -> dict[str, Any]:
    values: dict[str, Any] = {
        "text": result.text,
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        "prompt_tokens": len(result.prompt_token_ids),
        "cached_tokens": result.cached_tokens,
        "seed": result.seed,
    }
    if result.score is not None:
        values["score"] = result.score
    if result.logprobs is not None:
        values["logprobs"] = _without_nan(result.logprobs.chosen)
        values["top_token_ids"] = result.logprobs.top_ids.tolist()
        values["top_logprobs"] = [_without_nan(row) for row in result.logprobs.top]
    return values


def _without_nan(values: NDArray[np.float32]) -> list[float | None]:
    """JSON has no NaN; null replaces it."""
    return [None if value != value else value for value in values.tolist()]
