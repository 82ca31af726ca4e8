"""What faults strike: conversions, loading, running and saving, each with what must hold when it fails."""

from __future__ import annotations

import gc
import hashlib
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.huggingface_samples import write_directory
from tests.campaign.samples import CONFIG, SAMPLES

_IDS = [1, 2, 3]
_SETTINGS = {"task": "lambada"}
_OLD = b"what was there before"


class Operation:
    """Something that a fault may strike. Every case has a directory of its own, in a process of its own."""

    def begin(self, directory: Path) -> None:
        """Prepare a case, before faults are possible."""

    def run(self) -> Any:
        """Do it; the result must be the same every time."""
        raise NotImplementedError

    def leftovers(self, expected: Any) -> str:
        """After a failure, what is wrong with what it left; empty if nothing is."""
        return self.after_kill(expected)

    def after_kill(self, expected: Any) -> str:
        """After it was killed, what is wrong with what can be seen; a temporary name may be left."""
        return ""


def digest(directory: Path) -> str:
    """Of all files in a directory, but for the times in them."""
    total = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        total.update(str(path.relative_to(directory)).encode())
        if path.is_file():
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def entries(directory: Path, *wanted: str) -> str:
    """A complaint if a directory has anything but what is wanted in it."""
    others = sorted(path.name for path in directory.iterdir() if path.name not in wanted)
    return f"left {others[:3]} behind" if others else ""


class Convert(Operation):
    """A conversion into a directory that is new, or replaces another."""

    def __init__(self, source: Path, *, replaces: bool) -> None:
        self._source, self._replaces = source, replaces

    def begin(self, directory: Path) -> None:
        self._out = directory / "model"
        self._before = ""
        if self._replaces:
            self._convert("fp32")
            self._before = digest(self._out)

    def _convert(self, precision: str) -> None:
        from gpt2fast.export import convert

        convert(self._source, self._out, precision=precision, overwrite=True)

    def run(self) -> Any:
        self._convert("int8")
        return digest(self._out)

    def leftovers(self, expected: Any) -> str:
        # Whatever could not be removed when the new directory was in place goes next time.
        names = (self._out.name, f".{self._out.name}.replaced")
        return self.after_kill(expected) or entries(self._out.parent, *names)

    def after_kill(self, expected: Any) -> str:
        from gpt2fast.storage.model_directory import is_model_directory

        is_model_directory(self._out)  # puts back what was set aside
        if self._out.exists():
            found = digest(self._out)
            if found not in (self._before, expected):
                return "the directory is neither the old one nor the new one"
        elif self._before:
            return "the old directory is gone"
        return ""


class FirstLoad(Operation):
    """The first use of a checkpoint, which is converted into the cache."""

    def __init__(self, source: Path) -> None:
        self._source = source

    def begin(self, directory: Path) -> None:
        self._cache = directory / "cache"
        os.environ["GPT2FAST_CACHE"] = str(self._cache)

    def run(self) -> Any:
        from gpt2fast import GPT2

        with GPT2.from_pretrained(self._source, threads=1) as model:
            ids = model.generate(_IDS, max_new_tokens=3).token_ids
        (converted,) = (self._cache / "models").iterdir()
        return [list(ids), digest(converted), converted.name]

    def leftovers(self, expected: Any) -> str:
        models = self._cache / "models"
        return self.after_kill(expected) or (entries(models, *expected[2:]) if models.exists() else "")

    def after_kill(self, expected: Any) -> str:
        models = self._cache / "models"
        for path in models.iterdir() if models.exists() else ():
            if not path.name.startswith(".") and digest(path) != expected[1]:
                return f"the cache holds a broken {path.name}"
        return ""


class Load(Operation):
    """Loading a converted model."""

    def __init__(self, model: Path) -> None:
        self._model = model

    def run(self) -> Any:
        from gpt2fast import GPT2

        with GPT2.from_pretrained(self._model, threads=1) as model:
            return [
                list(model.generate(_IDS, max_new_tokens=3).token_ids),
                model.generate("!", max_new_tokens=2).text,
            ]


