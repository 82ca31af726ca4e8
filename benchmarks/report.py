"""Results as tables in Markdown, and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.comparison import SCORED_TEXTS, SCORED_TOKENS, Results
from benchmarks.systems import System
from benchmarks.targets import Model, Target
from gpt2fast.evaluation.speed import Case, Timing, summarize


def machine() -> dict[str, Any]:
    """The processor, cores and system, as far as Linux reports them."""
    facts: dict[str, Any] = {"system": platform.platform(), "cores": os.cpu_count()}
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        fields = [line.split(":", 1) for line in file if ":" in line]
    values = {name.strip(): value.strip() for name, value in reversed(fields)}
    facts["processor"] = values.get("model name", platform.processor())
    facts["instructions"] = sorted(
        {"avx2", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"} & set(values.get("flags", "").split())
    )
    facts["load_average"] = os.getloadavg()[0]
    return facts


def tables(
    results: Results,
    systems: Sequence[System],
    cases: Sequence[Case],
    model: Model,
    targets: Sequence[Target],
) -> str:
    """All tables, with their titles."""
    names = [system.name for system in systems if system.name in results.timings]
    single = [case.name for case in cases if case.texts == 1]
    several = [case.name for case in cases if case.texts > 1]
    parts = [
        "## Summary",
        _summary_table(results, names),
        "## Milliseconds per token, one text (texts x prompt tokens)",
        _timing_table(results, names, single, lambda timing: timing.step_ms),
        "## Milliseconds to the first token",
        _timing_table(results, names, single, lambda timing: timing.first_token_ms),
        "## Tokens per second, texts together",
        _timing_table(results, names, several, lambda timing: timing.tokens_per_second),
        "## Tokens per second, texts scored",
        _scoring_table(results),
        "## Process start to first token, memory after a long text",
        _start_table(results),
        "## Milliseconds of a step with draft tokens",
        _draft_table(results),
        "## The machine's limits in the same run",
        _limit_table(results, model),
        "## Targets",
        target_table(targets),
    ]
    if results.failures:
        failures = "\n".join(f"- {name}: {reason}" for name, reason in results.failures.items())
        parts.append(f"Not measured:\n\n{failures}")
    return "\n\n".join(parts) + "\n"


def as_json(results: Results, model: Model, targets: Sequence[Target], facts: Mapping[str, Any]) -> str:
    """Everything, including every single measurement."""
    verdicts = [{**asdict(target), "verdict": target.verdict} for target in targets]
    values = {**facts, "model": model, "targets": verdicts, **vars(results)}
    return json.dumps(values, default=asdict, indent=1)


def _summary_table(results: Results, names: Sequence[str]) -> str:
    """A row for each system with its medians in the cases that matter most."""
    columns: list[tuple[str, str, Callable[[Timing], float]]] = [
        ("ms per token, ", "1 x 128", lambda timing: timing.step_ms),
        ("", "1 x 990", lambda timing: timing.step_ms),
        ("ms to first token, ", "1 x 128", lambda timing: timing.first_token_ms),
        ("", "1 x 512", lambda timing: timing.first_token_ms),
        ("tokens/s, ", "8 x 128", lambda timing: timing.tokens_per_second),
        ("", "32 x 128", lambda timing: timing.tokens_per_second),
    ]
    rows = []
    for name in names:
        cases = results.timings[name]
        row = [median([value(timing) for timing in cases.get(case, [])]) for _, case, value in columns]
        memory = results.resident_bytes.get(name)
        row += [median(results.start_seconds.get(name, [])), f"{memory['total'] / 1e6:.0f}" if memory else ""]
        rows.append([name, *row])
    return table(["", *(what + case for what, case, _ in columns), "start, s", "MB"], rows)


def _timing_table(
    results: Results, names: Sequence[str], cases: Sequence[str], value: Callable[[Timing], float]
) -> str:
    rows = []
    for name in names:
        measured = results.timings[name]
        if any(case in measured for case in cases):
            rows.append([name, *(spread([value(t) for t in measured.get(case, [])]) for case in cases)])
    return table(["", *cases], rows)


def _scoring_table(results: Results) -> str:
    shortest, longest = SCORED_TOKENS
    rows = [[name, spread(rates)] for name, rates in results.scored_per_second.items()]
    return table(["", f"{SCORED_TEXTS} texts of {shortest} to {longest} tokens"], rows)


def _start_table(results: Results) -> str:
    rows = []
    for name, seconds in results.start_seconds.items():
        used = results.resident_bytes.get(name)
        memory = [f"{used[kind] / 1e6:.0f}" for kind in ("total", "anonymous")] if used else ["", ""]
        rows.append([name, spread(seconds), *memory])
    return table(["", "seconds", "resident MB", "of it anonymous MB"], rows)


def _draft_table(results: Results) -> str:
    counts = sorted({count for steps in results.draft_step_ms.values() for count in steps})
    rows = [
        [name, *(spread(steps.get(count, [])) for count in counts)]
        for name, steps in results.draft_step_ms.items()
    ]
    return table(["", *map(str, counts)], rows)


def _limit_table(results: Results, model: Model) -> str:
    if results.limits is None:
        return "Not measured: no C++ compiler."
    rows = [
        [f"reading the weights of {name}, {size / 1e6:.1f} MB", f"{results.limits.read_ms[size]:.2f} ms"]
        for name, size in model.streamed_bytes.items()
        if size in results.limits.read_ms
    ]
    for what, speed in [
        ("byte products, AVX512-VNNI or AVX2", results.limits.vector_gops),
        ("byte products, AMX", results.limits.tile_gops),
        ("fp32 products, fused multiply-adds", results.limits.float_gops),
    ]:
        rows.append([what, f"{speed:,.0f} GOP/s" if speed else "no such instruction"])
    return table(["", "median"], rows)


def target_table(targets: Sequence[Target]) -> str:
    """What was measured, and whether it is what it should be."""
    rows = []
    for target in targets:
        ratio = "" if target.ratio is None else f"{target.ratio:.2f}"
        bound = f"{'at least' if target.at_least else 'at most'} {target.bound:g}"
        rows.append([target.what, target.against, ratio, bound, target.verdict])
    return table(["", "against", "ratio", "target", ""], rows)


def median(values: Sequence[float]) -> str:
    """The median with three or four digits; nothing of nothing."""
    if not values:
        return ""
    value = summarize(values).median
    digits = 0 if value >= 200 else 1 if value >= 20 else 2
    return f"{value:.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """The median, and half the distance between the quartiles in percent of it."""
    if not values:
        return ""
    summary = summarize(values)
    return f"{median(values)} ±{(summary.high - summary.low) / 2 / summary.median:.0%}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [list(header), ["-"] * len(header), *map(list, rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    lines[1] = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
