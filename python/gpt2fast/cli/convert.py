"""``gpt2fast convert``: turn a checkpoint into a model directory."""

from __future__ import annotations

from pathlib import Path

import click

from gpt2fast.cli._shared import PRECISION_TYPE


@click.command()
@click.argument("source")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--precision", type=PRECISION_TYPE, default="int8", show_default=True, help="Of the weights.")
@click.option(
    "--tokenizer",
    metavar="PATH",
    help="Directory or file to take the tokenizer from. Default: the source's own.",
)
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a hub id.")
@click.option("--overwrite", is_flag=True, help="Replace a model directory that is there.")
def command(
    source: str,
    directory: Path,
    precision: str,
    tokenizer: str | None,
    revision: str | None,
    overwrite: bool,
) -> None:
    r"""Convert SOURCE (checkpoint directory, model file or hub id) to the new model directory DIRECTORY.

    \b
    gpt2fast convert openai-community/gpt2 gpt2-int8
    gpt2fast convert ./my-finetune ./my-model --precision int4
    gpt2fast generate --model ./my-model "Hello"

    A model directory loads at once, by memory map; several processes share one copy of its weights.
    """
    from gpt2fast.export import convert
    from gpt2fast.progress import progress_bar

    with progress_bar(f"Converting {Path(source).name}") as progress:
        convert(
            source,
            directory,
            precision=precision,
            tokenizer=tokenizer,
            revision=revision,
            overwrite=overwrite,
            progress=progress,
        )
    click.echo(f"{directory}: {precision}", err=True)
