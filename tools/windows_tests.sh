#!/usr/bin/env bash
# Compiles the core and its C++ tests for Windows by Zig's clang and runs them under Wine, with the newest ONNX Runtime for
# Windows from the package index. Needs wine64, and cmake, ninja and ziglang in the Python on PATH.
#
#     tools/windows_tests.sh BUILD_DIRECTORY [TEST...]
#
# Without names, all tests.
set -euo pipefail
build=$1
shift
mkdir -p "$build"
python -m pip download --quiet --no-deps --only-binary :all: --platform win_amd64 --dest "$build" onnxruntime
python -m zipfile --extract "$build"/onnxruntime-*.whl "$build/onnxruntime"

cmake --preset windows-tests -B "$build" >/dev/null
cmake --build "$build" ${*:+--target "$@"}

library="$(realpath "$build")/onnxruntime/onnxruntime/capi/onnxruntime.dll"
export WINEPREFIX="$(realpath "$build")/wine" WINEDEBUG=-all GPT2FAST_ORT_LIBRARY="Z:$library"
/usr/lib/wine/wine64 wineboot --init  # once, before programs that start at the same time do
names=$(IFS='|' && echo "$*")
ctest --test-dir "$build" --output-on-failure --timeout 300 -R "^(${names:-.*})\$"
