"""``gpt2fast generate --input --output``: what it writes, how it is resumed, what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gpt2fast import GPT2
from gpt2fast.cli.generate import command
from gpt2fast.inference.results import Generation
from support.processes import end_of, start_python

SAMPLED = {"max_new_tokens": 6, "seed": 3}
ARGUMENTS = ("--max-new-tokens", "6", "--seed", "3")
PROMPTS: list[dict[str, Any]] = [
    {"prompt": "Once upon", "id": "first"},
    {"prompt": [5, 6, 7]},
    {"prompt": "", "id": 3},
    {"prompt": "Zażółć 🙂", "id": "ż"},
    *({"prompt": f"The {number} men"} for number in range(28)),
]


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "prompts.jsonl", PROMPTS)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def run(prompts: Path, results: Path, *arguments: str) -> Result:
    given = ["--input", str(prompts), "--output", str(results), *(arguments or ARGUMENTS)]
    return CliRunner().invoke(command, given)


def finish(prompts: Path, results: Path, *arguments: str) -> list[dict[str, Any]]:
    done = run(prompts, results, *arguments)
    assert (done.exit_code, done.output) == (0, ""), done
    return read_lines(results)


def refusal(prompts: Path, results: Path, *arguments: str) -> str:
    """The message of a run that fails and leaves the file as it is."""
    before = results.read_bytes() if results.exists() else None
    done = run(prompts, results, *arguments)
    assert done.exit_code != 0
    assert (results.read_bytes() if results.exists() else None) == before
    return str(done.exception)


def as_line(number: int, result: Generation) -> dict[str, Any]:
    name = {"id": PROMPTS[number - 1]["id"]} if "id" in PROMPTS[number - 1] else {}
    return {
        "line": number,
        **name,
        "text": result.text,
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        "prompt_tokens": len(result.prompt_token_ids),
        "seed": 3,
    }


@pytest.fixture(scope="module")
def expected(model: GPT2) -> list[dict[str, Any]]:
    alone = [model.generate(line["prompt"], **SAMPLED) for line in PROMPTS]
    return [as_line(number, result) for number, result in enumerate(alone, 1)]


def test_results_are_those_of_each_prompt_alone(
    prompts: Path, results: Path, expected: list[dict[str, Any]]
) -> None:
    assert finish(prompts, results) == expected


def test_results_as_they_end(prompts: Path, results: Path, expected: list[dict[str, Any]]) -> None:
    found = finish(prompts, results, *ARGUMENTS, "--unordered")
    assert sorted(found, key=lambda line: line["line"]) == expected


def test_several_texts_of_a_prompt_are_one_line(model: GPT2, prompts: Path, results: Path) -> None:
    found = finish(prompts, results, *ARGUMENTS, "--num-return-sequences", "2", "--logprobs", "1")
    assert len(found) == len(PROMPTS)
    for line, given in zip(found, PROMPTS, strict=True):
        alone = model.generate(given["prompt"], num_return_sequences=2, logprobs=1, **SAMPLED)
        assert [text["text"] for text in line["texts"]] == [one.text for one in alone]
        assert [text["seed"] for text in line["texts"]] == [3, 4]
        for text, one in zip(line["texts"], alone, strict=True):
            assert one.logprobs is not None
            assert text["logprobs"] == one.logprobs.chosen.tolist()


def test_no_prompts_give_no_results(tmp_path: Path, results: Path) -> None:
    assert finish(write_lines(tmp_path / "none.jsonl", []), results) == []


@pytest.mark.parametrize("order", ["--ordered", "--unordered"])
def test_a_killed_run_is_resumed_to_the_same_file(
    prompts: Path, results: Path, expected: list[dict[str, Any]], embedded_dir: Path, order: str
) -> None:
    options = [*ARGUMENTS, "--model", str(embedded_dir), order]
    arguments = ["generate", "--input", str(prompts), "--output", str(results), *options]
    program = start_python("-c", KILLED, "12", *arguments)
    assert end_of(program).status == -signal.SIGKILL
    assert len(read_lines(results)) == 12
    with results.open("a") as file:
        file.write('{"line": 13, "tex')  # as a line that the kill cut short
    found = finish(prompts, results, *options)
    assert sorted(found, key=lambda line: line["line"]) == expected
    if order == "--ordered":
        assert found == expected
    assert finish(prompts, results, *options) == found  # nothing is left to do


# The command line, killed by itself when it has written so many results.
KILLED = """
import os, signal, sys
from gpt2fast.cli import main
from gpt2fast.cli.result_file import ResultFile

write, most = ResultFile.write, int(sys.argv[1])

