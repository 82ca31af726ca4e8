"""Results as a picture: three panels in one PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.comparison import Results
from benchmarks.systems import OURS, System
from gpt2fast.evaluation.speed import Case, Timing


def draw(results: Results, systems: Sequence[System], cases: Sequence[Case], path: Path) -> None:
    """Decode time against context, throughput against texts, time to first token against prompt length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(17, 6))
    single = [case for case in cases if case.texts == 1]
    usual = next((case.prompt_tokens for case in cases if case.texts > 1), None)
    together = [case for case in cases if case.prompt_tokens == usual]

    def context(case: Case) -> int:
        return case.prompt_tokens

    def texts(case: Case) -> int:
        return case.texts

    _draw(panels[0], results, systems, single, context, lambda timing: timing.step_ms)
    panels[0].set(title="One text", xlabel="tokens of context", ylabel="ms per token", yscale="log")
    _draw(panels[1], results, systems, together, texts, lambda timing: timing.tokens_per_second)
    panels[1].set(title="Texts together", xlabel="texts", ylabel="tokens per second", xscale="log")
    _draw(panels[2], results, systems, single, context, lambda timing: timing.first_token_ms)
    panels[2].set(title="Prompt", xlabel="prompt tokens", ylabel="ms to the first token", yscale="log")
    for panel in panels:
        panel.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw(
    panel: Any,
    results: Results,
    systems: Sequence[System],
    cases: Sequence[Case],
    place: Callable[[Case], int],
    value: Callable[[Timing], float],
) -> None:
    """A line for each system that has several of the cases; ours are thick."""
    from matplotlib import colormaps

    colors = colormaps["tab20"]
    for index, system in enumerate(systems):
        measured = results.timings.get(system.name, {})
        points = [
            (place(case), median(value(timing) for timing in measured[case.name]))
            for case in cases
            if case.name in measured
        ]
        if len(points) > 1:
            width = 2.5 if system.runner == OURS else 1.2
            xs, ys = zip(*sorted(points), strict=True)
            color = colors(index % colors.N)
            style = "-" if system.runner == OURS else "--"
            panel.plot(xs, ys, style, marker="o", color=color, linewidth=width, label=system.name)
