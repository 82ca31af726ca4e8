"""Archives of ``verify`` whose headers ask for more than the archive is worth."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from pathlib import Path

import pytest

from gpt2fast.errors import ModelError
from gpt2fast.export.archive import MAX_MEMBERS, unpack_archive


def header(name: str, kind: bytes = b"0", size: int | bytes = 0) -> bytes:
    """One ustar header with a right checksum."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % (sum(block) + 8 * 0x20)
    return bytes(block)


def entry(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    return header(name, kind, len(data)) + data + bytes(-len(data) % 512)


END = bytes(1024)
FILE = entry("model.onnx", b"content")

HOSTILE = {
    "digits without end": (entry("p", b"1" * 60_000, b"x") + FILE, "pax header is malformed"),
    "a record of length 0": (entry("p", b"0 path=x\n", b"x") + FILE, "pax header is malformed"),
    "a record past the end": (entry("p", b"99 path=x\n", b"x") + FILE, "pax header is malformed"),
    "a record without a line's end": (entry("p", b"8 path=x", b"x") + FILE, "pax header is malformed"),
    "a negative length": (entry("p", b"-9 path=x\n", b"x") + FILE, "pax header is malformed"),
    "chained pax headers": (entry("p", b"", b"x") * 5000 + FILE, "two headers of one kind"),
    "chained long names": (entry("p", b"a\0", b"L") * 5000 + FILE, "two headers of one kind"),
    "chained global headers": (entry("p", b"", b"g") * 5000 + FILE, "two headers of one kind"),
    "alternating headers": (
        (entry("p", b"", b"x") + entry("p", b"a", b"L")) * 5000,
        "two headers of one kind",
    ),
    "a huge pax header": (header("p", b"x", 1 << 40), "more than 65536 bytes"),
    "a long name of 64 GB": (header("p", b"L", 8**11 - 1), "more than 65536 bytes"),
    "a size in the pax header": (entry("p", b"22 size=9999999999999\n", b"x") + FILE, "ends too early"),
    "no number as a size": (entry("p", b"11 size=-1\n", b"x") + FILE, "is no number"),
    "a name for all": (entry("p", b"12 path=abc\n", b"g") + FILE, "gives all members one name"),
    "a name that leads out": (entry("p", b"16 path=../evil\n", b"x") + FILE, "leads out of it"),
    "a long name that leads out": (entry("p", b"/etc/passwd\0", b"L") + FILE, "leads out of it"),
    "a sparse file": (entry("p", b"22 GNU.sparse.major=1\n", b"x") + FILE, "not a regular file"),
    "an old sparse file": (entry("x", b"", b"S"), "not a regular file"),
    "a hard link": (header("x", b"1"), "not a regular file"),
    "a negative binary size": (header("x", size=b"\xff" * 12), "size is malformed"),
    "no octal size": (header("x", size=b"9" * 12), "size is malformed"),
    "no checksum": (bytes(156) + b"0" + bytes(355) + FILE, "checksum is malformed"),
    "a directory with data": (header("d", b"5", 512) + bytes(512), "has 512 bytes of data"),
    "a file below a file": (FILE + entry("model.onnx/x", b""), "below a file"),
    "a name of 300 bytes": (entry("p", b"a" * 300, b"L") + FILE, "leads out of it, or too deep"),
    "no end": (FILE, "ends too early"),
    "nothing": (b"", "ends too early"),
    "too many members": (header("d/x", b"5") * (MAX_MEMBERS + 1), f"more than {MAX_MEMBERS} members"),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_refused_quickly(tmp_path: Path, content: bytes, message: str) -> None:
    path, target = tmp_path / "model.tar.gz", tmp_path / "out"
    is_whole = "too early" not in message
    path.write_bytes(gzip.compress(content + (END if is_whole else b""), 1))
    target.mkdir()
    start = time.process_time()
    with pytest.raises(ModelError, match=message):
        unpack_archive(path, target)
    assert time.process_time() - start < 2
    assert {found.name for found in tmp_path.iterdir()} == {"model.tar.gz", "out"}


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"", 1) * 11_000,
        b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (1 << 20),  # a file name without end
        gzip.compress(FILE + END)[:-9],
        gzip.compress(FILE + END)[:12] + b"\xff" * 40,
    ],
    ids=["many empty pieces", "endless name", "cut short", "no deflate data"],
)
def test_hostile_gzip_files_are_refused_quickly(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.tar.gz").write_bytes(content)
    start = time.process_time()
    with pytest.raises(ModelError, match=r"not a \.tar\.gz archive"):
        unpack_archive(tmp_path / "model.tar.gz", tmp_path)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_format_are_unpacked(tmp_path: Path, format: int) -> None:
    files = {
        "model/model.onnx": bytes(range(256)) * 5,
        f"model/{'n' * 90}/{'m' * 95}": b"long",
        "model/empty": b"",
        "model/größe": b"\0" * 512,
    }
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz", format=format) as tar:
        folder = tarfile.TarInfo("model")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in files.items():
            information = tarfile.TarInfo(name)
            information.size, information.mtime = len(data), 1.5 if format == tarfile.PAX_FORMAT else 1
            tar.addfile(information, io.BytesIO(data))
    # Two gzip files in a row are one.
    whole = gzip.decompress(target.getvalue())
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole[:700]) + gzip.compress(whole[700:]))
    (tmp_path / "out").mkdir()
    unpack_archive(tmp_path / "a.tar.gz", tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == files
