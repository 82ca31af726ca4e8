"""``python -m benchmarks``: gpt2fast and every other program that is installed, in one run.

Makes a checkpoint with random weights, converts it for each program, lets them take turns over prompts that
none has seen, and writes a table, a picture and all measurements.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks import plots, report
from benchmarks.checkpoints import EMBEDDED, checkpoint_directory
from benchmarks.comparison import Comparison, Log, Results, measure_starts
from benchmarks.limits import Limits, build_probe, measure_limits, median_limits
from benchmarks.runners import NAMES
from benchmarks.systems import OURS, System, all_systems, convert_all, installed_versions
from benchmarks.targets import Model, all_targets
from gpt2fast._native import core
from gpt2fast.evaluation.speed import Case, fresh_prompts, usual_cases
from gpt2fast.loading.loaded_model import EngineSettings, LoadedModel
from gpt2fast.storage.model_directory import open_model_directory


def main() -> None:
    """Parse the command line, measure, and write the results."""
    arguments = _arguments()
    threads = arguments.threads or core.usable_cores()
    work, out = arguments.work.resolve(), arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def log(message: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {message}", file=sys.stderr, flush=True)

    log("preparing checkpoints and conversions")
    checkpoint = checkpoint_directory(arguments.size, work)
    systems = [
        system
        for system in all_systems(threads, arguments.only or NAMES)
        if arguments.bits is None or system.bits in arguments.bits
    ]
    directories, skipped = convert_all(systems, checkpoint, work)
    _add_single_thread(directories, threads)
    results = Results(failures=skipped)
    if arguments.prepare:
        log("; ".join(f"{name}: {reason}" for name, reason in skipped.items()) or "all converted")
        return
    model = _sizes(checkpoint, directories)
    cases = usual_cases(model.n_positions)
    facts = {"size": arguments.size, "command": " ".join(sys.argv[1:]), "machine": report.machine()}
    facts["versions"] = installed_versions(list(directories))
    _measure(directories, cases, model, arguments.repeats, work, log, results)
    facts["load_average_after"] = report.machine()["load_average"]

    measured = list(directories)
    targets = all_targets(results, measured, model)
    values = report.as_json(results, model, targets, facts)
    (out / f"{arguments.size}.json").write_text(values, "utf-8")
    text = report.tables(results, measured, cases, model, targets)
    (out / f"{arguments.size}.md").write_text(text, "utf-8")
    if arguments.plot:
        plots.draw(results, measured, cases, out / f"{arguments.size}.png")
    print(text)
    log(f"written to {out}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="124M", help=f"124M, 355M, ... or {EMBEDDED!r}: the package's own")
    parser.add_argument("--threads", type=int, help="default: the cores this process may use")
    parser.add_argument("--repeats", type=int, default=4, help="runs of each case (default: 4)")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="run these programs alone")
    parser.add_argument("--bits", type=int, nargs="+", help="run formats of so many bits alone")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="for conversions")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/results"), help="for results")
    parser.add_argument("--no-plot", dest="plot", action="store_false", help="write no picture")
    parser.add_argument("--prepare", action="store_true", help="convert only")
    return parser.parse_args()


def _add_single_thread(directories: dict[System, Path], threads: int) -> None:
    """One more system: gpt2fast int8 on one thread, to see what the other threads gain."""
    for system, directory in list(directories.items()):
        if system.runner == OURS and system.format == "int8" and threads > 1:
            directories[replace(system, threads=1)] = directory


def _sizes(checkpoint: Path, directories: dict[System, Path]) -> Model:
    """The sizes of the checkpoint and of our own conversions of it."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))
    model = Model(config["n_positions"], config["vocab_size"], {}, {}, {})
    positions_table = config["n_positions"] * config["n_embd"] * 4  # a step reads one row of it
    for system, path in directories.items():
        if system.runner != OURS:
            continue
        directory = open_model_directory(path)
        model.file_bytes[system.name] = directory.weights_bytes
        model.streamed_bytes[system.name] = directory.weights_bytes - positions_table
        loaded = LoadedModel(directory, EngineSettings(threads=1, max_sequences=1))
        model.cache_bytes[system.name] = loaded.engine.cache_bytes_per_sequence
    return model


def _measure(
    directories: dict[System, Path],
    cases: Sequence[Case],
    model: Model,
    repeats: int,
    work: Path,
    log: Log,
    results: Results,
) -> None:
    """Fill in the results; the machine's limits are measured in each round of cases."""
    sizes = sorted(set(model.streamed_bytes.values()))
    threads = max(system.threads for system in directories)
    probe = build_probe(work)
    moments: list[Limits] = []

    def measure_machine() -> None:
        if probe:
            moments.append(measure_limits(probe, threads, sizes))

    with Comparison(directories, model.vocab_size, work, results, log) as comparison:
        comparison.run_drafts(model.n_positions // 8, repeats)
        comparison.run_scoring(repeats)
        comparison.run_cases(cases, repeats, measure_machine)
    long_text = Case("long", 1, model.n_positions - 34, 8)
    [prompt] = fresh_prompts(np.random.default_rng(), long_text, model.vocab_size)
    measure_starts(directories, prompt, repeats, work, results, log)
    if moments:
        results.limits = median_limits(moments)


if __name__ == "__main__":
    main()
