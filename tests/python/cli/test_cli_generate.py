"""``gpt2fast generate`` with options that choose whole texts, and options that text cannot express."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import gpt2fast
from gpt2fast import GPT2
from gpt2fast.cli.generate import command
from gpt2fast.cli.info import command as info
from gpt2fast.cli.wording import in_words_of_the_command_line


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained()


def run(*arguments: str) -> str:
    result = CliRunner().invoke(command, ["Once upon", "--max-new-tokens", "6", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("early_stopping", ["true", "false", "never"])
def test_beams(model: GPT2, early_stopping: str) -> None:
    lines = run(
        "--num-beams", "3", "--num-return-sequences", "2", "--early-stopping", early_stopping, "--json"
    ).splitlines()
    chosen: Any = {"true": True, "false": False}.get(early_stopping, early_stopping)
    expected = model.generate(
        "Once upon", max_new_tokens=6, num_beams=3, num_return_sequences=2, early_stopping=chosen
    )
    found = [json.loads(line) for line in lines]
    assert [(one["text"], one["score"]) for one in found] == [(one.text, one.score) for one in expected]


def test_one_text_of_several(model: GPT2) -> None:
    expected = model.generate("Once upon", max_new_tokens=6, best_of=4, seed=1, echo=True)
    assert run("--best-of", "4", "--seed", "1", "--echo") == expected.text + "\n"


def test_log_probabilities_begin_with_the_prompt(model: GPT2) -> None:
    """JSON has no NaN: the first token's log-probability is null."""
    (found,) = [
        json.loads(line, parse_constant=pytest.fail)
        for line in run("--echo", "--logprobs", "1", "--json").splitlines()
    ]
    assert found["logprobs"][0] is None
    assert len(found["logprobs"]) == found["prompt_tokens"] + 6
    assert found["top_logprobs"][0] == [None]


def test_a_wrong_word_is_a_usage_error() -> None:
    result = CliRunner().invoke(command, ["Once", "--num-beams", "2", "--early-stopping", "maybe"])
    assert result.exit_code == 2
    assert "early_stopping must be True, False or 'never', got 'maybe'" in result.output


@pytest.mark.parametrize("name", ["assistant-model", "prefix", "cancel", "logits-processor"])
def test_objects_are_not_command_line_options(name: str) -> None:
    assert CliRunner().invoke(command, ["Once", f"--{name}", "x"]).exit_code == 2


def test_there_is_a_line_between_texts(model: GPT2) -> None:
    expected = model.generate("Once upon", max_new_tokens=6, seed=1, num_return_sequences=3)
    shown = run("--seed", "1", "--num-return-sequences", "3")
    assert shown == "\n---\n".join(one.text for one in expected) + "\n"


def test_the_model_s_own_defaults(tmp_path: Path, embedded_dir: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(embedded_dir, directory)
    defaults = {"do_sample": True, "top_k": 3, "num_return_sequences": 2, "repetition_penalty": 1.3}
    (directory / "generation_config.json").write_text(json.dumps(defaults))
    source = ("--model", str(directory))
    lines = [json.loads(line) for line in run(*source, "--json").splitlines()]
    assert [one["seed"] is not None for one in lines] == [True, True]
    assert run(*source, "--no-generation-config") == run()
    shown = CliRunner().invoke(info, source).output
    assert re.search(r"generation_config:\n.*repetition_penalty +1\.3\n", shown, re.S)
    shown = json.loads(CliRunner().invoke(info, [*source, "--json"]).output)["generation_config"]
    assert shown == defaults


def drawn(*arguments: str) -> tuple[str, str]:
    """What a command shows that leaves the seed open, on standard output and on standard error."""
    result = CliRunner().invoke(command, ["Once upon", "--max-new-tokens", "6", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def own_values() -> dict[str, Any]:
    """The options in the embedded model's own file."""
    file = Path(gpt2fast.__file__).parent / "data" / "tiny" / "generation_config.json"
    values: dict[str, Any] = json.loads(file.read_text("utf-8"))
    others = ("bos_token_id", "eos_token_id", "transformers_version")
    return {name: value for name, value in values.items() if name not in others}


@pytest.mark.parametrize("options", [[], ["--num-return-sequences", "2"], ["--best-of", "2"]])
def test_the_seed_that_is_reported_repeats_the_text(own_defaults: None, options: list[str]) -> None:
    text, said = drawn(*options)
    found = re.fullmatch(r"seed (\d+): --seed \1 repeats this\n", said)
    assert found is not None, said
    assert drawn(*options, "--seed", found[1]) == (text, "")
    assert found[1] not in drawn(*options)[1]  # another seed, though perhaps the same text
    assert json.loads(drawn("--json")[0])["seed"] is not None


def test_the_embedded_model_draws_by_its_own_defaults(own_defaults: None, model: GPT2) -> None:
    own = GPT2.from_pretrained()
    values = own_values()
    assert own.generation_config == values
    assert values["do_sample"] is True
    out = own.generate("Once upon a time", seed=3)
    assert out.token_ids == model.generate("Once upon a time", **values, seed=3).token_ids
    best = own.generate("Once upon a time", do_sample=False, max_new_tokens=20)
    assert best.text == model.generate("Once upon a time", max_new_tokens=20).text
    assert drawn("--seed", "3")[0] == own.generate("Once upon", seed=3, max_new_tokens=6).text + "\n"


def test_nothing_is_reported_of_the_likeliest_tokens(own_defaults: None, model: GPT2) -> None:
    expected = model.generate("Once upon", max_new_tokens=6).text
    assert drawn("--no-do-sample") == (f"{expected}\n", "")
    assert drawn("--no-generation-config") == (f"{expected}\n", "")


def test_the_error_of_a_search_says_what_to_type(own_defaults: None) -> None:
    result = CliRunner().invoke(command, ["Once", "--num-beams", "2"])
    assert isinstance(result.exception, ValueError)
    message = in_words_of_the_command_line(str(result.exception))
    assert message.endswith("give --no-do-sample, or --no-generation-config ignores that)")


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals of POSIX")
@pytest.mark.parametrize("options", [[], ["--num-return-sequences", "2"]])
def test_a_terminal_shows_the_speed(options: list[str]) -> None:
    from support.terminal import Terminal

    words = [sys.executable, "-m", "gpt2fast", "generate", "Once upon", "--max-new-tokens", "6", *options]
    with Terminal([*words, "--seed", "3"]) as terminal:
        shown = terminal.wait_for(" tokens per second")
        assert terminal.end() == 0
    assert re.search(r"\n(\x1b\[2m)?[\d,]+ tokens per second$", shown)
    for name in ("temperature", "top_k", "top_p"):
        options = [*options, f"--{name.replace('_', '-')}", str(own_values()[name])]
    assert run("--seed", "3", *options) in shown
