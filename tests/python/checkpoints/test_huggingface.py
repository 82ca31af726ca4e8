"""Checkpoint directories and lone weight files: names, dtypes, shards, and refusals."""

from __future__ import annotations

import importlib
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.errors import ModelError
from support.checkpoint_samples import Tensors, random_tensors, small_config, torch_state
from support.huggingface_samples import assert_tensors, edit_config, with_prefix, write_directory


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_names_with_and_without_prefix(tmp_path: Path, prefix: str) -> None:
    config = small_config(n_inner=100, activation_function="relu", scale_attn_by_inverse_layer_idx=True)
    tensors = random_tensors(config)
    checkpoint = open_checkpoint(write_directory(tmp_path, config, tensors, prefix=prefix))
    assert checkpoint.config == config
    assert checkpoint.source == str(tmp_path)
    assert_tensors(checkpoint, tensors)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes(tmp_path: Path, dtype: type) -> None:
    tensors = random_tensors(small_config())
    checkpoint = open_checkpoint(write_directory(tmp_path, tensors=tensors, dtype=dtype))
    assert_tensors(
        checkpoint, {name: values.astype(dtype).astype(np.float32) for name, values in tensors.items()}
    )


def test_mask_buffers_are_ignored_silently(tmp_path: Path) -> None:
    config = small_config()
    tensors = random_tensors(config)
    file = with_prefix(tensors, "")
    file["h.0.attn.bias"] = np.ones((1, 1, 24, 24), np.uint8)
    file["h.1.attn.masked_bias"] = np.array(-1e4, np.float32)
    save_file(file, write_directory(tmp_path, config) / "model.safetensors")
    assert_tensors(open_checkpoint(tmp_path), tensors)


def test_other_tensors_are_ignored_with_a_warning(tmp_path: Path) -> None:
    config = small_config()
    file = {**random_tensors(config), "value.weight": np.ones((2, 64), np.int64)}
    save_file(file, write_directory(tmp_path, config) / "model.safetensors")
    with pytest.warns(UserWarning, match="1 tensors are not used: value.weight"):
        assert_tensors(open_checkpoint(tmp_path), random_tensors(config))


def test_a_tied_head_may_be_the_only_copy_of_the_table(tmp_path: Path) -> None:
    config = small_config()
    tensors = random_tensors(config)
    file = dict(tensors)
    file["lm_head.weight"] = file.pop("wte.weight")
    assert_tensors(open_checkpoint(write_directory(tmp_path, config, file)), tensors)


def test_an_untied_head(tmp_path: Path) -> None:
    config = small_config(tie_word_embeddings=False)
    tensors = random_tensors(config)
    assert "lm_head.weight" in tensors
    assert_tensors(open_checkpoint(write_directory(tmp_path, config, tensors)), tensors)
    del tensors["lm_head.weight"]
    with pytest.raises(ModelError, match=r"'lm_head.weight' is missing.*tie_word_embeddings is false"):
        open_checkpoint(write_directory(tmp_path, config, tensors))


def write_shards(directory: Path, tensors: Tensors) -> dict[str, str]:
    """Write three shards and their index; returns the weight map."""
    file = with_prefix(tensors, "transformer.")
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for shard in range(3):
        name = f"model-{shard}.safetensors"
        part = dict(list(file.items())[shard::3])
        save_file(part, directory / name)
        weight_map.update(dict.fromkeys(part, name))
    write_index(directory, weight_map)
    return weight_map


def write_index(directory: Path, weight_map: object) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards(tmp_path: Path) -> None:
    tensors = random_tensors(small_config())
    write_shards(write_directory(tmp_path), tensors)
    assert_tensors(open_checkpoint(tmp_path), tensors)


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("../model-0.safetensors", "is not the name of a file"),
        ("/etc/passwd", "is not the name of a file"),
        ("sub/model-0.safetensors", "is not the name of a file"),
        ("..\\model-0.safetensors", "is not the name of a file"),
        ("C:model-0.safetensors", "is not the name of a file"),
        ("..", "is not the name of a file"),
        ("", "is not the name of a file"),
        ("model-0.safetensors\0", "is not the name of a file"),
        ("absent.safetensors", "has no absent.safetensors"),
        ("model-1.safetensors", "is not in model-1.safetensors"),
        (7, "weight_map must map"),
    ],
)
def test_an_index_that_leads_elsewhere(tmp_path: Path, shard: object, message: str) -> None:
    weight_map = write_shards(write_directory(tmp_path / "m"), random_tensors(small_config()))
    (tmp_path / "model-0.safetensors").write_bytes((tmp_path / "m/model-0.safetensors").read_bytes())
    write_index(tmp_path / "m", {**weight_map, "transformer.wte.weight": shard})
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("weight_map", [None, [], "x", {}])
def test_an_index_without_a_weight_map(tmp_path: Path, weight_map: object) -> None:
    write_shards(write_directory(tmp_path), random_tensors(small_config()))
    write_index(tmp_path, weight_map)
    with pytest.raises(ModelError, match=r"weight_map must map|'wte.weight' is missing"):
        open_checkpoint(tmp_path)


