"""Writes a model directory so that it appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2fast._native import core
from gpt2fast.errors import ModelError
from gpt2fast.export.block_writer import BlockWriter
from gpt2fast.export.fitting_tokenizer import fitting_tokenizer
from gpt2fast.export.graph import build_graph
from gpt2fast.export.huggingface_writer import write_safetensors
from gpt2fast.export.input_moments import feedback_of_layers
from gpt2fast.export.quantize import VOCABULARY_TABLES, PackedTensor, layout, packed_chunks
from gpt2fast.export.written_tokens import sequence_length, written_tokens
from gpt2fast.storage.atomic import atomic_directory, check_room, write_new
from gpt2fast.storage.graph_check import WEIGHTS_NAME
from gpt2fast.storage.model_directory import (
    CHAT_TEMPLATE_NAME,
    CLASSIFIER_NAME,
    CONFIG_NAME,
    FILE_NAMES,
    FORMAT_VERSION,
    GENERATION_CONFIG_NAME,
    METADATA_NAME,
    MODEL_NAME,
    TOKENIZER_CONFIG_NAME,
    TOKENIZER_NAME,
    is_model_directory,
)
from gpt2fast.storage.set_aside import restore_set_aside

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.checkpoints.base import Checkpoint
    from gpt2fast.export.calibration import CalibrationText
    from gpt2fast.storage.progress import Progress
    from gpt2fast.text.tokenizer_settings import TokenizerSettings

# Room for the small files beside the weights.
_SPARE_BYTES = 16 << 20


def write_model_directory(
    checkpoint: Checkpoint,
    out: Path,
    *,
    precision: str,
    calibration: CalibrationText | None = None,
    overwrite: bool = False,
    confirm: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> str | None:
    """Convert a checkpoint into the directory ``out``.

    Everything is written to a temporary directory beside ``out``, synced, and renamed; an error or
    interrupt leaves what was there before. ``confirm`` is called after the last write and may still raise.

    Returns
    -------
    str or None
        Why the tokenizer was left out, if it was; the directory's metadata has it too.

    Raises
    ------
    FileExistsError
        ``out`` exists and may not be replaced.
    OSError
        There is no room, or no permission to write.
    ModelError
        A tensor can't be converted, or a tokenizer that a user named does not fit.
    ValueError
        The calibration text is too short, or the checkpoint has no tokenizer for it.
    """
    out = Path(os.path.realpath(out))
    check_destination(out, overwrite=overwrite)
    if checkpoint.check_source is not None:
        checkpoint.check_source()
    tokenizer, fault = fitting_tokenizer(checkpoint)
    tokens = None if calibration is None else _tokens(calibration, checkpoint, tokenizer, fault)
    tensors = layout(checkpoint.config, precision)
    total = tensors[-1].offset + tensors[-1].length
    graph = build_graph(checkpoint.config, tensors)
    out.parent.mkdir(parents=True, exist_ok=True)
    check_room(out.parent, total + len(tokenizer[0] if tokenizer else "") + _SPARE_BYTES)
    with atomic_directory(out) as temporary:
        _write_small_files(temporary, checkpoint, tokenizer)
        write_new(temporary / MODEL_NAME, graph.SerializeToString(deterministic=True))
        _write_weights(temporary / WEIGHTS_NAME, checkpoint, tensors, tokens, progress)
        metadata = _metadata(checkpoint, precision, total, fault)
        if calibration is not None and tokens is not None:
            metadata["fingerprint"] = calibration.fingerprint(checkpoint.fingerprint)
            metadata["calibration"] = {"sha256": calibration.sha256, "tokens": tokens.size}
        write_new(temporary / METADATA_NAME, f"{json.dumps(metadata, indent=2)}\n".encode())
        if confirm is not None:
            confirm()
    return fault


def check_destination(out: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError unless ``out`` is free, empty, or a model directory that may be replaced."""
    restore_set_aside(out)
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise FileExistsError(errno.EEXIST, "the output directory exists and is a file", str(out))
    names = sorted(os.listdir(out))
    foreign = [name for name in names if name not in FILE_NAMES]
    if foreign or (names and not is_model_directory(out)):
        found = (foreign or names)[0]
        raise FileExistsError(
            errno.EEXIST,
            f"not empty and not (only) a converted model: it holds {found!r}; name another",
            str(out),
        )
    if names and not overwrite:
        raise FileExistsError(
            errno.EEXIST, "holds a converted model; --overwrite (overwrite=True) replaces it", str(out)
        )


