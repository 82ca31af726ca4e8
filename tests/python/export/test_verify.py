"""Test data and `verify`: written data passes, changed data fails, hostile data is refused."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast.errors import ModelError
from gpt2fast.export import archive as archive_module
from gpt2fast.export.archive import archive_path, pack_archive, unpack_archive
from gpt2fast.export.standard import StandardOptions, export_onnx
from gpt2fast.export.test_data import find_sets, read_set, read_tensor, write_test_data
from gpt2fast.export.verify import verify_model
from support.zoo_samples import export_with_data, random_checkpoint


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in the Zoo's layout with two sets beside it; tests must not change it."""
    return export_with_data(tmp_path_factory.mktemp("zoo"), layout="zoo", head="hidden", opset=10)


@pytest.fixture
def copied(zoo: Path, tmp_path: Path) -> Path:
    """A copy that tests may change."""
    shutil.copytree(zoo.parent, tmp_path / "zoo")
    return tmp_path / "zoo" / zoo.name


def _replace(path: Path, array: np.ndarray[Any, Any]) -> None:
    path.write_bytes(onnx.numpy_helper.from_array(array).SerializeToString())


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("head", ["lm", "hidden"])
@pytest.mark.parametrize("layout", ["gpt2fast", "zoo"])
def test_written_data_passes(tmp_path: Path, layout: str, head: str, past: bool) -> None:
    path = export_with_data(tmp_path, sets=5, layout=layout, head=head, past=past)
    differences = verify_model(path)
    assert [one.data_set for one in differences[::3]] == [f"test_data_set_{i}" for i in range(5)]
    assert all(one.passed and one.relative < 1e-5 for one in differences)


def test_first_set_has_the_zoos_shape(zoo: Path) -> None:
    inputs, outputs = read_set(zoo.parent / "test_data_set_0")
    assert [(one.dtype, one.shape) for one in inputs] == [(np.int64, (1, 1, 8))]
    assert [one.shape for one in outputs] == [(1, 1, 8, 64), (2, 1, 4, 8, 16), (2, 1, 4, 8, 16)]


def test_single_set_and_other_directory(zoo: Path) -> None:
    assert len(verify_model(zoo, zoo.parent)) == 6
    assert [one.output for one in verify_model(zoo, zoo.parent / "test_data_set_1")] == [
        "output1",
        "output2",
        "output3",
    ]


def test_difference_is_found_and_measured(copied: Path) -> None:
    path = copied.parent / "test_data_set_1" / "output_2.pb"
    array = read_tensor(path).copy()
    array.flat[7] += 0.5
    _replace(path, array)
    differences = verify_model(copied)
    failed = [(one.data_set, one.output) for one in differences if not one.passed]
    assert failed == [("test_data_set_1", "output3")]
    assert differences[-1].absolute == pytest.approx(0.5, rel=1e-4)
    assert all(one.passed for one in verify_model(copied, atol=0.6))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_value_that_is_not_finite_fails(copied: Path, value: float) -> None:
    path = copied.parent / "test_data_set_0" / "output_0.pb"
    array = read_tensor(path).copy()
    array.flat[0] = value
    _replace(path, array)
    assert not verify_model(copied)[0].passed


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("input_0.pb", np.zeros((1, 1, 8), np.int32), "holds int32; the model's input 'input1' is int64"),
        ("input_0.pb", np.zeros((1, 8), np.int64), r"has shape \[1, 8\]"),
        ("input_0.pb", np.full((1, 1, 8), 1000), "ONNX Runtime can't run it"),
        ("input_1.pb", np.zeros(3, np.int64), "has 2 inputs; the model has 1"),
        ("output_3.pb", np.zeros(3, np.float32), "has 4 outputs; the model has 3"),
        ("output_5.pb", np.zeros(3, np.float32), "without a gap"),
        ("output_0.pb", np.zeros(3, np.float32), "the data has float32"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    copied: Path, name: str, array: np.ndarray[Any, Any], message: str
) -> None:
    _replace(copied.parent / "test_data_set_0" / name, array)
    with pytest.raises(ModelError, match=message):
        verify_model(copied)


def _tensor(**fields: Any) -> bytes:
    return bytes(onnx.TensorProto(**fields).SerializeToString())