def test_pytorch_weights(tmp_path: Path) -> None:
    tensors = random_tensors(small_config())
    write_directory(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(torch_state(with_prefix(tensors, "transformer.")))
    assert_tensors(open_checkpoint(tmp_path), tensors)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.json"])
def test_special_files_are_refused(tmp_path: Path, name: str) -> None:
    write_directory(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ModelError, match=rf"{name}: not a regular file"):
        open_checkpoint(tmp_path)


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: np.ones(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("h.1.mlp.c_fc.bias"), r"'h.1.mlp.c_fc.bias' is missing; the configuration says 2 layers"),
        (drop("wte.weight"), r"'wte.weight' is missing; is it a GPT-2 model\? It holds h.0"),
        (
            put("wpe.weight", 25, 64),
            r"'wpe.weight' has shape \[25, 64\]; the configuration requires \[24, 64\]",
        ),
        (put("h.0.attn.c_attn.weight", 192, 64), r"has shape \[256, 64\]"),
        (put("transformer.ln_f.bias", 64), r"both 'ln_f.bias' and 'transformer.ln_f.bias'"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, change: Callable[[Tensors], object], message: str) -> None:
    tensors = random_tensors(small_config())
    change(tensors)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(write_directory(tmp_path, tensors=tensors, prefix=""))


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    file = {**random_tensors(small_config()), "wte.weight": np.ones((101, 64), np.int8)}
    save_file(file, write_directory(tmp_path) / "model.safetensors")
    with pytest.raises(ModelError, match=r"'wte.weight' has dtype I8"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": None}, "n_layer must be an integer"),
        ({"model_type": "llama"}, "only GPT-2"),
        ({"activation_function": "gelu_neu"}, "did you mean 'gelu_new'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"n_layer": 1 << 24}, r"'h.2.ln_1.weight' is missing"),
        ({"vocab_size": 1 << 24}, r"'wte.weight' has shape"),
    ],
)
def test_unsupported_configurations(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    edit_config(write_directory(tmp_path), **changes)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=message):
            open_checkpoint(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "merges.txt"])
def test_missing_files_are_named(tmp_path: Path, missing: str) -> None:
    (write_directory(tmp_path) / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        open_checkpoint(tmp_path)


def test_the_generation_config_takes_precedence_for_special_tokens(tmp_path: Path) -> None:
    write_directory(tmp_path, small_config(eos_token_id=1))
    assert open_checkpoint(tmp_path).config.eos_token_ids == (1,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 5], "bos_token_id": null}')
    assert open_checkpoint(tmp_path).config.eos_token_ids == (3, 5)


def test_a_lone_file_takes_what_is_beside_it(tmp_path: Path) -> None:
    config = small_config(n_head=2)
    tensors = random_tensors(config)
    checkpoint = open_checkpoint(write_directory(tmp_path, config, tensors) / "model.safetensors")
    assert checkpoint.config == config
    assert_tensors(checkpoint, tensors)
    assert checkpoint.tokenizer.vocab_json is not None


def test_a_lone_file_without_configuration(tmp_path: Path) -> None:
    config = small_config(n_embd=128, n_head=2, n_inner=96)
    tensors = random_tensors(config)
    save_file(with_prefix(tensors, "transformer."), tmp_path / "x.safetensors")
    with pytest.warns(UserWarning, match="assuming 2 heads of 64"):
        checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.config == config
    assert_tensors(checkpoint, tensors)
    assert not checkpoint.tokenizer


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (random_tensors(small_config(n_embd=48)), "number of heads does not follow"),
        ({"x": np.ones((2, 2), np.float32)}, r"no matrix 'lm_head.weight' in it.*it holds x"),
        ({"wte.weight": np.ones((2, 64), np.float32)}, "no matrix 'h.0.mlp.c_fc.weight'"),
    ],
)
def test_a_lone_file_without_sizes(tmp_path: Path, tensors: Tensors, message: str) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("dtype", "precision"), [("f32", 0), ("f16", 2**-10), ("bf16", 2**-8), ("f64", 0)])
def test_random_checkpoints_of_the_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, precision: float
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "tools")
    tool = importlib.import_module("random_checkpoint")
    make, sizes = tool.write_random_checkpoint, tool.SIZES["tiny"]
    exact = open_checkpoint(make(tmp_path / "exact", sizes, tied=False))
    other = open_checkpoint(make(tmp_path / "other", sizes, tied=False, dtype=dtype, prefix=""))
    for name, tensor in exact.tensors.items():
        values = tensor.read()
        np.testing.assert_allclose(
            other.tensors[name].read(), values, rtol=precision, atol=1e-6 * (precision > 0)
        )
        assert values.std() < 0.2
    sharded = open_checkpoint(make(tmp_path / "sharded", sizes, shards=3, dtype=dtype))
    assert "lm_head.weight" not in sharded.tensors
    assert sharded.config.n_embd == 51
