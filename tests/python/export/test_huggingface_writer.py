"""Written Hugging Face checkpoints: our reader and transformers read the same tensors back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.base import Checkpoint, LazyTensor
from gpt2fast.errors import ModelError
from gpt2fast.export.huggingface_writer import save_huggingface
from support.checkpoint_samples import small_config
from support.huggingface_samples import write_directory
from support.zoo_samples import random_checkpoint


def _assert_same_tensors(first: Checkpoint, second: Checkpoint, dtype: Any = np.float32) -> None:
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert np.array_equal(tensor.read().astype(dtype), second.tensors[name].read()), name


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 100_000, 1])
def test_same_checkpoint_comes_back(tmp_path: Path, tied: bool, max_shard_bytes: int) -> None:
    checkpoint = random_checkpoint(tie_word_embeddings=tied, eos_token_id=[3, 5], activation_function="relu")
    files = save_huggingface(checkpoint, tmp_path / "out", max_shard_bytes=max_shard_bytes)
    back = open_checkpoint(tmp_path / "out")
    assert back.config == checkpoint.config
    _assert_same_tensors(checkpoint, back)
    assert (len(files) > 1) == (max_shard_bytes < 10**9)
    assert all(file.is_file() for file in files)


def test_shards_keep_to_the_limit_and_the_index_names_them(tmp_path: Path) -> None:
    save_huggingface(random_checkpoint(), tmp_path / "out", max_shard_bytes=100_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    count = len(shards)
    assert shards == [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    assert all((tmp_path / "out" / shard).stat().st_size < 104_000 for shard in shards)
    assert index["metadata"]["total_size"] == 4 * sum(
        np.prod(tensor.shape) for tensor in random_checkpoint().tensors.values()
    )


def test_half_precision(tmp_path: Path) -> None:
    save_huggingface(random_checkpoint(), tmp_path / "out", dtype="fp16")
    _assert_same_tensors(random_checkpoint(), open_checkpoint(tmp_path / "out"), np.float16)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "float16"


@pytest.mark.parametrize("others", [1e6, np.inf, np.nan])
def test_value_beyond_half_precision_is_refused(tmp_path: Path, others: float) -> None:
    checkpoint = random_checkpoint()
    values = np.array([1e6] + [others] * 63)
    large = {**checkpoint.tensors, "ln_f.bias": LazyTensor.from_array(values)}
    checkpoint = Checkpoint.checked(checkpoint.config, large, source="large", fingerprint="0")
    with pytest.raises(ModelError, match=r"large: the tensor 'transformer\.ln_f\.bias' has values beyond"):
        save_huggingface(checkpoint, tmp_path / "out", dtype="fp16")
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_comes_along(tmp_path: Path) -> None:
    source = open_checkpoint(write_directory(tmp_path / "in"))
    save_huggingface(source, tmp_path / "out")
    back = open_checkpoint(tmp_path / "out").tokenizer
    assert back.tokenizer_json is not None
    assert len(json.loads(back.tokenizer_json)["model"]["vocab"]) == small_config().vocab_size


def test_only_a_checkpoint_is_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    save_huggingface(random_checkpoint(), out, max_shard_bytes=1)
    with pytest.raises(FileExistsError, match="overwrite"):
        save_huggingface(random_checkpoint(), out)
    save_huggingface(random_checkpoint(), out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        save_huggingface(random_checkpoint(), out, overwrite=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of 'fp32', 'fp16', got 'int8'"),
        ({"max_shard_bytes": 0}, "max_shard_bytes must be from 1 to"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        save_huggingface(random_checkpoint(), tmp_path / "out", **options)


@pytest.mark.parity
@pytest.mark.parametrize("max_shard_bytes", [10**9, 100_000])
def test_transformers_loads_model_and_tokenizer(
    tmp_path: Path, embedded_dir: Path, max_shard_bytes: int
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    save_huggingface(open_checkpoint(embedded_dir), tmp_path / "out", max_shard_bytes=max_shard_bytes)
    first = transformers.GPT2LMHeadModel.from_pretrained(embedded_dir, dtype=torch.float32).eval()
    second = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = tokenizer("Once upon a time, the King's daughter", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(first(ids).logits, second(ids).logits)
    assert tokenizer.eos_token_id == 0
