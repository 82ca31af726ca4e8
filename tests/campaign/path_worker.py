"""Models whose files lead elsewhere: each trick in a directory of its own, beside a folder OUTSIDE.

``python -m tests.campaign.path_worker DIRECTORY GROUP...`` prints a JSON line for each group of tricks;
what is opened is seen from outside the process (see ``paths.py``).
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import shutil
import signal
import socket
import sys
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from gpt2fast.errors import ModelError
from tests.campaign.fault_operations import converted_sample
from tests.campaign.readers import TEXT
from tests.campaign.samples import CONFIG, SAMPLES

#: What lies outside has this in its path.
OUTSIDE = "OUTSIDE"
#: The end of an attempt that hangs.
_SECONDS = 300
_SWAPS = 150
DOCUMENTED = (ModelError, OSError)


def traps(outside: Path) -> dict[str, Callable[[Path], None]]:
    """What may stand in a file's place: name -> puts it there. The file itself has been moved outside."""

    def through_parent(path: Path) -> None:
        path.with_name("folder").symlink_to(outside)
        path.symlink_to(f"folder/{path.name}")

    def chained(path: Path) -> None:
        path.with_name("chain").symlink_to(outside / path.name)
        path.symlink_to("chain")

    def listening(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as one:
            here = os.getcwd()
            os.chdir(path.parent)  # the names of sockets are short
            one.bind(path.name)
            os.chdir(here)

    made = {
        "absolute link": lambda path: path.symlink_to((outside / path.name).resolve()),
        "relative link": lambda path: path.symlink_to(os.path.relpath(outside / path.name, path.parent)),
        "link through a parent": through_parent,
        "chain of links": chained,
        "link to itself": lambda path: path.symlink_to(path.name),
        "link to nothing": lambda path: path.symlink_to(outside / "nothing"),
        "link to a device": lambda path: path.symlink_to("/dev/zero"),
        "link into /proc": lambda path: path.symlink_to("/proc/self/environ"),
        "FIFO": lambda path: os.mkfifo(path),
        "socket": listening,
        "folder": lambda path: path.mkdir(),
    }
    if os.geteuid() == 0:
        made["device"] = lambda path: os.mknod(path, 0o20666, os.makedev(1, 5))
    return made


def attempt(use: Callable[[], object], *, may_succeed: bool) -> str:
    """What is wrong with how a trick ended."""
    signal.alarm(_SECONDS)
    try:
        use()
    except DOCUMENTED as error:
        return "" if str(error) else "an empty message"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.alarm(0)
    return "" if may_succeed else "was taken"


def whole_use(directory: Path) -> Callable[[], object]:
    """Everything that a user does with a model: convert or load it, run it, read its tokenizer."""

    def use() -> None:
        from gpt2fast import GPT2

        with GPT2.from_pretrained(directory, threads=1, max_sequences=2) as model:
            model.generate([1, 2], max_new_tokens=2)
            model.tokenizer.encode(TEXT[:1])

    return use


#: Files that a model can do without, so that it may load when one is a link to nothing.
_OPTIONAL = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)


def replaced_files(directory: Path) -> Iterator[tuple[str, str]]:
    """Each file of a checkpoint and of a model directory, with each trap in its place."""
    source, model = converted_sample(directory / "whole")
    for name in _OPTIONAL:
        (source / name).write_text("{}")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    number = itertools.count()
    for kind, whole in (("checkpoint", source), ("model directory", model)):
        for name in sorted(path.name for path in whole.iterdir()):
            for trap in traps(Path()):
                home = directory / f"{kind} {next(number)}"
                inside, outside = home / "inside", home / OUTSIDE
                shutil.copytree(whole, inside)
                outside.mkdir()
                shutil.move(inside / name, outside / name)
                traps(outside)[trap](inside / name)
                yield f"{kind}, {name}: {trap}", attempt(whole_use(inside), may_succeed=False)
                shutil.rmtree(home)


_REFERENCES = (
    *(
        "../OUTSIDE/w",
        "a/../../OUTSIDE/w",
        "./../OUTSIDE/w",
        "sub/w",
        "/etc/passwd",
        "ABSOLUTE",
        "",
        ".",
        "..",
    ),
    *(
        "w\0",
        "../OUTSIDE\\w",
        "..\\OUTSIDE\\w",
        "C:\\w",
        "C:w",
        "file:///etc/passwd",
        "~/w",
        "$HOME/w",
        "//etc/passwd",
    ),
)


