"""A converted model on disk: what it consists of, and the checks before anything is loaded from it.

The directory holds ``model.onnx`` (the step graph), ``weights.bin`` (every tensor, each on its own page,
mapped into memory at load), ``tokenizer.json`` with ``tokenizer_config.json``, ``config.json`` (Hugging
Face's keys), if the checkpoint had them ``generation_config.json`` and ``classifier.safetensors`` (a head for
classification, float32), and ``gpt2fast.json`` (format version, precision, source). Reading it here imports
neither onnx nor NumPy.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpt2fast._validation import Choice
from gpt2fast.config import ClassifierConfig, ModelConfig, classifier_kind
from gpt2fast.errors import ModelError
from gpt2fast.storage.files import (
    MAX_CONFIG_BYTES,
    file_inside,
    find_inside,
    parse_json_object,
    read_bytes,
    read_json_object,
)
from gpt2fast.storage.graph_check import WEIGHTS_NAME, StoredTensor, check_graph
from gpt2fast.storage.set_aside import restore_set_aside

#: Incremented whenever a change to the graph, the packed layouts or a reader changes a conversion's result.
FORMAT_VERSION = 10
PRECISIONS = ("fp32", "bf16", "int8", "int4", "int4-all")
#: Those whose linear layers are rounded by the inputs that tokens of a text, or of the model itself, make.
CALIBRATED_PRECISIONS = ("int4", "int4-all")

MODEL_NAME = "model.onnx"
TOKENIZER_NAME = "tokenizer.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
CHAT_TEMPLATE_NAME = "chat_template.jinja"
CONFIG_NAME = "config.json"
GENERATION_CONFIG_NAME = "generation_config.json"
CLASSIFIER_NAME = "classifier.safetensors"
METADATA_NAME = "gpt2fast.json"
FILE_NAMES = (
    *(MODEL_NAME, WEIGHTS_NAME, TOKENIZER_NAME, TOKENIZER_CONFIG_NAME, CHAT_TEMPLATE_NAME),
    *(CONFIG_NAME, GENERATION_CONFIG_NAME, CLASSIFIER_NAME, METADATA_NAME),
)

#: The graph of a model with a thousand layers takes about 2 MiB; its tensors are in weights.bin.
MAX_GRAPH_BYTES = 4 << 20
#: Limits on what is shown of the metadata.
_MAX_WARNINGS = 16
_MAX_MESSAGE = 2000
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_precision(precision: str) -> str:
    """The argument ``precision`` in plain form; raises ValueError unless it is one of ``PRECISIONS``."""
    return Choice(PRECISIONS)("precision", precision)


@dataclass(frozen=True)
class Calibration:
    """A calibration text: SHA-256 of its bytes, in hexadecimal, and how many of its tokens were read."""

    sha256: str
    tokens: int


@dataclass(frozen=True)
class ModelDirectory:
    """A checked model directory.

    Attributes
    ----------
    path : Path
        The directory.
    config : ModelConfig
        The model's configuration.
    precision : str
        One of ``PRECISIONS``.
    graph : bytes
        The content of ``model.onnx`` that was checked.
    tensors : list of StoredTensor
        Where its weights are.
    weights_path : Path
        ``weights.bin``, links resolved.
    tokenizer_path : Path or None
        ``tokenizer.json``, if the model came with a tokenizer.
    metadata : dict
        The content of ``gpt2fast.json``, including ``source`` and ``fingerprint``.
    weights_bytes : int
        Size of ``weights.bin``.
    classifier_path : Path or None
        ``classifier.safetensors``, links resolved, if the model has a head for classification.
    generation_config : dict
        The content of ``generation_config.json``, as ``transformers`` has it; empty without one.
    identity : tuple of bytes
        The contents of ``gpt2fast.json`` and ``config.json``.
    """

    path: Path
    config: ModelConfig
    precision: str
    graph: bytes = field(repr=False)
    tensors: list[StoredTensor] = field(repr=False)
    weights_path: Path
    tokenizer_path: Path | None
    metadata: dict[str, Any]
    weights_bytes: int
    classifier_path: Path | None = None
    generation_config: dict[str, Any] = field(default_factory=dict)
    identity: tuple[bytes, bytes] = field(default=(b"", b""), repr=False)

    def check_same(self) -> None:
        """Raise ModelError if another model has taken the place of this one since it was opened."""
        if read_bytes(file_inside(self.path, METADATA_NAME), MAX_CONFIG_BYTES) != self.identity[0]:
            raise ModelError(
                f"{self.path}: another model has taken its place since this one was opened; load it again"
            )

    @property
    def warnings(self) -> list[str]:
        """What was left out or assumed when the model was converted."""
        return stored_warnings(self.metadata)

    @property
    def calibration(self) -> Calibration | None:
        """The text that the weights were rounded by, if a user gave one."""
        stored = self.metadata.get("calibration")
        if not isinstance(stored, dict):
            return None
        digest, tokens = stored.get("sha256"), stored.get("tokens")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest) or type(tokens) is not int:
            return None
        return Calibration(digest, tokens)

    @property
    def tokenizer_fault(self) -> str | None:
        """Why the checkpoint's tokenizer was left out, if it was."""
        fault = self.metadata.get("tokenizer_fault")
        return fault[:_MAX_MESSAGE] if isinstance(fault, str) else None


