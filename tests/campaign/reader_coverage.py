"""Branch coverage of the Python modules that read files from strangers.

Needs ``pip install coverage`` and what the extra ``server-test`` has.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.campaign import ROOT

#: The modules, below ``gpt2fast/``, as patterns.
READERS = (
    "checkpoints/*",
    "cli/line_input.py",
    "cli/prompt_file.py",
    "cli/result_file.py",
    "config.py",
    "evaluation/items.py",
    "evaluation/journal.py",
    "export/archive.py",
    "export/tar_stream.py",
    "export/test_data.py",
    "inference/prefix.py",
    "loading/*",
    "serving/request_body.py",
    "storage/*",
    "text/gpt2_tokenizer.py",
    "text/tokenizer.py",
    "text/tokenizer_settings.py",
)
_TESTS = (
    *("checkpoints", "cli", "evaluation", "export", "hostile", "loading", "storage", "text"),
    *("inference/test_prefix.py", "inference/test_classification.py", "inference/test_foreign_tokenizers.py"),
    *("inference/test_processes.py", "serving/test_completions.py", "serving/test_errors.py"),
    *("test_from_transformers.py", "test_smoke.py"),
)
# The campaign itself, and limits of processor time, which counting exceeds.
_IGNORED = ("hostile/test_campaign.py", "hostile/test_proportions.py")
# Lines that no test can reach: for type checkers, and what must not happen.
_SETTINGS = """[run]
branch = true
include = {include}
[report]
exclude_also =
    if TYPE_CHECKING:
    raise NotImplementedError
"""


def measure_readers() -> tuple[dict[str, int], dict[str, list[int]], list[str]]:
    """Branches of each module, the lines of those never taken, and what went wrong."""
    with tempfile.TemporaryDirectory(prefix="gpt2fast-coverage-") as directory:
        settings, data, report = (Path(directory, name) for name in ("settings", "data", "report.json"))
        include = "".join(f"\n    */gpt2fast/{pattern}" for pattern in READERS)
        settings.write_text(_SETTINGS.format(include=include))
        tests = [f"tests/python/{name}" for name in _TESTS]
        common = [f"--rcfile={settings}", f"--data-file={data}"]
        run = _coverage(
            *("run", *common, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests),
            *(f"--ignore=tests/python/{name}" for name in _IGNORED),
        )
        written = _coverage("json", *common, "-o", str(report))
        if written.returncode != 0:
            raise RuntimeError(f"{run.stdout[-2000:]}{run.stderr[-500:]}{written.stdout}{written.stderr}")
        files = json.loads(report.read_text())["files"]
    branches, missed = {}, {}
    for path, found in files.items():
        name = path[path.rindex("gpt2fast/") :]
        branches[name] = found["summary"]["num_branches"]
        missed[name] = [origin for origin, _ in found["missing_branches"]]
    findings = [] if run.returncode == 0 else [f"the tests failed: {run.stdout[-1500:]}"]
    return branches, missed, findings


def _coverage(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "coverage", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
