"""Turns a SentencePiece model (``spiece.model``) of the kind "unigram" or "bpe" into a ``tokenizer.json``.

The file is the protobuf message ``ModelProto`` of
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto.
"""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from dataclasses import dataclass, field
from typing import Any

from gpt2fast.checkpoints.sentencepiece_merges import merges_of
from gpt2fast.errors import ModelError
from gpt2fast.storage.protobuf import Schema, WireError, bytes_tag, fields, fixed32_tag, number_tag, text

_MARK = "\N{LOWER ONE EIGHTH BLOCK}"  # stands for a space
_MOST_PIECES = 1 << 18
_MOST_NAMES = 1 << 16

# Kinds of pieces.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
# Kinds of models.
_UNIGRAM, _BPE = 1, 2
_KINDS = {3: "word", 4: "char"}

_PIECES, _TRAINER, _NORMALIZER = bytes_tag(1), bytes_tag(2), bytes_tag(3)
_MODEL = Schema(
    "model",
    {_PIECES: _MOST_PIECES, _TRAINER: 1, _NORMALIZER: 1, bytes_tag(4): 1, bytes_tag(5): 1},
)
_TEXT, _SCORE, _KIND = bytes_tag(1), fixed32_tag(2), number_tag(3)
_PIECE = Schema("piece", {_TEXT: 1, _SCORE: 1, _KIND: 1})
_RULES, _CHARSMAP = bytes_tag(1), bytes_tag(2)
_ADDS_PREFIX, _REMOVES_SPACES, _ESCAPES = map(number_tag, (3, 4, 5))
# Rules after which characters are composed.
_COMPOSING = ("nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf")
_NORMALIZER_SPEC = Schema(
    "normalizer",
    {_RULES: 1, _CHARSMAP: 1, _ADDS_PREFIX: 1, _REMOVES_SPACES: 1, _ESCAPES: 1, bytes_tag(6): 1},
)
_MODEL_TYPE, _SPACE_AS_SUFFIX, _BYTE_FALLBACK = number_tag(3), number_tag(24), number_tag(35)
# What a role's id and token are called there.
_ROLES = {
    "unk_token": (40, 45, 0),
    "bos_token": (41, 46, 1),
    "eos_token": (42, 47, 2),
    "pad_token": (43, 48, -1),
}
_TRAINER_SPEC = Schema(
    "trainer's settings",
    {
        **{number_tag(number): 1 for number in (3, 4, 6, *range(11, 15), *range(16, 27), *range(32, 36))},
        **{number_tag(number): 1 for number in (*range(40, 44), 49, 50, 52)},
        **{fixed32_tag(number): 1 for number in (10, 15, 51)},
        **{bytes_tag(number): 1 for number in (2, 7, 36, *range(44, 49), 53, 54)},
        **{bytes_tag(number): _MOST_NAMES for number in (1, 5, 30, 31)},
    },
)


