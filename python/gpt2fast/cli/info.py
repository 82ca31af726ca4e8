"""``gpt2fast info``: what a model and this installation are."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gpt2fast.cli.shared import ModelChoice, model_options, print_json

if TYPE_CHECKING:
    from gpt2fast.model import GPT2


@click.command()
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool, **options: Any) -> None:
    r"""Show a model's shape, precision and sizes, and what runs it here.

    \b
    gpt2fast info
    gpt2fast info --model openai-community/gpt2 --precision int4
    gpt2fast info --json
    """
    facts = _facts(ModelChoice.take(options).load())
    if as_json:
        print_json(facts)
        return
    for section, values in facts.items():
        if not values:
            continue
        click.echo(f"{section}:")
        width = max(len(name) for name in values)
        for name, value in values.items():
            click.echo(f"  {name:<{width}}  {_readable(name, value)}")


def _facts(model: GPT2) -> dict[str, dict[str, Any]]:
    from gpt2fast import __version__
    from gpt2fast._native import core

    config, directory = model.config, model.directory
    disk = sum(file.stat().st_size for file in directory.path.iterdir() if file.is_file())
    return {
        "model": {
            "directory": str(directory.path),
            "precision": model.precision,
            "kv_cache": model.kv_cache,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "n_positions": config.n_positions,
            "vocab_size": config.vocab_size,
            "tokenizer": model.has_tokenizer,
        },
        "calibration": {} if directory.calibration is None else asdict(directory.calibration),
        "classifier": _classifier(model),
        "generation_config": model.generation_config,
        "sizes": {
            "disk_bytes": disk,
            "weights_bytes": directory.weights_bytes,
            "cache_bytes_per_sequence": model.cache_bytes_per_sequence,
            "max_sequences": model.max_sequences,
        },
        "runtime": {
            "gpt2fast": __version__,
            "onnxruntime": model.runtime.version,
            "library": str(model.runtime.path),
            "instruction_set": core.active_isa(),
            "instruction_sets": core.available_isas(),
            "threads": model.threads,
        },
        "build": dict(core.build_config()),
    }


def _classifier(model: GPT2) -> dict[str, Any]:
    classifier = model.config.classifier
    if classifier is None:
        return {}
    facts = {"kind": classifier.kind, "labels": list(classifier.labels)}
    return facts | ({"problem_type": classifier.problem_type} if classifier.problem_type else {})


def _readable(name: str, value: Any) -> str:
    if "bytes" in name:
        return f"{value / 1e6:,.1f} MB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
