"""The cache of conversions: found again, never stale, whole or absent, with other processes at work."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpt2fast import checkpoints
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.errors import ModelError
from gpt2fast.export.calibration import read_calibration
from gpt2fast.loading import conversion_cache
from gpt2fast.loading.conversion_cache import cached_conversion
from gpt2fast.storage.cache_root import cache_root
from gpt2fast.storage.model_directory import Calibration, open_model_directory
from support.checkpoint_samples import random_tensors, small_config
from support.huggingface_samples import write_directory, write_vocabulary


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and files that count as settled as soon as they are written."""
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversion_cache, "_FINE_TICK_NS", 0)
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_directory(tmp_path / "source")


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a source may be found only by its files' sizes and times."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the checkpoint was read")

    monkeypatch.setattr(checkpoints, "open_checkpoint", refuse)


def wait_for_another_time(directory: Path) -> None:
    """Return when the file system's clock has ticked: what is written now has other times than before."""
    probe = directory / "probe"
    probe.touch()
    before = probe.stat().st_mtime_ns
    while probe.stat().st_mtime_ns == before:
        probe.touch()


def models(root: Path) -> list[str]:
    return sorted(os.listdir(root / "models"))


def test_the_variable_names_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GPT2FAST_CACHE", "~/x")
    assert cache_root() == tmp_path / "x"
    monkeypatch.setenv("GPT2FAST_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(ValueError, match=r"GPT2FAST_CACHE must name a directory, got '~nobody.*no such user"):
        cache_root()
    monkeypatch.delenv("GPT2FAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert "gpt2fast" in cache_root().parts


def test_a_source_is_converted_once(root: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cached_conversion(source, "int8")
    assert first.parent == root / "models"
    assert open_model_directory(first).precision == "int8"
    forbid_reading(monkeypatch)
    assert cached_conversion(source, "int8") == first
    assert cached_conversion(str(source) + "/", "int8") == first
    assert models(root) == [first.name]


def test_precisions_are_kept_apart(root: Path, source: Path) -> None:
    paths = {precision: cached_conversion(source, precision) for precision in ("fp32", "int8", "int4")}
    assert len(set(paths.values())) == 3
    assert {precision: open_model_directory(path).precision for precision, path in paths.items()} == {
        precision: precision for precision in paths
    }


def test_calibration_texts_are_kept_apart(
    root: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {name: tmp_path / name for name in ("first", "copy", "second")}
    for name, path in texts.items():
        path.write_text("ABCDE" * 1000 if name == "second" else "FGHIJ" * 1000, "utf-8")
    read = {name: read_calibration(path, "int4") for name, path in texts.items()}
    plain = cached_conversion(source, "int4")
    first = cached_conversion(source, "int4", calibration=read["first"])
    second = cached_conversion(source, "int4", calibration=read["second"])
    assert len({plain, first, second}) == 3
    directories = [open_model_directory(path) for path in (plain, first, second)]
    assert len({directory.weights_path.read_bytes() for directory in directories}) == 3
    assert len({directory.metadata["fingerprint"] for directory in directories}) == 3
    assert directories[1].calibration == Calibration(read["first"].sha256, 4096 // 24 * 24)
    forbid_reading(monkeypatch)
    assert cached_conversion(source, "int4", calibration=read["copy"]) == first
    assert cached_conversion(source, "int4") == plain


def test_a_calibration_text_that_is_too_short_leaves_nothing(
    root: Path, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "short").write_text("ABCDE", "utf-8")
    calibration = read_calibration(tmp_path / "short", "int4")
    with pytest.raises(ValueError, match=r"calibrate=.*short' is too short: .*at least 1024 tokens, got"):
        cached_conversion(source, "int4", calibration=calibration)
    assert models(root) == []


def test_copies_of_a_model_share_a_conversion(root: Path, source: Path, tmp_path: Path) -> None:
    write_directory(tmp_path / "copies/source")
    assert cached_conversion(source, "int8") == cached_conversion(tmp_path / "copies/source", "int8")


def test_finding_it_again_imports_nothing_heavy(root: Path, source: Path) -> None:
    path = cached_conversion(source, "int8")
    script = (
        "import sys; from gpt2fast.loading.conversion_cache import cached_conversion\n"
        f"assert str(cached_conversion({str(source)!r}, 'int8')) == {str(path)!r}\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    heavy = {"numpy", "onnx", "onnxruntime", "safetensors", "tokenizers", "filelock", "huggingface_hub"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("keep_times", [False, True])
def test_changed_weights_are_noticed(root: Path, source: Path, tmp_path: Path, keep_times: bool) -> None:
    first = cached_conversion(source, "int8")
    path = source / "model.safetensors"
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # same size
    wait_for_another_time(tmp_path)
    path.write_bytes(data)
    if keep_times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = cached_conversion(source, "int8")
    assert second != first
    assert open_model_directory(second).metadata["fingerprint"] == open_checkpoint(source).fingerprint


def test_a_changed_tokenizer_or_configuration_is_noticed(root: Path, source: Path) -> None:
    paths = [cached_conversion(source, "int8")]
    write_vocabulary(source, 90)
    paths.append(cached_conversion(source, "int8"))
    (source / "config.json").write_text(small_config(layer_norm_epsilon=1e-6).to_json())
    paths.append(cached_conversion(source, "int8"))
    (source / "generation_config.json").write_text('{"eos_token_id": 7}')
    paths.append(cached_conversion(source, "int8"))
    assert len(set(paths)) == 4
    assert open_model_directory(paths[-1]).config.eos_token_ids == (7,)


def test_a_touched_file_is_hashed_and_recognised(root: Path, source: Path) -> None:
    first = cached_conversion(source, "int8")
    os.utime(source / "model.safetensors")
    assert cached_conversion(source, "int8") == first
    assert models(root) == [first.name]


def test_files_just_written_are_hashed_again(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion_cache, "_FINE_TICK_NS", 3_600_000_000_000)
    first = cached_conversion(source, "int8")
    assert not (root / "sources").exists()
    assert cached_conversion(source, "int8") == first


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"fingerprint": 3}', '{"fingerprint": "00"}'])
def test_a_broken_record_is_replaced(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    first = cached_conversion(source, "int8")
    (record,) = (root / "sources").iterdir()
    record.write_text(content)
    assert cached_conversion(source, "int8") == first
    forbid_reading(monkeypatch)
    assert cached_conversion(source, "int8") == first


@pytest.mark.parametrize("damage", ["weights.bin", "gpt2fast.json", "model.onnx"])
def test_a_damaged_conversion_is_made_again(root: Path, source: Path, damage: str) -> None:
    path = cached_conversion(source, "int8")
    (path / damage).unlink()
    assert cached_conversion(source, "int8") == path
    open_model_directory(path)


def test_processes_at_once_make_one_model(root: Path, source: Path) -> None:
    script = (
        "import sys; from gpt2fast.loading.conversion_cache import cached_conversion\n"
        "calls = []\n"
        "path = cached_conversion(sys.argv[1], 'int8', lambda done, total: calls.append(done))\n"
        "print(bool(calls), path)\n"
    )
    command = [sys.executable, "-c", script, str(source)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate()[0].split() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len({path for _, path in answers}) == 1
    assert sorted(worked for worked, _ in answers) == ["False", "False", "True"]
    assert models(root) == [Path(answers[0][1]).name]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_leaves_nothing_that_counts(root: Path, source: Path, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from gpt2fast.loading.conversion_cache import cached_conversion\n"
        "kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cached_conversion(sys.argv[1], 'int8', kill)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(source)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = models(root)
    assert ".tmp-" in left
    other = write_directory(tmp_path / "other", tensors=random_tensors(small_config(), seed=1))
    path = cached_conversion(other, "int8")  # cleans up after any model
    assert models(root) == [path.name]
    open_model_directory(cached_conversion(source, "int8"))


def test_a_conversion_under_way_is_not_cleaned_up(root: Path, source: Path, tmp_path: Path) -> None:
    other = write_directory(tmp_path / "other", tensors=random_tensors(small_config(), seed=1))
    started = False

    def convert_another(done: int, total: int) -> None:
        nonlocal started
        if not started:
            started = True
            cached_conversion(other, "int8")

    open_model_directory(cached_conversion(source, "int8", convert_another))
    assert len(models(root)) == 2


def test_a_source_that_changes_meanwhile_is_refused(root: Path, source: Path, tmp_path: Path) -> None:
    def change(done: int, total: int) -> None:
        wait_for_another_time(tmp_path)
        write_directory(source, tensors=random_tensors(small_config(), seed=done))

    with pytest.raises(ModelError, match="changed while they were being converted"):
        cached_conversion(source, "int8", change)
    assert models(root) == []


def test_other_files_may_change_meanwhile(root: Path, source: Path) -> None:
    path = cached_conversion(source, "int8", lambda done, total: (source / "log.txt").touch())
    open_model_directory(path)


def test_an_error_leaves_nothing(root: Path, tmp_path: Path) -> None:
    tensors = random_tensors(small_config())
    tensors["h.1.ln_2.bias"][0] = np.inf
    source = write_directory(tmp_path / "source", tensors=tensors)
    with pytest.raises(ModelError, match=r"h\.1\.ln_2\.bias"):
        cached_conversion(source, "int8")
    assert models(root) == []


def test_a_full_cache_says_what_to_do(root: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"only 0 MiB are free.*GPT2FAST_CACHE.*gpt2fast convert") as caught:
        cached_conversion(source, "int8")
    assert caught.value.errno == errno.ENOSPC
    assert models(root) == []


def test_a_cache_that_cannot_be_written_says_what_to_do(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GPT2FAST_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(OSError, match=rf"{tmp_path}/file/cache.*GPT2FAST_CACHE.*gpt2fast convert {source}"):
        cached_conversion(source, "int8")


def test_a_cache_that_can_only_be_read_is_used(
    root: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cached_conversion(source, "int8")
    (record,) = (root / "sources").iterdir()
    record.unlink()

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert cached_conversion(source, "int8") == path


def test_an_unknown_precision_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"precision must be one of .* got 'int2'"):
        cached_conversion(tmp_path / "absent", "int2")
