"""The Zoo's GPT-2, as PyTorch exports it: its test data verified, and the same answers from our engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2
from gpt2fast.export.verify import verify_model
from support.checkpoint_samples import random_tensors, small_config
from support.huggingface_samples import write_vocabulary

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

CONFIG = small_config()
IDS = np.random.default_rng(5).integers(0, CONFIG.vocab_size, (2, 9))


@pytest.fixture(scope="module", params=[False, True], ids=["hidden", "lm-head"])
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A file of opset 10 with a test data set beside it, and the model it was made from."""
    from onnx import numpy_helper

    from support.zoo_torch_model import zoo_model

    directory = tmp_path_factory.mktemp("zoo")
    path = directory / "gpt2-10.onnx"
    model = zoo_model(CONFIG, random_tensors(CONFIG), with_head=request.param)
    ids = torch.from_numpy(IDS[:, None, :])
    axes = {"input1": [0, 1, 2]}
    torch.onnx.export(
        model, (ids,), path, dynamo=False, opset_version=10, input_names=["input1"], dynamic_axes=axes
    )
    with torch.no_grad():
        outputs = model(ids)
    data = directory / "test_data_set_0"
    data.mkdir()
    named = {"input_0": ids, **{f"output_{i}": output for i, output in enumerate(outputs)}}
    for name, values in named.items():
        (data / f"{name}.pb").write_bytes(numpy_helper.from_array(values.numpy()).SerializeToString())
    write_vocabulary(directory, CONFIG.vocab_size)
    return path, model


def test_its_test_data_verifies(zoo: tuple[Path, Any]) -> None:
    differences = verify_model(zoo[0])
    assert len(differences) == 1 + CONFIG.n_layer
    assert all(difference.passed for difference in differences)


def test_the_engine_gives_the_same_hidden_states_and_past(zoo: tuple[Path, Any]) -> None:
    path, model = zoo
    with torch.no_grad():
        first, *presents = model(torch.from_numpy(IDS[:, None, :]))
    engine = GPT2.from_pretrained(path, precision="fp32")
    hidden, past = engine.forward(IDS)
    found = engine.logits(IDS) if model.with_head else hidden
    np.testing.assert_allclose(found, first[:, 0].numpy(), rtol=1e-4, atol=1e-4)
    for layer, wanted in zip(past, presents, strict=True):
        np.testing.assert_allclose(np.asarray(layer), wanted.numpy(), rtol=1e-4, atol=1e-4)


def test_the_engine_writes_the_same_text(zoo: tuple[Path, Any]) -> None:
    path, model = zoo
    engine = GPT2.from_pretrained(path, precision="fp32")
    prompt = "ABC!"
    ids = engine.tokenizer.encode(prompt)
    wanted = list(ids)
    for _ in range(12):
        with torch.no_grad():
            last = model(torch.tensor(wanted)[None, None])[0][0, 0, -1]
        scores = last if model.with_head else model.wte.weight @ last
        wanted.append(int(scores.argmax()))
    result = engine.generate(prompt, max_new_tokens=12, temperature=0, eos_token_id=[])
    assert list(result.token_ids) == wanted[len(ids) :]
    assert result.text == engine.tokenizer.decode(wanted[len(ids) :])
