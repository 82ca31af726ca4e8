"""Packs and unpacks the ONNX Model Zoo's ``.tar.gz`` archives of a model and its test data."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from gpt2fast.errors import ModelError
from gpt2fast.export.tar_stream import ArchiveError, GzipStream, Member, read_members
from gpt2fast.storage.atomic import atomic_file
from gpt2fast.storage.files import errors_of, is_plain_name, open_regular

#: What an archive may hold.
MAX_MEMBERS = 10_000
MAX_DEPTH = 8
#: An archive may unpack to this many times its own size (weights hardly shrink), plus a little.
MAX_EXPANSION = 64
SPARE_BYTES = 16 << 20


def archive_path(model: Path) -> Path:
    """The path of the archive of a model file: beside it, with ``.tar.gz`` in place of ``.onnx``."""
    return model.with_name(f"{model.name.removesuffix('.onnx')}.tar.gz")


def pack_archive(archive: Path, model_files: Sequence[Path], sets: Sequence[Path]) -> None:
    """Write a ``.tar.gz`` with one folder: ``model.onnx``, its external data, and the test data sets.

    The folder has the archive's name. The same content gives the same bytes.

    Parameters
    ----------
    archive : Path
        The file to write or replace.
    model_files : sequence of Path
        The model, then the files that it refers to, which keep their names.
    sets : sequence of Path
        Directories of test data.
    """
    folder = archive.name.removesuffix(".tar.gz")
    members = [(f"{folder}/model.onnx", model_files[0])]
    members += [(f"{folder}/{path.name}", path) for path in model_files[1:]]
    for directory in sets:
        members += [(f"{folder}/{directory.name}/{path.name}", path) for path in sorted(directory.iterdir())]
    with (
        atomic_file(archive) as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for name, path in members:
            information = tarfile.TarInfo(name)
            information.size = path.stat().st_size
            with errors_of(path), path.open("rb") as source:
                tar.addfile(information, source)


def unpack_archive(archive: Path, target: Path) -> None:
    """Unpack a ``.tar.gz`` that may come from a stranger into the empty directory ``target``.

    Only regular files and folders are unpacked, inside ``target``, up to the limits.

    Raises
    ------
    ModelError
        The archive is broken, holds anything else, or grows beyond the limits.
    """
    with open_regular(archive) as file:
        limit = MAX_EXPANSION * file.seek(0, 2) + SPARE_BYTES
        file.seek(0)
        stream = GzipStream(file, limit)
        try:
            for count, member in enumerate(read_members(stream)):
                if count >= MAX_MEMBERS:
                    raise ArchiveError(f"it has more than {MAX_MEMBERS} members")
                _unpack_member(stream, member, target)
            stream.finish()
        except ArchiveError as error:
            raise ModelError(f"{archive}: not a .tar.gz archive of a model: {error}") from None


def _unpack_member(stream: GzipStream, member: Member, target: Path) -> None:
    parts = PurePosixPath(member.name).parts
    parts = parts[1:] if parts[:1] == (".",) else parts
    if len(parts) > MAX_DEPTH or not all(map(is_plain_name, parts)):
        raise ArchiveError(f"the member {member.name[:80]!r} leads out of it, or too deep")
    if member.is_directory:
        return
    if not parts:
        raise ArchiveError(f"the member {member.name[:80]!r} has no name")
    path = target.joinpath(*parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            stream.copy(member.size, file)
    except (FileExistsError, NotADirectoryError):
        raise ArchiveError(f"the member {member.name[:80]!r} occurs twice, or below a file") from None
