"""LoRA adapters: merged as PEFT computes them, wherever a model can be named; others are refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt2fast import GPT2, ModelError
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.export import convert
from gpt2fast.loading.sources import embedded_model
from support.adapter_samples import CLASSIFIER_KINDS, KINDS, write_adapter
from support.classifier_samples import write_classifier
from support.goldens import EMBEDDED
from support.huggingface_samples import edit_config, write_directory, write_vocabulary

IDS, SOME = EMBEDDED["short"]["token_ids"], EMBEDDED["short"]["ids"]
BASE = str(embedded_model())
LOGITS = EMBEDDED["adapters"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))


def logits(source: Path | str | None, **options: Any) -> list[float]:
    with GPT2.from_pretrained(source, precision="fp32", **options) as model:
        found: list[float] = model.logits(IDS)[0, -1][SOME].tolist()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_scores_are_those_of_peft(tmp_path: Path, kind: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", kind, BASE)
    np.testing.assert_allclose(logits(None, adapter=adapter), LOGITS[kind], rtol=0, atol=2e-5)


def test_an_adapter_names_its_base(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", BASE)
    np.testing.assert_allclose(logits(adapter), LOGITS["attention"], rtol=0, atol=2e-5)
    assert sorted(os.listdir(tmp_path / "cache/models"))[0].startswith("adapter-fp32-")


def test_converting_with_an_adapter(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", BASE)
    convert(embedded_model(), tmp_path / "out", precision="fp32", adapter=adapter)
    np.testing.assert_allclose(logits(tmp_path / "out"), LOGITS["attention"], rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match=r"adapter='.*', but .*out is a converted model; an adapter"):
        GPT2.from_pretrained(tmp_path / "out", adapter=adapter)


def test_a_changed_adapter_is_noticed(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", BASE)
    before = logits(None, adapter=adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 0}))
    plain = logits(None)
    assert logits(None, adapter=adapter) == plain != before


def test_rows_are_merged_as_they_are_read(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "tables", BASE)
    checkpoint = open_checkpoint(adapter)
    assert not checkpoint.config.tie_word_embeddings
    for name in ("wte.weight", "lm_head.weight"):
        tensor = checkpoint.tensors[name]
        np.testing.assert_allclose(tensor.read_rows(7, 9), tensor.read()[7:9], rtol=0, atol=1e-6)


def test_a_larger_table_brings_its_vocabulary(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "whole_table", BASE)
    tensors = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.transformer.wte.weight"
    tensors[name] = np.concatenate([tensors[name], np.ones((3, 256), np.float32)])
    save_file(tensors, adapter / "adapter_model.safetensors")
    checkpoint = open_checkpoint(adapter)
    assert checkpoint.config.vocab_size == 4099
    assert checkpoint.config.tie_word_embeddings
    np.testing.assert_array_equal(checkpoint.tensors["wte.weight"].read(), tensors[name])


def test_the_defaults_of_the_base_stay(tmp_path: Path) -> None:
    base = write_directory(tmp_path / "base")
    (base / "generation_config.json").write_text('{"repetition_penalty": 1.5}')
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "lora_alpha": 2, "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    factors = {"A": np.ones((1, 64), np.float32), "B": np.ones((64, 1), np.float32)}
    name = "base_model.model.transformer.h.1.attn.c_proj"
    tensors = {f"{name}.lora_{half}.weight": values for half, values in factors.items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    merged, plain = open_checkpoint(adapter), open_checkpoint(base)
    assert merged.generation_config == plain.generation_config == {"repetition_penalty": 1.5}
    assert merged.config == plain.config
    weight = "h.1.attn.c_proj.weight"
    np.testing.assert_array_equal(merged.tensors[weight].read(), plain.tensors[weight].read() + 2)


def test_the_tokenizer_beside_the_adapter_is_used(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", BASE)
    write_vocabulary(adapter, 101)
    assert open_checkpoint(adapter).tokenizer.vocab_json == (adapter / "vocab.json").read_text()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type is 'PREFIX_TUNING'; only LORA adapters are merged"),
        ({"use_dora": True}, "use_dora is not supported; merge it with PEFT"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights is 'pissa_niter_4', which changes the base",
        ),
        ({"lora_alpha": "8"}, "lora_alpha must be a number, .*got '8'"),
        ({"lora_alpha": None}, "lora_alpha must be a number, .*got None"),
        ({"lora_alpha": 10**400}, r"lora_alpha must be a number, at most 3.40282e\+38, got 10{39}$"),
        ({"lora_alpha": -1e39}, "lora_alpha must be a number, .*got -1e[+]39"),
        ({"alpha_pattern": {"attn.c_attn": 10**400}}, "lora_alpha must be a number, .*got 10{39}$"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern .* is no plain name"),
        ({"alpha_pattern": [1]}, "alpha_pattern must be an object"),
        ({"base_model_name_or_path": None}, "names no base model; give it: from_pretrained"),
    ],
)
def test_other_adapters_are_refused(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", BASE, **changes)
    with pytest.raises(ModelError, match=rf"adapter_config\.json: {fault}"):
        open_checkpoint(adapter)


def test_an_absent_base(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", "/absent/base")
    with pytest.raises(FileNotFoundError, match=r"belongs to this model, which is not there.*/absent/base"):
        open_checkpoint(adapter)


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", BASE)
    with pytest.raises(ModelError, match=r"the factors of 'h.0.attn.c_attn.weight' have shapes"):
        open_checkpoint(write_directory(tmp_path / "other"), adapter=adapter)
    with pytest.raises(ModelError, match="an adapter, but adapter= needs the model that it belongs to"):
        open_checkpoint(adapter, adapter=adapter)
    with pytest.raises(ModelError, match=r"no adapter: has no adapter_config\.json in it"):
        open_checkpoint(BASE, adapter=tmp_path / "other")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors or adapter_model\.bin in it"):
        open_checkpoint(adapter)


@pytest.mark.parametrize("name", ["h.0.attn.c_attn.lora_magnitude_vector", "h.0.attn.c_attn.lora_B.bias"])
def test_tensors_of_other_adapters_are_refused(tmp_path: Path, name: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", BASE)
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors[f"base_model.model.transformer.{name}"] = np.ones(768, np.float32)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=rf"{name}' belongs to no LoRA adapter"):
        open_checkpoint(adapter)


def test_factors_of_a_layer_that_the_model_does_not_have(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", BASE)
    tensors = load_file(adapter / "adapter_model.safetensors")
    for half in ("lora_A", "lora_B"):
        name = f"base_model.model.transformer.h.{{}}.attn.c_attn.{half}.weight"
        tensors[name.format(6)] = tensors[name.format(0)]
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(
        ModelError, match=r"has factors for 'h\.6\.attn\.c_attn\.weight', which the model does not"
    ):
        open_checkpoint(adapter)


def test_the_weights_alone_are_no_model(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", BASE)
    with pytest.raises(ModelError, match="the weights of an adapter, not of a model; give its directory"):
        open_checkpoint(adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="adapter must name the directory of an adapter"):
        open_checkpoint(BASE, adapter=adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"there is a model in a folder; did you mean .*/adapter\?"):
        open_checkpoint(tmp_path)


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", "attention", BASE)
    tensors = load_file(adapter / "adapter_model.safetensors")
    del tensors["base_model.model.transformer.h.3.attn.c_attn.lora_B.weight"]
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"the factors of 'h\.3\.attn\.c_attn\.weight' are not a pair"):
        open_checkpoint(adapter)


def classification(source: Path | str | None, ids: list[int] = IDS, **options: Any) -> Any:
    with GPT2.from_pretrained(source, precision="fp32", **options) as model:
        return model.classify(ids)


@pytest.mark.parametrize("kind", CLASSIFIER_KINDS)
def test_a_head_for_classification_comes_with_the_adapter(tmp_path: Path, kind: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", kind, BASE)
    for found in (classification(adapter), classification(None, adapter=adapter)):
        np.testing.assert_allclose(found.logits, LOGITS[kind], rtol=0, atol=2e-5)
        assert found.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    "form", ["score.modules_to_save.default.weight", "modules_to_save.default.score.weight"]
)
def test_names_of_modules_that_are_saved_whole(tmp_path: Path, form: str) -> None:
    adapter = write_adapter(tmp_path / "adapter", "whole_text_head", BASE)
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors[f"base_model.model.{form}"] = tensors.pop("base_model.model.score.weight")
    tensors["base_model.model.score.original_module.weight"] = np.ones((3, 256), np.float32)
    save_file(tensors, adapter / "adapter_model.safetensors")
    np.testing.assert_allclose(classification(adapter).logits, LOGITS["whole_text_head"], atol=2e-5)


@pytest.mark.parametrize("labels", [["bad", "fair", "good"], ["bad", "good"]])
def test_labels_and_padding_are_those_of_the_base(tmp_path: Path, labels: list[str]) -> None:
    base = shutil.copytree(BASE, tmp_path / "base")
    edit_config(base, id2label=dict(enumerate(labels)), pad_token_id=9)
    adapter = write_adapter(tmp_path / "adapter", "whole_text_head", str(base))
    found = classification(adapter, [*IDS, 9, 9])
    np.testing.assert_allclose(found.logits, LOGITS["whole_text_head"], rtol=0, atol=2e-5)
    # transformers numbers the labels where the configuration has another count of them.
    expected = tuple(labels) if len(labels) == 3 else ("LABEL_0", "LABEL_1", "LABEL_2")
    assert found.labels == expected


def head_adapter(tmp_path: Path, base: Path, **tensors: Any) -> Path:
    """An adapter with these tensors; a name has underscores for points."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "lora_alpha": 4, "base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    named = {f"base_model.model.{name.replace('__', '.')}": values for name, values in tensors.items()}
    save_file(named, adapter / "adapter_model.safetensors")
    return adapter