def _tokens(
    calibration: CalibrationText,
    checkpoint: Checkpoint,
    tokenizer: tuple[str, TokenizerSettings] | None,
    fault: str | None,
) -> NDArray[np.int64]:
    """What the model reads of a calibration text, [sequences, tokens]."""
    from gpt2fast.text.tokenizer import Tokenizer

    if tokenizer is None:
        reason = fault or f"{checkpoint.source} has no tokenizer"
        raise ValueError(
            f"calibrate={calibration.path!r} is a text, but {reason}; "
            f"name one: gpt2fast convert --tokenizer (tokenizer=...)"
        )
    text, settings = tokenizer
    reader = Tokenizer(text, vocab_size=checkpoint.config.vocab_size, settings=settings)
    return calibration.tokens(reader, sequence_length(checkpoint.config.n_positions))


def _write_small_files(
    directory: Path, checkpoint: Checkpoint, tokenizer: tuple[str, TokenizerSettings] | None
) -> None:
    write_new(directory / CONFIG_NAME, checkpoint.config.to_json().encode())
    if checkpoint.generation_config:
        generation_text = json.dumps(dict(checkpoint.generation_config), indent=2) + "\n"
        write_new(directory / GENERATION_CONFIG_NAME, generation_text.encode())
    if tokenizer is not None:
        text, settings = tokenizer
        write_new(directory / TOKENIZER_NAME, text.encode())
        write_new(directory / TOKENIZER_CONFIG_NAME, settings.to_json().encode())
        if checkpoint.tokenizer.chat_template is not None:
            write_new(directory / CHAT_TEMPLATE_NAME, checkpoint.tokenizer.chat_template.encode())
    if checkpoint.classifier:
        _write_classifier(directory / CLASSIFIER_NAME, checkpoint)


def _write_weights(
    path: Path,
    checkpoint: Checkpoint,
    tensors: Sequence[PackedTensor],
    tokens: NDArray[np.int64] | None,
    progress: Progress | None,
) -> None:
    """``tokens`` are those of a calibration text, if there is one."""
    total = tensors[-1].offset + tensors[-1].length
    rounded = core.FORMAT_INT4 in (packed.format for packed in tensors)
    if rounded and tokens is None:
        tokens = written_tokens(checkpoint)
    layers = iter(()) if tokens is None else feedback_of_layers(checkpoint, tokens)
    with path.open("xb") as file:
        blocks = BlockWriter(file)
        for packed in tensors:
            blocks.pad(packed.offset)
            feedback = None
            if packed.format == core.FORMAT_INT4 and packed.name not in VOCABULARY_TABLES:
                name, feedback = next(layers)
                if name != packed.name:
                    raise RuntimeError(f"the inputs of {name} came in place of those of {packed.name}")
            try:
                for chunk in packed_chunks(packed, checkpoint.tensors[packed.name], feedback):
                    blocks.write(chunk.data)
                    if progress is not None:
                        progress(blocks.position, total)
            except ModelError as error:
                raise ModelError(f"{checkpoint.source}: {error}") from None
            length = blocks.position - packed.offset
            if length != packed.length:
                raise RuntimeError(f"{packed.name}: packed to {length} bytes, not {packed.length}")
        blocks.finish()
        file.flush()
        os.fsync(file.fileno())


def _write_classifier(path: Path, checkpoint: Checkpoint) -> None:
    import numpy as np

    for name, tensor in checkpoint.classifier.items():
        if not np.isfinite(tensor.read()).all():
            raise ModelError(f"{checkpoint.source}: the tensor {name!r} holds NaN or infinity")
    for _ in write_safetensors(path, checkpoint.classifier, "fp32", checkpoint.source):
        pass


def _metadata(
    checkpoint: Checkpoint, precision: str, weights_bytes: int, tokenizer_fault: str | None
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "precision": precision,
        "source": checkpoint.source,
        "fingerprint": checkpoint.fingerprint,
        "weights_bytes": weights_bytes,
        "gpt2fast_version": version("gpt2fast"),
    }
    if checkpoint.warnings:
        values["warnings"] = list(checkpoint.warnings)
    if tokenizer_fault is not None:
        values["tokenizer_fault"] = tokenizer_fault
    return values
