"""Writing model directories: their content, and that they appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import gpt2fast
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.errors import ModelError
from gpt2fast.export import convert
from gpt2fast.export.huggingface_writer import save_huggingface
from gpt2fast.loading.sources import find_model_directory
from gpt2fast.storage.model_directory import (
    CHAT_TEMPLATE_NAME,
    CLASSIFIER_NAME,
    FILE_NAMES,
    GENERATION_CONFIG_NAME,
    PRECISIONS,
    open_model_directory,
)
from gpt2fast.storage.set_aside import set_aside_name
from support.checkpoint_samples import byte_level_vocabulary, random_tensors, small_config
from support.huggingface_samples import write_directory, write_vocabulary, write_vocabulary_beyond

#: What a checkpoint need not have.
OPTIONAL = {CHAT_TEMPLATE_NAME, CLASSIFIER_NAME, GENERATION_CONFIG_NAME}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "source")


def entries(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_directory(source: Path, tmp_path: Path, precision: str) -> None:
    assert convert(source, tmp_path / "out", precision=precision) == tmp_path / "out"
    assert entries(tmp_path / "out") == sorted({*FILE_NAMES} - OPTIONAL)
    model = open_model_directory(tmp_path / "out")
    checkpoint = open_checkpoint(source)
    assert model.config == checkpoint.config
    assert model.precision == precision
    assert model.metadata == {
        "format_version": 10,
        "precision": precision,
        "source": str(source),
        "fingerprint": checkpoint.fingerprint,
        "weights_bytes": (tmp_path / "out/weights.bin").stat().st_size,
        "gpt2fast_version": gpt2fast.__version__,
    }


def test_the_weights_lie_where_the_graph_says(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", precision="int8")
    graph = onnx.load(tmp_path / "out/model.onnx").graph  # reads the external data
    read = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tensors = random_tensors(small_config())
    assert set(read) == set(tensors)
    for name in ("wpe.weight", "ln_f.weight", "h.1.mlp.c_proj.bias"):
        np.testing.assert_array_equal(read[name], tensors[name])
    assert all(values.ndim == 1 or name == "wpe.weight" for name, values in read.items())


def test_the_same_source_gives_the_same_files(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        convert(source, tmp_path / name, precision="int4")
    first, second = tmp_path / "a", tmp_path / "b"
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in entries(first))


def test_without_a_tokenizer(tmp_path: Path) -> None:
    write_directory(tmp_path / "source", with_tokenizer=False)
    convert(tmp_path / "source", tmp_path / "out")
    assert open_model_directory(tmp_path / "out").tokenizer_path is None


def test_permissions_are_the_usual_ones(source: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    convert(source, tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_progress_ends_at_the_total(source: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    convert(source, tmp_path / "out", progress=lambda done, total: calls.append((done, total)))
    size = (tmp_path / "out/weights.bin").stat().st_size
    assert {total for _, total in calls} == {size}
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1][0] == size


def test_an_unknown_precision_is_refused_first(tmp_path: Path) -> None:
    message = "precision must be one of 'fp32', 'bf16', 'int8', 'int4', 'int4-all', got 'int3'"
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "absent", tmp_path / "out", precision="int3")


def test_an_open_checkpoint_is_taken_as_it_is(source: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(source)
    convert(checkpoint, tmp_path / "out")
    assert open_model_directory(tmp_path / "out").metadata["fingerprint"] == checkpoint.fingerprint
    with pytest.raises(TypeError, match="adapter, tokenizer, n_head, revision and token can't be given"):
        convert(checkpoint, tmp_path / "other", tokenizer=source)


def test_a_bad_tensor_leaves_nothing(tmp_path: Path) -> None:
    tensors = random_tensors(small_config())
    tensors["ln_f.bias"][3] = np.nan
    source = write_directory(tmp_path / "source", tensors=tensors)
    with pytest.raises(ModelError, match=rf"{source}: the tensor 'ln_f.bias' can't be stored: .*NaN"):
        convert(source, tmp_path / "out")
    assert entries(tmp_path) == ["source"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_what_was_there(source: Path, tmp_path: Path, error: type[BaseException]) -> None:
    convert(source, tmp_path / "out", precision="int8")
    before = (tmp_path / "out/weights.bin").read_bytes()

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    with pytest.raises(error):
        convert(source, tmp_path / "out", precision="int4", overwrite=True, progress=interrupt)
    assert entries(tmp_path) == ["out", "source"]
    assert open_model_directory(tmp_path / "out").precision == "int8"
    assert (tmp_path / "out/weights.bin").read_bytes() == before


def test_overwriting(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", precision="int8")
    with pytest.raises(FileExistsError, match=r"--overwrite .* replaces it"):
        convert(source, tmp_path / "out", precision="int4")
    assert open_model_directory(tmp_path / "out").precision == "int8"
    convert(source, tmp_path / "out", precision="int4", overwrite=True)
    assert open_model_directory(tmp_path / "out").precision == "int4"
    assert entries(tmp_path) == ["out", "source"]


def test_an_empty_directory_is_filled(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(source, tmp_path / "out")
    assert entries(tmp_path / "out") == sorted({*FILE_NAMES} - OPTIONAL)


def test_missing_parents_are_made(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "a/b/out")
    assert entries(tmp_path / "a/b") == ["out"]


def test_anything_but_a_model_directory_is_never_replaced(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target, found in (("out", "notes.txt"), ("source", "merges.txt"), ("file", "is a file")):
        with pytest.raises(FileExistsError, match=found):
            convert(source, tmp_path / target, overwrite=True)
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"
    assert (source / "model.safetensors").exists()


def test_a_linked_output_directory_keeps_its_link(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "real", precision="int8")
    (tmp_path / "link").symlink_to("real")
    convert(source, tmp_path / "link", precision="int4", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert open_model_directory(tmp_path / "real").precision == "int4"


def test_too_little_room_is_noticed_first(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 << 20))
    with pytest.raises(OSError, match=r"16 MiB are needed, and only 3 MiB are free") as caught:
        convert(source, tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC
    assert entries(tmp_path) == ["source"]


def test_a_disk_that_fills_up_meanwhile(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'out'}'"):
        convert(source, tmp_path / "out")
    assert entries(tmp_path) == ["source"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_leaves_no_model_directory(source: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from gpt2fast.export import convert\n"
        "def kill(done, total):\n"
        "    if done > total // 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "convert(sys.argv[1], sys.argv[2], progress=kill)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(source), str(tmp_path / "out")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    left = [name for name in entries(tmp_path) if name != "source"]
    assert [name.partition(".tmp-")[0] for name in left] == [".out"]


REPLACING_SCRIPT = """
import os, signal, sys
from gpt2fast.export import convert
rename, calls = os.rename, 0
def killing(old, new):
    global calls
    calls += 1
    if calls == int(sys.argv[3]): os.kill(os.getpid(), signal.SIGKILL)
    rename(old, new)
    if calls == int(sys.argv[4]): os.kill(os.getpid(), signal.SIGKILL)
