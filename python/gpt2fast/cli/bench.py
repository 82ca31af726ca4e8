"""``gpt2fast bench``: how fast a model runs on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gpt2fast.cli.shared import ModelChoice, model_options, print_json
from gpt2fast.loading.loaded_model import MAX_DECODE_SLOWDOWN

if TYPE_CHECKING:
    from gpt2fast.evaluation.speed import Case, Timing
    from gpt2fast.model import GPT2

_DRAFTS = (4, 8)
_DRAFT_STEPS = 12


@click.command()
@model_options
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    default=(8, 32),
    show_default=True,
    metavar="N",
    help="Generate N texts together; may be given several times.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Runs of each case; the median and the quartiles are shown.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(batches: tuple[int, ...], repeats: int, as_json: bool, **options: Any) -> None:
    r"""Measure time to the first token, time per token and throughput, over random prompts.

    \b
    gpt2fast bench
    gpt2fast bench --model openai-community/gpt2 --precision int4 --threads 2
    gpt2fast bench --batch 4 --batch 16 --json
    """
    # Several texts are timed while all of them are written: their prompts are read first.
    model = ModelChoice.take(options).load(decode_slowdown=MAX_DECODE_SLOWDOWN)
    facts = _facts(model)
    measured = _measure(model, batches, repeats)
    drafts = _draft_steps(model)
    if as_json:
        print_json({**facts, "cases": [_as_json(*item) for item in measured], "draft_step_ms": drafts})
        return
    click.echo(", ".join(f"{name} {value}" for name, value in facts.items()))
    click.echo(f"{'texts x prompt':<16}{'first token, ms':>26}{'ms per step':>24}{'tokens/s':>12}")
    for case, timings in measured:
        first = _spread([timing.first_token_ms for timing in timings])
        step = _spread([timing.step_ms for timing in timings])
        rate = _spread([timing.tokens_per_second for timing in timings], spread=False)
        click.echo(f"{case.name:<16}{first:>26}{step:>24}{rate:>12}")
    for count, milliseconds in drafts.items():
        click.echo(f"step with {count} draft tokens: {milliseconds:.2f} ms")


def _facts(model: GPT2) -> dict[str, Any]:
    from gpt2fast._native import core

    return {
        "model": model.directory.path.name,
        "precision": model.precision,
        "KV cache": model.kv_cache,
        "threads": model.threads,
        "instruction set": core.active_isa(),
    }


def _measure(model: GPT2, batches: tuple[int, ...], repeats: int) -> list[tuple[Case, list[Timing]]]:
    from gpt2fast.evaluation.speed import run_cases, usual_cases

    if max(batches) > model.max_sequences:
        raise click.UsageError(f"--batch {max(batches)}: at most {model.max_sequences} texts share a step")
    cases = usual_cases(model.config.n_positions, list(dict.fromkeys(batches)))

    def report(name: str) -> None:
        click.echo(f"measuring {name}", err=True)

    return list(run_cases(model.loaded, cases, repeats, report))


def _draft_steps(model: GPT2) -> dict[int, float]:
    """Milliseconds of a step by number of draft tokens, as far as the model's positions reach."""
    from gpt2fast.evaluation.speed import draft_step_ms

    context = model.config.n_positions // 8
    room = model.config.n_positions - context
    counts = [drafts for drafts in (0, *_DRAFTS) if (_DRAFT_STEPS + 4) * (drafts + 1) <= room]
    return {drafts: draft_step_ms(model.loaded, context, drafts, _DRAFT_STEPS) for drafts in counts}


def _as_json(case: Case, timings: list[Timing]) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(case), "timings": [asdict(timing) for timing in timings]}


def _spread(values: list[float], *, spread: bool = True) -> str:
    from gpt2fast.evaluation.speed import summarize

    summary = summarize(values)
    digits = 0 if summary.median >= 100 else 2
    text = f"{summary.median:,.{digits}f}"
    return f"{text} ({summary.low:,.{digits}f} to {summary.high:,.{digits}f})" if spread else text