def stored_warnings(metadata: dict[str, Any]) -> list[str]:
    """What a ``gpt2fast.json`` has to warn of; it may come from strangers."""
    stored = metadata.get("warnings")
    texts = stored[:_MAX_WARNINGS] if isinstance(stored, list) else []
    return [text[:_MAX_MESSAGE] for text in texts if isinstance(text, str)]


def no_text(fault: str) -> str:
    """The warning for a model whose tokenizer was left out."""
    return f"{fault}; the model takes token ids, but no text, unless tokenizer= (--tokenizer) gives another"


def is_model_directory(path: str | os.PathLike[str]) -> bool:
    """Whether this is, or claims to be, a converted model; undoes a replacement that was interrupted."""
    restore_set_aside(path)
    return os.path.isfile(os.path.join(path, METADATA_NAME))


def open_model_directory(path: str | os.PathLike[str]) -> ModelDirectory:
    """Check a model directory; takes a few milliseconds and reads no weights.

    Raises
    ------
    ModelError
        A file is missing, cut short or foreign; the format version differs; or the graph holds anything but
        the operators of a GPT-2 step graph over the tensors in ``weights.bin``.
    """
    # Its files are opened again when the working directory may be another, also in other processes.
    directory = Path(path).absolute()
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such directory")
    identity = (
        read_bytes(file_inside(directory, METADATA_NAME), MAX_CONFIG_BYTES),
        read_bytes(file_inside(directory, CONFIG_NAME), MAX_CONFIG_BYTES),
    )
    metadata = parse_json_object(identity[0], directory / METADATA_NAME)
    precision = _check_metadata(metadata, directory / METADATA_NAME)
    config = _parse_config(identity[1], directory / CONFIG_NAME)
    classifier_path = None if config.classifier is None else file_inside(directory, CLASSIFIER_NAME)
    weights_path = file_inside(directory, WEIGHTS_NAME)
    weights_bytes = weights_path.stat().st_size
    if weights_bytes != metadata["weights_bytes"]:
        raise ModelError(
            f"{directory / WEIGHTS_NAME}: has {weights_bytes} bytes; {METADATA_NAME} says "
            f"{metadata['weights_bytes']}; convert the model again"
        )
    graph = read_bytes(file_inside(directory, MODEL_NAME), MAX_GRAPH_BYTES)
    tensors = check_graph(graph, config, weights_bytes, where=str(directory / MODEL_NAME))
    tokenizer_path = directory / TOKENIZER_NAME
    generation_path = find_inside(directory, GENERATION_CONFIG_NAME)
    return ModelDirectory(
        path=directory,
        config=config,
        precision=precision,
        graph=graph,
        tensors=tensors,
        weights_path=weights_path,
        tokenizer_path=tokenizer_path if find_inside(directory, TOKENIZER_NAME) is not None else None,
        metadata=metadata,
        weights_bytes=weights_bytes,
        classifier_path=classifier_path,
        generation_config={} if generation_path is None else read_json_object(generation_path),
        identity=identity,
    )


def _parse_config(text: bytes, where: Path) -> ModelConfig:
    values = parse_json_object(text, where)
    config, kind = ModelConfig.from_dict(values, where=str(where)), classifier_kind(values)
    if kind is None:
        return config
    return replace(config, classifier=ClassifierConfig.from_dict(values, kind, where=str(where)))


def is_complete(path: Path) -> bool:
    """Whether a directory that we wrote ourselves is complete; far cheaper than opening it."""
    try:
        metadata = read_json_object(path / METADATA_NAME)
        _check_metadata(metadata, path)
        sizes_agree = (path / WEIGHTS_NAME).stat().st_size == metadata["weights_bytes"]
        return sizes_agree and all((path / name).is_file() for name in (MODEL_NAME, CONFIG_NAME))
    except (OSError, ModelError):
        return False


def _check_metadata(metadata: dict[str, Any], where: Path) -> str:
    """The precision, if the values are usable."""
    version, precision, size = (metadata.get(key) for key in ("format_version", "precision", "weights_bytes"))
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{where}: format_version is {version!r}; this gpt2fast reads {FORMAT_VERSION}; convert "
            f"the model again"
        )
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ModelError(f"{where}: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if type(size) is not int:
        raise ModelError(f"{where}: weights_bytes must be an integer, got {size!r}")
    return precision
