"""Downloads from a hub on this machine: which files, how often, interruptions, and error messages."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import Tokenizer
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.checkpoints.hub import download_snapshot, download_tokenizer
from gpt2fast.errors import ModelError
from support.fake_hub import COMMIT, FakeHub, isolate, serve
from support.huggingface_samples import write_directory

WEIGHTS = bytes(range(256)) * 40


def contents(*names: str) -> dict[str, bytes]:
    """Files that all differ, because the cache stores equal ones once; weights are large."""
    return {name: WEIGHTS + name.encode() if "model" in name else name.encode() for name in names}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    isolate(monkeypatch, tmp_path)
    small = ("config.json", "generation_config.json", "vocab.json", "merges.txt", "README.md")
    files = contents(*small, "model.safetensors", "pytorch_model.bin", "tf_model.h5")
    with serve(FakeHub("someone/gpt2", files)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running


def fetch(tmp_path: Path, **options: Any) -> Path:
    return download_snapshot("someone/gpt2", cache_dir=tmp_path / "cache", **options)


def test_only_the_files_needed_are_fetched(tmp_path: Path, hub: FakeHub) -> None:
    path = fetch(tmp_path)
    wanted = ["config.json", "generation_config.json", "merges.txt", "model.safetensors", "vocab.json"]
    assert hub.downloaded() == wanted
    assert sorted(file.name for file in path.iterdir()) == wanted
    for name in wanted:
        assert (path / name).read_bytes() == hub.files[name]


def test_the_second_time_nothing_is_fetched(tmp_path: Path, hub: FakeHub) -> None:
    first = fetch(tmp_path)
    hub.requests.clear()
    assert fetch(tmp_path) == first
    assert hub.downloaded() == []


def test_a_fast_tokenizer_replaces_its_two_files(tmp_path: Path, hub: FakeHub) -> None:
    hub.files["tokenizer.json"] = b"{}"
    names = {file.name for file in fetch(tmp_path).iterdir()}
    assert "tokenizer.json" in names
    assert not names & {"vocab.json", "merges.txt"}


@pytest.mark.parametrize(
    ("present", "wanted"),
    [
        (["pytorch_model.bin", "flax_model.msgpack"], ["pytorch_model.bin"]),
        (
            [
                "model.safetensors.index.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ],
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ],
        ),
        (
            ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin", "rust_model.ot"],
            ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
        ),
    ],
)
def test_weights_come_in_one_file_or_in_shards(
    tmp_path: Path, hub: FakeHub, present: list[str], wanted: list[str]
) -> None:
    hub.files = contents("config.json", *present)
    fetch(tmp_path)
    assert hub.downloaded() == ["config.json", *wanted]


def test_an_adapter_comes_with_its_configuration(tmp_path: Path, hub: FakeHub) -> None:
    hub.files = contents("adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json")
    fetch(tmp_path)
    assert hub.downloaded() == ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]


def test_a_lone_gguf_file_is_the_model(tmp_path: Path, hub: FakeHub) -> None:
    hub.files = contents("README.md", "gpt2.Q8_0.gguf")
    assert fetch(tmp_path).name == "gpt2.Q8_0.gguf"
    assert hub.downloaded() == ["gpt2.Q8_0.gguf"]
    assert fetch(tmp_path, local_files_only=True).name == "gpt2.Q8_0.gguf"


def test_without_weights_the_message_lists_the_files(tmp_path: Path, hub: FakeHub) -> None:
    hub.files = contents("README.md", "flax_model.msgpack")
    with pytest.raises(ModelError, match=r"someone/gpt2: no weights .* README\.md, flax_model\.msgpack"):
        fetch(tmp_path)


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_revision_can_be_named(tmp_path: Path, hub: FakeHub, revision: str) -> None:
    assert fetch(tmp_path, revision=revision).name == COMMIT


def test_an_unknown_revision_is_named_in_the_message(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(ModelError, match="someone/gpt2: has no revision 'v9'"):
        fetch(tmp_path, revision="v9")


def test_an_interrupted_transfer_continues_where_it_stopped(tmp_path: Path, hub: FakeHub) -> None:
    hub.interruptions = 1
    path = fetch(tmp_path)
    content = hub.files["model.safetensors"]
    assert (path / "model.safetensors").read_bytes() == content
    ranges = [
        range_header
        for method, name, range_header in hub.requests
        if method == "GET" and name == "/cdn/model.safetensors"
    ]
    first, second = ranges
    assert first is None
    assert second is not None
    # Up to the last whole chunk before the break.
    assert (
        len(content) // 2 - 1024 < int(second.removeprefix("bytes=").removesuffix("-")) <= len(content) // 2
    )


def test_a_private_model_needs_its_token(tmp_path: Path, hub: FakeHub) -> None:
    hub.token = "secret"
    with pytest.raises(ModelError, match=r"no such model .* pass token= or run hf auth login") as raised:
        fetch(tmp_path, token="wrong")
    assert "wrong" not in str(raised.value)
    assert (fetch(tmp_path, token="secret") / "config.json").exists()


@pytest.mark.parametrize(
    ("status", "headers", "kind", "message"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, ModelError, "no such model"),
        (403, {"X-Error-Code": "GatedRepo"}, PermissionError, "is gated; accept its conditions at"),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            PermissionError,
            r"refuses the access token \(401\)",
        ),
        (403, {}, PermissionError, r"refuses the access token \(403\)"),
    ],
)
def test_the_hubs_refusals_say_what_to_do(
    tmp_path: Path, hub: FakeHub, status: int, headers: dict[str, str], kind: type[Exception], message: str
) -> None:
    hub.error = (status, headers)
    with pytest.raises(kind, match=rf"^someone/gpt2: .*{message}"):
        fetch(tmp_path)


def test_a_failing_hub_is_reported_as_temporary(tmp_path: Path, hub: FakeHub) -> None:
    hub.error = (501, {})
    with pytest.raises(ConnectionError, match=r"answers with an error \(501\); try again later"):
        fetch(tmp_path)


@pytest.mark.parametrize("text", ["./no/such/directory", "a/b/c", "--", "x" * 200, "model.safetensors/"])
def test_a_name_that_cannot_be_an_id_is_a_missing_file(tmp_path: Path, hub: FakeHub, text: str) -> None:
    with pytest.raises(ModelError, match="neither a file or directory that exists nor the id of a model"):
        download_snapshot(text, cache_dir=tmp_path)
    assert not hub.requests


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_offline_only_the_cache_is_used(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    path = fetch(tmp_path)
    hub.requests.clear()
    if way == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(tmp_path, local_files_only=way == "argument") == path
    assert not hub.requests


def test_offline_without_a_copy_says_so(tmp_path: Path, hub: FakeHub) -> None:
    with pytest.raises(FileNotFoundError, match="someone/gpt2: not in the cache, and working offline"):
        fetch(tmp_path, local_files_only=True)


@pytest.fixture
def closed_port() -> Iterator[str]:
    """A port that nobody listens at, and that no other program is given meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}"


