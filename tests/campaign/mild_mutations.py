"""Changes a file so that it is likely to be read still, and what follows the first checks is attacked too."""

from __future__ import annotations

import io
import json
import pickletools
import random
import struct
import zipfile
import zlib
from typing import Any

from tests.campaign.byte_mutations import mutate

_STRINGS = ("", "a", "gelu", "gelu_new", "relu", "F32", "é", "x" * 200, "1.0")
_VALUES: tuple[Any, ...] = (None, True, 0, -1, 1.5, 10**12, "", "a", [], [1, [2]], {}, {"a": {"b": 1}})
#: A file of old versions of PyTorch begins with so many.
_MOST_PICKLES = 5
#: Opcodes of a pickle that leave its stack as it was.
_NEUTRAL = (
    *(b"N0", b"(1", b"K\x070", b"]0", b"}0", b")0", b"\x880", b"(((111", b"X\x01\0\0\0a0", b"\x8c\x01a0"),
    *(
        b"J\xff\xff\xff\xff0",
        b"G\x7f\xf8" + bytes(6) + b"0",
        b"\x8a\x08" + b"\xff" * 8 + b"0",
        b"(NNt0",
        b"N\x850",
    ),
    *(
        b"K\x01K\x02\x860",
        b"ccollections\nOrderedDict\n)R0",
        b"N20" + b"0",
        b"\x80\x02",
        b"N" * 100 + b"0" * 100,
    ),
)


def mild_json(generator: random.Random, data: bytes) -> bytes:
    """A document with values changed within their types, keys added or in another order."""
    value = json.loads(data.decode("utf-8"))
    for _ in range(generator.choice((1, 1, 2, 4))):
        value = _change(generator, value)
    spaces = generator.choice((None, None, 0, 7))
    return json.dumps(value, indent=spaces, ensure_ascii=generator.random() < 0.5).encode("utf-8")


def _change(generator: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value:
        key = generator.choice(list(value))
        choice = generator.randrange(6)
        if choice == 0:
            value[generator.choice(("_x", "extra", "__class__", "é", key + "_"))] = generator.choice(_VALUES)
        elif choice == 1:
            items = list(value.items())
            generator.shuffle(items)
            return dict(items)
        elif choice == 2:
            del value[key]
        else:
            value[key] = _change(generator, value[key])
        return value
    if isinstance(value, list) and value:
        at = generator.randrange(len(value))
        value[at] = _change(generator, value[at])
        return value
    return _within_type(generator, value)


def _within_type(generator: random.Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return generator.choice((value, float(value), value + 1, value // 2, 1, value * 2))
    if isinstance(value, float):
        return generator.choice((value / 2, value * 3, 0.0, 1e-30, round(value)))
    if isinstance(value, str):
        return generator.choice((*_STRINGS, value + "x", value.upper()))
    return generator.choice(_VALUES)


def mild_safetensors(generator: random.Random, data: bytes) -> bytes:
    """Tensors in another order, of another type of the same size, or new; other metadata; other numbers."""
    (size,) = struct.unpack_from("<Q", data)
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    choice = generator.randrange(5)
    if choice == 0:
        generator.shuffle(names)
        header = {name: header[name] for name in names}
    elif choice == 1:
        entry = header[generator.choice(names)]
        entry["dtype"] = generator.choice(("F32", "I32", "U32"))
    elif choice == 2:
        count = generator.randrange(4)
        shape = generator.choice(([count], [1, count], [count, 1, 1]))
        offsets = [len(rest), len(rest) + 4 * count]
        name = generator.choice(("x", "h.9.attn.bias", "transformer.x", "h.0.attn.bias"))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        rest += bytes(4 * count)
    elif choice == 3:
        header["__metadata__"] = {
            "format": generator.choice(("pt", "", "é")),
            generator.choice("ab"): "x" * 99,
        }
    else:
        rest = _same_length(generator, rest)
    text = json.dumps(header).encode() + b" " * generator.choice((0, 0, 1, 8, 100))
    return struct.pack("<Q", len(text)) + text + rest


def _same_length(generator: random.Random, data: bytes) -> bytes:
    changed = mutate(data, generator.getrandbits(32))
    return changed[: len(data)].ljust(len(data), b"\0")


def mild_pickle(generator: random.Random, data: bytes) -> bytes:
    """One of the pickles with opcodes that change nothing of what it makes; or other bytes after them."""
    pickles, end = _pickles(data)
    if not pickles or (len(data) > end and generator.random() < 0.3):
        return data[:end] + _same_length(generator, data[end:])
    start, stop = generator.choice(pickles)
    one = data[start:stop]
    for _ in range(generator.choice((1, 2, 5))):
        starts = [position for _, _, position in pickletools.genops(one) if position is not None]
        at = generator.choice(starts[1:])
        one = one[:at] + generator.choice(_NEUTRAL) + one[at:]
    return data[:start] + one + data[stop:]


def _pickles(data: bytes) -> tuple[list[tuple[int, int]], int]:
    """Where the pickles are that a file begins with, and where they end."""
    found: list[tuple[int, int]] = []
    start = 0
    while start < len(data) and len(found) < _MOST_PICKLES:
        try:
            *_, (_, _, last) = pickletools.genops(data[start:])
        except ValueError:
            break
        stop = start + (last or 0) + 1
        found.append((start, stop))
        start = stop
    return found, start


def mild_zip(generator: random.Random, data: bytes) -> bytes:
    """Members in another order, new ones, other numbers, a pickle that makes the same."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(str(error)) from None
    choice = generator.randrange(4)
    if choice == 0:
        generator.shuffle(members)
    elif choice == 1:
        folder = members[0][0].partition("/")[0]
        name = generator.choice(("data/999", ".format_version", ".data/x", "code/a.py", "é"))
        members.append((f"{folder}/{name}", generator.randbytes(generator.randrange(99))))
    else:
        at = generator.randrange(len(members))
        if choice == 2:
            at = next((i for i, (name, _) in enumerate(members) if name.endswith(".pkl")), at)
        name, content = members[at]
        change = mild_pickle if name.endswith(".pkl") else _same_length
        members[at] = (name, change(generator, content))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()
