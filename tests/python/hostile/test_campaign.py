"""The campaign of ``tests/campaign/`` with small counts, and that it notices what it looks for."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.campaign import child
from tests.campaign import container_mutations as containers

from support.processes import run_python
from support.service_packages import APPLICATION, SERVER, need

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc and signals")

_ROOT = Path(__file__).resolve().parents[3]


def campaign(*arguments: str) -> dict[str, Any]:
    """The result of a campaign that must find nothing."""
    command = [sys.executable, "-m", "tests.campaign", *arguments]
    run = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert run.stdout, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    assert result["findings"] == []
    assert run.returncode == 0
    return result


@pytest.mark.timeout(900)
def test_damaged_files_are_refused_or_read() -> None:
    pytest.importorskip("gguf")
    result = campaign("fuzz")
    assert len(result["parts"]) == 25
    for name, part in result["parts"].items():
        assert part["loaded"] + part["refused"] == result["count"], name
        # Most damage must be noticed; otherwise it hits nothing that matters.
        assert part["refused"] > result["count"] // 10, name


@pytest.mark.parametrize("name", ["guided", "versions"])
def test_a_package_in_place_is_refused_where_nothing_would_be_tested(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(child.core, "__file__", str(tmp_path / "_core.so"))
    with pytest.raises(SystemExit, match=f"{name}: the package is installed in place"):
        child.real_package(name)


def test_what_is_damaged_twice_is_damaged() -> None:
    """Guided by coverage, damage is damaged again: here a member whose compressed data is broken."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(range(256)) * 9)
    data = target.getvalue()
    start = data.index(b"data.pkl") + len(b"data.pkl")
    broken = data[:start] + b"\xff" * 9 + data[start + 9 :]
    damaged = containers.either(containers.mutate_zip)
    for seed in range(20):
        assert damaged(random.Random(seed), broken) is not None


def test_damage_follows_from_the_seed() -> None:
    first, same, other = (
        campaign("fuzz", "config", "--count", "9", "--seed", seed)["parts"]["config"]["inputs_sha256"]
        for seed in ("3", "3", "4")
    )
    assert first == same != other


@pytest.mark.parametrize(
    ("misdeed", "noticed"),
    [
        ("raise KeyError('layers')", "KeyError: 'layers' at <string>:"),
        ("raise ModelError('')", "an empty message"),
        (
            "start = time.process_time()\n        while time.process_time() < start + 1.2: pass",
            " s for a file of 9 bytes",
        ),
        ("bytearray(100 << 20)", "bytes for a file of 9"),
        ("open('/etc/hostname').close()", "opened /etc/hostname"),
        ("os.unlink(path)", "os.remove "),
    ],
)
def test_a_misdeed_is_noticed(tmp_path: Path, misdeed: str, noticed: str) -> None:
    code = f"""
import os, sys, time
sys.path.insert(0, {str(_ROOT)!r})
from pathlib import Path
from gpt2fast.errors import ModelError
from tests.campaign.fuzz_worker import Attempts
from tests.campaign.readers import Reader
directory = Path({str(tmp_path)!r})
def read(path):
    if path.read_bytes() != b"harmless!":
        {misdeed}
attempts = Attempts(Reader(None, {{}}), read, directory)
for damage in (b"harmless!", b"harmful!!"):
    attempts.attempt(directory / "file", damage, damage.decode())
print(*attempts.findings, sep="\\n")
"""
    found = run_python(code)
    assert found.startswith("harmful!!: ")
    assert noticed in found
    assert "\n" not in found


@pytest.mark.timeout(900)
def test_what_is_killed_leaves_nothing_broken_and_can_be_done_again() -> None:
    result = campaign("kills")
    assert {part["runs"] for part in result["parts"].values()} == {result["count"]}
    assert sum(part["killed"] for part in result["parts"].values()) > 0


@pytest.mark.timeout(900)
def test_files_that_lead_elsewhere_are_not_opened() -> None:
    result = campaign("paths")
    tricks = {name: part["tricks"] for name, part in result["parts"].items() if "tricks" in part}
    assert tricks.pop("files") >= 160  # more where devices can be made
    assert tricks == {"references": 36, "archives": 14, "swaps": 4}


@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_calls_of_the_system_that_fail_are_errors() -> None:
    result = campaign("faults")
    struck = sum(part["struck"] for part in result["parts"].values())
    errors = sum(count for part in result["parts"].values() for count in part["outcomes"].values())
    assert struck == errors > 150


@pytest.mark.timeout(900)
def test_answers_under_load_are_those_of_a_request_alone() -> None:
    (part,) = campaign("load")["parts"].values()
    assert part["answers"] > 300
    assert part["cancelled"] > 50


@pytest.mark.timeout(900)
def test_a_service_outlives_hostile_clients() -> None:
    need((*APPLICATION, *SERVER))
    (part,) = campaign("service", "--count", "20")["parts"].values()
    assert part["requests"] == 200
    assert part["statuses"]["200"] > 0
    assert part["statuses"]["400"] > 0