def test_without_a_network_the_cached_copy_serves(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, closed_port: str
) -> None:
    path = fetch(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    assert fetch(tmp_path) == path


def test_without_a_network_or_copy_the_message_says_what_to_do(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, closed_port: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    message = (
        rf"someone/gpt2: no file or directory of that name, and can't reach {closed_port} .*check the network"
    )
    with pytest.raises(ConnectionError, match=message):
        fetch(tmp_path)


def test_a_model_opens_from_its_id(tmp_path: Path, hub: FakeHub) -> None:
    directory = write_directory(tmp_path / "model")
    hub.files = {file.name: file.read_bytes() for file in directory.iterdir()}
    found = open_checkpoint("someone/gpt2")
    local = open_checkpoint(directory)
    assert found.fingerprint == local.fingerprint
    assert found.tokenizer == local.tokenizer


def test_a_tokenizer_comes_without_the_rest(tmp_path: Path, hub: FakeHub) -> None:
    path = download_tokenizer("someone/gpt2", cache_dir=tmp_path / "cache")
    assert hub.downloaded() == ["merges.txt", "vocab.json"]
    assert sorted(file.name for file in path.iterdir()) == ["merges.txt", "vocab.json"]
    hub.files["tokenizer.json"] = b"{}"
    assert (download_tokenizer("someone/gpt2", cache_dir=tmp_path / "other") / "tokenizer.json").is_file()
    assert hub.downloaded() == ["merges.txt", "tokenizer.json", "vocab.json"]


def test_what_lies_beside_a_tokenizer_is_fetched(tmp_path: Path, hub: FakeHub) -> None:
    beside = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
    hub.files |= contents(*beside)
    path = download_tokenizer("someone/gpt2", cache_dir=tmp_path / "cache")
    assert {file.name for file in path.iterdir()} == {"vocab.json", "merges.txt", *beside}
    model = download_snapshot("someone/gpt2", cache_dir=tmp_path / "other")
    assert {*beside, "vocab.json", "merges.txt"} <= {file.name for file in model.iterdir()}


def test_a_vocabulary_of_bert_is_fetched(tmp_path: Path, hub: FakeHub) -> None:
    del hub.files["vocab.json"], hub.files["merges.txt"]
    hub.files |= contents("vocab.txt")
    path = download_tokenizer("someone/gpt2", cache_dir=tmp_path / "cache")
    assert [file.name for file in path.iterdir()] == ["vocab.txt"]
    assert (fetch(tmp_path) / "vocab.txt").is_file()


def test_a_repository_without_a_tokenizer(tmp_path: Path, hub: FakeHub) -> None:
    del hub.files["merges.txt"]
    with pytest.raises(ModelError, match=r"someone/gpt2: no tokenizer of a known format on the hub; it has"):
        download_tokenizer("someone/gpt2", cache_dir=tmp_path / "cache")


def test_a_tokenizer_alone_is_not_a_model(tmp_path: Path, hub: FakeHub) -> None:
    download_tokenizer("someone/gpt2", cache_dir=tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match="the cache has no weights of a known format of it"):
        fetch(tmp_path, local_files_only=True)


def test_a_tokenizer_reads_from_its_id(tmp_path: Path, hub: FakeHub) -> None:
    directory = write_directory(tmp_path / "model")
    hub.files = {file.name: file.read_bytes() for file in directory.iterdir()}
    hub.token = "secret"
    found = Tokenizer.from_source("someone/gpt2", token="secret")
    assert found.to_json() == Tokenizer.from_source(directory).to_json()
    assert hub.downloaded() == ["merges.txt", "vocab.json"]


def test_a_missing_tokenizer_file_is_not_looked_for_on_the_hub(hub: FakeHub) -> None:
    for name in ("tokenizer.json", "some/merges.txt", "a/b/c"):
        with pytest.raises(ModelError, match=f"got '{name}', which does not exist"):
            Tokenizer.from_source(name)
    assert not hub.requests


def test_a_tokenizer_in_the_cache_serves_without_a_network(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, closed_port: str
) -> None:
    path = download_tokenizer("someone/gpt2", cache_dir=tmp_path / "cache")
    monkeypatch.setenv("HF_ENDPOINT", closed_port)
    assert download_tokenizer("someone/gpt2", cache_dir=tmp_path / "cache") == path
