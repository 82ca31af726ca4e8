"""``gpt2fast generate`` with options that choose whole texts, and options that text cannot express."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpt2fast import GPT2
from gpt2fast.cli.generate import command
from gpt2fast.cli.info import command as info


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
