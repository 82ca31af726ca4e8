"""GPT-2's own tokenizer for bare weights: fetched once, cached, never for ids alone; error messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2fast import GPT2, ModelError, Tokenizer
from gpt2fast.cli import main
from gpt2fast.export.standard import StandardOptions, export_onnx
from gpt2fast.loading.sources import embedded_model
from gpt2fast.text.gpt2_tokenizer import REPOSITORY
from support.checkpoint_samples import random_tensors, small_config
from support.fake_hub import FakeHub, isolate, serve
from support.huggingface_samples import write_directory
from support.zoo_samples import random_checkpoint

# A tokenizer in place of GPT-2's, and a model with GPT-2's vocabulary.
TOKENIZER = (embedded_model() / "tokenizer.json").read_bytes()
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 50257}
IDS = [5, 6, 7]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's cache, for this test only."""
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    isolate(monkeypatch, tmp_path)
    with serve(
        FakeHub(REPOSITORY, {"tokenizer.json": TOKENIZER, "model.safetensors": b"x" * 2000})
    ) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lone weight file with nothing but its configuration beside it."""
    directory = tmp_path_factory.mktemp("bare")
    config = small_config(**SIZES)
    return (
        write_directory(directory, config, random_tensors(config), with_tokenizer=False) / "model.safetensors"
    )


def test_it_is_fetched_once_when_text_is_first_needed(weights: Path, hub: FakeHub, cache: Path) -> None:
    model = GPT2.from_pretrained(weights, max_sequences=1)
    result = model.generate(IDS, max_new_tokens=4)
    list(model.stream(IDS, max_new_tokens=2))
    assert len(result.token_ids) == 4
    assert model.has_tokenizer
    assert repr(result) == f"Generation(token_ids={result.token_ids}, finish_reason='length')"
    assert hub.requests == []

    with pytest.warns(
        UserWarning, match=rf"has no tokenizer; GPT-2's own is used, from {REPOSITORY} .*tokenizer="
    ):
        text = model.generate("Once", max_new_tokens=2)
    assert text.prompt_token_ids == Tokenizer.from_source(embedded_model()).encode("Once")
    assert result.text == model.tokenizer.decode(result.token_ids)
    assert hub.downloaded() == ["tokenizer.json"]
    assert (cache / "tokenizers" / "gpt2.json").read_bytes() == TOKENIZER


def test_the_second_time_there_is_no_network(
    weights: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match="GPT-2's own is used"):
        first = GPT2.from_pretrained(weights).tokenizer
    hub.requests.clear()
    hub.error = (500, {})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.warns(UserWarning, match="GPT-2's own is used"):
        again = GPT2.from_pretrained(weights).tokenizer
    assert again.to_json() == first.to_json()
    assert hub.requests == []


def test_a_lone_onnx_file(tmp_path: Path, hub: FakeHub) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(**SIZES), path, StandardOptions(layout="zoo"))
    model = GPT2.from_pretrained(path)
    with pytest.warns(UserWarning, match="GPT-2's own is used"):
        assert model.tokenizer.encode("Once") == Tokenizer.from_source(embedded_model()).encode("Once")
    assert hub.downloaded() == ["tokenizer.json"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ((404, {"X-Error-Code": "RepoNotFound"}), "no such model on"),
        ((501, {}), r"answers with an error \(501\)"),
        (None, "not in the cache, and working offline"),
    ],
)
def test_without_it_ids_work_and_text_says_what_to_give(
    weights: Path,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    error: tuple[int, dict[str, str]] | None,
    reason: str,
) -> None:
    hub.error = error
    if error is None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = GPT2.from_pretrained(weights)
    result = model.generate(IDS, max_new_tokens=3)
    assert len(result.token_ids) == 3
    assert "text" not in repr(result)
    message = rf"has no tokenizer, and GPT-2's own can't be fetched: .*{reason}.*; give another as tokenizer="
    for needs_text in (
        lambda: result.text,
        lambda: model.tokenizer,
        lambda: model.generate("Once", max_new_tokens=3),
        lambda: model.generate(IDS, max_new_tokens=3, stop_strings="a"),
    ):
        with pytest.raises(ModelError, match=message):
            needs_text()


def test_a_file_from_the_hub_that_is_not_a_tokenizer_is_not_kept(
    weights: Path, hub: FakeHub, cache: Path
) -> None:
    hub.files["tokenizer.json"] = b"<html>" * 400
    with pytest.raises(ModelError, match=r"a web page \(HTML\), not the file itself"):
        GPT2.from_pretrained(weights).tokenizer  # noqa: B018
    assert not (cache / "tokenizers").exists()


def test_a_given_tokenizer_comes_first(weights: Path, hub: FakeHub) -> None:
    given = GPT2.from_pretrained(weights, tokenizer=embedded_model())
    assert given.tokenizer.encode("Once") == Tokenizer.from_source(embedded_model()).encode("Once")
    assert hub.requests == []
    named = GPT2.from_pretrained(weights, tokenizer=REPOSITORY)
    assert named.tokenizer.encode("Once") == given.tokenizer.encode("Once")
    assert hub.downloaded() == ["tokenizer.json"]


def test_other_vocabularies_get_none(tmp_path: Path, hub: FakeHub) -> None:
    config = small_config(**{**SIZES, "vocab_size": 50258})
    path = write_directory(tmp_path, config, random_tensors(config), with_tokenizer=False)
    model = GPT2.from_pretrained(path)
    assert not model.has_tokenizer
    assert model.generate(IDS, max_new_tokens=2).text == ""
    assert hub.requests == []


def convert(*arguments: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["convert", *arguments])
    assert exit_info.value.code == 0


def test_convert_writes_it_into_the_directory(tmp_path: Path, weights: Path, hub: FakeHub) -> None:
    with pytest.warns(UserWarning, match="GPT-2's own is used"):
        convert(str(weights), str(tmp_path / "out"))
    hub.requests.clear()
    model = GPT2.from_pretrained(tmp_path / "out")
    assert model.tokenizer.encode("Once") == Tokenizer.from_source(embedded_model()).encode("Once")
    assert hub.requests == []


def test_convert_continues_without_it(
    tmp_path: Path, weights: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.error = (501, {})
    convert(str(weights), str(tmp_path / "out"))
    assert "note: " in (shown := capsys.readouterr().err)
    assert "GPT-2's own can't be fetched" in shown
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_a_cache_that_cannot_be_written_is_not_needed(
    tmp_path: Path, weights: Path, hub: FakeHub, cache: Path
) -> None:
    model = GPT2.from_pretrained(weights)
    (cache / "tokenizers").write_text("a file in the way")
    with pytest.warns(UserWarning, match="GPT-2's own is used"):
        assert model.tokenizer.encode("Once") == Tokenizer.from_source(embedded_model()).encode("Once")
