"""What a user can add to a source: the number of heads, the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from gpt2fast import GPT2
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.cli import main
from gpt2fast.errors import ModelError
from gpt2fast.export import convert
from gpt2fast.export.standard import export_onnx
from gpt2fast.loading.sources import find_model_directory
from support.checkpoint_samples import random_tensors, small_config, write_safetensors
from support.huggingface_samples import write_directory, write_vocabulary
from support.zoo_samples import random_checkpoint

CONFIG = small_config()


def erase_heads(model: Any) -> None:
    """Let the graph compute every shape that reveals the heads, and declare no dimensions."""
    constants = {initializer.name for initializer in model.graph.initializer}
    nodes = list(model.graph.node)
    shapes = {node.input[1] for node in nodes if node.op_type == "Reshape"}
    for node in nodes:
        if node.op_type == "Concat" and node.output[0] in shapes:
            shapes.update(node.input)
    hidden = {name: f"{name}/hidden" for name in shapes & constants}
    for node in nodes:
        if node.op_type in ("Reshape", "Concat"):
            node.input[:] = [hidden.get(name, name) for name in node.input]
    for name, computed in hidden.items():
        model.graph.node.insert(0, helper.make_node("Neg", [f"{name}/negated"], [computed]))
        model.graph.node.insert(0, helper.make_node("Neg", [name], [f"{name}/negated"]))
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


@pytest.fixture
def headless(tmp_path: Path) -> Path:
    """A graph that runs as before but does not reveal the number of heads."""
    path = tmp_path / "headless.onnx"
    export_onnx(random_checkpoint(), path)
    model = onnx.load(path)
    erase_heads(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def lone_file(tmp_path: Path) -> Path:
    """A lone weight file, of a width that is not a multiple of 64."""
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, random_tensors(small_config(n_embd=48)))
    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_request:
        main([str(argument) for argument in arguments])
    assert isinstance(exit_request.value.code, int)
    return exit_request.value.code


def test_heads_that_a_graph_does_not_reveal(headless: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"headless\.onnx.*gpt2fast convert --n-head N.*config\.json"):
        open_checkpoint(headless)
    assert open_checkpoint(headless, n_head=4).config == CONFIG
    convert(headless, tmp_path / "out", n_head=4)
    assert find_model_directory(tmp_path / "out").config == CONFIG
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    assert open_checkpoint(headless).config.n_head == 4


def test_wrong_heads_are_noticed_by_running_the_graph(headless: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"headless\.onnx"):
        convert(headless, tmp_path / "out", n_head=8)
    with pytest.raises(ModelError, match=r"the width 64 is not a multiple of 5 heads"):
        open_checkpoint(headless, n_head=5)
    assert not (tmp_path / "out").exists()


def test_heads_of_a_lone_weight_file(lone_file: Path) -> None:
    with pytest.raises(ModelError, match=r"weights\.safetensors.*config\.json.*--n-head N"):
        open_checkpoint(lone_file)
    assert open_checkpoint(lone_file, n_head=3).config.n_head == 3


def test_heads_that_the_source_contradicts(tmp_path: Path) -> None:
    source = write_directory(tmp_path / "source")
    assert open_checkpoint(source, n_head=4).config == CONFIG
    with pytest.raises(ValueError, match=r"n_head=8, but .*source says 4; leave n_head out"):
        open_checkpoint(source, n_head=8)
    with pytest.raises(ValueError, match=r"n_head must be from 1 to \d+, got 0"):
        open_checkpoint(tmp_path / "absent", n_head=0)


def test_heads_on_the_command_line(headless: Path, lone_file: Path, tmp_path: Path) -> None:
    assert run("convert", headless, tmp_path / "a") == 1
    assert run("convert", headless, tmp_path / "a", "--n-head", 4) == 0
    assert find_model_directory(tmp_path / "a").config == CONFIG
    assert run("export", lone_file, tmp_path / "b.onnx", "--n-head", 3) == 0
    assert open_checkpoint(tmp_path / "b.onnx").config.n_head == 3


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model directory without a tokenizer."""
    convert(write_directory(tmp_path / "source", with_tokenizer=False), tmp_path / "bare")
    return tmp_path / "bare"


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """A directory with a tokenizer that fits."""
    directory = tmp_path / "vocabulary"
    directory.mkdir()
    write_vocabulary(directory, CONFIG.vocab_size)
    return directory


def text_commands(directory: Path) -> list[tuple[object, ...]]:
    """Every command that needs text, with sample input."""
    text, passages, questions = (directory / name for name in ("text", "passages", "questions"))
    text.write_text("ABCABC" * 20)
    passages.write_text('{"text": "AB AB"}\n')
    questions.write_text('{"prompt": "AB", "choices": ["A", "B"], "answer": 0}\n')
    return [
        ("generate", "AB", "--max-new-tokens", 4),
        ("eval", "perplexity", "--text", text, "--resume", directory / "journal"),
        ("eval", "lambada", passages),
        ("eval", "choice", questions),
    ]


def test_commands_take_a_tokenizer(
    bare: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in text_commands(tmp_path):
        assert run(*command, "--model", bare) == 1
        assert f"{bare} came without a tokenizer; name one by --tokenizer" in capsys.readouterr().err
        assert run(*command, "--model", bare, "--tokenizer", vocabulary) == 0
        assert capsys.readouterr().out
    assert run("info", "--model", bare, "--tokenizer", vocabulary / "vocab.json", "--json") == 0
    assert json.loads(capsys.readouterr().out)["model"]["tokenizer"] is True


def test_the_tokenizer_is_the_one_that_is_named(
    bare: Path, vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = GPT2.from_pretrained(bare, tokenizer=vocabulary)
    expected = model.generate("AB", max_new_tokens=5, eos_token_id=[])
    command = ("generate", "AB", "--max-new-tokens", 5, "--model", bare, "--tokenizer", vocabulary, "--json")
    assert run(*command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["token_ids"] == expected.token_ids[: len(found["token_ids"])]
    assert len(found["token_ids"]) > 0


def test_another_tokenizer_is_another_measurement(bare: Path, vocabulary: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("ABCABC" * 20)
    command = ("eval", "perplexity", "--text", text, "--model", bare, "--resume", tmp_path / "journal")
    assert run(*command, "--tokenizer", vocabulary) == 0
    assert run(*command, "--tokenizer", vocabulary / "vocab.json") == 0
    values = json.loads((vocabulary / "vocab.json").read_text())
    tokens = list(values)
    tokens[0], tokens[1] = tokens[1], tokens[0]
    (vocabulary / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    assert run(*command, "--tokenizer", vocabulary) == 1


def test_convert_takes_a_tokenizer(vocabulary: Path, tmp_path: Path) -> None:
    export_onnx(random_checkpoint(), tmp_path / "model.onnx")
    assert run("convert", tmp_path / "model.onnx", tmp_path / "out", "--tokenizer", vocabulary) == 0
    model = GPT2.from_pretrained(tmp_path / "out")
    assert model.tokenizer.decode(model.tokenizer.encode("ABCDE")) == "ABCDE"
    ids = np.array([1, 2, 3])
    np.testing.assert_array_equal(
        model.logits(ids), GPT2.from_pretrained(tmp_path / "model.onnx").logits(ids)
    )
