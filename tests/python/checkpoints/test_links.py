"""Symbolic links: inside the directory and the hub's own layout are followed, nothing else is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt2fast import GPT2
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.errors import ModelError
from gpt2fast.export.standard import export_onnx
from support.checkpoint_samples import random_tensors, small_config
from support.huggingface_samples import assert_tensors, write_directory
from support.zoo_samples import random_checkpoint


def test_a_link_out_of_the_directory_is_refused(tmp_path: Path) -> None:
    write_directory(tmp_path / "m")
    (tmp_path / "m/model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (tmp_path / "m/model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ModelError, match=r"a link that leads out of its directory"):
        open_checkpoint(tmp_path / "m")


def test_a_link_within_the_directory_is_followed(tmp_path: Path) -> None:
    tensors = random_tensors(small_config())
    write_directory(tmp_path, tensors=tensors)
    (tmp_path / "model.safetensors").rename(tmp_path / "v2.safetensors")
    (tmp_path / "model.safetensors").symlink_to("v2.safetensors")
    assert_tensors(open_checkpoint(tmp_path), tensors)


def as_hub_snapshot(directory: Path, root: Path, name: str = "models--org--name") -> Path:
    """The same files in the form of the hub's cache: a snapshot of links into ``blobs``."""
    blobs, snapshot = root / name / "blobs", root / name / "snapshots/0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for index, path in enumerate(sorted(path for path in directory.rglob("*") if path.is_file())):
        path.rename(blobs / f"{index:064}")
        link = snapshot / path.relative_to(directory)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / f"{index:064}", link.parent))
    return snapshot


@pytest.mark.parametrize("name", ["models--org--name", "renamed"])
def test_links_of_the_hub_cache_are_followed(tmp_path: Path, name: str) -> None:
    tensors = random_tensors(small_config())
    snapshot = as_hub_snapshot(write_directory(tmp_path / "m", tensors=tensors), tmp_path, name)
    assert_tensors(open_checkpoint(snapshot), tensors)
    with pytest.warns(UserWarning, match="not used"):
        lone = open_checkpoint(with_extra(snapshot / "model.safetensors"))
    assert_tensors(lone, tensors)


def test_the_folder_of_a_model_in_the_hub_s_cache(tmp_path: Path) -> None:
    snapshot = as_hub_snapshot(write_directory(tmp_path / "m"), tmp_path / "hub")
    with pytest.raises(ModelError, match=rf"a model in a folder; did you mean {re.escape(str(snapshot))}\?"):
        open_checkpoint(snapshot.parents[1])


def with_extra(path: Path) -> Path:
    """Add a tensor that no model uses."""
    save_file({**load_file(path), "extra": np.ones(1, np.float32)}, path.resolve())
    return path


def test_a_blob_that_leads_further_is_refused(tmp_path: Path) -> None:
    snapshot = as_hub_snapshot(write_directory(tmp_path / "m"), tmp_path)
    blob = (snapshot / "model.safetensors").resolve()
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="leads out of its directory"):
        open_checkpoint(snapshot)


def test_links_of_a_local_dir_lead_into_the_cache(tmp_path: Path) -> None:
    """As ``huggingface_hub`` before 0.23 fills a ``local_dir``."""
    tensors = random_tensors(small_config())
    snapshot = as_hub_snapshot(write_directory(tmp_path / "m", tensors=tensors), tmp_path / "hub")
    local = tmp_path / "local"
    (local / ".cache/huggingface/download").mkdir(parents=True)
    for link in snapshot.iterdir():
        (local / link.name).symlink_to(link.resolve())
    assert_tensors(open_checkpoint(local), tensors)


@pytest.mark.parametrize(
    "place",
    [
        "hub/models--org--name/blobs/model.safetensors",
        "hub/models--org--name/other/" + "0" * 64,
        "hub/elsewhere/blobs/" + "0" * 64,
        "hub/models--org--name/blobs/" + "0" * 63,
    ],
)
def test_links_to_anything_else_are_refused(tmp_path: Path, place: str) -> None:
    local = write_directory(tmp_path / "local")
    (tmp_path / place).parent.mkdir(parents=True)
    (local / "model.safetensors").rename(tmp_path / place)
    (local / "model.safetensors").symlink_to(tmp_path / place)
    with pytest.raises(ModelError, match="leads out of its directory"):
        open_checkpoint(local)


def test_an_onnx_file_in_a_folder_of_a_snapshot(tmp_path: Path) -> None:
    """Its external data is a link too; ONNX Runtime, which checks the graph, must find it."""
    folder = tmp_path / "m/onnx"
    folder.mkdir(parents=True)
    assert len(export_onnx(random_checkpoint(), folder / "model.onnx", external_data=True)) == 2
    snapshot = as_hub_snapshot(tmp_path / "m", tmp_path)
    with GPT2.from_pretrained(snapshot / "onnx/model.onnx", precision="fp32") as model:
        assert model.logits([5, 6, 7]).shape == (1, 3, 101)
