"""Rules of the codebase: the direction of imports, what is loaded when, the length of files."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import gpt2fast
from support.import_arrows import faults
from support.service_packages import APPLICATION, need

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "gpt2fast"
MAX_LINES = 420
#: GPT2 has the documentation of all its methods in one place; their bodies are a few lines each.
LONGER_FILES = {"python/gpt2fast/model.py": 700}


def sources(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def importers(module: str) -> set[str]:
    """Files of the package that import a module when they run."""
    pattern = re.compile(rf"^\s*(?:import|from) +{re.escape(module)}\b", re.MULTILINE)
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if pattern.search(path.read_text("utf-8")):
            found.add(path.relative_to(PACKAGE).as_posix())
    return found


def test_versions_agree() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert declared is not None
    assert gpt2fast.__version__ == version("gpt2fast") == declared.group(1)


def test_the_core_has_one_importer() -> None:
    pattern = re.compile(r"^\s*(?:from gpt2fast import _core\b|import gpt2fast\._core|from gpt2fast\._core)")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if pattern.match(line)
    }
    assert found == {"_native.py"}


def test_imports_point_one_way() -> None:
    assert faults(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "line", "fault"),
    [
        ("text/tokenizer.py", "from gpt2fast.loading import sources", "text must not import loading"),
        (
            "config.py",
            "if TYPE_CHECKING:\n    import gpt2fast.storage.files",
            "config must not import storage",
        ),
        (
            "storage/files.py",
            "def late():\n    from gpt2fast import GPT2",
            "storage must not import __init__",
        ),
        ("export/graph.py", "from ..inference import options", "export must not import inference"),
        ("evaluation/items.py", "from gpt2fast.model import GPT2", "evaluation must not import model"),
        ("model.py", "import gpt2fast.evaluation as e", "model must not import evaluation"),
        ("errors.py", "from gpt2fast._validation import Integer", "errors must not import _validation"),
        ("text/arrays.py", "from gpt2fast.text.prompts import Prompt", "circle: gpt2fast.text.arrays, gpt2f"),
        ("text/prompts.py", "from . import prompts", "circle: gpt2fast.text.prompts"),
        ("helpers.py", "", "helpers.py: has no place at the top"),
        ("text/_helpers.py", "", "text/_helpers.py: modules of a sub-package have no underscore"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, line: str, fault: str) -> None:
    package = shutil.copytree(PACKAGE, tmp_path / "gpt2fast", ignore=shutil.ignore_patterns("data", "*.so"))
    with (package / path).open("a") as file:
        file.write(f"\n{line}\n")
    found = faults(package)
    assert len(found) >= 1
    assert any(one.startswith(fault) or f": {fault} " in one for one in found), found


@pytest.mark.parametrize("name", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_sub_package_lists_its_public_names(name: str) -> None:
    if name == "serving":
        need(APPLICATION)
    package = import_module(f"gpt2fast.{name}")
    for public in package.__all__:
        assert getattr(package, public) is not None
        assert public in dir(package)


def test_one_module_uses_the_tokenizers_package() -> None:
    assert importers("tokenizers") == {"text/backend.py"}


@pytest.mark.parametrize("path", sources("src/*.cpp", "src/*.h"), ids=lambda path: path.name)
def test_bindings_include_public_headers_only(path: Path) -> None:
    for name in re.findall(r'#include "(.+)"', path.read_text("utf-8")):
        assert name.startswith("gpt2fast/") or (ROOT / "src" / name).is_file(), name


@pytest.mark.parametrize(
    "path",
    sources("cpp/**/*.cpp", "cpp/**/*.h", "src/*", "python/**/*.py", "tools/*.py", "examples/*.py"),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_files_are_short_and_say_what_they_are_for(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= LONGER_FILES.get(path.relative_to(ROOT).as_posix(), MAX_LINES)
    assert lines[0].startswith(("//", '"""', "#", 'r"""')), "a file opens with what it is for"


def test_clients_of_servers_wait_for_a_busy_machine() -> None:
    """Left alone, httpx gives up after five seconds, and urllib never."""
    calls = {f"httpx.{name}" for name in ("get", "post", "request", "stream", "Client", "AsyncClient")}
    calls |= {"urlopen", "urllib.request.urlopen"}
    impatient = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("tests/**/*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in calls
        if not any(given.arg == "timeout" for given in node.keywords)
    ]
    assert impatient == []


def test_import_is_light() -> None:
    code = (
        "import sys, gpt2fast; heavy = {'torch', 'onnx', 'onnxruntime', 'transformers', 'tokenizers', "
        "'safetensors', 'huggingface_hub', 'tqdm', 'click'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_generating_does_not_import_the_converter(own_defaults: None) -> None:
    code = (
        "import sys; from gpt2fast import GPT2; "
        "GPT2.from_pretrained().generate('Once', max_new_tokens=1); "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'transformers', 'huggingface_hub', 'tqdm'}; "
        "heavy &= set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    from gpt2fast import GPT2

    GPT2.from_pretrained()  # so that the model is in the cache
    subprocess.run([sys.executable, "-c", code], check=True)
