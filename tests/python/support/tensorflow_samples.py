"""Writes checkpoints as TensorFlow 1 does: an index in LevelDB's table format, and one data file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.config import ModelConfig
from support.checkpoint_samples import byte_level_vocabulary, random_tensors

_MAGIC = 0xDB4775248B80FB57
_RESTART_INTERVAL = 4


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(**numbered: int | bytes) -> bytes:
    """Fields ``f1=...``: integers as varints, bytes with their length."""
    out = b""
    for name, value in numbered.items():
        number = int(name[1:])
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def block(entries: list[tuple[bytes, bytes]], kind: int = 0) -> bytes:
    """A block with its trailer; keys share prefixes."""
    out, restarts, previous = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % _RESTART_INTERVAL == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    out += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    crc = crc32c(out + bytes([kind]))
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return out + struct.pack("<BI", kind, masked)


def table(entries: list[tuple[bytes, bytes]], per_block: int = 7, kind: int = 0) -> bytes:
    """The whole index file."""
    out, handles = b"", []
    for i in range(0, len(entries), per_block):
        part = entries[i : i + per_block]
        data = block(part, kind)
        handles.append((part[-1][0], varint(len(out)) + varint(len(data) - 5)))
        out += data
    metaindex, index = block([]), block(handles)
    footer = varint(len(out)) + varint(len(metaindex) - 5)
    footer += varint(len(out) + len(metaindex)) + varint(len(index) - 5)
    return out + metaindex + index + footer.ljust(40, b"\0") + struct.pack("<Q", _MAGIC)


def entry(shape: tuple[int, ...], offset: int, size: int, dtype: int = 1) -> bytes:
    """A BundleEntryProto."""
    dimensions = b"".join(message(f2=message(f1=size)) for size in shape)
    return message(f1=dtype, f2=dimensions, f4=offset, f5=size)


HEADER = (b"", message(f1=1, f3=message(f1=1)))


def tensorflow_name(canonical: str) -> str:
    """OpenAI's name of a tensor."""
    base, kind = canonical.rsplit(".", 1)
    base = base.replace("h.", "h", 1) if base.startswith("h.") else base
    if base in ("wte", "wpe", "lm_head"):
        return f"model/{base}"
    gain = "g" if base.endswith(("ln_1", "ln_2", "ln_f")) else "w"
    return f"model/{base.replace('.', '/')}/{gain if kind == 'weight' else 'b'}"


def write_tensorflow(
    directory: Path,
    config: ModelConfig,
    *,
    tensors: dict[str, NDArray[np.float32]] | None = None,
    **changes: Any,
) -> dict[str, NDArray[np.float32]]:
    """A checkpoint with all its files, random weights unless given; ``changes`` are for hparams.json."""
    tensors = tensors or random_tensors(config)
    named = {}
    for name, values in tensors.items():
        is_linear = name.startswith("h.") and values.ndim == 2
        named[tensorflow_name(name)] = values[None] if is_linear else values
    entries, data = [HEADER], b""
    for name in sorted(named):
        values = named[name]
        entries.append((name.encode(), entry(values.shape, len(data), values.nbytes)))
        data += values.tobytes()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.ckpt.index").write_bytes(table(entries))
    (directory / "model.ckpt.data-00000-of-00001").write_bytes(data)
    sizes = {
        "n_vocab": config.vocab_size,
        "n_ctx": config.n_positions,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_layer": config.n_layer,
    }
    (directory / "hparams.json").write_text(json.dumps({**sizes, **changes}))
    tokens, merges = byte_level_vocabulary(config.vocab_size)
    (directory / "encoder.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (directory / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return tensors
