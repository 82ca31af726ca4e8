"""Fuzzing of the C++ that meets what strangers send, by libFuzzer with sanitizers; needs clang."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.campaign import ROOT
from tests.campaign.outcome import Outcome

#: What each fuzzer of ``tests/cpp/fuzz/`` is compiled with, below ``cpp/``.
_SOURCES = {
    "prompt_lookup": ("decoding/prompt_lookup.cpp",),
    "stop_matcher": ("decoding/stop_matcher.cpp", "decoding/token_bytes.cpp"),
}
_COMPILERS = ("clang++", *(f"clang++-{version}" for version in range(25, 13, -1)))
_OPTIONS = (
    *("-std=c++20", "-O1", "-g1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
    *("-Icpp", "-Icpp/include", "-Itests/cpp"),
)
_COVERAGE = re.compile(r"cov: (\d+)")
_DONE = re.compile(r"Done (\d+) runs")


def native(count: int, seed: int, only: list[str]) -> Outcome:
    """Run ``count`` inputs of each fuzzer."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise RuntimeError("clang++ is not to be had here; Debian's package is clang")
    outcome = Outcome()
    for name in only or _SOURCES:
        with tempfile.TemporaryDirectory(prefix="gpt2fast-native-") as directory:
            program = str(Path(directory, "fuzzer"))
            sources = [f"tests/cpp/fuzz/{name}_fuzzer.cpp", *(f"cpp/{source}" for source in _SOURCES[name])]
            built = _run(compiler, *_OPTIONS, *sources, "-o", program)
            if built.returncode != 0:
                raise RuntimeError(f"{name}: {built.stderr[-2000:]}")
            limits = [f"-runs={count}", f"-seed={seed + 1}", "-max_len=512", "-timeout=10"]
            corpus = Path(directory, "corpus")
            corpus.mkdir()
            run = _run(program, *limits, f"-artifact_prefix={directory}/", str(corpus))
        covered = [int(number) for number in _COVERAGE.findall(run.stderr)]
        done = _DONE.search(run.stderr)
        findings = [] if run.returncode == 0 and done else [run.stderr[-1500:]]
        inputs = int(done[1]) if done else 0
        outcome.add(name, inputs=inputs, covered=max(covered, default=0), findings=findings)
    return outcome


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="backslashreplace", check=False
    )