_FLOAT = onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "unsupported data type 0"),
        (b"not a tensor at all", "not a TensorProto"),
        (_tensor(data_type=_FLOAT, dims=[1 << 40], raw_data=b"1234"), "impossible shape"),
        (
            _tensor(data_type=_FLOAT, dims=[1 << 30, 1 << 30], raw_data=b"1234"),
            "needs 1152921504606846976",
        ),
        (_tensor(data_type=_FLOAT, dims=[-1], raw_data=b"1234"), "impossible shape"),
        (_tensor(data_type=_FLOAT, dims=[1] * 17, raw_data=b"1234"), "impossible shape"),
        (_tensor(data_type=_FLOAT, dims=[2], raw_data=b"1234"), "needs 2 values; it holds 1"),
        (_tensor(data_type=_FLOAT, dims=[1], raw_data=b"12345"), "needs 1 values; it holds 1.25"),
        (_tensor(data_type=_FLOAT, dims=[3], float_data=[1.0]), "needs 3 values; it holds 1"),
        (_tensor(data_type=onnx.TensorProto.STRING, dims=[1], string_data=[b"x"]), "unsupported data type 8"),
        (
            _tensor(
                data_type=_FLOAT,
                dims=[1],
                data_location=onnx.TensorProto.EXTERNAL,
                external_data=[onnx.StringStringEntryProto(key="location", value="/etc/passwd")],
            ),
            "keeps its values in another file",
        ),
    ],
)
def test_hostile_tensor_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "input_0.pb"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=message):
        read_tensor(path)


@given(st.data())
def test_damaged_tensor_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(onnx.numpy_helper.from_array(np.arange(6.0).reshape(2, 3), "x").SerializeToString())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pb"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        tensor = read_tensor(path)
    except ModelError:
        return
    assert tensor.nbytes <= 8 * len(whole)


def test_typed_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "input_0.pb"
    path.write_bytes(_tensor(data_type=onnx.TensorProto.INT64, dims=[1, 2], int64_data=[3, -4]))
    assert read_tensor(path).tolist() == [[3, -4]]


def test_link_among_the_data_is_refused(copied: Path) -> None:
    path = copied.parent / "test_data_set_0" / "input_0.pb"
    outside = copied.parent.parent / "outside.pb"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(ModelError, match="leads out of its directory"):
        verify_model(copied)


def test_existing_data_is_replaced_only_when_asked(copied: Path) -> None:
    checkpoint, options = random_checkpoint(), StandardOptions(layout="zoo")
    with pytest.raises(FileExistsError, match="overwrite"):
        write_test_data(checkpoint, copied.parent, options, 1)
    write_test_data(checkpoint, copied.parent, options, 1, overwrite=True)
    assert [one.name for one in find_sets(copied.parent)] == ["test_data_set_0"]
    (copied.parent / "test_data_set_0" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        write_test_data(checkpoint, copied.parent, options, 1, overwrite=True)


def test_sets_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 0):
        (tmp_path / f"test_data_set_{number}").mkdir()
    assert [one.name for one in find_sets(tmp_path)] == [f"test_data_set_{i}" for i in (0, 2, 10)]


@pytest.mark.parametrize("external_data", [False, True])
def test_archive_passes_and_is_reproducible(tmp_path: Path, external_data: bool) -> None:
    path, options = tmp_path / "gpt2-10.onnx", StandardOptions(opset=10, layout="zoo")
    files = export_onnx(random_checkpoint(), path, options, external_data=external_data)
    sets = write_test_data(random_checkpoint(), tmp_path, options, 2)
    assert archive_path(path) == tmp_path / "gpt2-10.tar.gz"
    pack_archive(archive_path(path), files, sets)
    first = archive_path(path).read_bytes()
    pack_archive(archive_path(path), files, sets)
    assert archive_path(path).read_bytes() == first
    with tarfile.open(archive_path(path)) as tar:
        names = tar.getnames()
    assert names[0] == "gpt2-10/model.onnx"
    assert "gpt2-10/test_data_set_1/output_2.pb" in names
    assert all(one.passed for one in verify_model(archive_path(path)))


def _archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for information, data in members:
            information.size = len(data)
            tar.addfile(information, io.BytesIO(data))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    information = tarfile.TarInfo(name)
    information.type, information.linkname = kind, target
    return information


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (_member("../escaped.onnx"), "leads out of it"),
        (_member("a/../../escaped.onnx"), "leads out of it"),
        (_member("/tmp/escaped.onnx"), "leads out of it"),
        (_member("a\\b.onnx"), "leads out of it"),
        (_member("/".join("abcdefghi")), "too deep"),
        (_member("link.onnx", tarfile.SYMTYPE, "/etc/passwd"), "not a regular file"),
        (_member("link.onnx", tarfile.LNKTYPE, "model.onnx"), "not a regular file"),
        (_member("pipe.onnx", tarfile.FIFOTYPE), "not a regular file"),
        (_member("device.onnx", tarfile.CHRTYPE), "not a regular file"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else "",
)
def test_hostile_member_is_refused(tmp_path: Path, member: tarfile.TarInfo, message: str) -> None:
    path, target = _archive(tmp_path / "hostile.tar.gz", (member, b"")), tmp_path / "a" / "b"
    target.mkdir(parents=True)
    with pytest.raises(ModelError, match=message):
        unpack_archive(path, target)
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]