def references(directory: Path) -> Iterator[tuple[str, str]]:
    """Names of other files inside a shard index and an ONNX file."""
    from gpt2fast.checkpoints import open_checkpoint

    number = itertools.count()
    for kind, reference in itertools.product(("shard-index", "onnx-external"), _REFERENCES):
        home = directory / f"reference {next(number)}"
        inside, outside = home / "inside", home / OUTSIDE
        inside.mkdir(parents=True)
        outside.mkdir()
        (inside / "sub").symlink_to(outside)
        sample = SAMPLES[kind]
        sample.write(inside)
        reference = reference.replace("ABSOLUTE", str(outside / "w"))
        if kind == "shard-index":
            shutil.move(inside / "model-00001-of-00002.safetensors", outside / "w")
            path = inside / sample.damaged
            index = json.loads(path.read_text())
            index["weight_map"] = {
                tensor: reference if name.startswith("model-00001") else name
                for tensor, name in index["weight_map"].items()
            }
            path.write_text(json.dumps(index))
        else:
            _lead_elsewhere(inside / sample.damaged, reference, outside / "w")

        def use(source: Path = inside / sample.source) -> None:
            for tensor in open_checkpoint(source).tensors.values():
                tensor.read()

        yield f"{kind}, {reference!r}", attempt(use, may_succeed=False)


def _lead_elsewhere(path: Path, reference: str, target: Path) -> None:
    import onnx

    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                data = path.parent / entry.value
                if data.exists():
                    shutil.move(data, target)
                entry.value = reference
    onnx.save(model, path)


def _archive_of(*members: tuple[str, bytes, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = 5 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"12345") if member.size else None)
    return gzip.compress(buffer.getvalue(), 1)


def archives(directory: Path) -> Iterator[tuple[str, str]]:
    """Members of archives that would be written, or lead, elsewhere."""
    from gpt2fast.export.archive import unpack_archive

    file = tarfile.REGTYPE
    members = {
        "parent": [("../OUTSIDE/x", file, "")],
        "hidden parent": [("a/../../OUTSIDE/x", file, "")],
        "absolute": [(str(directory / OUTSIDE / "x"), file, "")],
        "link": [("l", tarfile.SYMTYPE, "../OUTSIDE"), ("l/x", file, "")],
        "hard link": [("l", tarfile.LNKTYPE, "../OUTSIDE/secret"), ("l", file, "")],
        "link to itself": [("l", tarfile.SYMTYPE, "l")],
        "FIFO": [("f", tarfile.FIFOTYPE, "")],
        "device": [("d", tarfile.CHRTYPE, "")],
        "block device": [("d", tarfile.BLKTYPE, "")],
        "file as folder": [("a", file, ""), ("a/b", file, "")],
        "twice": [("a", file, ""), ("./a", file, "")],
        "dot": [(".", file, "")],
        "backslash": [("..\\OUTSIDE\\x", file, "")],
        "too deep": [("/".join("a" * 60), file, "")],
    }
    (directory / OUTSIDE).mkdir()
    (directory / "secret").write_text("secret")
    (directory / "secret").rename(directory / OUTSIDE / "secret")
    for number, (name, content) in enumerate(members.items()):
        path, target = directory / f"{number}.tar.gz", directory / f"out{number}"
        path.write_bytes(_archive_of(*content))
        target.mkdir()
        fault = attempt(lambda path=path, target=target: unpack_archive(path, target), may_succeed=False)
        if {one.name for one in (directory / OUTSIDE).iterdir()} != {"secret"}:
            fault = "a member was written outside"
        yield f"archive, {name}", fault


def swaps(directory: Path) -> Iterator[tuple[str, str]]:
    """Files that become links, and back, while they are read."""
    from gpt2fast.checkpoints import open_checkpoint
    from gpt2fast.storage.model_directory import open_model_directory

    source, model = converted_sample(directory / "whole")
    for whole, name, use in (
        (source, "model.safetensors", open_checkpoint),
        (source, "config.json", open_checkpoint),
        (model, "model.onnx", open_model_directory),
        (model, "config.json", open_model_directory),
    ):
        home = directory / f"swap {whole.name} {name}"
        inside, outside = home / "inside", home / OUTSIDE
        shutil.copytree(whole, inside)
        outside.mkdir()
        os.link(inside / name, outside / name)
        with swapped(inside / name, outside / name):
            faults = {attempt(partial(use, inside), may_succeed=True) for _ in range(_SWAPS)}
        yield f"swap, {whole.name}/{name}", "; ".join(faults - {""})


@contextmanager
def swapped(path: Path, target: Path) -> Iterator[None]:
    """A file that is a link to another and itself in turn, all the time."""
    real, other = path.with_name(".real"), path.with_name(".other")
    os.link(path, real)
    stopped = threading.Event()

    def swap() -> None:
        while not stopped.is_set():
            other.symlink_to(target)
            os.replace(other, path)
            os.link(real, other)
            os.replace(other, path)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        yield
    finally:
        stopped.set()
        swapper.join()


GROUPS = {"files": replaced_files, "references": references, "archives": archives, "swaps": swaps}


def main(directory: Path, names: list[str]) -> None:
    """Try everything."""
    warnings.simplefilter("ignore")
    assert CONFIG.n_layer == 1  # a small model, since it is converted for every trick
    for name in names or GROUPS:
        home = directory / name
        home.mkdir()
        tried = dict(GROUPS[name](home))
        findings = [f"{trick}: {fault}" for trick, fault in tried.items() if fault]
        print(json.dumps({"part": name, "tricks": len(tried), "findings": findings}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
