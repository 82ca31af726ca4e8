"""Models whose files lead elsewhere; ``strace``, where it is installed, says what the process opened."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from tests.campaign.child import run_lines
from tests.campaign.outcome import Outcome

#: A file that was opened: the number of its descriptor, and where it really lies.
_OPENED = re.compile(r"^\d+\s+open(?:at2?)?\(.*= \d+<(.*)>$")
_OUTSIDE = re.compile(r"/OUTSIDE/|^/dev/zero$|^/etc/passwd$|^/proc/\d+/environ$")


def paths(count: int, seed: int, only: list[str]) -> Outcome:
    """Try every trick; the tricks are counted, and always the same."""
    del count, seed
    with tempfile.TemporaryDirectory(prefix="gpt2fast-paths-") as directory:
        log = Path(directory) / "opened"
        traced = shutil.which("strace") is not None
        command = ["strace", "-f", "-y", "-qq", "-e", "trace=open,openat,openat2", "-o", str(log)]
        outcome = run_lines("path_worker", [], only, before=command if traced else [])
        opened = [found[1] for line in _lines(log) if (found := _OPENED.match(line))]
    outside = sorted({path for path in opened if _OUTSIDE.search(path)})
    findings = [f"opened {path}" for path in outside]
    if traced and not opened:
        findings.append("strace has seen nothing opened")
    outcome.add("opened", files=len(opened), seen_by="strace" if traced else "nobody", findings=findings)
    return outcome


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []
