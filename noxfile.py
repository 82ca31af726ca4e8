"""The commands of development, each in an environment of its own; ``nox -l`` lists them.

``bash .ci/run`` does all of it and more, from scratch, before a change lands.
"""

from __future__ import annotations

import os

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True

FIND_LIBRARY = "from gpt2fast._native import find_library; print(find_library())"
# The tests of code that threads share; the others would only take longer under the thread sanitizer.
THREADED = (
    "attention_test",
    "draft_writer_test",
    "engine_test",
    "hook_thread_test",
    "linear_bits_test",
    "linear_test",
    "mailbox_test",
    "ready_queue_test",
    "scheduler_callers_test",
    "scheduler_faults_test",
    "scheduler_order_test",
    "scheduler_promises_test",
    "scheduler_random_test",
    "scheduler_test",
    "shards_test",
    "thread_parallel_test",
    "thread_pool_test",
)
# Tests of what the address sanitizer changes: signals, what is opened, memory, time; and fork(), since the
# locks of its allocator stay locked in a child.
NOT_SANITIZED = (
    "tests/python/hostile/test_campaign.py",
    "tests/python/hostile/test_changed_files.py::test_other_bus_errors_still_reach_their_handler",
    "tests/python/hostile/test_changed_files.py::test_out_of_memory_inside_a_step_is_a_memory_error",
    "tests/python/hostile/test_proportions.py",
    "tests/python/inference/test_engine.py::test_finished_texts_leave_no_memory_behind",
    "tests/python/inference/test_processes.py::test_children_of_fork_generate_and_exit",
)


@nox.session
def tests(session: nox.Session) -> None:
    """Install the package and run the Python tests; arguments after ``--`` go to pytest."""
    session.install(".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format of Python and C++."""
    session.install("clang-format>=18", "ruff>=0.6")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    sources = session.run("git", "ls-files", "*.cpp", "*.h", external=True, silent=True)
    session.run("clang-format", "--dry-run", "--Werror", *str(sources).split(), log=False)


@nox.session
def types(session: nox.Session) -> None:
    """Check types of the package, of the extension's stubs and of the examples."""
    session.install(".[test,lint]")
    session.run("mypy")
    stubs = ["gpt2fast._core", "--allowlist", "tests/core_stub_allowlist.txt"]
    session.run("python", "-m", "mypy.stubtest", *stubs)
    examples = session.run("git", "ls-files", "examples/*.py", external=True, silent=True)
    session.run("mypy", "--strict", *str(examples).split(), env={"MYPYPATH": "python:examples"})


@nox.session
def cpp(session: nox.Session) -> None:
    """Build the core with warnings as errors and run its tests; arguments after ``--`` go to ctest."""
    _ctest(session, "dev", *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the C++ tests under the address, undefined-behaviour and thread sanitizers."""
    _ctest(session, "asan", env={"ASAN_OPTIONS": "detect_leaks=0"})
    _ctest(session, "tsan", "-R", f"^({'|'.join(THREADED)})$", targets=THREADED)


@nox.session
@nox.parametrize("sanitizer", ["address", "undefined"])
def sanitize_python(session: nox.Session, sanitizer: str) -> None:
    """Run the Python tests under a sanitizer, for an hour each; arguments after ``--`` go to pytest."""
    flags = {
        "cmake.build-type": "Debug",
        "cmake.define.CMAKE_CXX_FLAGS_DEBUG": "-O1 -g1 -DNDEBUG",
        "cmake.define.GPT2FAST_SANITIZE": sanitizer,
        # Not that of other installs, which would stay sanitized.
        "build-dir": f"build/sanitize_python_{sanitizer}",
    }
    session.install(".[server,test]", *(f"--config-settings={name}={value}" for name, value in flags.items()))
    if sanitizer == "undefined":
        session.run("python", "-m", "pytest", *session.posargs, env={"UBSAN_OPTIONS": "print_stacktrace=1"})
        return
    libraries = [
        str(session.run("gcc", f"-print-file-name={name}", external=True, silent=True)).strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    options = "detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=0"
    skipped = [f"--deselect={test}" for test in NOT_SANITIZED]
    session.run(
        *("python", "-m", "pytest", *skipped, *session.posargs),
        env={"LD_PRELOAD": os.pathsep.join(libraries), "ASAN_OPTIONS": options},
    )


@nox.session
def systems(session: nox.Session) -> None:
    """Compile the core for macOS and Windows with Zig's clang, without linking; arguments name presets."""
    session.install("cmake", "ninja", "ziglang>=0.15")
    for preset in session.posargs or ["macos-arm64", "macos-x86_64", "windows-x86_64"]:
        session.run("cmake", "--preset", preset)
        session.run("cmake", "--build", f"build/{preset}")


@nox.session
def windows(session: nox.Session) -> None:
    """Run the C++ tests as programs for Windows under Wine, which must be there; arguments name tests."""
    session.install("cmake", "ninja", "ziglang>=0.15")
    session.run("bash", "tools/windows_tests.sh", "build/windows-tests", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Run the documentation's Python blocks and check the files that it names."""
    session.install(".[server,test]", "celery", "fastapi", "httpx")
    session.run("python", "-m", "pytest", "tests/python/test_docs.py", *session.posargs)


@nox.session
def site(session: nox.Session) -> None:
    """Build the documentation's site into build/site; ``nox -s site -- serve`` shows it as it changes."""
    session.install(*nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["docs"])
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]))


def _ctest(
    session: nox.Session,
    preset: str,
    *arguments: str,
    targets: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
) -> None:
    """Build a preset of CMakePresets.json and run its tests."""
    session.install("cmake", "ninja", ".")
    library = str(session.run("python", "-c", FIND_LIBRARY, silent=True)).strip()
    session.run("cmake", "--preset", preset)
    session.run("cmake", "--build", "--preset", preset, *(["--target", *targets] if targets else []))
    session.run("ctest", "--preset", preset, *arguments, env={"GPT2FAST_ORT_LIBRARY": library, **(env or {})})
