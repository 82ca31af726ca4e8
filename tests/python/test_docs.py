"""The documentation is true: its Python blocks run, and the files and names that it mentions exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.export import convert
from gpt2fast.export.standard import StandardOptions, export_onnx
from support.classifier_samples import write_classifier
from support.service_packages import APPLICATION, need

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
# Blocks that need a model from the hub, or files of the reader's own, by page and first line.
NOT_RUN = {
    (
        "docs/from_transformers.md",
        "from transformers import AutoTokenizer, GPT2ForSequenceClassification, GPT2LMHeadModel, pipeline",
    ),
    ("docs/generation.md", 'model = GPT2.from_pretrained("openai-community/gpt2-large")'),
    ("docs/getting_started.md", 'model = GPT2.from_pretrained("openai-community/gpt2")'),
    ("docs/tokenizers.md", "tokenizer.apply_chat_template("),  # needs jinja2; tests/python/text renders
    ("docs/ray.md", "import ray"),  # tests/python/serving/test_ray.py runs a cluster
    ("docs/ray.md", "from ray.data.checkpoint import CheckpointConfig"),
    ("docs/serving.md", "from openai import OpenAI"),  # tests/python/serving runs clients
}
# What the blocks of a page need beyond the package itself.
NEEDS: dict[str, Sequence[str]] = {
    "docs/howto/celery.md": ["celery"],
    "docs/howto/fastapi.md": [*APPLICATION, "fastapi", "httpx"],
    "docs/serving.md": APPLICATION,
}
MAPS = ["docs/architecture.md", "cpp/README.md", "CONTRIBUTING.md"]  # pages whose names are checked
SOURCES = (".py", ".pyi", ".cpp", ".h", ".cmake", ".toml", ".json", ".yaml", "CMakeLists.txt")
FILE = r"[\w.\-]+(/[\w.\-]*)+|[\w\-]+\.(py|cpp|h|md|ya?ml)"
NAME = r"\w+((::|\.)\w+)*(\(\))?"
STYLE_EXAMPLES = {"PascalCase", "snake_case", "name_", "kName"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def python_blocks(page: Path) -> Iterator[str]:
    for block in re.findall(r"^ *```python\n(.*?)^ *```$", page.read_text("utf-8"), re.M | re.S):
        yield textwrap.dedent(block)


def first_line(block: str) -> str:
    return block.split("\n", 1)[0]


def given(page: Path, folder: Path, checkpoint: Path) -> dict[str, Any]:
    """What the reader of a page has before its first block."""
    if page.name in ("fine_tuned.md", "getting_started.md"):
        shutil.copytree(checkpoint, folder / "my-finetune")
    if page.name == "scoring.md":
        write_classifier(folder / "my-classifier", "two labels")
        write_classifier(folder / "my-tagger", "tokens")
    if page.name == "fine_tuned.md":
        convert(checkpoint, folder / "my-model")
    if page.name != "model_zoo.md":
        return {}
    path = folder / "gpt2-lm-head-10.onnx"
    export_onnx(open_checkpoint(checkpoint), path, StandardOptions(layout="zoo", opset=10))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return {"session": session, "ids": np.array([5, 6, 7]), "np": np}


@pytest.mark.parametrize("page", [page for page in PAGES if any(python_blocks(page))], ids=name_of)
def test_python_blocks_run(
    page: Path, embedded_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_defaults: None
) -> None:
    need(NEEDS.get(name_of(page), ()))
    monkeypatch.chdir(tmp_path)
    names = given(page, tmp_path, embedded_dir)
    for block in python_blocks(page):
        if (name_of(page), first_line(block)) not in NOT_RUN:
            exec(compile(block, name_of(page), "exec"), names)


def test_blocks_that_do_not_run_are_there() -> None:
    found = {(name_of(page), first_line(block)) for page in PAGES for block in python_blocks(page)}
    assert found >= NOT_RUN


def code_in(page: str) -> list[str]:
    """What stands in backticks, in pictures too, without commands, options and values."""
    text = (ROOT / page).read_text("utf-8")
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    found = re.findall(r"`([^`\n]+)`", text)
    for picture in re.findall(r"\]\((\S+\.svg)\)", text):
        found += re.findall(
            r">([^<]+\.(?:py|cpp|h))<", (ROOT / page).parent.joinpath(picture).read_text("utf-8")
        )
    return found


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("no git checkout")
    return [path for path in listed.stdout.splitlines() if (ROOT / path).exists()]


@pytest.mark.parametrize("page", MAPS)
def test_files_that_are_named_exist(page: str, tracked: list[str]) -> None:
    paths = [code for code in code_in(page) if re.fullmatch(FILE, code)]
    assert paths
    everything = "\n".join(tracked)
    for path in paths:
        assert re.search(rf"(^|/){re.escape(path.rstrip('/'))}(/|$)", everything, re.M), path


@pytest.mark.parametrize("page", MAPS)
def test_names_that_are_mentioned_exist(page: str, tracked: list[str]) -> None:
    """Every part of what looks like code: ``Scheduler::turn``, ``GPT2.generate``, ``plan()``."""
    sources = [ROOT / path for path in tracked if path.endswith(SOURCES) and ROOT / path != Path(__file__)]
    words = set(re.findall(r"\w+", "\n".join(path.read_text("utf-8") for path in sources)))
    names = {code for code in code_in(page) if re.fullmatch(NAME, code) and not re.fullmatch(FILE, code)}
    missing = {name for name in names if not set(re.findall(r"\w+", name)) <= words}
    assert missing - STYLE_EXAMPLES == set()


@pytest.mark.parametrize("page", [*PAGES, *map(ROOT.joinpath, MAPS)], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    for target in targets:
        if not re.match(r"https?:", target):
            path = target.split("#")[0]
            assert not path or (page.parent / path).exists(), target