class Call(Operation):
    """A call of a loaded model."""

    def __init__(self, model: Path, call: Callable[[Any], Any]) -> None:
        self._path, self._call = model, call

    def begin(self, directory: Path) -> None:
        from gpt2fast import GPT2

        self._model = GPT2.from_pretrained(self._path, threads=1, max_sequences=4)
        self._model.generate("!", max_new_tokens=1)

    def run(self) -> Any:
        return self._call(self._model)

    def leftovers(self, expected: Any) -> str:
        gc.collect()
        return texts_left(self._model)


def texts_left(model: Any) -> str:
    """What an engine goes on with although nobody waits for it; its thread has ten seconds to end that."""
    deadline = time.monotonic() + 10
    while (stats := model.stats()).running or stats.waiting:
        if time.monotonic() > deadline:
            return f"{stats.running} texts run and {stats.waiting} wait"
        time.sleep(0.001)
    return ""


class SavePrefix(Call):
    """Writing a prefix over another file."""

    def __init__(self, model: Path) -> None:
        super().__init__(model, lambda _: None)

    def begin(self, directory: Path) -> None:
        super().begin(directory)
        self._prefix = self._model.prefill(_IDS)
        self._file = directory / "saved.prefix"
        self._file.write_bytes(_OLD)

    def run(self) -> Any:
        self._prefix.save(self._file)
        return hashlib.sha256(self._file.read_bytes()).hexdigest()

    def leftovers(self, expected: Any) -> str:
        return self.after_kill(expected) or entries(self._file.parent, self._file.name)

    def after_kill(self, expected: Any) -> str:
        found = self._file.read_bytes()
        if found != _OLD and hashlib.sha256(found).hexdigest() != expected:
            return "the file is neither the old one nor the new one"
        return ""


class LoadPrefix(Call):
    """Reading a prefix and going on from it."""

    def __init__(self, model: Path) -> None:
        super().__init__(model, lambda _: None)

    def begin(self, directory: Path) -> None:
        super().begin(directory)
        self._file = directory / "saved.prefix"
        self._model.prefill(_IDS).save(self._file)

    def run(self) -> Any:
        prefix = self._model.load_prefix(self._file)
        return list(self._model.generate([4], prefix=prefix, max_new_tokens=2).token_ids)


class ResumeJournal(Operation):
    """Going on with a measurement."""

    def begin(self, directory: Path) -> None:
        from gpt2fast.evaluation.journal import Journal

        self._file = directory / "eval.jsonl"
        with Journal(self._file, _SETTINGS) as journal:
            journal.record("int8", {0: [0.5], 1: [1.5]})

    def run(self) -> Any:
        from gpt2fast.evaluation.journal import Journal

        with Journal(self._file, _SETTINGS) as journal:
            for item in range(5):
                if journal.values("int8", item) is None:
                    journal.record("int8", {item: [item + 0.5]})
        return self._file.read_text()


class ResumeResults(Operation):
    """Going on with a file of results."""

    def begin(self, directory: Path) -> None:
        self._file = directory / "results.jsonl"
        with self._open() as results:
            results.write(1, {"text": "é"})

    def _open(self) -> Any:
        from gpt2fast.cli.result_file import ResultFile

        return ResultFile(self._file, {"model": "x"}, count=5, ordered=True)

    def run(self) -> Any:
        with self._open() as results:
            for line in range(1, 6):
                if line not in results:
                    results.write(line, {"text": "é" * line})
        return self._file.read_text("utf-8")


class Read(Operation):
    """Reading a checkpoint of another format."""

    def __init__(self, name: str, directory: Path) -> None:
        self._sample, self._directory = SAMPLES[name], directory
        directory.mkdir()
        self._sample.write(directory)

    def run(self) -> Any:
        total = hashlib.sha256()
        checkpoint = self._sample.open(self._directory / self._sample.source)
        for name, tensor in sorted(checkpoint.tensors.items()):
            total.update(name.encode() + tensor.read().tobytes())
        return total.hexdigest()


