"""Damages what lies inside containers, whose lengths and checksums are made right again around it."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickletools
import random
import struct
import zipfile
import zlib
from collections.abc import Callable

from support.tensorflow_samples import crc32c
from tests.campaign.byte_mutations import LIMITS_64, mutate
from tests.campaign.json_mutations import mutate_json
from tests.campaign.protobuf_mutations import read_varint

Mutation = Callable[[random.Random, bytes], bytes]


def mutate_any(generator: random.Random, data: bytes) -> bytes:
    """Damage that knows nothing of the format."""
    return mutate(data, generator.getrandbits(32))


def either(*mutations: Mutation) -> Mutation:
    """One of several kinds of damage; damage of bytes where the chosen one needs a whole file."""

    def mutation(generator: random.Random, data: bytes) -> bytes:
        try:
            return generator.choice(mutations)(generator, data)
        except (ValueError, IndexError, struct.error, RecursionError):
            return mutate_any(generator, data)

    return mutation


def mutate_safetensors(generator: random.Random, data: bytes) -> bytes:
    """The header of a safetensors file, with its length."""
    (size,) = struct.unpack_from("<Q", data)
    if size > len(data) - 8:
        raise ValueError("cut short")
    header = mutate_json(generator, data[8 : 8 + size])
    rest = data[8 + size :]
    if generator.random() < 0.2:
        rest = rest[: generator.randrange(len(rest) + 1)]
    return struct.pack("<Q", len(header)) + header + rest


def mutate_gguf(generator: random.Random, data: bytes) -> bytes:
    """A number in the part of a GGUF file before the tensors: they are lengths, counts, types and offsets."""
    out = bytearray(data)
    end = min(len(out), 4096)
    for _ in range(generator.randrange(1, 4)):
        at = generator.choice((generator.randrange(4, end), *range(4, 24, 4)))
        # Strings are preceded by their lengths, whose upper bytes are zeros.
        zeros = data.find(bytes(5), at, end)
        at = max(4, zeros - 3) if zeros >= 0 else at
        width, form = generator.choice(((4, "<I"), (8, "<Q")))
        old = int.from_bytes(out[at : at + width], "little")
        value = generator.choice(
            (*LIMITS_64, old + 1, old - 1, old << 8, old << 32, len(data), generator.randrange(20))
        )
        out[at : at + width] = struct.pack(form, value & ((1 << 8 * width) - 1))
    return bytes(out)


_OPCODES = (
    *(
        b"(",
        b"t",
        b"l",
        b"d",
        b"}",
        b"]",
        b")",
        b"\x85",
        b"\x86",
        b"\x87",
        b"0",
        b"1",
        b"2",
        b"R",
        b"b",
        b"Q",
        b".",
    ),
    *(b"N", b"\x88", b"\x89", b"u", b"s", b"a", b"e", b"\x94", b"\x81", b"\x8f", b"\x90", b"\x93", b"\x97"),
    *(
        b"h\0",
        b"h\1",
        b"q\0",
        b"j\xff\xff\xff\x7f",
        b"r\xff\xff\xff\x7f",
        b"K\xff",
        b"J\xff\xff\xff\xff",
        b"I99\n",
    ),
    *(
        b"\x8a\x08" + b"\xff" * 8,
        b"\x8b\xff\xff\xff\x7f",
        b"\x8a\xff" + b"\x7f" * 255,
        b"L" + b"9" * 5000 + b"L\n",
    ),
    *(b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"\x95" + b"\xff" * 8, b"\x80\x05"),
    *(
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"ctorch\nFloatStorage\n",
        b"ctorch.nn.modules\nModule\n",
        b"ios\nsystem\n",
    ),
    *(
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"c__main__\nx\n",
        b"G" + b"\x7f\xf8" + bytes(6),
    ),
    *(
        b"V\\ud800\n",
        b"S'x'\n",
        b"Fnan\n",
        b"U\x01a",
        b"C\x01a",
        b"P1\n",
        b"\x8c\x01a",
        b"(" * 100 + b"t" * 100,
    ),
)


def mutate_pickle(generator: random.Random, data: bytes) -> bytes:
    """Opcodes of a pickle that are gone, twice, elsewhere or new."""
    starts = [position for _, _, position in pickletools.genops(data) if position is not None]
    ends = [*starts[1:], starts[-1] + 1]
    parts = [data[start:end] for start, end in zip(starts, ends, strict=True)]
    for _ in range(generator.randrange(1, 5)):
        at = generator.randrange(len(parts))
        choice = generator.randrange(6)
        if choice == 0 and len(parts) > 1:
            del parts[at]
        elif choice == 1:
            length = generator.randrange(1, 12)
            parts[at:at] = parts[at : at + length] * generator.choice((1, 2, 40))
        elif choice == 2:
            parts.insert(generator.randrange(len(parts)), parts.pop(at))
        elif choice == 3:
            parts[at : at + 1] = [generator.choice(parts)]
        elif choice == 4:
            parts[at : at + 1] = [mutate_any(generator, parts[at])]
        else:
            parts[at:at] = [generator.choice(_OPCODES)] * generator.choice((1, 1, 2, 200))
    return b"".join(parts) + data[ends[-1] :]


def mutate_zip(generator: random.Random, data: bytes) -> bytes:
    """A member of a ZIP file changed, gone, twice, renamed or compressed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(str(error)) from None
    at = generator.randrange(len(members))
    choice = generator.randrange(8)
    if choice < 4:
        at = next((i for i, (name, _) in enumerate(members) if name.endswith(".pkl")), at)
        members[at] = (members[at][0], either(mutate_pickle)(generator, members[at][1]))
    elif choice == 4:
        members[at] = (members[at][0], mutate_any(generator, members[at][1]))
    elif choice == 5:
        del members[at]
    elif choice == 6:
        members.append((members[generator.randrange(len(members))][0], members[at][1]))
    else:
        names = (
            "archive/data.pkl",
            "archive/data/0",
            "../x",
            "/etc/passwd",
            "archive/",
            "a" * 300,
            "archive/byteorder",
        )
        members[at] = (generator.choice(names), members[at][1])
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members:
            kind = generator.choice((*[zipfile.ZIP_STORED] * 9, zipfile.ZIP_DEFLATED))
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return target.getvalue()


