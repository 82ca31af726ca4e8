"""``python -m benchmarks.profile_step``: where the time of a decode step goes, by sampling.

Linux's ``perf`` samples the thread that makes the steps; each sample counts for the first part of the table
that is on its stack, so waiting for other threads counts for the operator that waits. The extension needs its
symbols: build it with ``pip install . -C cmake.define.CMAKE_STRIP=true``.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.checkpoints import checkpoint_directory
from benchmarks.report import table
from gpt2fast import GPT2
from gpt2fast._native import core

_FREQUENCY = 997  # samples per second; a prime, so that they don't fall into step with the steps
_STACK_BYTES = 16384
_PERF_START_SECONDS = 1.0
# Parts of a step, and what the name of one of their functions contains.
_PARTS = {
    "Linear": r"LinearOp::",
    "CachedAttention": r"AttentionOp::",
    "LayerNorm": r"LayerNormOp::",
    "Embed": r"EmbedOp::",
    "choosing tokens": r"TokenChooser::",
    "ONNX Runtime around the operators": r"libonnxruntime",
    "engine": r"gpt2fast::(?!bindings)",
    "Python": r"python|_core",
}


def main() -> None:
    """Parse the command line, sample, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile_step", description=__doc__)
    parser.add_argument("--size", default="124M")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int, default=core.usable_cores())
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--texts", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"))
    arguments = parser.parse_args()
    checkpoint = checkpoint_directory(arguments.size, arguments.work.resolve())
    model = GPT2.from_pretrained(checkpoint, precision=arguments.precision, threads=arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "perf.data"
        milliseconds = _record(model, arguments.texts, arguments.context, recording)
        parts = Counter(_part(stack) for stack in _stacks(recording))
    samples = sum(parts.values())
    rows = [[name, f"{count / samples:.1%}"] for name, count in parts.most_common()]
    outside = 1 - (parts["Linear"] + parts["CachedAttention"]) / samples
    print(f"{milliseconds:.2f} ms per step, {samples} samples")
    print(f"{outside:.1%} outside Linear and CachedAttention\n")
    print(table(["", "share of a step"], rows))


def _record(model: GPT2, texts: int, context: int, recording: Path) -> float:
    """Sample the steps after the prompts, up to the last position; returns their median milliseconds."""
    generator = np.random.default_rng()
    ids = generator.integers(0, model.config.vocab_size - 1, (texts, context)).tolist()
    stream = model.stream(ids, max_new_tokens=model.config.n_positions - context, eos_token_id=[])
    while next(stream).index != texts - 1:
        pass
    sampling = ["-e", "cpu-clock", "-F", str(_FREQUENCY), "--call-graph", f"dwarf,{_STACK_BYTES}"]
    command = ["perf", "record", "-q", *sampling, "-t", str(os.getpid()), "-o", str(recording)]
    times = []
    with subprocess.Popen(command) as perf:
        time.sleep(_PERF_START_SECONDS)
        for chunk in stream:
            if chunk.index == 0:
                times.append(time.perf_counter())
        perf.send_signal(signal.SIGINT)
    return float(np.median(np.diff(times))) * 1e3


def _stacks(recording: Path) -> Iterator[list[str]]:
    """The functions of each sample, the innermost first, with their libraries."""
    command = ["perf", "script", "-i", str(recording), "-F", "ip,sym,dso"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for sample in output.split("\n\n"):
        frames = [line.strip() for line in sample.splitlines() if line.strip()]
        if frames:
            yield frames


def _part(frames: list[str]) -> str:
    """The first part that is on a stack."""
    stack = "\n".join(frames)
    return next((name for name, pattern in _PARTS.items() if re.search(pattern, stack)), "unknown")


if __name__ == "__main__":
    main()