@dataclass
class _Model:
    """What of a model counts; as it is where the file says nothing."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    model_type: int = _UNIGRAM
    ids: dict[str, int] = field(
        default_factory=lambda: {role: first for role, (_, _, first) in _ROLES.items()}
    )
    rules: str = ""
    charsmap: bytes = b""
    flags: dict[int, bool] = field(
        default_factory=lambda: {_ADDS_PREFIX: True, _REMOVES_SPACES: True, _ESCAPES: True}
    )


def read_sentencepiece(data: bytes, where: str) -> tuple[str, dict[str, str]]:
    """The ``tokenizer.json`` of a SentencePiece model, and its tokens that have a role.

    Texts are encoded as the library ``sentencepiece`` does it, without tokens around them.

    Raises
    ------
    ModelError
        The file is cut short or broken, or of a kind that is not read; the message says what to do.
    """
    try:
        model = _read_model(data)
    except WireError as error:
        raise ModelError(f"{where}: not a SentencePiece model: {error}") from None
    _check(model, where)
    return json.dumps(_tokenizer(model, where), ensure_ascii=False), _roles(model)


def _read_model(data: bytes) -> _Model:
    model = _Model()
    found = set()
    for tag, _, start, stop in fields(data, 0, len(data), _MODEL):
        found.add(tag)
        if tag == _PIECES:
            model.pieces.append(_read_piece(data, start, stop))
        elif tag == _TRAINER:
            _read_trainer(model, data, start, stop)
        elif tag == _NORMALIZER:
            for key, value, begin, end in fields(data, start, stop, _NORMALIZER_SPEC):
                if key == _RULES:
                    model.rules = text(data, begin, end)
                elif key == _CHARSMAP:
                    model.charsmap = data[begin:end]
                elif key in model.flags:
                    model.flags[key] = bool(value)
    if not found >= {_PIECES, _TRAINER, _NORMALIZER}:
        raise WireError("it is cut short, or has no settings behind its pieces")
    return model


def _read_piece(data: bytes, start: int, stop: int) -> tuple[str, float, int]:
    piece, score, kind = "", 0.0, _NORMAL
    for tag, value, begin, end in fields(data, start, stop, _PIECE):
        if tag == _TEXT:
            piece = text(data, begin, end)
        elif tag == _SCORE:
            (score,) = struct.unpack_from("<f", data, begin)
        else:
            kind = value
    return piece, score, kind


def _read_trainer(model: _Model, data: bytes, start: int, stop: int) -> None:
    roles = {number_tag(number): role for role, (number, _, _) in _ROLES.items()}
    for tag, value, _, _ in fields(data, start, stop, _TRAINER_SPEC):
        if tag == _MODEL_TYPE:
            model.model_type = value
        elif tag in (_SPACE_AS_SUFFIX, _BYTE_FALLBACK):
            model.flags[tag] = bool(value)
        elif tag in roles:
            model.ids[roles[tag]] = value


def _check(model: _Model, where: str) -> None:
    if model.model_type not in (_UNIGRAM, _BPE):
        kind = _KINDS.get(model.model_type, model.model_type)
        raise ModelError(
            f"{where}: a SentencePiece model of the kind {kind}; unigram and bpe are read. A tokenizer.json "
            f"made of it by AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers would do"
        )
    if model.flags.get(_SPACE_AS_SUFFIX) or not model.flags[_ESCAPES]:
        raise ModelError(f"{where}: a SentencePiece model that marks spaces in another way than before words")
    names = set()
    for place, (piece, score, kind) in enumerate(model.pieces):
        if not piece or piece in names:
            raise ModelError(f"{where}: piece {place} ({piece[:40]!r}) is empty or occurs twice")
        if not math.isfinite(score):
            raise ModelError(f"{where}: the score of piece {place} ({piece[:40]!r}) is {score}")
        if kind not in (_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE):
            raise ModelError(
                f"{where}: piece {place} ({piece[:40]!r}) is of the kind {kind}, which is not read"
            )
        names.add(piece)
    unknown = sum(kind == _UNKNOWN for _, _, kind in model.pieces)
    if unknown != 1:
        raise ModelError(
            f"{where}: a SentencePiece model has one piece for unknown words, this one {unknown}"
        )


def _tokenizer(model: _Model, where: str) -> dict[str, Any]:
    special = [place for place, (_, _, kind) in enumerate(model.pieces) if kind in (_UNKNOWN, _CONTROL)]
    decoders: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": _MARK}, "content": " "}]
    has_bytes = bool(model.flags.get(_BYTE_FALLBACK))
    if has_bytes:
        decoders.append({"type": "ByteFallback"})
    decoders.append({"type": "Fuse"})
    removes = model.flags[_REMOVES_SPACES]
    if removes or model.flags[_ADDS_PREFIX]:
        most = 1 << 16 if removes else 1
        decoders.append({"type": "Strip", "content": " ", "start": most, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(place, model.pieces[place][0]) for place in special],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": _pre_tokenizer(model),
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {**_of_kind(model, where), "byte_fallback": has_bytes},
    }


def _of_kind(model: _Model, where: str) -> dict[str, Any]:
    unknown = [kind for _, _, kind in model.pieces].index(_UNKNOWN)
    if model.model_type == _UNIGRAM:
        return {"type": "Unigram", "unk_id": unknown, "vocab": _scored(model)}
    joined = {piece: score for piece, score, kind in model.pieces if kind == _NORMAL}
    return {
        "type": "BPE",
        "unk_token": model.pieces[unknown][0],
        # Characters side by side that have no piece are one unknown word.
        "fuse_unk": True,
        # Those that a user defined stand alone, and are whole: see the pre-tokenizer.
        "ignore_merges": _pre_tokenizer(model) is not None,
        "vocab": {piece: place for place, (piece, _, _) in enumerate(model.pieces)},
        "merges": merges_of(joined, where),
    }


def _pre_tokenizer(model: _Model) -> dict[str, Any] | None:
    """Cuts texts at the pieces that a user defined, the longest first; unigram knows them by their scores."""
    defined = [piece for piece, _, kind in model.pieces if kind == _USER_DEFINED]
    if model.model_type == _UNIGRAM or not defined:
        return None
    pattern = "|".join(re.escape(piece) for piece in sorted(defined, key=len, reverse=True))
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _normalizers(model: _Model) -> list[dict[str, Any]]:
    """SentencePiece's own steps, in its order."""
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
        if model.rules in _COMPOSING:
            # The step before takes kana and their marks, six bytes together, one by one.
            steps.append({"type": "NFC"})
    if model.flags[_REMOVES_SPACES]:
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A | \z"}, "content": ""})
    if model.flags[_ADDS_PREFIX]:
        steps.append({"type": "Prepend", "prepend": _MARK})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": _MARK})
    return steps


def _scored(model: _Model) -> list[tuple[str, float]]:
    """Pieces and scores; those that a user defined are always chosen (``unigram_model.cc``)."""
    best = max((score for _, score, kind in model.pieces if kind == _NORMAL), default=0.0)
    return [
        (piece, len(piece.encode()) * best - 0.1 if kind == _USER_DEFINED else score)
        for piece, score, kind in model.pieces
    ]


def _added(place: int, piece: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": place, "content": piece, **flags, "special": True}


def _roles(model: _Model) -> dict[str, str]:
    """The tokens that have a role; an id beyond the pieces (-1 among them) means that there is none."""
    return {role: model.pieces[at][0] for role, at in model.ids.items() if 0 <= at < len(model.pieces)}