class Export(Operation):
    """Writing a checkpoint of another format."""

    def __init__(self, source: Path, export: Callable[[Any, Path], Any]) -> None:
        self._source, self._export = source, export

    def begin(self, directory: Path) -> None:
        self._out = directory / "out"

    def run(self) -> Any:
        from gpt2fast.checkpoints import open_checkpoint

        self._export(open_checkpoint(self._source), self._out)
        return digest(self._out)

    def leftovers(self, expected: Any) -> str:
        return self.after_kill(expected) or entries(self._out.parent, self._out.name)


_ONNX_NAMES = ("model.onnx", "model.onnx.data")


class ExportONNX(Export):
    """Writing a standard ONNX file, with its weights beside it, over another."""

    def __init__(self, source: Path) -> None:
        super().__init__(source, _export_onnx)

    def begin(self, directory: Path) -> None:
        super().begin(directory)
        self._out.mkdir()

    def run(self) -> Any:
        super().run()
        return self._written()

    def leftovers(self, expected: Any) -> str:
        return entries(self._out, *(_ONNX_NAMES if self._written() == expected else ()))

    def _written(self) -> list[str]:
        # A disk that became read-only keeps the files of an earlier attempt, too.
        files = [self._out / name for name in _ONNX_NAMES]
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()]


class ExportHuggingFace(Export):
    """Writing a directory for transformers."""

    def __init__(self, source: Path) -> None:
        super().__init__(source, _export_huggingface)

    def after_kill(self, expected: Any) -> str:
        return "left half a directory" if self._out.exists() and digest(self._out) != expected else ""


def _export_onnx(checkpoint: Any, out: Path) -> None:
    from gpt2fast.export.standard import export_onnx

    export_onnx(checkpoint, out / "model.onnx", overwrite=True)


def _export_huggingface(checkpoint: Any, out: Path) -> None:
    from gpt2fast.export.huggingface_writer import save_huggingface

    save_huggingface(checkpoint, out, overwrite=True)


def _everything(model: Any) -> Any:
    prefix = model.prefill(_IDS)
    return [
        [list(one.token_ids) for one in model.generate([_IDS, [4, 5]], max_new_tokens=2)],
        [chunk.token_ids for chunk in model.stream("!", max_new_tokens=2, do_sample=True, seed=3)],
        list(model.generate(_IDS, max_new_tokens=2, num_beams=3).token_ids),
        list(model.generate([6], prefix=prefix, max_new_tokens=2).token_ids),
        model.score(_IDS).total,
        model.embed(_IDS).tolist(),
        model.logits(_IDS).sum().item(),
        [one.token_ids for one in model.generate_many([_IDS, [7]], max_new_tokens=2)],
    ]


def converted_sample(directory: Path) -> tuple[Path, Path]:
    """A small checkpoint, and the model directory that it is converted to."""
    from gpt2fast.export import convert

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = write_directory(directory / "source", CONFIG)
        return source, convert(source, directory / "model", precision="int8")


def writing_operations(source: Path, model: Path) -> dict[str, Operation]:
    """Those that leave models and prefixes behind, of a checkpoint and the model that it was converted to."""
    return {
        "convert": Convert(source, replaces=False),
        "convert-over": Convert(source, replaces=True),
        "first-load": FirstLoad(source),
        "save-prefix": SavePrefix(model),
    }


def operations(directory: Path) -> dict[str, Operation]:
    """All of them, over sources that are made in a directory."""
    source, model = converted_sample(directory)
    return {
        **writing_operations(source, model),
        "load": Load(model),
        "calls": Call(model, _everything),
        "load-prefix": LoadPrefix(model),
        "journal": ResumeJournal(),
        "results": ResumeResults(),
        "export-onnx": ExportONNX(source),
        "export-huggingface": ExportHuggingFace(source),
        **{
            f"read-{name}": Read(name, directory / name)
            for name in ("safetensors", "torch-zip", "gguf", "onnx")
        },
    }