def test_factors_of_the_head_of_a_classifier_are_merged(tmp_path: Path) -> None:
    base = write_classifier(tmp_path / "base", "two labels")
    first, second = np.ones((1, 64), np.float32), np.array([[1.0], [2.0]], np.float32)
    adapter = head_adapter(tmp_path, base, score__lora_A__weight=first, score__lora_B__weight=second)
    merged, plain = open_checkpoint(adapter), open_checkpoint(base)
    assert merged.config == plain.config
    added = np.repeat([[4.0], [8.0]], 64, axis=1)
    np.testing.assert_allclose(
        merged.classifier["score.weight"].read(), plain.classifier["score.weight"].read() + added, atol=1e-6
    )


def test_a_head_takes_the_place_of_the_base_s_own(tmp_path: Path) -> None:
    base = write_classifier(tmp_path / "base", "two labels")
    head = {"classifier__weight": np.ones((4, 64), np.float32), "classifier__bias": np.ones(4, np.float32)}
    merged = open_checkpoint(head_adapter(tmp_path, base, **head))
    assert merged.config.classifier is not None
    assert merged.config.classifier.kind == "token"
    assert sorted(merged.classifier) == ["classifier.bias", "classifier.weight"]
    np.testing.assert_array_equal(merged.classifier["classifier.weight"].read(), head["classifier__weight"])


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        (
            {"score__weight": (3, 63)},
            r"has score\.weight \[3, 63\]; a head for classification is score\.weight",
        ),
        ({"classifier__bias": (3,)}, r"has classifier\.bias \[3\]; a head for classification"),
        (
            {"classifier__weight": (3, 64)},
            r"the tensor 'classifier\.bias' must be there and have shape \[3\]",
        ),
        (
            {"score__weight": (3, 64), "classifier__weight": (3, 64), "classifier__bias": (3,)},
            r"has .*classifier\.weight.*score\.weight",
        ),
    ],
)
def test_heads_that_are_refused(tmp_path: Path, tensors: dict[str, tuple[int, ...]], fault: str) -> None:
    values = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
    adapter = head_adapter(tmp_path, write_directory(tmp_path / "base"), **values)
    with pytest.raises(ModelError, match=rf"adapter_model\.safetensors: .*{fault}"):
        open_checkpoint(adapter)
