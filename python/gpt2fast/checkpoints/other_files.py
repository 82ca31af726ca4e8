"""Directories without weights in the usual files: a model in a single file, or what else they hold."""

from __future__ import annotations

import re
from pathlib import Path

from gpt2fast.errors import ModelError

#: Files that hold a whole model.
_SINGLE_FILES = (".gguf", ".onnx")
#: nanoGPT's name for what it saves.
_NANOGPT = "ckpt.pt"
_TRAINER_CHECKPOINT = re.compile(r"checkpoint-(\d{1,12})")
#: Weights of other frameworks -> the argument of ``from_pretrained`` in transformers 4 that reads them.
_FOREIGN = {
    ".h5": ("TensorFlow", "from_tf=True"),
    ".msgpack": ("Flax", "from_flax=True"),
}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
#: What a Trainer saves beside a model.
_OF_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*)\.(bin|pt|pth)")
#: What says that there is a model, or an adapter, in a folder.
_DESCRIPTIONS = ("config.json", "adapter_config.json")
_SHOWN = 5


def single_model_file(directory: Path) -> Path | None:
    """The only model in a single file in a directory, if it has one.

    Raises
    ------
    ModelError
        There are several.
    """
    found = sorted(
        path for path in directory.iterdir() if path.suffix.lower() in _SINGLE_FILES or path.name == _NANOGPT
    )
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:_SHOWN])
        raise ModelError(f"{directory}: holds several models: {names}; name one, such as {found[0]}")
    return found[0] if found else None


def explain_without_weights(directory: Path) -> str:
    """What a directory without weights holds, and what to do; empty if nothing is known of it."""
    steps = [
        (int(match[1]), path)
        for path in directory.iterdir()
        if (match := _TRAINER_CHECKPOINT.fullmatch(path.name)) and path.is_dir()
    ]
    if steps:
        return f"the output of a Trainer; did you mean {max(steps)[1]}?"
    entries = sorted(directory.iterdir())
    for path in entries:
        if path.suffix.lower() in _FOREIGN:
            return explain_foreign(path)
    for path in entries:
        if path.suffix.lower() in _WEIGHTS and not _OF_TRAINING.fullmatch(path.name):
            return f"its weights have a name of their own; did you mean {path}?"
    folder = directory / "onnx"
    graphs = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
    if graphs:
        return f"its ONNX models are in a folder; did you mean {graphs[0]}?"
    folders = [*entries, *sorted(directory.glob("snapshots/*"))]  # of the hub's cache
    inner = [path for path in folders if any((path / name).is_file() for name in _DESCRIPTIONS)]
    return f"there is a model in a folder; did you mean {inner[0]}?" if inner else ""


def explain_foreign(path: Path) -> str:
    """What to do with weights of another framework; empty for any other file."""
    if path.suffix.lower() not in _FOREIGN:
        return ""
    framework, argument = _FOREIGN[path.suffix.lower()]
    return (
        f"{path.name} holds weights in {framework}'s form, which is not read; transformers 4 converts them: "
        f"GPT2LMHeadModel.from_pretrained({str(path.parent)!r}, {argument}).save_pretrained(DIRECTORY)"
    )
