"""Labels of texts and tokens: the values of transformers, from every form of a model; refusals; commands."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gpt2fast import GPT2, Classification, ModelError, TokenClassification
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.cli.classify import command as classify_command
from gpt2fast.cli.info import command as info_command
from gpt2fast.export import convert
from gpt2fast.export.huggingface_writer import save_huggingface
from support.checkpoint_samples import random_tensors, small_config, write_safetensors
from support.classifier_samples import CLASSIFIERS, TEXTS, write_classifier
from support.huggingface_samples import edit_config, write_directory

GOLDENS = json.loads((Path(__file__).parents[2] / "goldens" / "classifiers.json").read_text())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))


def load(source: Path, **options: Any) -> GPT2:
    return GPT2.from_pretrained(source, precision="fp32", **options)


def assert_golden(model: GPT2, name: str) -> None:
    labels = [CLASSIFIERS[name][1]["id2label"][str(index)] for index in range(len(model_labels(model)))]
    for found, expected in zip(model.classify(TEXTS), GOLDENS[name], strict=True):
        np.testing.assert_allclose(found.logits, expected["logits"], atol=2e-5)
        np.testing.assert_allclose(found.scores, expected["scores"], atol=2e-5)
        assert found.labels == tuple(labels)
        best = np.argmax(expected["scores"], axis=-1)
        if isinstance(found, Classification):
            assert found.label == labels[best]
            assert found.score == pytest.approx(expected["scores"][best], abs=2e-5)
        else:
            assert found.token_labels == [labels[one] for one in best]
            highest = np.max(expected["scores"], axis=-1)
            np.testing.assert_allclose(found.token_scores, highest, atol=2e-5)


def model_labels(model: GPT2) -> tuple[str, ...]:
    assert model.config.classifier is not None
    return model.config.classifier.labels


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_values_of_transformers(tmp_path: Path, name: str) -> None:
    source = write_classifier(tmp_path / "m", name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_golden(load(source), name)  # converts
        assert_golden(load(source), name)  # from the cache
    convert(source, tmp_path / "converted", precision="fp32")
    assert_golden(GPT2.from_pretrained(tmp_path / "converted"), name)
    save_huggingface(open_checkpoint(source), tmp_path / "exported")
    assert_golden(load(tmp_path / "exported"), name)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_transformers_reads_what_is_exported(tmp_path: Path, name: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    source = write_classifier(tmp_path / "m", name)
    save_huggingface(open_checkpoint(source), tmp_path / "exported")
    kind = "Sequence" if "score.weight" in CLASSIFIERS[name][0] else "Token"
    made = getattr(transformers, f"GPT2For{kind}Classification").from_pretrained(tmp_path / "exported")
    settings = CLASSIFIERS[name][1]
    assert made.config.id2label == {int(key): label for key, label in settings["id2label"].items()}
    assert made.config.problem_type == settings.get("problem_type")
    model = load(source)
    for ids in TEXTS:
        with torch.no_grad():
            expected = made.eval()(torch.tensor([ids])).logits[0]
        np.testing.assert_allclose(model.classify(ids).logits, expected.numpy(), atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["two labels", "tokens"])
def test_a_text_alone_and_in_company(tmp_path: Path, name: str, precision: Any) -> None:
    model = GPT2.from_pretrained(write_classifier(tmp_path / "m", name), precision=precision)
    together = model.classify(TEXTS)
    for ids, one in zip(TEXTS, together, strict=True):
        alone = model.classify(ids)
        assert alone.logits.tobytes() == one.logits.tobytes()
        assert alone.scores.tobytes() == one.scores.tobytes()
        exact = np.array(GOLDENS[name][TEXTS.index(ids)]["logits"])
        np.testing.assert_allclose(one.logits, exact, atol=1e-4 if precision == "fp32" else 0.4)
    assert model.classify([]) == []


def test_results_as_json(tmp_path: Path) -> None:
    found = load(write_classifier(tmp_path / "m", "two labels")).classify("ab")
    assert isinstance(found, Classification)
    values = json.loads(json.dumps(found.to_dict()))
    assert (values["label"], values["labels"]) == (found.label, ["bad", "good"])
    assert repr(found) == f"Classification({found.label!r}, score={found.score:.4f})"
    tokens = load(write_classifier(tmp_path / "t", "tokens")).classify("ab")
    assert isinstance(tokens, TokenClassification)
    assert json.loads(json.dumps(tokens.to_dict()))["token_ids"] == tokens.token_ids


def test_a_file_alone_takes_the_labels_beside_it(tmp_path: Path) -> None:
    source = write_classifier(tmp_path / "m", "three labels, padded")
    assert_golden(load(source / "model.safetensors"), "three labels, padded")


def test_labels_that_the_file_does_not_name(tmp_path: Path) -> None:
    source = write_classifier(tmp_path / "m", "several at once")
    config = json.loads((source / "config.json").read_text())
    del config["id2label"], config["label2id"], config["architectures"]
    (source / "config.json").write_text(json.dumps(config))
    assert_golden(load(source), "several at once")


def test_generating_with_a_classifier_warns(tmp_path: Path) -> None:
    model = load(write_classifier(tmp_path / "m", "two labels"))
    for generate in (model.generate, lambda *a, **o: list(model.stream(*a, **o))):
        with pytest.warns(UserWarning, match="trained for classification"):
            assert generate([5], max_new_tokens=1)


def test_a_model_without_a_head_refuses(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no head for classification \(score.weight or classifier.weight\)"):
        GPT2.from_pretrained().classify("Once")


def test_a_head_for_multiple_choice_is_refused_by_name(tmp_path: Path) -> None:
    head = {"multiple_choice_head.summary.weight": np.ones((1, 64), np.float32)}
    tensors = {**random_tensors(small_config()), **head}
    source = write_directory(tmp_path / "m", tensors=tensors, heads=tuple(head))
    with pytest.warns(UserWarning, match=r"multiple_choice_head.summary.weight; .* not supported: rank\(\)"):
        model = load(source)
    with pytest.raises(ModelError, match=r"no head for classification .*multiple_choice_head.*rank\(\)"):
        model.classify([5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "a"}}, "id2label names 1 labels, and the head has 2"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label must have the keys 0, 1, ..., got 0, 2"),
        ({"id2label": {"0": "a", "1": 1}}, "id2label must map numbers to names"),
        ({"id2label": ["a", "b"]}, "id2label must map numbers to names"),
        ({"problem_type": "guessing"}, "problem_type must be one of regression, .*got 'guessing'"),
        ({"pad_token_id": "x"}, "pad_token_id must be a token id or null, got 'x'"),
    ],
)
def test_wrong_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = write_classifier(tmp_path / "m", "two labels")
    edit_config(source, **changes)
    with pytest.raises(ModelError, match=message):
        load(source)


def test_a_head_with_broken_numbers(tmp_path: Path) -> None:
    head = {"score.weight": np.full((2, 64), np.nan, np.float32)}
    source = write_directory(
        tmp_path / "m", tensors={**random_tensors(small_config()), **head}, heads=tuple(head)
    )
    with pytest.raises(ModelError, match=r"'score.weight' holds NaN or infinity"):
        load(source)


def test_a_token_head_without_its_bias(tmp_path: Path) -> None:
    head = {"classifier.weight": np.ones((2, 64), np.float32)}
    source = write_directory(
        tmp_path / "m", tensors={**random_tensors(small_config()), **head}, heads=tuple(head)
    )
    with pytest.raises(ModelError, match=r"'classifier.bias' must be there and have shape \[2\]"):
        load(source)


def test_model_directories_from_strangers(tmp_path: Path) -> None:
    made = tmp_path / "made"
    convert(write_classifier(tmp_path / "m", "two labels"), made, precision="fp32")
    (made / "classifier.safetensors").unlink()
    with pytest.raises(ModelError, match=r"classifier.safetensors"):
        GPT2.from_pretrained(made)
    write_safetensors(made / "classifier.safetensors", {"score.weight": np.ones((3, 64), np.float32)})
    with pytest.raises(ModelError, match=re.escape("must hold exactly score.weight [2, 64]")):
        GPT2.from_pretrained(made).classify([5])


def test_the_command_line(tmp_path: Path) -> None:
    source = write_classifier(tmp_path / "m", "two labels")
    options = ["--model", str(source), "--precision", "fp32"]
    result = CliRunner().invoke(classify_command, [*options, "ab", "cd"])
    first, second = load(source).classify(["ab", "cd"])
    assert result.output == (
        f"{first.label}  {first.score:.4f}  ab\n{second.label}  {second.score:.4f}  cd\n"
    )
    result = CliRunner().invoke(classify_command, [*options, "--json", "-"], input="ab")
    assert json.loads(result.output) == {"text": "ab", **first.to_dict()}
    shown = json.loads(CliRunner().invoke(info_command, [*options, "--json"]).output)
    assert shown["classifier"] == {"kind": "sequence", "labels": ["bad", "good"]}
    tagger = write_classifier(tmp_path / "t", "tokens")
    result = CliRunner().invoke(classify_command, ["--model", str(tagger), "--precision", "fp32", "ab"])
    (tokens,) = load(tagger).classify(["ab"])
    assert isinstance(tokens, TokenClassification)
    assert result.output.splitlines() == [
        f"{label:<3}  {score:.4f}  {load(tagger).tokenizer.decode([token])!r}"
        for token, label, score in zip(
            tokens.token_ids, tokens.token_labels, tokens.token_scores, strict=True
        )
    ]