_TAR_FIELDS = ((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
_TAR_VALUES = (
    b"",
    b"\0",
    b"../x",
    b"/x",
    b"77777777777",
    b"\x80" + b"\xff" * 11,
    b"-1",
    b"9",
    b"x",
    b"L",
    b"K",
    b"g",
    b"S",
)


def mutate_tar(generator: random.Random, data: bytes) -> bytes:
    """Blocks of a compressed archive changed, gone, twice or elsewhere; a changed header has its checksum."""
    try:
        whole = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from None
    blocks = [bytearray(whole[at : at + 512]) for at in range(0, len(whole), 512)]
    headers = [i for i, block in enumerate(blocks) if block[257:262] == b"ustar"] or [0]
    at = generator.choice(headers)
    choice = generator.randrange(6)
    if choice < 3:
        start, size = generator.choice(_TAR_FIELDS)
        value = generator.choice(
            (*_TAR_VALUES, generator.randbytes(size), b"%011o" % generator.choice((0, 511, 8**11 - 1)))
        )
        blocks[at][start : start + size] = value[:size].ljust(size, b"\0")
        blocks[at][148:156] = b" " * 8
        blocks[at][148:156] = b"%06o\0 " % sum(blocks[at])
    elif choice == 3:
        del blocks[generator.randrange(len(blocks))]
    elif choice == 4:
        blocks[at:at] = blocks[at : at + generator.randrange(1, 4)] * generator.choice((1, 2, 300))
    else:
        blocks.insert(generator.randrange(len(blocks)), blocks.pop(at))
    return gzip.compress(b"".join(blocks), 1, mtime=0)


def mutate_checksummed(generator: random.Random, data: bytes) -> bytes:
    """A saved prefix with damage that its checksum covers."""
    content = mutate_any(generator, data[:-32])
    if generator.random() < 0.5:  # the damage in place, so that the length still fits
        content = content[: len(data) - 32].ljust(len(data) - 32, b"\0")
    return content + hashlib.sha256(content).digest()


def mutate_table(generator: random.Random, data: bytes) -> bytes:
    """A byte in a block of TensorFlow's index, with the block's checksum."""
    begin, size = generator.choice(_table_blocks(data))
    out = bytearray(data)
    for _ in range(generator.randrange(1, 3)):
        at = begin + generator.randrange(size)
        out[at] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, out[at] ^ 1, out[at] + 1 & 0xFF))
    crc = crc32c(bytes(out[begin : begin + size + 1]))
    out[begin + size + 1 : begin + size + 5] = struct.pack(
        "<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    )
    return bytes(out)


def _table_blocks(data: bytes) -> list[tuple[int, int]]:
    """Where the blocks begin, and their lengths without trailers; the last is the index of the others."""
    at = len(data) - 48
    handle = []
    for _ in range(4):
        number, at = read_varint(data, at)
        handle.append(number)
    begin, size = handle[2:]
    end = begin + size - 4
    (restarts,) = struct.unpack_from("<I", data, end)
    blocks, at, end = [], begin, end - 4 * restarts
    while at < end:
        _, at = read_varint(data, at)
        rest, at = read_varint(data, at)
        _, at = read_varint(data, at)
        start, next_at = read_varint(data, at + rest)
        length, at = read_varint(data, next_at)
        blocks.append((start, length))
    return [*blocks, (begin, size)]


def mutate_text(generator: random.Random, data: bytes) -> bytes:
    """Lines of a text gone, twice, elsewhere or joined."""
    lines = data.split(b"\n")
    at = generator.randrange(len(lines))
    choice = generator.randrange(5)
    if choice == 0:
        del lines[at]
    elif choice == 1:
        lines[at:at] = [generator.choice(lines)] * generator.choice((1, 2, 1000))
    elif choice == 2:
        lines.insert(generator.randrange(len(lines)), lines.pop(at))
    elif choice == 3:
        lines[at] = generator.choice(
            (b"", b" ", b"a", b"a b c", b"#version: 9", b"\xff", b"\0", b"\r", b"a " + b"b" * 5000)
        )
    else:
        lines[at] = mutate_any(generator, lines[at])
    return b"\n".join(lines)
