"""The commands export, verify and eval."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gpt2fast import GPT2
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.cli import main
from support.huggingface_samples import write_directory

TEXT = "Once upon a time there was a king who had a daughter as fair as the day. " * 30


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_request:
        main([str(argument) for argument in arguments])
    assert isinstance(exit_request.value.code, int)
    return exit_request.value.code


def _json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert _run(*arguments, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert isinstance(values, dict)
    return values


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A model in the Zoo's layout, with data and archive."""
    path = tmp_path / "zoo" / "gpt2-10.onnx"
    options = ("--layout", "zoo", "--head", "hidden", "--opset", 10, "--test-data", 2, "--archive")
    assert _run("export", write_directory(tmp_path / "source"), path, *options) == 0
    return path


def test_export_and_verify(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert onnx.load(exported).opset_import[0].version == 10
    for model in (exported, exported.with_name("gpt2-10.tar.gz")):
        values = _json(capsys, "verify", model)
        assert values["passed"] is True
        assert len(values["outputs"]) == 6
    assert _run("verify", exported) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "passed"


def test_verify_exits_with_1_on_a_difference(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported.parent / "test_data_set_1" / "output_0.pb"
    wrong = onnx.numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())) + np.float32(1)
    path.write_bytes(onnx.numpy_helper.from_array(wrong).SerializeToString())
    assert _run("verify", exported) == 1
    assert "FAILED" in capsys.readouterr().out
    assert _run("verify", exported, exported.parent / "test_data_set_0") == 0


def test_nothing_is_overwritten_unasked(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = exported.parents[1] / "source"
    before = exported.stat()
    assert _run("export", source, exported, "--archive") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert exported.stat() == before
    assert _run("export", source, exported, "--overwrite", "--test-data", 1) == 0
    assert not (exported.parent / "test_data_set_1").exists()


def test_export_of_a_checkpoint(tmp_path: Path) -> None:
    source, out = write_directory(tmp_path / "source"), tmp_path / "out"
    assert _run("export", source, out, "--format", "safetensors", "--max-shard-size", 0.0001) == 0
    assert len(list(out.glob("*.safetensors"))) > 2
    first, second = open_checkpoint(source), open_checkpoint(out)
    assert all(np.array_equal(t.read(), second.tensors[name].read()) for name, t in first.tensors.items())


@pytest.mark.parametrize(
    "options", [("--past", "--format", "safetensors"), ("--dtype", "fp16"), ("--head", "both")]
)
def test_contradicting_options(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert _run("export", write_directory(tmp_path / "source"), tmp_path / "out", *options) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--opset", 0), "opset must be from 10 to"),
        (("--test-data", -1), "test_data must be from 0 to 1000, got -1"),
        (("--format", "safetensors", "--max-shard-size", 0), "--max-shard-size must be in .*, got 0"),
        (("--format", "safetensors", "--max-shard-size", "inf"), "--max-shard-size must be in .*, got inf"),
        (("--format", "safetensors", "--max-shard-size", "nan"), "--max-shard-size must be in .*, got nan"),
    ],
)
def test_wrong_values_are_refused_before_the_source_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[Any, ...], message: str
) -> None:
    assert _run("export", tmp_path / "absent", tmp_path / "out", *options) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_taken_is_named_before_the_source_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("m.onnx", "m.onnx.data", "m.tar.gz"):
        (tmp_path / name).touch()
        assert _run("export", tmp_path / "absent", tmp_path / "m.onnx", "--archive") == 1
        assert f"{name}: exists; --overwrite" in capsys.readouterr().err
        (tmp_path / name).unlink()
    (tmp_path / "mine.txt").touch()
    assert _run("export", tmp_path / "absent", tmp_path, "--format", "safetensors") == 1
    assert "it holds 'mine.txt'" in capsys.readouterr().err
    (tmp_path / "input_0.pb").touch()
    assert _run("export", tmp_path / "absent", tmp_path / "m.onnx", "--test-data", 1, "--overwrite") == 1
    assert "holds input_0.pb, so it is test data itself" in capsys.readouterr().err


