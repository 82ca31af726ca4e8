"""Sources that hold no model, or not where it is looked for: each error says what it is and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpt2fast.checkpoints import locate, open_checkpoint
from gpt2fast.checkpoints.tokenizer_files import read_tokenizer_files
from gpt2fast.errors import ModelError
from gpt2fast.export.standard import export_onnx
from gpt2fast.text.tokenizer import Tokenizer
from support.checkpoint_samples import random_tensors, small_config, torch_state
from support.huggingface_samples import assert_tensors, write_directory, write_vocabulary
from support.zoo_samples import random_checkpoint

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 548118077\n"
)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "pytorch_model.bin", "config.json", "model.gguf", "model.onnx", "vocab.json"],
)
def test_pointers_of_git_lfs(tmp_path: Path, name: str) -> None:
    write_directory(tmp_path)
    if not name.endswith(".json"):
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(
        ModelError, match=rf"{name}: a pointer of Git LFS, not the file itself; run 'git lfs pull'"
    ):
        open_checkpoint(tmp_path / name if name.startswith("model") else tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "model.gguf"])
def test_web_pages(tmp_path: Path, name: str) -> None:
    write_directory(tmp_path)
    if not name.endswith(".json"):
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_text("\n<!DOCTYPE html>\n<html><body>Sign in</body></html>\n" + " " * 4000)
    with pytest.raises(ModelError, match=rf"{name}: a web page \(HTML\), not the file itself; download"):
        open_checkpoint(tmp_path / name if name.startswith("model") else tmp_path)


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "last.ckpt"])
def test_weights_of_another_name(tmp_path: Path, name: str) -> None:
    write_directory(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    for other in ("training_args.bin", "optimizer.pt", "rng_state_0.pth"):
        (tmp_path / other).write_bytes(b"")
    with pytest.raises(ModelError, match=rf"its weights have a name of their own; did you mean .*/{name}\?"):
        open_checkpoint(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match="no weights in it; looked for model"):
        open_checkpoint(tmp_path)


def test_a_model_in_a_folder(tmp_path: Path) -> None:
    write_directory(tmp_path / "final")
    with pytest.raises(ModelError, match=r"there is a model in a folder; did you mean .*/final\?"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://huggingface.co/openai-community/gpt2", "openai-community/gpt2"),
        ("https://huggingface.co/openai-community/gpt2/blob/main/model.safetensors", "openai-community/gpt2"),
        ("hf://distilbert/distilgpt2", "distilbert/distilgpt2"),
    ],
)
def test_addresses_of_the_hub(address: str, name: str) -> None:
    with pytest.raises(ModelError, match=f"a model of the hub is named by its id: '{name}'"):
        locate(address)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("tf_model.h5", r"holds weights in TensorFlow's form.*from_tf=True\)\.save_pretrained"),
        ("flax_model.msgpack", r"holds weights in Flax's form.*from_flax=True\)\.save_pretrained"),
    ],
)
def test_weights_of_other_frameworks(tmp_path: Path, name: str, advice: str) -> None:
    write_directory(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(ModelError, match=f"{name} {advice}"):
            open_checkpoint(source)


def test_the_output_folder_of_a_trainer(tmp_path: Path) -> None:
    for step in (90, 500, 100):
        write_directory(tmp_path / f"checkpoint-{step}")
    (tmp_path / "runs").mkdir()
    with pytest.raises(ModelError, match=r"the output of a Trainer; did you mean .*/checkpoint-500\?"):
        open_checkpoint(tmp_path)


def test_a_directory_without_anything(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights in it; looked for model\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_directory_with_one_model_file(tmp_path: Path) -> None:
    export_onnx(random_checkpoint(), tmp_path / "gpt2.onnx")
    (tmp_path / "config.json").write_text(small_config(eos_token_id=7).to_json())
    write_vocabulary(tmp_path, 101)
    checkpoint = open_checkpoint(tmp_path)
    assert_tensors(checkpoint, random_tensors(small_config()))
    assert checkpoint.config.eos_token_ids == (7,)
    assert checkpoint.tokenizer.vocab_json is not None
    export_onnx(random_checkpoint(), tmp_path / "another.onnx")
    with pytest.raises(
        ModelError, match=r"holds several models: another\.onnx, gpt2\.onnx; name one, such as"
    ):
        open_checkpoint(tmp_path)


def test_a_directory_whose_onnx_models_are_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    export_onnx(random_checkpoint(), tmp_path / "onnx/model.onnx")
    with pytest.raises(
        ModelError, match=r"its ONNX models are in a folder; did you mean .*onnx/model\.onnx\?"
    ):
        open_checkpoint(tmp_path)


def test_the_output_folder_of_nanogpt(tmp_path: Path) -> None:
    (tmp_path / "ckpt.pt").write_bytes(torch_state(random_tensors(small_config(n_head=1))))
    with pytest.warns(UserWarning, match="assuming 1 heads"):
        checkpoint = open_checkpoint(tmp_path)
    np.testing.assert_array_equal(
        checkpoint.tensors["wte.weight"].read(), random_tensors(small_config())["wte.weight"]
    )


def test_the_tokenizer_of_a_gguf_file(tmp_path: Path) -> None:
    from support.gguf_samples import write_gguf

    write_gguf(tmp_path / "model.gguf")
    assert Tokenizer.from_source(tmp_path / "model.gguf").encode("abc") == [64, 65, 66]
    write_gguf(tmp_path / "other.gguf", pre="llama-bpe")
    with pytest.raises(ModelError, match=r"other\.gguf: has no tokenizer of GPT-2's kind"):
        read_tokenizer_files(tmp_path / "other.gguf")


def test_the_tokenizer_beside_a_model_file(tmp_path: Path) -> None:
    write_directory(tmp_path)
    files = read_tokenizer_files(tmp_path / "model.safetensors")
    assert files.vocab_json == (tmp_path / "vocab.json").read_text()
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        read_tokenizer_files(tmp_path / "model.safetensors")


def test_a_vocabulary_under_another_name(tmp_path: Path) -> None:
    write_vocabulary(tmp_path, 101)
    (tmp_path / "vocab.json").rename(tmp_path / "gpt2-vocab.json")
    with pytest.raises(
        ModelError, match=r"gpt2-vocab\.json: a vocabulary without merges; put it into a directory"
    ):
        read_tokenizer_files(tmp_path / "gpt2-vocab.json")
