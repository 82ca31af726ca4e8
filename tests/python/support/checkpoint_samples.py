"""Small random GPT-2 models, and writers of checkpoint formats that need no PyTorch."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2fast.checkpoints.base import expected_shapes
from gpt2fast.config import ModelConfig

Tensors = dict[str, NDArray[np.float32]]


def small_config(**changes: Any) -> ModelConfig:
    """Two layers of width 64; no two sizes are equal, so that a mix-up shows."""
    values = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 24, "vocab_size": 101}
    return ModelConfig.from_dict({**values, **changes})


def random_tensors(config: ModelConfig, seed: int = 0) -> Tensors:
    """Weights by canonical name, so large that every part of the model matters."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_shapes(config):
        values = generator.normal(0.0, 0.2, shape)
        is_gain = name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight"))
        tensors[name] = (values + 1.0 if is_gain else values).astype(np.float32)
    return tensors


def byte_level_vocabulary(size: int) -> tuple[list[str], list[str]]:
    """Tokens and merges of a made-up byte-level BPE: single letters, then pairs of them."""
    letters = [chr(0x21 + i) for i in range(size - 10)]
    pairs = [f"{letters[i]} {letters[i + 1]}" for i in range(9)]
    return [*letters, *(pair.replace(" ", "") for pair in pairs), "<|endoftext|>"], pairs


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """A safetensors file of float32."""
    header: dict[str, Any] = {}
    position = 0
    for name, values in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [position, position + values.nbytes],
        }
        position += values.nbytes
    text = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(values).tobytes() for values in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def pickled_text(text: str) -> bytes:
    """The opcode that pushes a text."""
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def pickled_int(value: int) -> bytes:
    """The opcode that pushes an integer of 31 bits or, as a long, any other."""
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def pickled_tensor(
    key: str,
    count: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    offset: int = 0,
    storage: str = "FloatStorage",
    legacy: bool = False,
) -> bytes:
    """The opcodes that ``torch.save`` writes for a tensor over the storage ``key`` of ``count`` numbers."""
    persistent = pickled_text("storage") + b"ctorch\n" + storage.encode() + b"\n" + pickled_text(key)
    persistent += pickled_text("cpu") + pickled_int(count) + (b"N" if legacy else b"")
    sizes = b"".join(b"(" + b"".join(map(pickled_int, values)) + b"t" for values in (shape, strides))
    hooks = b"ccollections\nOrderedDict\n)R"
    body = b"((" + persistent + b"tQ" + pickled_int(offset) + sizes + b"\x89" + hooks + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + body + b"R"


def pickled_state(entries: Mapping[str, bytes]) -> bytes:
    """The pickle of a dictionary whose values are given as opcodes."""
    return b"\x80\x02" + pickled_dict(entries) + b"."


def pickled_dict(entries: Mapping[str, bytes]) -> bytes:
    """The opcodes of a dictionary whose values are given as opcodes."""
    return b"}(" + b"".join(pickled_text(name) + value for name, value in entries.items()) + b"u"


def torch_zip(state: bytes, storages: Mapping[str, bytes], *, byteorder: str = "little") -> bytes:
    """A file of PyTorch's ZIP format around a pickle."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", state)
        archive.writestr("archive/byteorder", byteorder)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return target.getvalue()


def torch_legacy(state: bytes, storages: Mapping[str, bytes], itemsize: int = 4) -> bytes:
    """A file of the format before PyTorch 1.6 around a pickle."""
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    head = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    keys = pickle.dumps(list(storages), protocol=2)
    data = [struct.pack("<q", len(values) // itemsize) + values for values in storages.values()]
    return b"".join([*head, state, keys, *data])


def torch_state(
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    legacy: bool = False,
    within: str | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> bytes:
    """The file that ``torch.save`` makes of these tensors, each with a storage of its own.

    They may be the entry ``within`` of a training checkpoint, with others, given as opcodes, beside it.
    """
    entries, storages = {}, {}
    for i, (name, values) in enumerate(tensors.items()):
        strides = tuple(stride // 4 for stride in np.ascontiguousarray(values).strides)
        entries[name] = pickled_tensor(str(i), values.size, values.shape, strides, legacy=legacy)
        storages[str(i)] = values.tobytes()
    if within is not None:
        entries = {within: pickled_dict(entries), **(beside or {})}
    make = torch_legacy if legacy else torch_zip
    return make(pickled_state(entries), storages)


GGUF_NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def gguf_name(canonical: str) -> str:
    """llama.cpp's name of a tensor."""
    base, kind = canonical.rsplit(".", 1)
    if not base.startswith("h."):
        return f"{GGUF_NAMES[base]}.{kind}"
    _, layer, part = base.split(".", 2)
    return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}"
