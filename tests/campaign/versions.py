"""Tests with the lowest and the newest of each dependency, and each minor version of ONNX Runtime in between.

Installs from the package index into an environment of its own; the core is the one that is installed here.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import venv
from importlib.metadata import distribution
from pathlib import Path

from tests.campaign import ROOT
from tests.campaign.child import real_package
from tests.campaign.outcome import Outcome

_FEW_TESTS = ("tests/python/test_smoke.py", "tests/python/inference/test_stream_text.py")
_MORE_TESTS = (
    "tests/python/checkpoints/test_checkpoints.py",
    "tests/python/export/test_writer.py",
    "tests/python/inference/test_engine.py",
)
_TEST_REQUIREMENTS = ("pytest", "pytest-timeout", "hypothesis", "safetensors", "gguf")
_LOWEST_MINOR = 20
_SHOWN = ("onnxruntime", "numpy", "tokenizers", "onnx")


def versions(count: int, seed: int, only: list[str]) -> Outcome:
    """Test each set of versions: ``newest``, ``onnxruntime-1.N``, ``lowest``; more for a count of 2."""
    del seed
    tests = _FEW_TESTS if count == 1 else (*_FEW_TESTS, *_MORE_TESTS)
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="gpt2fast-versions-") as directory:
        environment = _Environment(Path(directory))
        newest = environment.install(*requirements(), *_TEST_REQUIREMENTS)
        minors = range(_LOWEST_MINOR, int(newest["onnxruntime"].split(".")[1]))
        sets = {
            "newest": [],
            **{f"onnxruntime-1.{minor}": [f"onnxruntime==1.{minor}.*"] for minor in minors},
            "lowest": [one.replace(">=", "==") for one in requirements()],
        }
        for name in only or sets:
            try:
                installed = environment.install(*sets[name])
                passed, findings = environment.test(*tests)
            except RuntimeError as error:
                installed, passed, findings = {}, 0, [str(error)]
            shown = {package: installed.get(package) for package in _SHOWN}
            outcome.add(name, **shown, passed=passed, findings=findings)
    return outcome


def requirements() -> list[str]:
    """What the package itself needs, as it declares it."""
    declared = distribution("gpt2fast").requires or []
    return [one for one in declared if "extra ==" not in one]


class _Environment:
    """A virtual environment that has the package as it is here, and other versions of what it needs."""

    def __init__(self, directory: Path) -> None:
        venv.create(directory / "venv", with_pip=True)
        self._python = directory / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        self._path = directory / "package"
        self._path.mkdir()
        package = real_package("versions")
        # Beside the package stands what it says of itself.
        files = distribution("gpt2fast").files or []
        metadata = next(Path(str(file.locate())) for file in files if file.name == "METADATA")
        for source in (package, metadata.parent):
            (self._path / source.name).symlink_to(source)
        self._cache = directory / "cache"

    def install(self, *packages: str) -> dict[str, str]:
        """Install packages over what there is; returns the versions of all."""
        if packages:
            self._run("-m", "pip", "install", "--quiet", *packages)
        lines = self._run("-m", "pip", "list", "--format=freeze").splitlines()
        return dict(line.split("==") for line in lines if "==" in line)

    def test(self, *tests: str) -> tuple[int, list[str]]:
        """How many tests passed, and what failed."""
        said = self._run("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, check=False)
        passed = re.search(r"(\d+) passed", said)
        failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return int(passed[1]) if passed else 0, failed if passed else [*failed, said[-500:]]

    def _run(self, *arguments: str, check: bool = True) -> str:
        ended = subprocess.run(
            [str(self._python), *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(self._path), "GPT2FAST_CACHE": str(self._cache)},
            capture_output=True,
            text=True,
            check=False,
        )
        if check and ended.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)[:200]}: {ended.stdout[-300:]}{ended.stderr[-700:]}")
        return ended.stdout
