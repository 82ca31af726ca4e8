"""Names that a file gives: never attributes of ours, and never a way for what is written to other files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from gpt2fast import GPT2
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.export.standard import export_onnx
from support.huggingface_samples import write_directory
from support.zoo_samples import random_checkpoint

# Attributes of objects of ours, and arguments of functions of ours, that no configuration may reach.
NAMES = {
    "__class__": "x",
    "__dict__": {"n_layer": 9},
    "__init__": 0,
    "__reduce__": ["os.system", "true"],
    "_engine": 1,
    "to_json": 5,
    "from_dict": "y",
    "self": 2,
    "prompts": [[1]],
    "cancel": 1,
    "logits_processor": ["os.system"],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_keys_of_a_configuration_are_no_attributes(tmp_path: Path, name: str) -> None:
    source = write_directory(tmp_path / "model")
    plain = open_checkpoint(source).config
    with GPT2.from_pretrained(source, threads=1) as model:
        wanted = model.generate([1, 2], max_new_tokens=3).token_ids
    file = source / name
    values = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**values, **NAMES}))
    found = open_checkpoint(source).config
    assert found == plain
    assert found.to_json() == plain.to_json()
    with GPT2.from_pretrained(source, threads=1) as model:
        assert model.generate([1, 2], max_new_tokens=3).token_ids == wanted


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_exports_replace_links_and_not_what_they_lead_to(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "other").write_text("mine")
    if kind == "link":
        (tmp_path / "out" / name).symlink_to(tmp_path / "other")
    else:
        os.link(tmp_path / "other", tmp_path / "out" / name)
    written = export_onnx(
        random_checkpoint(), tmp_path / "out/model.onnx", external_data=True, overwrite=True
    )
    assert (tmp_path / "other").read_text() == "mine"
    assert not any(path.is_symlink() for path in written)


def test_a_saved_prefix_replaces_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "saved.prefix").symlink_to(tmp_path / "other")
    with GPT2.from_pretrained(threads=1) as model:
        model.prefill([1, 2]).save(tmp_path / "saved.prefix")
        prefix = model.load_prefix(tmp_path / "saved.prefix")
        assert np.array_equal(
            model.generate([3], prefix=prefix, max_new_tokens=2).token_ids,
            model.generate([1, 2, 3], max_new_tokens=2).token_ids,
        )
    assert (tmp_path / "other").read_text() == "mine"
