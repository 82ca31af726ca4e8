"""The C++ core keeps its layout: which way includes point, and a test for every source file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.include_arrows import include_faults, untested

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "cpp"
TESTS = ROOT / "tests" / "cpp"

#: Source files without a test of their own, and why.
UNTESTED = {
    "kernels/isa/amx.cpp": "the kernels' tests run with every instruction set of the machine",
    "kernels/isa/avx2.cpp": "as amx.cpp",
    "kernels/isa/avx512.cpp": "as amx.cpp",
    "kernels/isa/avx512_bf16.cpp": "as amx.cpp",
    "kernels/isa/avx_vnni.cpp": "as amx.cpp",
    "kernels/isa/neon.cpp": "as amx.cpp",
    "kernels/isa/neon_i8mm.cpp": "as amx.cpp",
    "kernels/isa/portable.cpp": "as amx.cpp",
}


def test_includes_point_one_way() -> None:
    assert include_faults(CORE) == []


@pytest.mark.parametrize(
    ("path", "include", "fault"),
    [
        ("kernels/shards.h", "engine/engine.h", "kernels/shards.h: kernels must not include engine/engine.h"),
        ("ort/value.cpp", "kernels/linear.h", "ort/value.cpp: ort must not include kernels/linear.h"),
        ("system/reserved_memory.h", "ort/abi.h", "system must not include ort/abi.h"),
        ("decoding/random.h", "ort/value.h", "decoding must not include ort/value.h"),
        ("ops/embed_op.h", "engine/kv_cache.h", "ops must not include engine/kv_cache.h"),
        ("include/gpt2fast/errors.h", "kernels/isa.h", "gpt2fast must not include kernels/isa.h"),
        ("kernels/isa.h", "kernels/linear.h", "circle: kernels/isa.h -> kernels/linear.h -> kernels/isa.h"),
        ("helpers/strings.h", "kernels/isa.h", "helpers/strings.h: helpers has no place in the core"),
    ],
)
def test_a_wrong_include_is_found(tmp_path: Path, path: str, include: str, fault: str) -> None:
    core = shutil.copytree(CORE, tmp_path / "cpp")
    file = core / path
    file.parent.mkdir(exist_ok=True)
    before = file.read_text("utf-8") if file.is_file() else ""
    file.write_text(f'{before}\n#include "{include}"\n', "utf-8")
    assert any(fault in found for found in include_faults(core))


def test_every_source_file_has_a_test() -> None:
    assert untested(CORE, TESTS) == sorted(UNTESTED)


def test_a_source_file_without_a_test_is_found(tmp_path: Path) -> None:
    core = shutil.copytree(CORE, tmp_path / "cpp")
    (core / "ort" / "new.cpp").touch()
    assert "ort/new.cpp" in untested(core, TESTS)
