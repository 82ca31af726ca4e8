"""Errors on the command line are in its own words, and options of other libraries say what to type."""

from __future__ import annotations

import pytest

from gpt2fast.cli import main
from gpt2fast.cli.wording import in_words_of_the_command_line


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The first line that the command line prints when it fails."""
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code in (1, 2)
    return capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (
            "--max-length",
            "it counts the prompt too: write --max-new-tokens = max_length",
        ),
        ("--max-tokens", "did you mean --max-new-tokens?"),
        ("--stop", "did you mean --stop-strings?"),
        ("--use-cache", "leave it out: keys and values are always kept"),
        ("--truncation", "write --overflow truncate"),
        (
            "--adapter",
            "give the adapter as --model, if it names its base; gpt2fast convert BASE DIRECTORY --",
        ),
        ("--revision", "convert the model first: gpt2fast convert ID DIRECTORY --revision NAME"),
    ],
)
def test_options_of_other_libraries(capsys: pytest.CaptureFixture[str], given: str, hint: str) -> None:
    message = error_of(capsys, "generate", "Once", given, "5")
    assert message.startswith(f"gpt2fast: error: No such option: {given}; {hint}")


def test_a_misspelt_option_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--temperature" in error_of(capsys, "generate", "Once", "--temprature", "5")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-new-tokens", "600"], "--max-new-tokens must be below 512"),
        (["--max-new-tokens", "511", "--overflow", "error"], "or --overflow truncate to keep the newest"),
        (["--max-new-tokens", "-1"], "--max-new-tokens must be from 0 to 2147483647, got -1"),
        (["--temperature", "0.5", "--no-do-sample"], "--temperature 0.5 contradicts --no-do-sample"),
    ],
)
def test_errors_of_the_library(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert said in error_of(capsys, "generate", "Once upon a time there was", *arguments)


@pytest.mark.parametrize(
    ("python", "here"),
    [
        ("precision='int8', but it holds 'fp32'", "--precision int8, but it holds 'fp32'"),
        ("holds a model; --overwrite (overwrite=True) replaces it", "holds a model; --overwrite replaces it"),
        ("best_of=4 needs sampling: give do_sample=True", "--best-of 4 needs sampling: give --do-sample"),
        ("a text of 5 tokens, n_positions (512)", "a text of 5 tokens, n_positions (512)"),
        ("stop_strings[0] must not be empty", "stop_strings[0] must not be empty"),
        ("from_pretrained(tokenizer=...) takes one", "from_pretrained(tokenizer=...) takes one"),
        ("/a/num_beams/x: no such file", "/a/num_beams/x: no such file"),
    ],
)
def test_words(python: str, here: str) -> None:
    assert in_words_of_the_command_line(python) == here
