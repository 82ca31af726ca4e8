"""The codebase keeps its own rules: which way imports point, what loads when, how long files are."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import gpt2fast

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "gpt2fast"
MAX_LINES = 420


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


def test_one_module_uses_the_tokenizers_package() -> None:
    assert importers("tokenizers") == {"text/tokenizer.py"}


@pytest.mark.parametrize("path", sources("src/*.cpp", "src/*.h"), ids=lambda path: path.name)
def test_bindings_include_public_headers_only(path: Path) -> None:
    for name in re.findall(r'#include "(.+)"', path.read_text("utf-8")):
        assert name.startswith("gpt2fast/") or (ROOT / "src" / name).is_file(), name


@pytest.mark.parametrize(
    ("layer", "forbidden"),
    [
        ("kernels", ("engine/", "ops/", "ort/", "decoding/")),
        ("ort", ("engine/", "ops/", "decoding/", "kernels/linear", "kernels/attention")),
        ("decoding", ("engine/", "ops/", "ort/")),
        ("ops", ("engine/", "decoding/")),
    ],
)
def test_includes_point_one_way(layer: str, forbidden: tuple[str, ...]) -> None:
    for path in sources(f"cpp/{layer}/*.h", f"cpp/{layer}/*.cpp"):
        for name in re.findall(r'#include "(.+)"', path.read_text("utf-8")):
            assert not name.startswith(forbidden), f"{path.name} includes {name}"


@pytest.mark.parametrize(
    "path",
    sources("cpp/**/*.cpp", "cpp/**/*.h", "src/*", "python/**/*.py", "tools/*.py", "examples/*.py"),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_files_are_short_and_say_what_they_are_for(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[0].startswith(("//", '"""', "#", 'r"""')), "a file opens with what it is for"


def test_import_is_light() -> None:
    code = (
        "import sys, gpt2fast; heavy = {'torch', 'onnx', 'onnxruntime', 'transformers', 'tokenizers', "
        "'safetensors', 'huggingface_hub', 'tqdm', 'click'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_generating_does_not_import_the_converter(tmp_path: Path) -> None:
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
