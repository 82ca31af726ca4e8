"""Opening checkpoints: kinds of source, which tokenizer is used, and what identifies the content."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.config import ModelConfig
from gpt2fast.errors import ModelError
from support.checkpoint_samples import random_tensors, small_config
from support.huggingface_samples import edit_config, write_directory, write_vocabulary


def test_the_tokenizer_can_come_from_elsewhere(tmp_path: Path) -> None:
    own = open_checkpoint(write_directory(tmp_path / "m"))
    (tmp_path / "t").mkdir()
    write_vocabulary(tmp_path / "t", 90)
    other = open_checkpoint(tmp_path / "m", tokenizer=tmp_path / "t")
    assert other.tokenizer.vocab_json == (tmp_path / "t/vocab.json").read_text()
    assert other.fingerprint != own.fingerprint
    assert open_checkpoint(tmp_path / "m", tokenizer=tmp_path / "t/vocab.json").tokenizer == other.tokenizer
    with pytest.raises(ModelError, match=r"tokenizer must name a directory or a file, got .*absent"):
        open_checkpoint(tmp_path / "m", tokenizer=tmp_path / "absent")


def test_the_fingerprint_depends_on_content_alone(tmp_path: Path) -> None:
    def fingerprint(
        name: str, config: ModelConfig | None = None, seed: int = 0, vocabulary: int = 101
    ) -> str:
        config = config or small_config()
        write_directory(tmp_path / name, config, random_tensors(config, seed))
        write_vocabulary(tmp_path / name, vocabulary)
        return open_checkpoint(tmp_path / name).fingerprint

    first = fingerprint("a")
    edit_config(tmp_path / "a", irrelevant=1)
    assert open_checkpoint(tmp_path / "a").fingerprint == first
    assert fingerprint("b") == first
    others = {
        fingerprint("c", seed=1),
        fingerprint("d", vocabulary=99),
        fingerprint("e", small_config(layer_norm_epsilon=1e-6)),
    }
    assert len(others | {first}) == 4


@pytest.mark.parametrize("source", ["gpt2", "openai-community/gpt2"])
def test_what_looks_like_an_id_goes_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    write_directory(tmp_path)
    calls: list[tuple[str, dict[str, object]]] = []

    def download_snapshot(*args: str, **kwargs: object) -> Path:
        calls.append((*args, kwargs))  # type: ignore[arg-type]
        return tmp_path

    monkeypatch.setattr("gpt2fast.checkpoints.hub.download_snapshot", download_snapshot)
    assert open_checkpoint(source, revision="v1", token="secret").source == str(tmp_path)
    assert calls == [(source, {"revision": "v1", "token": "secret"})]


@pytest.mark.parametrize(
    "source", ["/absent/gpt2", "./gpt2", "../gpt2", "a/b/c", "gpt2.gguf", "org/m.onnx", "", Path("gpt2")]
)
def test_anything_else_is_a_missing_file(source: str | Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_checkpoint(source)


def test_sources_that_are_not_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(ModelError, match=r"not a known kind of model file; known are .safetensors"):
        open_checkpoint(tmp_path / "x.zip")
    (tmp_path / "gpt2fast.json").write_text("{}")
    with pytest.raises(ModelError, match="already a converted model"):
        open_checkpoint(tmp_path)
