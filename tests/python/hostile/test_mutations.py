"""Damaged checkpoints of every format: each loads or is refused with a ModelError, and nothing else happens.

``GPT2FAST_FUZZ_MUTATIONS`` sets the number of mutations per format, ``GPT2FAST_FUZZ_SEED`` the first seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.hostile_samples import SAMPLES
from support.mutations import mutate

_WORKER = Path(__file__).resolve().parents[1] / "support" / "hostile_worker.py"
_MUTATIONS = int(os.environ.get("GPT2FAST_FUZZ_MUTATIONS", "300"))
_FIRST_SEED = int(os.environ.get("GPT2FAST_FUZZ_SEED", "0"))


def test_mutations_follow_from_the_seed() -> None:
    data = bytes(range(256)) * 8
    damaged = [mutate(data, seed) for seed in range(50)]
    assert damaged == [mutate(data, seed) for seed in range(50)]
    assert len(set(damaged)) > 40


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits and signals")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_files_are_refused_or_loaded(tmp_path: Path, name: str) -> None:
    if name == "gguf":
        pytest.importorskip("gguf")
    paths = filter(None, sys.path)
    run = subprocess.run(
        [
            sys.executable,
            str(_WORKER),
            name,
            str(_FIRST_SEED),
            str(_MUTATIONS),
            str(tmp_path),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads(run.stdout)
    assert result["failures"] == []
    assert result["loaded"] + result["refused"] == _MUTATIONS
    # Most damage must be noticed; otherwise the mutations hit nothing that matters.
    assert result["refused"] > _MUTATIONS // 10