def write_and_die(self, number, values):
    write(self, number, values)
    if self.done == most:
        os.kill(os.getpid(), signal.SIGKILL)

ResultFile.write = write_and_die
main(sys.argv[2:])
"""


def test_a_resumed_run_continues_only_what_is_missing(
    prompts: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finish(prompts, results)
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:-2]))
    given: list[Any] = []
    generate_many = GPT2.generate_many

    def watched(self: GPT2, prompts: Any, *arguments: Any, **options: Any) -> Any:
        kept = list(prompts)
        given.extend(kept)
        return generate_many(self, kept, *arguments, **options)

    monkeypatch.setattr(GPT2, "generate_many", watched)
    assert finish(prompts, results) == whole
    assert given == [line["prompt"] for line in PROMPTS[-2:]]


def test_memory_is_bounded(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts are read a few ahead of the results."""
    from gpt2fast.cli import generate_file
    from gpt2fast.cli.prompt_file import PromptFile, PromptLine
    from gpt2fast.cli.result_file import ResultFile

    ahead, read, written = [], 0, 0

    class Counting(PromptFile):
        def __iter__(self) -> Any:
            nonlocal read
            for line in super().__iter__():
                assert isinstance(line, PromptLine)
                read += 1
                ahead.append(read - written)
                yield line

    def write(self: ResultFile, number: int, values: Any) -> None:
        nonlocal written
        written += 1

    monkeypatch.setattr(generate_file, "PromptFile", Counting)
    monkeypatch.setattr(ResultFile, "write", write)
    lines = write_lines(tmp_path / "many.jsonl", [{"prompt": [number]} for number in range(600)])
    finish(lines, results, "--max-new-tokens", "1")
    assert (read, written) == (600, 600)
    assert max(ahead) < 400


BAD_LINES = {
    '{"prompt": "a"': "not valid JSON",
    "[1, 2]": "must hold a JSON object, holds a list",
    "": "not valid JSON",
    '{"prompt": "a", "prompt": "b"}': "the key 'prompt' occurs twice",
    '{"text": "a"}': "unknown field 'text'; a line has 'prompt', and 'id' if you like",
    '{"id": 1}': "has no 'prompt'",
    '{"prompt": null}': "prompt must be text or a list of token ids, got None",
    '{"prompt": []}': "prompt must be text or a list of token ids, got []",
    '{"prompt": [1, true]}': "prompt must be text or a list of token ids",
    '{"prompt": [4096]}': "prompt[0]: token id 4096 is outside the vocabulary (0 to 4095)",
    '{"prompt": "a", "id": 1.5}': "id must be text or an integer, got 1.5",
    '{"prompt": "a", "id": "\\ud800"}': "surrogates not allowed",
    '{"prompt": "\\ud800"}': "surrogates not allowed",
    json.dumps({"prompt": "many words " * 2000}): "exceeds the model's n_positions",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=BAD_LINES.values())
