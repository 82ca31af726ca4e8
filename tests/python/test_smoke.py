"""The minimum that must work: the embedded model in every precision, from its first use."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2fast import GPT2
from gpt2fast.storage.model_directory import PRECISIONS
from support.goldens import EMBEDDED


@pytest.mark.parametrize("case", EMBEDDED["greedy"], ids=lambda case: case["prompt"][:20])
def test_greedy_tokens_equal_the_reference(case: dict[str, object]) -> None:
    model = GPT2.from_pretrained(precision="fp32")
    out = model.generate(case["prompt"], max_new_tokens=200, eos_token_id=[])
    assert list(out.token_ids) == case["token_ids"]


@pytest.mark.parametrize("case", EMBEDDED["logits"], ids=lambda case: str(len(case["token_ids"])))
def test_logits_equal_the_reference(case: dict[str, list[float]]) -> None:
    model = GPT2.from_pretrained(precision="fp32")
    logits = model.logits(np.array(case["token_ids"], np.int32), rows=-1)[0, 0]
    np.testing.assert_allclose(logits[case["ids"]], case["values"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_same_seed_same_text(precision: str) -> None:
    model = GPT2.from_pretrained(precision=precision)
    first = model.generate("Once upon a time", max_new_tokens=30, temperature=0.8, seed=7)
    again = model.generate("Once upon a time", max_new_tokens=30, temperature=0.8, seed=7)
    other = model.generate("Once upon a time", max_new_tokens=30, temperature=0.8, seed=8)
    assert first.text
    assert first.token_ids == again.token_ids
    assert first.text != other.text