os.rename = killing
convert(sys.argv[1], sys.argv[2], precision="int4", overwrite=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(
    ("before", "after", "precision"),
    [(1, 0, "int8"), (0, 1, "int8"), (2, 0, "int8"), (0, 2, "int4"), (3, 0, "int4"), (0, 3, "int4")],
)
def test_a_kill_while_replacing_leaves_the_old_or_the_new(
    source: Path, tmp_path: Path, before: int, after: int, precision: str, linked: bool
) -> None:
    out = tmp_path / "out"
    convert(source, out, precision="int8")
    if linked:
        (tmp_path / "link").symlink_to("out")
        out = tmp_path / "link"
    command = [sys.executable, "-c", REPLACING_SCRIPT, str(source), str(out), str(before), str(after)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert find_model_directory(out).precision == precision
    convert(source, out, precision="fp32", overwrite=True)
    assert find_model_directory(out).precision == "fp32"
    left = [name for name in entries(tmp_path) if name not in ("out", "link", "source")]
    assert not [name for name in left if ".tmp-" not in name]


def test_a_directory_set_aside_is_not_overwritten_unasked(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    (tmp_path / "out").rename(set_aside_name(tmp_path / "out"))
    with pytest.raises(FileExistsError, match="holds a converted model"):
        convert(source, tmp_path / "out")
    assert entries(tmp_path) == ["out", "source"]


def test_a_failure_to_replace_puts_the_old_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, tmp_path / "out", precision="int8")
    rename = os.rename

    def refuse(old: Path, new: Path) -> None:
        if ".tmp-" in str(old):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(old))
        rename(old, new)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError):
        convert(source, tmp_path / "out", precision="int4", overwrite=True)
    assert entries(tmp_path) == ["out", "source"]
    assert open_model_directory(tmp_path / "out").precision == "int8"


def test_a_tokenizer_json_is_kept_as_it_is(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "first")
    text = json.dumps(json.loads((tmp_path / "first/tokenizer.json").read_text()), indent=7)
    (source / "tokenizer.json").write_text(text)
    convert(source, tmp_path / "second")
    assert (tmp_path / "second/tokenizer.json").read_text() == text


