"""``gpt2fast export``: standard ONNX or a Hugging Face checkpoint from any source."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from gpt2fast._validation import Real
from gpt2fast.cli.shared import source_options

if TYPE_CHECKING:
    from gpt2fast.checkpoints.base import Checkpoint
    from gpt2fast.export.standard import StandardOptions

#: Writes a checkpoint; returns the files.
_Write: TypeAlias = "Callable[[Checkpoint], list[Path]]"

# Options that only one of the formats takes.
_ONNX_ONLY = ("head", "past", "opset", "layout", "external_data", "test_data", "archive")
_SAFETENSORS_ONLY = ("dtype", "max_shard_size")


@click.command(short_help="Write standard ONNX or a Hugging Face checkpoint.")
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["onnx", "safetensors"]),
    default="onnx",
    show_default=True,
    help="A standard ONNX file, or a directory that transformers loads.",
)
@click.option(
    "--head",
    type=click.Choice(["lm", "hidden"]),
    help="ONNX: the first output is the scores, or the hidden states. Default: lm.",
)
@click.option("--past", is_flag=True, help="ONNX: inputs for the keys and values of earlier tokens.")
@click.option("--opset", type=int, metavar="N", help="ONNX: operators' version, from 10 on. Default: 17.")
@click.option(
    "--layout",
    type=click.Choice(["gpt2fast", "zoo"]),
    help="ONNX: input_ids [batch, tokens], or the Zoo's input1 [batch, choices, tokens]. Default: gpt2fast.",
)
@click.option("--external-data", is_flag=True, help="ONNX: weights in a second file, as always above 2 GiB.")
@click.option(
    "--test-data",
    type=int,
    metavar="N",
    help="ONNX: write N sets of sample inputs and outputs beside the model.",
)
@click.option("--archive", is_flag=True, help="ONNX: pack model and test data into a .tar.gz as well.")
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16"]),
    help="safetensors: precision of the weights. Default: fp32.",
)
@click.option(
    "--max-shard-size",
    type=float,
    metavar="GB",
    help="safetensors: the largest file, in units of 10^9 bytes. Default: 5.",
)
@source_options
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
def command(
    source: str,
    out: Path,
    kind: str,
    adapter: str | None,
    tokenizer: str | None,
    n_head: int | None,
    revision: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    r"""Write SOURCE (checkpoint directory, model file or hub id) to OUT in a format for other programs.

    \b
    gpt2fast export gpt2 gpt2.onnx
    gpt2fast export gpt2 gpt2-10/gpt2-10.onnx --layout zoo --head hidden --opset 10 --test-data 3 --archive
    gpt2fast export model.gguf my-checkpoint --format safetensors
    """
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    for name in _SAFETENSORS_ONLY if kind == "onnx" else _ONNX_ONLY:
        if name in given:
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with --format {kind}")
    from gpt2fast.checkpoints import open_checkpoint

    # Options and places are checked before a checkpoint is fetched.
    write = (_onnx_writer if kind == "onnx" else _checkpoint_writer)(out, overwrite, given)
    checkpoint = open_checkpoint(
        source, adapter=adapter, tokenizer=tokenizer, n_head=n_head, revision=revision
    )
    for path in write(checkpoint):
        click.echo(str(path), err=True)


def _onnx_writer(out: Path, overwrite: bool, given: dict[str, Any]) -> _Write:
    """What writes a checkpoint as ONNX, with what these options add."""
    from gpt2fast.export.archive import archive_path
    from gpt2fast.export.onnx_stream import data_path
    from gpt2fast.export.standard import StandardOptions
    from gpt2fast.export.test_data import check_sets
    from gpt2fast.storage.atomic import check_free

    chosen = StandardOptions(
        **{name: given[name] for name in ("head", "past", "opset", "layout") if name in given}
    )
    if "test_data" in given:
        check_sets(out.parent, given["test_data"], overwrite=overwrite)
    for path in (out, data_path(out), *([archive_path(out)] if "archive" in given else [])):
        check_free(path, overwrite=overwrite)
    return partial(_write_onnx, out=out, chosen=chosen, overwrite=overwrite, given=given)


def _write_onnx(
    checkpoint: Checkpoint, *, out: Path, chosen: StandardOptions, overwrite: bool, given: dict[str, Any]
) -> list[Path]:
    from gpt2fast.export.archive import archive_path, pack_archive
    from gpt2fast.export.standard import export_onnx
    from gpt2fast.export.test_data import find_sets, write_test_data
    from gpt2fast.storage.progress import progress_bar

    sets = given.get("test_data")
    with progress_bar(f"Exporting {out.name}") as progress:
        model_files = export_onnx(
            checkpoint,
            out,
            chosen,
            external_data="external_data" in given,
            overwrite=overwrite,
            progress=progress,
        )
    written = list(model_files)
    if sets is not None:
        written += write_test_data(checkpoint, out.parent, chosen, sets, overwrite=overwrite)
    if "archive" in given:
        pack_archive(archive_path(out), model_files, find_sets(out.parent))
        written.append(archive_path(out))
    return written


def _checkpoint_writer(out: Path, overwrite: bool, given: dict[str, Any]) -> _Write:
    """What writes a checkpoint in Hugging Face's form."""
    from gpt2fast.export.huggingface_writer import check_checkpoint_directory

    if "max_shard_size" in given:
        Real(1e-9, 1e9)("--max-shard-size", given["max_shard_size"])
    check_checkpoint_directory(Path(os.path.realpath(out)), overwrite=overwrite)
    return partial(_write_checkpoint, out=out, overwrite=overwrite, given=given)


def _write_checkpoint(
    checkpoint: Checkpoint, *, out: Path, overwrite: bool, given: dict[str, Any]
) -> list[Path]:
    from gpt2fast.export.huggingface_writer import DEFAULT_SHARD_BYTES, save_huggingface
    from gpt2fast.storage.progress import progress_bar

    size = given.get("max_shard_size")
    shard_bytes = DEFAULT_SHARD_BYTES if size is None else int(size * 1e9)
    with progress_bar(f"Exporting {out.name}") as progress:
        return save_huggingface(
            checkpoint,
            out,
            dtype=given.get("dtype", "fp32"),
            max_shard_bytes=shard_bytes,
            overwrite=overwrite,
            progress=progress,
        )
