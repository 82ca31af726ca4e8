"""The builder of Linux wheels: what it tells CMake, and its check of what the extension shows others."""

from __future__ import annotations

import sys
import zipfile
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import pytest

from gpt2fast._native import core, find_library

for program in ("elftools", "pybind11", "ziglang"):
    pytest.importorskip(program, reason="a program of the extra `wheel`")
build_wheel = import_module("build_wheel")

ON_LINUX = sys.platform == "linux"
pytestmark = pytest.mark.skipif(not ON_LINUX, reason="the tool runs on Linux")


def wheel_with(library: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(library, "gpt2fast/_core.cpython-311-x86_64-linux-gnu.so")
        archive.writestr("gpt2fast/_core.pyi", "")
    return path


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
def test_the_target_is_named_by_processor_and_glibc(arch: str) -> None:
    settings = build_wheel.build_settings(arch, "2.31")
    assert settings["GPT2FAST_ZIG_TARGET"] == f"{arch}-linux-gnu.2.31"
    version = f"{sys.version_info.major}{sys.version_info.minor}{sys.abiflags}"
    assert settings["PYTHON_MODULE_EXTENSION"] == f".cpython-{version}-{arch}-linux-gnu.so"


def test_every_path_that_cmake_is_given_exists() -> None:
    settings = build_wheel.build_settings("aarch64", "2.28")
    for name in ("CMAKE_TOOLCHAIN_FILE", "GPT2FAST_ZIG", "Python_EXECUTABLE", "pybind11_DIR"):
        assert Path(settings[name]).exists(), name


def test_the_extension_exports_its_entry_alone(tmp_path: Path) -> None:
    library = Path(core.__file__)
    assert build_wheel.exported_symbols(library.read_bytes()) == {"PyInit__core"}
    build_wheel.check_symbols(wheel_with(library, tmp_path / "good.whl"))


def test_a_library_that_exports_more_is_refused(tmp_path: Path) -> None:
    wheel = wheel_with(Path(find_library()), tmp_path / "bad.whl")
    with pytest.raises(
        SystemExit, match=r"must export PyInit__core alone; it exports \d+ names.*OrtGetApiBase"
    ):
        build_wheel.check_symbols(wheel)


@pytest.mark.parametrize(
    ("tags", "glibc", "fits"),
    [
        ("manylinux2014_aarch64.manylinux_2_17_aarch64", "2.28", True),
        ("manylinux_2_28_x86_64", "2.28", True),
        ("manylinux_2_31_x86_64", "2.28", False),
        ("linux_aarch64", "2.28", False),
    ],
)
def test_a_wheel_for_newer_systems_than_wanted_is_refused(tags: str, glibc: str, fits: bool) -> None:
    with nullcontext() if fits else pytest.raises(SystemExit, match=f"{tags}.*glibc {glibc}"):
        build_wheel.check_glibc(f"gpt2fast-0.1.0-cp311-cp311-{tags}.whl", glibc)
