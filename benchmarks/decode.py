"""``python -m benchmarks.decode``: decode and prefill compared with transformers and plain ONNX Runtime.

Random weights of 124M's size; all take turns in one run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.checkpoints import checkpoint_directory
from benchmarks.comparison import Comparison, Results
from benchmarks.report import spread, table
from benchmarks.systems import System, all_systems, convert_all
from gpt2fast._native import core
from gpt2fast.evaluation.speed import Case

_RUNNERS = ("gpt2fast", "transformers", "contrib_graph")
_NEW_TOKENS = 33


def main() -> None:
    """Parse the command line, measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__)
    parser.add_argument("--size", default="124M")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt (default: 128)")
    parser.add_argument("--threads", type=int, default=core.usable_cores())
    parser.add_argument("--repeats", type=int, default=7, help="runs of each (default: 7)")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    checkpoint = checkpoint_directory(arguments.size, work)
    systems = sorted(all_systems(arguments.threads, _RUNNERS), key=lambda system: -system.bits)
    directories, skipped = convert_all(systems, checkpoint, work)
    results = Results(failures=skipped)
    case = Case("decode", 1, arguments.prompt, _NEW_TOKENS)
    vocab_size = json.loads((checkpoint / "config.json").read_text("utf-8"))["vocab_size"]
    with Comparison(directories, vocab_size, work, results, _log) as comparison:
        comparison.run_cases([case], arguments.repeats)
    print(_table(results, systems, case))


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _table(results: Results, systems: Sequence[System], case: Case) -> str:
    rows = []
    for system in systems:
        timings = results.timings.get(system.name, {}).get(case.name)
        if not timings:
            rows.append([system.name, results.failures.get(system.name, ""), ""])
            continue
        steps = [timing.step_ms for timing in timings]
        rows.append([system.name, spread(steps), spread([timing.first_token_ms for timing in timings])])
    return table(["", "ms per token", f"ms for {case.prompt_tokens} tokens of prompt"], rows)


if __name__ == "__main__":
    main()
