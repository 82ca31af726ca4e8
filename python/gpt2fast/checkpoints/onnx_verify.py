"""Checks what was read from an ONNX file: runs the file in ONNX Runtime and our reading of it in NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints import reference
from gpt2fast.checkpoints.base import Checkpoint
from gpt2fast.checkpoints.onnx_file import read_onnx
from gpt2fast.checkpoints.onnx_pattern import find_embeddings
from gpt2fast.checkpoints.onnx_session import Declared, Session, open_session
from gpt2fast.checkpoints.onnx_walk import Graph
from gpt2fast.errors import ModelError

_DTYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
}
_TOKENS, _PAST_TOKENS = 8, 3

#: The largest difference: more than half precision causes, and far less than a misread weight does.
MAX_RELATIVE_DIFFERENCE = 2e-2


def verify_against_source(checkpoint: Checkpoint, path: Path) -> float:
    """Run the file and our reading of it on the same tokens.

    The file's graph runs in ONNX Runtime (so verify only what you would also run), the checkpoint in NumPy.
    If the file takes a past, it is given one; of two merged models, with a past and without, both run.

    Parameters
    ----------
    checkpoint : Checkpoint
        From :func:`gpt2fast.checkpoints.onnx_graph.open_onnx`.
    path : Path
        The file that it was read from.

    Returns
    -------
    float
        The largest absolute difference over hidden states or scores, and over the past that the file returns.

    Raises
    ------
    ModelError
        ONNX Runtime can't run the file, or its inputs or outputs are not a GPT-2's.
    """
    return _compare(checkpoint, path)[0]


def check_against_source(checkpoint: Checkpoint, path: Path) -> None:
    """Raise ModelError if :func:`verify_against_source` finds more than rounding explains."""
    difference, scale = _compare(checkpoint, path)
    if not difference <= MAX_RELATIVE_DIFFERENCE * max(1.0, scale):
        raise ModelError(
            f"{path}: its graph computes something else than the GPT-2 that was read from it: outputs of "
            f"up to {scale:.3g} differ by {difference:.3g}"
        )


def _compare(checkpoint: Checkpoint, path: Path) -> tuple[float, float]:
    """The largest difference, and the largest value of the first output."""
    source = read_onnx(path)
    names = [name for name in source.inputs if name not in source.tensors]
    token_input = find_embeddings(Graph(source), names).input
    switches = (None,) if source.use_past is None else ((source.use_past, True), (source.use_past, False))
    found = []
    with open_session(path) as session:
        for switch in switches:
            feed = _Feed(checkpoint, session, token_input, path, switch)
            outputs = session.run(feed.values, path)
            largest = np.abs(outputs[0]).max(initial=0)
            found.append((_largest_difference(checkpoint, feed, outputs, path), largest))
    difference, scale = np.max(found, axis=0)
    return float(difference), float(scale)


class _Feed:
    """Random tokens and whatever else the session takes.

    Attributes
    ----------
    ids : array of int, shape (rows, tokens)
        The tokens to run.
    past : list of arrays or None
        The reference's past before them, if the model uses one.
    values : dict
        The session's inputs.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        session: Session,
        token_input: str,
        path: Path,
        switch: tuple[str, bool] | None,
    ) -> None:
        inputs = {one.name: one for one in session.inputs}
        self._path = path
        shape = [size if isinstance(size, int) and size > 0 else 1 for size in inputs[token_input].shape]
        declared = inputs[token_input].shape[-1]
        tokens = declared if isinstance(declared, int) else min(_TOKENS, checkpoint.config.n_positions // 2)
        shape[-1] = tokens
        generator = np.random.default_rng(0)
        rows, length = math.prod(shape[:-1]), self._past_length(checkpoint, inputs)
        _check_size(checkpoint, session, path, rows, length, tokens)
        self.ids = generator.integers(0, checkpoint.config.vocab_size, (rows, tokens))
        self._switch = switch
        past = None if length is None else self._past(checkpoint, generator, rows, length)
        self._pieces = self._past_pieces(inputs, past)
        self.past = past if switch is None or switch[1] else None
        self.values: dict[str, NDArray[Any]] = {
            name: self._value(one, token_input, shape).astype(_DTYPES.get(one.type, np.float32))
            for name, one in inputs.items()
        }

    def _past_length(self, checkpoint: Checkpoint, inputs: dict[str, Declared]) -> int | None:
        caches = [one.shape for one in inputs.values() if len(one.shape) > 3]
        if not caches:
            return None
        declared = caches[0][-2]
        return (
            declared if isinstance(declared, int) else min(_PAST_TOKENS, checkpoint.config.n_positions // 2)
        )

    def _past(
        self, checkpoint: Checkpoint, generator: np.random.Generator, rows: int, length: int
    ) -> list[NDArray[Any]]:
        before = generator.integers(0, checkpoint.config.vocab_size, (rows, length))
        return reference.forward(checkpoint, before, dtype=np.float32)[1]

    def _past_pieces(
        self, inputs: dict[str, Declared], past: list[NDArray[Any]] | None
    ) -> list[NDArray[Any]]:
        """The past in the form of the inputs: keys and values stacked, or apart."""
        if past is None:
            return []
        stacked = any(len(one.shape) == 5 for one in inputs.values())
        return list(past) if stacked else [half for layer in past for half in layer]

    def _value(self, one: Declared, token_input: str, shape: Sequence[int]) -> NDArray[Any]:
        start = 0 if self.past is None else self.past[0].shape[3]
        rows, tokens = self.ids.shape
        name = one.name.lower()
        if one.name == token_input:
            return self.ids.reshape(shape)
        if self._switch is not None and one.name == self._switch[0] and len(one.shape) < 2:
            return np.full([1 for _ in one.shape], self._switch[1])
        if len(one.shape) > 3 and self._pieces:
            return self._pieces.pop(0)
        if "mask" in name:
            return np.ones((rows, start + tokens))
        if "pos" in name:
            positions = np.arange(start, start + tokens)
            return np.broadcast_to(positions, shape if len(one.shape) == len(shape) else positions.shape)
        raise ModelError(f"{self._path}: takes the input {one.name!r}, which a GPT-2 does not need")


def _check_size(
    checkpoint: Checkpoint, session: Session, path: Path, rows: int, length: int | None, tokens: int
) -> None:
    """Raise ModelError if a run of our own, of as much as the file says it takes, would give too much."""
    config, total = checkpoint.config, tokens + (length or 0)
    values = max(config.vocab_size, config.n_head * total, 2 * config.n_layer * config.n_embd)
    if 4 * rows * total * values > session.max_output_bytes:
        raise ModelError(
            f"{path}: takes {rows} texts of {total} tokens with their past, more than its check may take"
        )


def _largest_difference(checkpoint: Checkpoint, feed: _Feed, outputs: Sequence[Any], path: Path) -> float:
    hidden, present = reference.forward(checkpoint, feed.ids, feed.past, dtype=np.float32)
    results = (hidden, reference.logits(checkpoint, hidden))
    differences = [
        _difference(*pair) for result in results for pair in _comparable(outputs[0], result, result is hidden)
    ]
    if not differences:
        raise ModelError(f"{path}: its first output has shape {list(outputs[0].shape)}, as no GPT-2's has")
    # If the vocabulary is as large as the width, the first output may be either.
    first = np.min(differences)
    caches = [output for output in outputs[1:] if output.ndim > 3 and output.shape[-2] == present[0].shape[3]]
    stacked = any(output.ndim == 5 for output in caches)
    wanted = list(present) if stacked else [half for layer in present for half in layer]
    pairs = zip(caches, wanted, strict=True) if len(caches) == len(wanted) else ()
    # NumPy's maximum, unlike Python's, is NaN if one of them is.
    return float(np.max([first, *(_difference(output, cache) for output, cache in pairs)]))


def _comparable(
    output: NDArray[Any], result: NDArray[Any], is_hidden: bool
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """The output and what it should be: of every token, or of each text's last; none if it has other sizes.

    Scores may go on beyond the vocabulary, where a padded head has rows of zeros.
    """
    size = result.shape[-1]
    if not output.ndim or output.shape[-1] < size or (is_hidden and output.shape[-1] != size):
        return []
    output = output[..., :size]
    return [(output, wanted) for wanted in (result, result[:, -1:]) if wanted.size == output.size][:1]


def _difference(output: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.abs(output.reshape(wanted.shape).astype(np.float64) - wanted).max())