def test_what_lies_beside_a_tokenizer_is_kept(source: Path, tmp_path: Path) -> None:
    """A checkpoint whose table has a row for a token of added_tokens.json, and a BOS in front of texts."""
    tokens, _ = byte_level_vocabulary(101)
    write_directory(source, small_config(vocab_size=102), with_tokenizer=False)
    write_vocabulary(source, 101)
    config = {"bos_token": "A", "add_bos_token": True, "pad_token": "<|sep|>", "model_max_length": 30}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "added_tokens.json").write_text('{"<|sep|>": 101}')
    convert(source, tmp_path / "out")
    model = gpt2fast.GPT2.from_pretrained(tmp_path / "out", threads=1)
    place = tokens.index
    assert model.tokenizer.encode("B<|sep|>C") == [place("A"), place("B"), 101, place("C")]
    assert model.generate("B", max_new_tokens=1).prompt_token_ids == [place("A"), place("B")]
    assert model.tokenizer.decode([101], skip_special_tokens=False) == "<|sep|>"
    assert (model.tokenizer.decode([101]), model.tokenizer.pad_token_id) == ("", 101)
    assert (model.tokenizer.bos_token, model.tokenizer.model_max_length) == ("A", 30)
    cached = gpt2fast.GPT2.from_pretrained(source, threads=1)
    assert cached.tokenizer.encode("B<|sep|>C") == model.tokenizer.encode("B<|sep|>C")
    exported = tmp_path / "exported"
    save_huggingface(open_checkpoint(source), exported)
    again = gpt2fast.Tokenizer.from_source(exported)
    assert again.encode("B<|sep|>C") == model.tokenizer.encode("B<|sep|>C")
    assert again.roles() == model.tokenizer.roles()


def test_a_change_beside_the_tokenizer_makes_another_model(source: Path) -> None:
    before = open_checkpoint(source).fingerprint
    (source / "added_tokens.json").write_text("{}")
    assert open_checkpoint(source).fingerprint != before


def test_a_tokenizer_that_a_user_names_must_fit(source: Path, tmp_path: Path) -> None:
    write_vocabulary_beyond(source, 101)
    with pytest.raises(ModelError, match=r"does not fit the model: its largest token id is 101"):
        convert(source, tmp_path / "out", tokenizer=source)
    assert entries(tmp_path) == ["source"]


def test_tokens_added_beyond_the_vocabulary_are_left_out(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "first")
    values = json.loads((tmp_path / "first/tokenizer.json").read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "id": 101, "content": "[PAD]"})
    (source / "tokenizer.json").write_text(json.dumps(values))
    with pytest.warns(UserWarning, match=r"added tokens '\[PAD\]' are left out"):
        convert(source, tmp_path / "second")
    kept = json.loads((tmp_path / "second/tokenizer.json").read_text())
    assert kept == json.loads((tmp_path / "first/tokenizer.json").read_text())


@pytest.mark.parametrize("text", ["", "{}", "[1]", "{" * 500, '{"model": null}'])
def test_a_broken_tokenizer_is_left_out(source: Path, tmp_path: Path, text: str) -> None:
    (source / "tokenizer.json").write_text(text)
    with pytest.warns(UserWarning, match=r"not a tokenizer: .*; the model takes token ids, but no text"):
        convert(source, tmp_path / "out")
    model = open_model_directory(tmp_path / "out")
    assert model.tokenizer_path is None
    assert "not a tokenizer" in str(model.tokenizer_fault)
    with pytest.raises(ModelError, match="not a tokenizer"):
        convert(source, tmp_path / "other", tokenizer=source)
    assert entries(tmp_path) == ["out", "source"]


PEAK_SCRIPT = """
import resource, sys
from gpt2fast.export import convert
convert(sys.argv[1], sys.argv[2], precision=sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kilobytes(source: Path, out: Path, precision: str) -> int:
    """Peak memory of a process that converts a model."""
    command = [sys.executable, "-c", PEAK_SCRIPT, str(source), str(out), precision]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_memory_stays_near_a_layer_matrix(source: Path, tmp_path: Path, precision: str) -> None:
    config = small_config(n_embd=512, n_head=8, n_inner=2048, vocab_size=120_000)
    wide = tmp_path / "wide"
    wide.mkdir()
    (wide / "config.json").write_text(config.to_json())
    write_zeros(wide / "model.safetensors", config)
    assert (wide / "model.safetensors").stat().st_size > 250 << 20
    baseline = peak_kilobytes(source, tmp_path / "small-out", precision)
    peak = peak_kilobytes(wide, tmp_path / "wide-out", precision)
    assert peak - baseline < 48 << 10  # the table alone has 234 MiB


def write_zeros(path: Path, config: object) -> None:
    """A checkpoint of zeros, which takes no space on disk."""
    from gpt2fast.checkpoints.base import expected_shapes

    header, end = {}, 0
    for name, shape in expected_shapes(config):  # type: ignore[arg-type]
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
