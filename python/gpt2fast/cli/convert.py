"""``gpt2fast convert``: turn a checkpoint into a model directory."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from gpt2fast.cli.shared import PRECISION_TYPE, calibrate_option, source_options


@click.command()
@click.argument("source")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--precision", type=PRECISION_TYPE, default="int8", show_default=True, help="Precision of the weights."
)
@calibrate_option
@source_options
@click.option("--overwrite", is_flag=True, help="Replace an existing model directory.")
def command(
    source: str,
    directory: Path,
    precision: str,
    calibrate: str | None,
    adapter: str | None,
    tokenizer: str | None,
    n_head: int | None,
    revision: str | None,
    overwrite: bool,
) -> None:
    r"""Convert SOURCE (checkpoint directory, model file or hub id) to the new model directory DIRECTORY.

    \b
    gpt2fast convert openai-community/gpt2 gpt2-int8
    gpt2fast convert ./my-finetune ./my-model --precision int4
    gpt2fast convert ./my-finetune ./my-model --precision int4 --calibrate my-texts.txt
    gpt2fast convert gpt2-lm-head-10.onnx ./zoo --tokenizer ./my-finetune
    gpt2fast generate --model ./my-model "Hello"

    A model directory loads at once, by memory map; several processes share one copy of its weights.
    """
    from gpt2fast.checkpoints import open_checkpoint
    from gpt2fast.errors import ModelError
    from gpt2fast.export.calibration import read_calibration
    from gpt2fast.export.writer import check_destination, write_model_directory
    from gpt2fast.storage.model_directory import no_text
    from gpt2fast.storage.progress import progress_bar
    from gpt2fast.text.gpt2_tokenizer import with_gpt2_tokenizer

    check_destination(directory, overwrite=overwrite)
    # Before a checkpoint is fetched.
    calibration = None if calibrate is None else read_calibration(calibrate, precision)
    checkpoint = open_checkpoint(
        source, adapter=adapter, tokenizer=tokenizer, n_head=n_head, revision=revision
    )
    try:
        checkpoint = with_gpt2_tokenizer(checkpoint)
    except ModelError as error:
        click.echo(f"note: {error}", err=True)
    with progress_bar(f"Converting {Path(source).name}") as progress:
        fault = write_model_directory(
            checkpoint,
            directory,
            precision=precision,
            calibration=calibration,
            overwrite=overwrite,
            progress=progress,
        )
    if fault is not None:
        warnings.warn(no_text(fault), stacklevel=1)
    click.echo(f"{directory}: {precision}", err=True)
