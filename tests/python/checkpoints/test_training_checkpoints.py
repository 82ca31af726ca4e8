"""What training programs save: nanoGPT's ckpt.pt, Lightning's state_dict, prefixes of wrappers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt2fast import GPT2
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.errors import ModelError
from gpt2fast.loading.sources import embedded_model
from support.checkpoint_samples import (
    Tensors,
    pickled_dict,
    pickled_int,
    pickled_text,
    random_tensors,
    small_config,
    torch_state,
)
from support.goldens import EMBEDDED
from support.huggingface_samples import assert_tensors, write_directory

NANOGPT = small_config(activation_function="gelu")
LINEAR = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def nanogpt_tensors(tensors: Tensors, prefix: str = "_orig_mod.transformer.") -> Tensors:
    """The names and layout of nanoGPT; the head is there a second time."""
    named = {
        prefix + name: np.ascontiguousarray(values.T) if name.endswith(LINEAR) else values
        for name, values in tensors.items()
    }
    named[prefix.removesuffix("transformer.") + "lm_head.weight"] = tensors["wte.weight"]
    return named


def model_args(**changes: int) -> dict[str, bytes]:
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "block_size": 24, "vocab_size": 101, **changes}
    values = {name: pickled_int(size) for name, size in sizes.items()}
    return {"model_args": pickled_dict({**values, "bias": b"\x89", "dropout": b"G" + bytes(8)})}


def write(path: Path, tensors: Tensors, **options: Any) -> Path:
    path.write_bytes(torch_state(tensors, **options))
    return path


@pytest.mark.parametrize("prefix", ["transformer.", "_orig_mod.transformer.", "module._orig_mod."])
def test_nanogpt(tmp_path: Path, prefix: str) -> None:
    tensors = random_tensors(NANOGPT)
    file = nanogpt_tensors(tensors, prefix)
    file[f"{prefix}h.0.attn.bias"] = np.ones((1, 1, 24, 24), np.float32)
    optimizer = {"optimizer": pickled_dict({"state": b"}", "param_groups": b"]"}), "iter_num": pickled_int(7)}
    path = write(tmp_path / "ckpt.pt", file, within="model", beside={**model_args(), **optimizer})
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == NANOGPT
    assert_tensors(checkpoint, tensors)
    np.testing.assert_array_equal(
        checkpoint.tensors["h.1.mlp.c_fc.weight"].read_rows(3, 7), tensors["h.1.mlp.c_fc.weight"][3:7]
    )


def test_nanogpt_without_biases(tmp_path: Path) -> None:
    tensors = random_tensors(NANOGPT)
    file = nanogpt_tensors({name: values for name, values in tensors.items() if name.endswith("weight")})
    path = write(tmp_path / "ckpt.pt", file, within="model", beside=model_args())
    zeroed = {name: values * name.endswith("weight") for name, values in tensors.items()}
    assert_tensors(open_checkpoint(path), zeroed)


def test_nanogpt_computes_what_transformers_does(tmp_path: Path) -> None:
    tensors = {
        name.removeprefix("transformer."): values.astype(np.float32)
        for name, values in load_file(embedded_model() / "model.safetensors").items()
    }
    sizes = {"n_layer": 6, "n_head": 4, "n_embd": 256, "block_size": 512, "vocab_size": 4096}
    file = nanogpt_tensors(tensors)
    path = write(tmp_path / "ckpt.pt", file, within="model", beside=model_args(**sizes))
    with GPT2.from_pretrained(path, precision="fp32") as model:
        logits = model.logits(EMBEDDED["short"]["token_ids"])[0, -1]
    found = logits[EMBEDDED["short"]["ids"]]
    np.testing.assert_allclose(found, EMBEDDED["exact_gelu"], rtol=1e-5, atol=1e-6)


def test_sizes_of_nanogpt_are_checked(tmp_path: Path) -> None:
    file = nanogpt_tensors(random_tensors(NANOGPT))
    path = write(tmp_path / "ckpt.pt", file, within="model", beside=model_args(n_head=7))
    with pytest.raises(ModelError, match=r"ckpt\.pt: model_args: n_embd .64. must be a multiple of n_head"):
        open_checkpoint(path)


def test_transposed_weights_of_a_known_configuration(tmp_path: Path) -> None:
    """A model of ``torch.nn.Linear`` layers, saved with a config.json."""
    tensors = random_tensors(small_config())
    source = write_directory(tmp_path, tensors=tensors)
    save_file(nanogpt_tensors(tensors, "model.transformer."), source / "model.safetensors")
    checkpoint = open_checkpoint(source)
    assert checkpoint.config == small_config()
    assert_tensors(checkpoint, tensors)


def test_transposed_weights_alone(tmp_path: Path) -> None:
    file = nanogpt_tensors(random_tensors(NANOGPT))
    with pytest.warns(UserWarning, match="assuming 1 heads of 64 and nanoGPT's conventions"):
        checkpoint = open_checkpoint(write(tmp_path / "model.pt", file))
    assert checkpoint.config == small_config(n_head=1, activation_function="gelu")


def reduced(module: str, name: str, arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(" + arguments + b"tR"


@pytest.mark.parametrize("prefix", ["model.transformer.", "model.model.transformer.", "module.model."])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_lightning(tmp_path: Path, prefix: str, key: str) -> None:
    config = small_config()
    tensors = random_tensors(config)
    write_directory(tmp_path, config)
    beside = {
        "epoch": pickled_int(3),
        "hyper_parameters": reduced("pytorch_lightning.utilities.parsing", "AttributeDict", b"}"),
        "arguments": b"cargparse\nNamespace\n)\x81}(" + pickled_text("lr") + pickled_int(1) + b"ub",
        "folder": reduced("pathlib", "PosixPath", pickled_text("runs")),
    }
    file = {prefix + name: values for name, values in tensors.items()}
    path = write(tmp_path / "last.ckpt", file, within=key, beside=beside)
    checkpoint = open_checkpoint(path)
    assert checkpoint.config == config
    assert_tensors(checkpoint, tensors)


def test_other_objects_in_a_training_checkpoint_are_refused(tmp_path: Path) -> None:
    beside = {"hyper_parameters": reduced("my_package", "Settings", b"")}
    path = write(tmp_path / "last.ckpt", random_tensors(small_config()), within="state_dict", beside=beside)
    with pytest.raises(ModelError, match=r"my_package\.Settings.*torch.save\(model.state_dict\(\), PATH\)"):
        open_checkpoint(path)


def test_a_tensor_under_two_prefixes_is_refused(tmp_path: Path) -> None:
    tensors = random_tensors(small_config())
    write_directory(tmp_path)
    file = {**tensors, "module.wte.weight": tensors["wte.weight"]}
    with pytest.raises(ModelError, match=r"both 'wte.weight' and 'module.wte.weight' are in it"):
        open_checkpoint(write(tmp_path / "last.ckpt", file, within="state_dict"))


@pytest.mark.parity
def test_checkpoints_that_torch_saves(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import argparse

    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    tensors = random_tensors(NANOGPT)
    saved = {
        "model": {name: torch.from_numpy(values) for name, values in nanogpt_tensors(tensors).items()},
        "optimizer": optimizer.state_dict(),
        "model_args": {
            "n_layer": 2,
            "n_head": 4,
            "n_embd": 64,
            "block_size": 24,
            "vocab_size": 101,
            "bias": False,
            "dropout": 0.0,
        },
        "iter_num": 5,
        "best_val_loss": torch.tensor(1.5),
        "config": {"out_dir": "out", "learning_rate": 6e-4},
    }
    torch.save(saved, tmp_path / "ckpt.pt")
    checkpoint = open_checkpoint(tmp_path / "ckpt.pt")
    assert checkpoint.config == NANOGPT
    assert_tensors(checkpoint, tensors)
    saved["state_dict"] = saved.pop("model")
    saved |= {"arguments": argparse.Namespace(a=1), "folder": tmp_path, "best": np.float64(1.5)}
    torch.save(saved, tmp_path / "last.ckpt")
    assert_tensors(open_checkpoint(tmp_path / "last.ckpt"), tensors)