def test_a_bad_line_is_named_before_any_work(tmp_path: Path, results: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "good"}}\n{line}\n{{"prompt": "good"}}\n')
    message = refusal(path, results)
    assert message.startswith(f"{path}, line 2: "), message
    assert BAD_LINES[line] in message
    assert [one.name for one in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_what_is_no_text_is_named(tmp_path: Path, results: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}\n')
    assert f"{path}, line 1: not valid JSON" in refusal(path, results)


def test_a_very_long_line_is_refused(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2fast.cli.prompt_file.MAX_LINE_BYTES", 100)
    path = write_lines(tmp_path / "prompts.jsonl", [{"prompt": "good"}, {"prompt": "x" * 100}])
    assert refusal(path, results) == f"{path}, line 2: longer than 100 bytes"


def test_prompts_that_change_meanwhile_are_noticed(
    prompts: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_many = GPT2.generate_many

    def change(self: GPT2, *arguments: Any, **options: Any) -> Any:
        write_lines(prompts, [*PROMPTS[:-1], {"prompt": "another"}])
        return generate_many(self, *arguments, **options)

    monkeypatch.setattr(GPT2, "generate_many", change)
    assert "changed while it was being read" in str(run(prompts, results).exception)


def test_other_files_are_not_touched(prompts: Path, results: Path) -> None:
    results.write_text('{"line": 1}\n')
    assert "exists and was not made by this command (results.jsonl.settings.json is missing)" in refusal(
        prompts, results
    )
    assert "exists and was not made by this command" in refusal(prompts, prompts)
    results.unlink()
    settings = results.with_name("results.jsonl.settings.json")
    settings.write_text('{"mine": 1}')
    assert "exists and was not made by this command" in refusal(prompts, results)
    assert settings.read_text() == '{"mine": 1}'


def test_an_empty_file_is_taken(prompts: Path, results: Path, expected: list[dict[str, Any]]) -> None:
    results.touch()
    assert finish(prompts, results) == expected


def test_streams_are_no_files(prompts: Path, results: Path) -> None:
    for option, paths in (("--input", (Path("-"), results)), ("--output", (prompts, Path("-")))):
        done = run(*paths)
        assert done.exit_code == 2
        assert f"Invalid value for '{option}': give the name of a file: an interrupted run" in done.output
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (("--seed", "4", "--max-new-tokens", "6"), "another run, where options.seed is 3, not 4;"),
        ((*ARGUMENTS, "--precision", "int4"), "where precision is 'int8', not 'int4';"),
        ((*ARGUMENTS, "--kv-cache", "fp32"), "where kv_cache is 'int8', not 'fp32';"),
        ((*ARGUMENTS, "--unordered"), "where ordered is True, not False;"),
    ],
)
def test_results_of_other_settings_are_refused(
    prompts: Path, results: Path, arguments: tuple[str, ...], difference: str
) -> None:
    finish(prompts, results)
    assert difference in refusal(prompts, results, *arguments)


def test_the_models_own_defaults_are_settings(
    model: GPT2, tmp_path: Path, prompts: Path, results: Path
) -> None:
    directory = Path(shutil.copytree(model.directory.path, tmp_path / "model"))
    (directory / "generation_config.json").write_text('{"repetition_penalty": 1.9}')
    arguments = ("--model", str(directory), *ARGUMENTS)
    finish(prompts, results, *arguments)
    assert "where generation_config.repetition_penalty is 1.9, not unset;" in refusal(
        prompts, results, *arguments, "--no-generation-config"
    )
    # The library's own default, but not the model's.
    assert "where options.repetition_penalty is unset, not 1.0;" in refusal(
        prompts, results, *arguments, "--repetition-penalty", "1.0"
    )


def test_a_run_with_a_token_ruled_out_is_resumed(prompts: Path, results: Path) -> None:
    arguments = (*ARGUMENTS, "--logit-bias", "5=-inf")
    whole = finish(prompts, results, *arguments)
    results.write_bytes(results.read_bytes().split(b"\n")[0] + b"\n")
    assert finish(prompts, results, *arguments) == whole


def test_results_of_other_prompts_are_refused(tmp_path: Path, prompts: Path, results: Path) -> None:
    finish(prompts, results)
    other = write_lines(tmp_path / "other.jsonl", [*PROMPTS[1:], PROMPTS[0]])
    assert "where prompts_sha256 is" in refusal(other, results)


@pytest.mark.parametrize("order", ["--ordered", "--unordered"])
@pytest.mark.parametrize(
    "line", ["words", '{"line": 1}', '{"line": 0}', '{"line": 33}', '{"line": true}', "{}"]
)
def test_a_line_that_is_no_result_is_named(prompts: Path, results: Path, line: str, order: str) -> None:
    finish(prompts, results, *ARGUMENTS, order)
    first = min(results.read_text("utf-8").splitlines(), key=lambda one: json.loads(one)["line"])
    results.write_text(f"{first}\n{line}\n", "utf-8")
    assert f"{results}, line 2: not " in refusal(prompts, results, *ARGUMENTS, order)


def test_one_process_at_a_time(prompts: Path, results: Path) -> None:
    from filelock import FileLock

    with FileLock(results.with_name(".results.jsonl.lock")):
        assert "another process is writing it" in refusal(prompts, results)


@pytest.mark.parametrize(
    "arguments", [[], ["Once", "--input", "a", "--output", "b"], ["--input", "a"], ["--output", "b"]]
)
def test_a_prompt_or_files(arguments: list[str]) -> None:
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2
    assert "give either PROMPT, or --input and --output" in done.output


def test_a_bar_on_a_terminal(prompts: Path, results: Path) -> None:
    pty = pytest.importorskip("pty")
    fcntl = pytest.importorskip("fcntl")
    termios = pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    arguments = ["generate", "--input", str(prompts), "--output", str(results), *ARGUMENTS]
    with subprocess.Popen([sys.executable, "-m", "gpt2fast", *arguments], stderr=theirs) as program:
        os.close(theirs)
        shown = b"".join(iter(lambda: read_terminal(ours), b""))
    os.close(ours)
    assert program.returncode == 0
    assert b"0/32" in shown


def read_terminal(ours: int) -> bytes:
    try:
        return os.read(ours, 1 << 16)
    except OSError:  # nobody has the other end open
        return b""
