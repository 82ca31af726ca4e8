"""Evaluation on real models: the same numbers as transformers with the same protocol, and published ones."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from gpt2fast import GPT2
from gpt2fast.evaluation import (
    PerplexitySettings,
    lambada,
    language_model,
    multiple_choice,
    perplexity,
)
from gpt2fast.evaluation.multiple_choice import Question
from support.goldens import EMBEDDED

TEXT = (
    "Once upon a time there lived a king who had three daughters. The eldest was proud; the second was vain, "
    "and the youngest — the fairest of them all — was kind. One day an old woman came to the gate and asked "
    "for bread. "
) * 12


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(precision="fp32")


def test_lambada_finds_the_models_own_continuation(model: GPT2) -> None:
    own = ["Once upon a time", "The king's daughter", "In the middle of the"]
    texts = []
    for prompt in own:
        text = prompt + model.generate(prompt, max_new_tokens=12, temperature=0).text
        texts.append(text[: text.rindex(" ")])
    assert lambada(language_model(model), model.tokenizer, texts).accuracy == 1.0
    assert (
        lambada(language_model(model), model.tokenizer, [f"{prompt} zebra" for prompt in own]).accuracy == 0.0
    )


@pytest.mark.parity
@pytest.mark.parametrize(("window", "stride"), [(512, 256), (100, 37), (64, 64)])
def test_perplexity_equals_transformers(model: GPT2, embedded_dir: Path, window: int, stride: int) -> None:
    """The strided protocol, with labels of -100 for tokens that an earlier window scored."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    other = transformers.GPT2LMHeadModel.from_pretrained(embedded_dir, dtype=torch.float32).eval()
    ids = torch.tensor([model.tokenizer.encode(TEXT)])
    losses, scored, end = [], 0, 0
    for start in range(0, ids.shape[1], stride):
        stop = min(start + window, ids.shape[1])
        inputs = ids[:, start:stop]
        labels = inputs.clone()
        labels[:, : -(stop - end)] = -100
        count = int((labels[:, 1:] != -100).sum())
        if count:
            with torch.no_grad():
                losses.append(float(other(inputs, labels=labels).loss) * count)
        scored, end = scored + count, stop
        if stop == ids.shape[1]:
            break
    settings = PerplexitySettings(window=window, stride=stride)
    result = perplexity(language_model(model), model.tokenizer, TEXT, settings)
    assert result.scored_tokens == scored
    assert result.loss == pytest.approx(sum(losses) / scored, rel=1e-5)


@pytest.mark.parity
def test_lambada_and_choice_equal_transformers(model: GPT2, embedded_dir: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    other = transformers.GPT2LMHeadModel.from_pretrained(embedded_dir, dtype=torch.float32).eval()

    def log_probabilities(prompt: str, word: str) -> tuple[float, bool]:
        first = len(model.tokenizer.encode(prompt))
        ids = torch.tensor([model.tokenizer.encode(f"{prompt} {word}")])
        with torch.no_grad():
            scores = other(ids).logits[0, first - 1 : -1].log_softmax(-1)
        target = ids[0, first:]
        total = float(scores.gather(1, target[:, None]).sum())
        return total, bool((scores.argmax(-1) == target).all())

    prompts = ["Once upon a", "The king and the", "She said to her"]
    words = ["time", "queen", "father", "Rumpelstiltskin"]
    pairs = [(prompt, word) for prompt in prompts for word in words]
    found = [log_probabilities(prompt, word) for prompt, word in pairs]
    result = lambada(language_model(model), model.tokenizer, [f"{prompt} {word}" for prompt, word in pairs])
    assert result.accuracy == sum(right for _, right in found) / len(pairs)
    assert math.log(result.perplexity) == pytest.approx(-np.mean([total for total, _ in found]), rel=1e-5)
    best = [int(np.argmax([total for total, _ in found[i : i + 4]])) for i in range(0, 12, 4)]
    questions = [Question(prompt, tuple(words), answer) for prompt, answer in zip(prompts, best, strict=True)]
    assert multiple_choice(language_model(model), model.tokenizer, questions).accuracy == 1.0


def test_embedded_model_on_its_own_protocol(model: GPT2) -> None:
    """The loss is what the training code measures."""
    text = (Path(__file__).parents[2] / "goldens" / "stories.txt").read_text("utf-8")
    window, expected = EMBEDDED["training_loss"]["window"], EMBEDDED["training_loss"]["loss"]
    # A chapter that follows an end of text begins one document there, not two.
    settings = PerplexitySettings(window, window, r"<\|endoftext\|>\n|\n(?=CHAPTER )", drop_last=True)
    result = perplexity(language_model(model), model.tokenizer, text, settings)
    assert result.scored_tokens == result.tokens // window * (window - 1)
    assert result.loss == pytest.approx(expected, abs=1e-4)


@pytest.mark.real_weights
@pytest.mark.parametrize("number", range(3))
def test_real_weights_give_the_published_scores(number: int) -> None:
    path = os.environ.get("GPT2FAST_REAL_WEIGHTS")
    if not path:
        pytest.skip("GPT2FAST_REAL_WEIGHTS names no checkpoint of GPT-2 124M")
    golden = Path(__file__).parents[2] / "goldens" / "gpt2_reference_logits.json"
    case = json.loads(golden.read_text("utf-8"))[number]
    model = GPT2.from_pretrained(path, precision="fp32")
    if model.has_tokenizer:
        assert model.tokenizer.encode(case["prompt"]) == case["token_ids"]
    scores = model.logits(np.array(case["token_ids"]), rows=-1)[0, 0]
    np.testing.assert_allclose(scores[case["top_ids"]], case["top_logits"], atol=0.02)
    np.testing.assert_allclose(np.logaddexp.reduce(scores.astype(np.float64)), case["logsumexp"], atol=0.02)
    assert set(np.argsort(-scores)[:10].tolist()) <= set(case["top_ids"])
