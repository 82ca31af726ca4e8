"""Standard ONNX: valid at every opset, equal to the reference and transformers, whole or not at all."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gpt2fast.checkpoints import reference
from gpt2fast.checkpoints.base import Checkpoint, LazyTensor, expected_shapes
from gpt2fast.export import onnx_stream
from gpt2fast.export.onnx_stream import data_path
from gpt2fast.export.standard import MAX_OPSET, MIN_OPSET, StandardOptions, build_standard_model, export_onnx
from support.checkpoint_samples import small_config
from support.zoo_samples import random_checkpoint, run

_TOLERANCE = 1e-5


def _ids(shape: tuple[int, ...], vocab_size: int = 101) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(5).integers(0, vocab_size, shape)


def _reference(
    checkpoint: Checkpoint, ids: np.ndarray[Any, Any], head: str = "lm"
) -> tuple[np.ndarray[Any, Any], list[np.ndarray[Any, Any]]]:
    hidden, past = reference.forward(checkpoint, ids)
    first = reference.logits(checkpoint, hidden) if head == "lm" else hidden
    return first, [layer.astype(np.float32) for layer in past]


def _assert_close(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= _TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("opset", range(MIN_OPSET, MAX_OPSET + 1))
def test_every_opset_is_valid_and_gives_the_reference_scores(tmp_path: Path, opset: int) -> None:
    checkpoint, path = random_checkpoint(), tmp_path / "model.onnx"
    export_onnx(checkpoint, path, StandardOptions(opset=opset, past=True))
    onnx.checker.check_model(path, full_check=True)
    ids = _ids((2, 9))
    scores, past = _reference(checkpoint, ids)
    feeds = {"input_ids": ids[:, 4:]}
    feeds |= {f"past.{i}": layer[:, :, :, :4] for i, layer in enumerate(past)}
    outputs = run(path, feeds)
    _assert_close(outputs["logits"], scores[:, 4:])
    for i, layer in enumerate(past):
        _assert_close(outputs[f"present.{i}"], layer)


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu", "relu"])
def test_every_activation(tmp_path: Path, activation: str) -> None:
    checkpoint, path = random_checkpoint(activation_function=activation), tmp_path / "model.onnx"
    export_onnx(checkpoint, path, StandardOptions(head="hidden"))
    hidden, _ = _reference(checkpoint, _ids((1, 7)), "hidden")
    _assert_close(run(path, {"input_ids": _ids((1, 7))})["last_hidden_state"], hidden)


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": False},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"n_inner": 72, "layer_norm_epsilon": 1e-3},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize("opset", [10, 17])
def test_every_convention_of_the_configuration(tmp_path: Path, changes: dict[str, Any], opset: int) -> None:
    checkpoint, path = random_checkpoint(**changes), tmp_path / "model.onnx"
    export_onnx(checkpoint, path, StandardOptions(opset=opset))
    scores, _ = _reference(checkpoint, _ids((1, 7)))
    _assert_close(run(path, {"input_ids": _ids((1, 7))})["logits"], scores)


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("head", ["hidden", "lm"])
def test_zoo_layout_has_the_zoos_names_and_shapes(tmp_path: Path, head: str, past: bool) -> None:
    checkpoint, path = random_checkpoint(), tmp_path / "model.onnx"
    export_onnx(checkpoint, path, StandardOptions(head=head, past=past, opset=10, layout="zoo"))
    ids = _ids((2, 3, 9))
    expected, pasts = _reference(checkpoint, ids.reshape(6, 9), head)
    earlier = 4 if past else 0
    feeds = {"input1": ids[..., earlier:]}
    if past:
        feeds |= {f"input{i + 2}": layer[:, :, :, :4] for i, layer in enumerate(pasts)}
    outputs = run(path, feeds)
    assert list(outputs) == ["output1", "output2", "output3"]
    _assert_close(outputs["output1"], expected.reshape(2, 3, 9, -1)[:, :, earlier:])
    for i, layer in enumerate(pasts):
        assert layer.shape == (2, 6, 4, 9, 16)
        _assert_close(outputs[f"output{i + 2}"], layer)


def test_an_empty_past_equals_no_past(tmp_path: Path) -> None:
    checkpoint, path = random_checkpoint(), tmp_path / "model.onnx"
    export_onnx(checkpoint, path, StandardOptions(head="hidden", past=True))
    empty = np.zeros((2, 1, 4, 0, 16), np.float32)
    outputs = run(path, {"input_ids": _ids((1, 24)), "past.0": empty, "past.1": empty})
    _assert_close(outputs["last_hidden_state"], _reference(checkpoint, _ids((1, 24)), "hidden")[0])


@pytest.mark.parametrize("past_tokens", [0, 20])
def test_more_tokens_than_positions_are_refused(tmp_path: Path, past_tokens: int) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(), path, StandardOptions(past=True))
    past = np.zeros((2, 1, 4, past_tokens, 16), np.float32)
    with pytest.raises(Exception, match=r"out of bounds|out of data bounds|indices element"):
        run(path, {"input_ids": _ids((1, 25 - past_tokens)), "past.0": past, "past.1": past})


@pytest.mark.parity
@pytest.mark.parametrize("opset", [10, 17, MAX_OPSET])
def test_equals_transformers(tmp_path: Path, opset: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    checkpoint, path = random_checkpoint(), tmp_path / "model.onnx"
    export_onnx(checkpoint, path, StandardOptions(opset=opset))
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**checkpoint.config.to_dict())).eval()
    state = {f"transformer.{name}": torch.from_numpy(t.read()) for name, t in checkpoint.tensors.items()}
    model.load_state_dict({**state, "lm_head.weight": state["transformer.wte.weight"]})
    with torch.no_grad():
        expected = model(torch.from_numpy(_ids((2, 24))), use_cache=True)
    outputs = run(path, {"input_ids": _ids((2, 24))})
    _assert_close(outputs["logits"], expected.logits.numpy())
    for i, layer in enumerate(expected.past_key_values.layers):
        _assert_close(outputs[f"present.{i}"], np.stack([layer.keys.numpy(), layer.values.numpy()]))


def test_tied_head_is_stored_once(tmp_path: Path) -> None:
    checkpoint, path = random_checkpoint(), tmp_path / "model.onnx"
    export_onnx(checkpoint, path)
    weights = sum(4 * np.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    assert weights < path.stat().st_size < weights + 32_000
    assert {one.name for one in onnx.load(path).graph.initializer} >= set(checkpoint.tensors)


def test_hidden_head_leaves_out_an_untied_table(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(random_checkpoint(tie_word_embeddings=False), path, StandardOptions(head="hidden"))
    assert "lm_head.weight" not in {one.name for one in onnx.load(path).graph.initializer}


def test_streamed_file_is_what_onnx_would_write(tmp_path: Path) -> None:
    checkpoint, path, options = random_checkpoint(), tmp_path / "model.onnx", StandardOptions()
    export_onnx(checkpoint, path, options)
    expected = build_standard_model(checkpoint.config, options)
    for name, tensor in checkpoint.tensors.items():
        expected.graph.initializer.append(onnx.numpy_helper.from_array(tensor.read(), name))
    assert onnx.load(path) == expected


def test_external_data_gives_the_same_results(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside.onnx", tmp_path / "outside.onnx"
    assert export_onnx(random_checkpoint(), inside) == [inside]
    written = export_onnx(random_checkpoint(), outside, external_data=True)
    assert written == [outside, data_path(outside)]
    assert outside.stat().st_size < 32_000
    onnx.checker.check_model(outside, full_check=True)
    feeds = {"input_ids": _ids((2, 8))}
    first, second = run(inside, feeds), run(outside, feeds)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_above_protobufs_limit_the_weights_are_external(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    monkeypatch.setattr(onnx_stream, "MAX_PROTOBUF_BYTES", 1_200_000)
    assert export_onnx(random_checkpoint(), path) == [path, data_path(path)]


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    config = small_config(n_layer=40, n_embd=128)

    def tensor(shape: tuple[int, ...]) -> LazyTensor:
        return LazyTensor(shape, lambda start, stop: np.ones((stop - start, *shape[1:]), np.float32))

    rows = {name: tensor(shape) for name, shape in expected_shapes(config)}
    checkpoint = Checkpoint.checked(config, rows, source="ones", fingerprint="0")
    tracemalloc.start()
    try:
        export_onnx(checkpoint, tmp_path / "model.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = (tmp_path / "model.onnx").stat().st_size
    assert size > 30_000_000
    assert peak < size // 10


def test_existing_files_are_kept_unless_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        export_onnx(random_checkpoint(), path)
    assert path.read_bytes() == b"mine"
    export_onnx(random_checkpoint(), path, overwrite=True, external_data=True)
    export_onnx(random_checkpoint(), path, overwrite=True)
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("external_data", [False, True])
def test_failure_leaves_no_files(tmp_path: Path, external_data: bool) -> None:
    checkpoint = random_checkpoint()

    def fail(start: int, stop: int) -> Any:
        raise OSError("the disk is gone")

    broken = {**checkpoint.tensors, "ln_f.bias": LazyTensor((64,), fail)}
    checkpoint = Checkpoint.checked(checkpoint.config, broken, source="broken", fingerprint="0")
    with pytest.raises(OSError, match="the disk is gone"):
        export_onnx(checkpoint, tmp_path / "model.onnx", external_data=external_data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "double"}, "head must be one of 'lm', 'hidden', got 'double'"),
        ({"layout": "torch"}, "layout must be one of 'gpt2fast', 'zoo', got 'torch'"),
        ({"opset": 9}, f"opset must be from 10 to {MAX_OPSET}, got 9"),
        ({"opset": MAX_OPSET + 1}, f"opset must be from 10 to {MAX_OPSET}, got {MAX_OPSET + 1}"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StandardOptions(**options)


def test_dynamic_axes_have_names(tmp_path: Path) -> None:
    model = build_standard_model(small_config(), StandardOptions(past=True))

    def shapes(values: Any) -> dict[str, list[str | int]]:
        return {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in values
        }

    past, present = ["past_tokens", 16], ["total_tokens", 16]
    assert shapes(model.graph.input) == {
        "input_ids": ["batch", "tokens"],
        "past.0": [2, "batch", 4, *past],
        "past.1": [2, "batch", 4, *past],
    }
    assert shapes(model.graph.output) == {
        "logits": ["batch", "tokens", 101],
        "present.0": [2, "batch", 4, *present],
        "present.1": [2, "batch", 4, *present],
    }
