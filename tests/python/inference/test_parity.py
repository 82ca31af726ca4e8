"""Equality with torch and transformers, over shapes, lengths, pasts and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2
from support.random_models import (
    SHAPES,
    SIZES,
    random_ids,
    relative_error,
    write_random_checkpoint,
    write_shape,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

# Every relative error below is over whole arrays of logits or hidden states.
FP32 = 1e-4
TOLERANCES = {"fp32": FP32, "bf16": 2e-2, "int8": 5e-2, "int4": 2e-1, "int4-all": 3e-1}


class Pair:
    """Our model and transformers' with the same weights."""

    def __init__(self, directory: Path, precision: str = "fp32") -> None:
        self.ours = GPT2.from_pretrained(directory, precision=precision)
        self.theirs = transformers.GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()

    def reference(self, ids: Any) -> tuple[Any, Any]:
        """Logits [batch, tokens, vocabulary] and last hidden states [batch, tokens, width]."""
        out = self._run(ids)
        return out.logits.numpy(), out.hidden_states[-1].numpy()

    def hidden_states(self, ids: Any) -> list[Any]:
        """Those of all layers [batch, tokens, width]."""
        return [one.numpy() for one in self._run(ids).hidden_states]

    def _run(self, ids: Any) -> Any:
        with torch.no_grad():
            return self.theirs(torch.tensor(np.asarray(ids, np.int64)), output_hidden_states=True)

    def greedy(self, ids: Any, tokens: int) -> list[int]:
        """The reference's greedy continuation."""
        prompt = torch.tensor(np.asarray(ids, np.int64)[None])
        with torch.no_grad():
            out = self.theirs.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        return out[0, prompt.shape[1] :].tolist()


@pytest.fixture(scope="module")
def embedded(embedded_dir: Path) -> Pair:
    return Pair(embedded_dir)


@pytest.fixture(scope="module", params=sorted(SHAPES))
def random_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(write_shape(tmp_path_factory.mktemp("shape") / request.param, request.param))


@pytest.fixture(scope="module")
def gpt2_sized(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """GPT-2 124M's shape with two of its twelve layers; the others have the same shape."""
    sizes = SIZES["124M"] | {"n_layer": 2}
    return Pair(write_random_checkpoint(tmp_path_factory.mktemp("gpt2") / "model", sizes))


@pytest.mark.parametrize("tokens", [1, 2, 17, 512])
def test_embedded_logits(embedded: Pair, tokens: int) -> None:
    ids = random_ids(embedded.ours, 2, tokens, seed=tokens)
    logits, hidden = embedded.reference(ids)
    assert relative_error(embedded.ours.logits(ids), logits) < FP32
    assert relative_error(embedded.ours.forward(ids)[0], hidden) < FP32


@pytest.mark.parametrize("tokens", [1, 2, 17, 512, 1024])
def test_gpt2_sized_logits(gpt2_sized: Pair, tokens: int) -> None:
    ids = random_ids(gpt2_sized.ours, 1, tokens, seed=tokens)
    rows = list(range(max(0, tokens - 24), tokens))
    logits, hidden = gpt2_sized.reference(ids)
    assert relative_error(gpt2_sized.ours.logits(ids, rows=rows), logits[:, rows]) < FP32
    assert relative_error(gpt2_sized.ours.forward(ids)[0], hidden) < FP32


def test_random_shapes(random_pair: Pair) -> None:
    for tokens in (1, 2, 17, random_pair.ours.config.n_positions):
        ids = random_ids(random_pair.ours, 3, tokens, seed=tokens)
        logits, hidden = random_pair.reference(ids)
        assert relative_error(random_pair.ours.logits(ids), logits) < FP32
        assert relative_error(random_pair.ours.forward(ids)[0], hidden) < FP32
        layers = random_pair.ours.forward(ids, output_hidden_states=True).hidden_states
        for ours, theirs in zip(layers, random_pair.hidden_states(ids), strict=True):
            assert relative_error(ours, theirs) < FP32


def test_past_is_that_of_the_reference(random_pair: Pair) -> None:
    ids = random_ids(random_pair.ours, 2, 30)
    with torch.no_grad():
        cache = random_pair.theirs(torch.tensor(ids.astype(np.int64)), use_cache=True).past_key_values
    _, first = random_pair.ours.forward(ids[:, :11])
    hidden, past = random_pair.ours.forward(ids[:, 11:], past=first)
    assert relative_error(hidden, random_pair.reference(ids)[1][:, 11:]) < FP32
    for layer, ours in enumerate(past):
        expected = np.stack([cache.layers[layer].keys.numpy(), cache.layers[layer].values.numpy()])
        assert ours.shape == expected.shape
        assert relative_error(ours, expected) < FP32


def test_greedy_text_in_a_ragged_batch(embedded: Pair) -> None:
    prompts = [random_ids(embedded.ours, n, seed=n) for n in (1, 5, 40, 200)]
    ours = embedded.ours.generate(prompts, max_new_tokens=200, eos_token_id=[])
    for prompt, out in zip(prompts, ours, strict=True):
        assert list(out.token_ids) == embedded.greedy(prompt, 200)


def test_greedy_text_of_random_models(random_pair: Pair) -> None:
    tokens = min(200, random_pair.ours.config.n_positions - 6)
    prompt = random_ids(random_pair.ours, 6)
    ours = random_pair.ours.generate(prompt, max_new_tokens=tokens, eos_token_id=[])
    assert list(ours.token_ids) == random_pair.greedy(prompt, tokens)


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4", "int4-all"])
def test_quantised_logits_stay_near(embedded_dir: Path, precision: str) -> None:
    pair = Pair(embedded_dir, precision)
    ids = random_ids(pair.ours, 2, 64)
    assert relative_error(pair.ours.logits(ids), pair.reference(ids)[0]) < TOLERANCES[precision]