def test_member_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = _archive(tmp_path / "twice.tar.gz", (_member("x"), b"1"), (_member("./x"), b"2"))
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="occurs twice"):
        unpack_archive(path, tmp_path / "out")


def test_archive_that_grows_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "SPARE_BYTES", 0)
    path = _archive(tmp_path / "bomb.tar.gz", (_member("zeros"), bytes(10_000_000)))
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"unpacks to more than \d+ bytes"):
        unpack_archive(path, tmp_path / "out")
    assert sum(one.stat().st_size for one in (tmp_path / "out").iterdir()) < 65 * path.stat().st_size


@pytest.mark.parametrize("kept", [0, 5, 40, 0.5, 0.9])
def test_archive_cut_short_is_refused(tmp_path: Path, kept: float) -> None:
    noise = np.random.default_rng(0).bytes(40_000)
    path = _archive(tmp_path / "cut.tar.gz", (_member("model.onnx"), noise))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match=r"cut short|not a \.tar\.gz"):
        unpack_archive(path, tmp_path / "out")


@pytest.mark.parametrize("models", [0, 2])
def test_archive_needs_one_model(tmp_path: Path, models: int) -> None:
    members = [(_member(f"{i}.onnx"), b"") for i in range(models)]
    path = _archive(tmp_path / "models.tar.gz", (_member("readme"), b""), *members)
    with pytest.raises(ModelError, match=rf"exactly one \.onnx file, holds {models}"):
        verify_model(path)


def test_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.tar.gz"
    path.write_bytes(gzip.compress(b"no archive " * 100))
    with pytest.raises(ModelError, match=r"not a \.tar\.gz archive"):
        verify_model(path)


@pytest.mark.parametrize("location", ["../weights", "/etc/passwd", "a/../b", "missing.data"])
def test_external_data_elsewhere_is_refused(copied: Path, location: str) -> None:
    model = onnx.load(copied)
    weight = next(one for one in model.graph.initializer if one.name == "wpe.weight")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    copied.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"not beside it|not the name of a file"):
        verify_model(copied)


@pytest.mark.parametrize(
    ("data", "message"), [(b"junk", "not an ONNX model"), (b"", "ONNX Runtime can't load it")]
)
def test_broken_model_is_refused(copied: Path, data: bytes, message: str) -> None:
    copied.write_bytes(data)
    with pytest.raises(ModelError, match=message):
        verify_model(copied)


def test_no_data_is_an_error(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no test_data_set_0"):
        verify_model(zoo, tmp_path)
    with pytest.raises(ModelError, match="no such directory"):
        verify_model(zoo, tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no such file"):
        verify_model(tmp_path / "nothing.onnx")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head", ["lm", "hidden"])
def test_data_of_the_zoos_own_torch_model(tmp_path: Path, head: str) -> None:
    """PyTorch's export of the Zoo's model passes on PyTorch's outputs, and so does ours."""
    torch = pytest.importorskip("torch")
    from support.zoo_torch_model import zoo_model

    checkpoint = random_checkpoint()
    tensors = {name: tensor.read() for name, tensor in checkpoint.tensors.items()}
    model = zoo_model(checkpoint.config, tensors, with_head=head == "lm")
    ids = torch.randint(0, 101, (1, 1, 8), generator=torch.Generator().manual_seed(0))
    names = ["output1", "output2", "output3"]
    theirs, ours = tmp_path / "theirs.onnx", tmp_path / "ours.onnx"
    torch.onnx.export(
        model, (ids,), theirs, input_names=["input1"], output_names=names, dynamo=False, opset_version=10
    )
    export_onnx(checkpoint, ours, StandardOptions(head=head, layout="zoo", opset=10))
    (tmp_path / "test_data_set_0").mkdir()
    _replace(tmp_path / "test_data_set_0" / "input_0.pb", ids.numpy())
    with torch.no_grad():
        for number, output in enumerate(model(ids)):
            _replace(tmp_path / "test_data_set_0" / f"output_{number}.pb", output.numpy())
    for path in (theirs, ours):
        differences = verify_model(path, rtol=1e-4, atol=1e-5)
        assert [one.output for one in differences] == names
        assert all(one.passed for one in differences)
