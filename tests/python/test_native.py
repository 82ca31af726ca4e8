"""Finding and loading ONNX Runtime, and what importing the package loads."""

from __future__ import annotations

import platform
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import gpt2fast
from gpt2fast import _native
from support.processes import imported_by, run_python

HEAVY = {
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "tqdm",
}


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not imported_by("import gpt2fast") & (HEAVY | {"numpy", "gpt2fast._core"})


def test_naming_the_model_imports_nothing_heavy() -> None:
    assert not imported_by("from gpt2fast import GPT2") & (HEAVY | {"numpy"})


def test_finding_the_library_does_not_import_its_package() -> None:
    modules = imported_by("from gpt2fast._native import load_runtime; load_runtime()")
    assert "gpt2fast._core" in modules
    assert "onnxruntime" not in modules


def test_public_names() -> None:
    for name in gpt2fast.__all__:
        assert getattr(gpt2fast, name) is not None
        assert name in dir(gpt2fast)
    with pytest.raises(AttributeError, match="has no attribute 'GPT3'"):
        gpt2fast.GPT3  # noqa: B018


def test_the_runtime_reports_version_and_path() -> None:
    runtime = _native.load_runtime()
    assert runtime is _native.load_runtime()
    assert runtime.path.is_file()
    major, minor = (int(part) for part in runtime.version.split(".")[:2])
    assert (major, minor) >= (1, 20)


def test_the_core_describes_its_build() -> None:
    core = _native.core
    assert core.build_config()
    assert core.active_isa() in core.available_isas()
    assert core.usable_cores() >= 1


#: The names of /proc/cpuinfo for what each of our instruction sets needs.
NEEDED_FLAGS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avx_vnni": {"avx2", "fma", "f16c", "avx_vnni"},
    "avx512_vnni": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"},
}
NEEDED_FLAGS["avx512_bf16"] = NEEDED_FLAGS["avx512_vnni"] | {"avx512_bf16"}


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="reads Linux's flags of x86-64 processors",
)
def test_the_core_finds_the_instruction_sets_that_linux_reports() -> None:
    flags = re.findall(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text("ascii"), re.MULTILINE)[0].split()
    expected = {name for name, needed in NEEDED_FLAGS.items() if needed <= set(flags)}
    assert set(_native.core.available_isas()) - {"portable", "amx_int8"} == expected


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_native.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(_native, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError,
        match=r"no package 'onnxruntime' is installed; install it with: pip install \"onnxruntime>=",
    ):
        _native.find_library()


def test_package_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = ModuleSpec("onnxruntime", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.delenv(_native.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(_native, "find_spec", lambda name: spec)
    with pytest.raises(ImportError, match="onnxruntime") as caught:
        _native.find_library()
    assert str(tmp_path / "capi") in str(caught.value)


def test_variable_that_names_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(_native.LIBRARY_VARIABLE, str(tmp_path / "missing.so"))
    with pytest.raises(ImportError, match=r"GPT2FAST_ORT_LIBRARY names .*missing\.so.*, which is not a file"):
        _native.find_library()


def test_broken_library(tmp_path: Path) -> None:
    broken = tmp_path / "libonnxruntime.so.1.99.0"
    broken.write_bytes(b"not a library")
    code = (
        "from gpt2fast import GPT2\n"
        "try:\n    GPT2.from_pretrained()\nexcept ImportError as error:\n    print(error)"
    )
    message = run_python(code, GPT2FAST_ORT_LIBRARY=str(broken))
    assert str(broken) in message
    assert "pip install" in message