def test_perplexity_in_several_precisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, "utf-8")
    options = ("--window", 64, "--compare-tokens", 100)
    precisions = ("--precision", "fp32", "--precision", "int4")
    values = _json(capsys, "eval", "perplexity", "--text", text, *options, *precisions)
    full, small = values["results"]
    assert (full["precision"], small["precision"]) == ("fp32", "int4")
    assert full["scored_tokens"] == small["scored_tokens"] == full["tokens"] - 1
    assert full["loss"] != small["loss"]
    assert full["loss"] == pytest.approx(small["loss"], rel=0.05)
    against = small["against_fp32"]
    assert against["positions"] == 100
    assert 0 < against["kl_divergence"] < 0.2
    assert 0.7 < against["top_1_agreement"] <= 1
    assert "against_fp32" not in full
    assert _run("eval", "perplexity", "--text", text, *options, *precisions) == 0
    assert "kl_divergence" in capsys.readouterr().out


def test_int4_by_a_calibration_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, text = write_directory(tmp_path / "source"), tmp_path / "text.txt"
    text.write_text("ABCDEFGH" * 40, "utf-8")
    for name in ("calibration", "another"):
        (tmp_path / name).write_text(f"{name} ABCDE" * 400, "utf-8")
    command = ("eval", "perplexity", "--model", source, "--text", text, "--precision", "int4")
    given = ("--calibrate", tmp_path / "calibration", "--resume", tmp_path / "journal")
    plain = _json(capsys, *command)["results"][0]
    calibrated = _json(capsys, *command, *given)["results"][0]
    assert calibrated["loss"] != plain["loss"]
    assert calibrated["scored_tokens"] == plain["scored_tokens"]
    assert _run(*command, *given, "--calibrate", tmp_path / "another") == 1
    assert "another measurement" in capsys.readouterr().err
    assert _run(*command[:-1], "int8", *given) == 2
    assert "--calibrate has no effect without --precision int4" in capsys.readouterr().err


def test_what_would_fail_after_a_measurement_is_refused_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, "utf-8")
    assert _run("convert", write_directory(tmp_path / "source"), tmp_path / "int8") == 0
    measured: list[Any] = []
    monkeypatch.setattr("gpt2fast.cli.eval._measure_all", lambda *given: measured.append(given))
    command = ("eval", "perplexity", "--text", text, "--precision")
    assert _run(*command, "int8", "--precision", "fp32", "--model", tmp_path / "int8") == 1
    assert "holds 'int8'" in capsys.readouterr().err
    assert _run(*command, "fp32", "--precision", "int8", "--compare-tokens", 1) == 2
    assert "--compare-tokens must be 0 or at least 2, got 1" in capsys.readouterr().err
    assert measured == []


def test_numbers_that_json_lacks_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n \n" * 20, "utf-8")
    assert _run("eval", "perplexity", "--text", text, "--json") == 0
    (result,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["results"]
    assert result["words"] == 0
    assert result["word_perplexity"] is None


def test_evaluation_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, journal = tmp_path / "text.txt", tmp_path / "journal"
    text.write_text(TEXT, "utf-8")
    command = ("eval", "perplexity", "--text", text, "--resume", journal)
    first = _json(capsys, *command)["results"][0]
    again = _json(capsys, *command)["results"][0]
    assert first["loss"] == again["loss"]
    assert (first["tokens_per_second"] is None, again["tokens_per_second"]) == (False, None)
    assert _run(*command, "--window", 100) == 1
    assert "another measurement" in capsys.readouterr().err
    text.write_text(TEXT + "!", "utf-8")
    assert _run(*command) == 1


def test_lambada_and_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passages, questions = tmp_path / "passages.jsonl", tmp_path / "questions.jsonl"
    likeliest = re.findall(r"\w+", GPT2.from_pretrained().generate("Once upon a", max_new_tokens=8).text)[0]
    texts = [f"Once upon a {likeliest}", "Once upon a zebra", "one two"]
    passages.write_text("\n".join(json.dumps({"text": text}) for text in texts), "utf-8")
    question = {"prompt": "Once upon a", "choices": ["zebra", likeliest], "answer": 1}
    questions.write_text(json.dumps(question), "utf-8")
    result = _json(capsys, "eval", "lambada", passages, "--limit", 2)["results"][0]
    assert (result["examples"], result["accuracy"]) == (2, 0.5)
    result = _json(capsys, "eval", "choice", questions)["results"][0]
    assert (result["accuracy"], result["accuracy_per_byte"]) == (1.0, 1.0)


def test_a_file_that_is_not_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"caf\xe9")
    assert _run("eval", "perplexity", "--text", text) == 1
    assert f"{text}: not UTF-8 text" in capsys.readouterr().err
