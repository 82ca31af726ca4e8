"""The command line: what it prints, exit codes, errors without a traceback, Ctrl-C and broken pipes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import pytest

from gpt2fast import GPT2
from gpt2fast.cli import _COMMANDS, main
from gpt2fast.storage.files import read_bytes
from support.huggingface_samples import write_directory
from support.processes import SECONDS


class Result(NamedTuple):
    code: int | str | None
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in this process, with bytes for its standard input."""

    def call(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        return Result(exit_info.value.code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained()


@pytest.fixture(scope="module")
def int4_directory(tmp_path_factory: pytest.TempPathFactory, embedded_dir: Path) -> Path:
    """A model directory made by the command."""
    directory = tmp_path_factory.mktemp("convert") / "tiny-int4"
    with pytest.raises(SystemExit) as exit_info:
        main(["convert", str(embedded_dir), str(directory), "--precision", "int4"])
    assert exit_info.value.code == 0
    return directory


def test_help_teaches_by_example(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    assert 'gpt2fast generate "Once upon a time"' in result.out
    for command in ("generate", "convert", "info", "tokenize"):
        assert f"  {command} " in result.out
        page = run(command, "--help")
        assert page.code == 0
        assert f"\n  gpt2fast {command} " in page.out


def test_version(run: Run) -> None:
    assert re.fullmatch(r"gpt2fast \d+\.\d+\.\d+\S*\n", run("--version").out)


def test_generate_prints_what_the_model_generates(run: Run, model: GPT2) -> None:
    result = run("generate", "Once upon a time", "--max-new-tokens", "20")
    assert result == (0, model.generate("Once upon a time", max_new_tokens=20).text + "\n", "")


def test_generate_with_a_seed_repeats(run: Run, model: GPT2) -> None:
    arguments = ("generate", "The King", "--max-new-tokens", "12", "--seed", "1", "--top-k", "40")
    first = run(*arguments)
    assert first == run(*arguments)
    assert first.out == model.generate("The King", max_new_tokens=12, seed=1, top_k=40).text + "\n"


def test_generate_reads_standard_input(run: Run, model: GPT2) -> None:
    result = run("generate", "-", "--max-new-tokens", "5", "--echo", stdin="Ünder\n".encode())
    assert result.out == "Ünder" + model.generate("Ünder", max_new_tokens=5).text + "\n"


def test_generate_json(run: Run, model: GPT2) -> None:
    arguments = ["--max-new-tokens", "6", "--seed", "5", "--num-return-sequences", "2", "--logprobs", "1"]
    result = run("generate", "Once", "--json", *arguments)
    lines = [json.loads(line) for line in result.out.splitlines()]
    expected = model.generate(["Once"], max_new_tokens=6, seed=5, num_return_sequences=2)
    assert [line["text"] for line in lines] == [one.text for one in expected]
    assert [line["token_ids"] for line in lines] == [one.token_ids for one in expected]
    assert [line["seed"] for line in lines] == [5, 6]
    assert {line["finish_reason"] for line in lines} == {"length"}
    assert all(len(line["logprobs"]) == 6 for line in lines)


def test_generate_takes_lists_as_repeated_options(run: Run, model: GPT2) -> None:
    result = run(
        "generate", "Once", "--max-new-tokens", "12", "--logit-bias", "11=-5", "--logit-bias", "13=-5.5",
        "--stop-strings", "the", "--stop-strings", "and",
    )  # fmt: skip
    expected = model.generate(
        "Once", max_new_tokens=12, logit_bias={11: -5, 13: -5.5}, stop_strings=["the", "and"]
    )
    assert result == (0, expected.text + "\n", "")


def test_convert_and_generate(run: Run, int4_directory: Path) -> None:
    result = run("generate", "--model", str(int4_directory), "The King said", "--max-new-tokens", "8")
    loaded = GPT2.from_pretrained(int4_directory)
    assert loaded.precision == "int4"
    assert result.out == loaded.generate("The King said", max_new_tokens=8).text + "\n"


def test_convert_does_not_overwrite_unasked(run: Run, int4_directory: Path, embedded_dir: Path) -> None:
    result = run("convert", str(embedded_dir), str(int4_directory))
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("gpt2fast: error: ")
    assert str(int4_directory) in result.err


def test_info(run: Run, model: GPT2) -> None:
    facts = json.loads(run("info", "--json").out)
    assert facts["model"]["n_layer"] == model.config.n_layer
    assert facts["model"]["precision"] == "int8"
    assert facts["sizes"]["disk_bytes"] > facts["sizes"]["weights_bytes"] > 0
    assert facts["runtime"]["onnxruntime"] == model.runtime.version
    assert facts["runtime"]["threads"] == model.threads
    text = run("info", "--threads", "1").out
    assert re.search(r"threads +1\n", text)
    assert str(model.runtime.path) in text


def test_convert_by_a_calibration_text(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Mock(wraps=read_bytes)
    monkeypatch.setattr("gpt2fast.export.calibration.read_bytes", read)
    source, text, out = write_directory(tmp_path / "source"), tmp_path / "text", tmp_path / "out"
    text.write_text("ABCDE" * 1000, "utf-8")
    arguments = ["convert", str(source), str(out), "--calibrate", str(text)]
    result = run(*arguments)
    assert (result.code, out.exists()) == (1, False)
    assert f"error: --calibrate {text} has no effect with --precision int8: " in result.err
    assert run(*arguments, "--precision", "int4").code == 0
    read.assert_called_once()
    digest = sha256(text.read_bytes()).hexdigest()
    assert json.loads(run("info", "--model", str(out), "--json").out)["calibration"] == {
        "sha256": digest,
        "tokens": 4080,
    }
    assert re.search(
        rf"calibration:\n  sha256  {digest}\n  tokens  4080\n", run("info", "--model", str(out)).out
    )
    assert "calibration:" not in run("info").out


def test_tokenize(run: Run, model: GPT2) -> None:
    ids = model.tokenizer.encode("Hello\n🦙")
    assert run("tokenize", "Hello\n🦙", "--ids").out == " ".join(map(str, ids)) + "\n"
    assert run("tokenize", "-", "--ids", stdin="Hello\n🦙".encode()).out == " ".join(map(str, ids)) + "\n"
    marked = "\ufeffHello\n🦙".encode()  # a byte order mark is no part of the text
    assert run("tokenize", "-", "--ids", stdin=marked).out == " ".join(map(str, ids)) + "\n"
    values = json.loads(run("tokenize", "--json", "Hello\n🦙").out)
    assert values["token_ids"] == ids
    assert "".join(values["pieces"]) == "Hello\n\\xf0\\x9f\\xa6\\x99"
    listed = run("tokenize", "a\n").out.splitlines()
    assert [line.split()[1] for line in listed] == ["'a'", r"'\n'"]


def test_tokenize_with_another_tokenizer(run: Run, embedded_dir: Path, model: GPT2) -> None:
    result = run("tokenize", "--model", str(embedded_dir / "tokenizer.json"), "--ids", "The King")
    assert result.out.split() == [str(token) for token in model.tokenizer.encode("The King")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat"], "no command 'generat'; did you mean 'generate'?"),
        (["eval", "perplexiti"], "no command 'perplexiti'; did you mean 'perplexity'?"),
        (["A 'king'"], """no command "A 'king'"; did you mean: gpt2fast generate 'A '"'"'king'"'"''"""),
        (["generate", "Once", "upon"], "(upon): a text of several words stands in quotes"),
        (
            ["chat", "gpt2"],
            "(gpt2): a text of several words stands in quotes, and a model is named by --model",
        ),
        (["generate"], "give either PROMPT, or --input and --output"),
        (["generate", "x", "--temprature", "1"], "--temperature"),
        (["generate", "x", "--top-p", "1.5"], "--top-p must be in (0, 1], got 1.5"),
        (["generate", "x", "--top-k", "many"], "'many' is not a valid integer"),
        (["generate", "x", "--logit-bias", "5:3"], "'5:3' is not of the form ID=NUMBER"),
        (["generate", "x", "--no-do-sample", "--top-k", "5"], "--top-k 5 contradicts --no-do-sample"),
        (["generate", "x", "--precision", "int2"], "'int2' is not one of"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("gpt2fast: error: ")
    assert message in result.err
    assert "--help'" in result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x", "--max-new-tokens", "600"], "exceeds the model's n_positions (512)"),
        (
            ["generate", "x", "--suppress-tokens", "5000"],
            "suppress_tokens[0] must be from 0 to 4095, got 5000",
        ),
        (["generate", "x", "--threads", "0"], "threads must be from 1 to 1024, got 0"),
        (["generate", "x\udcff"], "lone surrogate"),
        (["generate", "x", "--model", "./no/such/model"], "no/such/model"),
        (["tokenize", "x", "--model", "./no/such/model"], "no/such/model"),
        (["convert", "./no/such/model", "somewhere"], "no/such/model"),
        (
            ["convert", "no/model", "out", "--precision", "int4", "--calibrate", "no/text"],
            "no/text: the text that calibrate names can't be read: No such file or directory",
        ),
        (["generate", "x", "--model", ""], "source must name a directory, a file or a model of the hub"),
    ],
)
def test_failures_have_no_traceback(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("gpt2fast: error: ")
    assert message in result.err
    assert "Traceback" not in result.err


def test_a_group_without_a_command_shows_its_help(run: Run) -> None:
    result = run("eval")
    assert (result.code, result.out) == (2, "")
    assert result.err == run("eval", "--help").out


def test_help_is_a_word_too(run: Run) -> None:
    assert run("help") == run("--help")


def test_the_name_alone_shows_three_commands_to_try(run: Run) -> None:
    result = run()
    assert (result.code, result.err) == (0, "")
    shown = re.findall(r"^  gpt2fast (\w+)", result.out, re.M)
    assert len(shown) == 3
    assert set(shown) < set(_COMMANDS)


@pytest.mark.parametrize(
    "command", ["", *_COMMANDS, *(f"eval {name}" for name in ("perplexity", "lambada", "choice"))]
)
def test_examples_stand_on_lines_of_their_own(run: Run, command: str) -> None:
    lines = [line.strip() for line in run(*command.split(), "--help").out.splitlines()]
    assert sum(line.startswith(f"gpt2fast {command}") for line in lines) >= 2
    assert not any("\\b" in line for line in lines)


def test_standard_input_that_is_not_text(run: Run) -> None:
    result = run("generate", "-", stdin=b"abc\xff")
    assert result.code == 1
    assert "standard input is not UTF-8 text" in result.err
    assert "byte 3" in result.err


ENDLESS = ["generate", "Once", "--max-new-tokens", "1000000", "--overflow", "slide", "--eos-token-id", "1"]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gpt2fast", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job, which a test run may be, ignores interrupts, and its children would too.
        preexec_fn=None if os.name == "nt" else partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_interrupt_ends_a_generation() -> None:
    with start(ENDLESS) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(SECONDS) == 130
        assert re.fullmatch(rb"seed \d+", process.stderr.read().strip())


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_reader_that_closes_the_pipe_is_not_an_error() -> None:
    with start(ENDLESS) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.wait(SECONDS) == 1
        assert process.stderr.read() == b""
