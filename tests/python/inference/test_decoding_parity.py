"""Every decoding option that transformers has too: the same tokens, distributions and frequencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpt2fast import GPT2
from gpt2fast._native import core
from support.random_models import random_ids, write_shape

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.generation import logits_process as theirs  # noqa: E402 - optional, as above

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
# Small models gain nothing from several threads, and lose much when cores are shared.
torch.set_num_threads(1)

STEPS = 44


class Pair:
    """Our model and transformers' with the same weights, and prompts for both."""

    def __init__(self, directory: Path) -> None:
        self.ours = GPT2.from_pretrained(directory, precision="fp32")
        self.theirs = transformers.GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
        self.prompts = [random_ids(self.ours, length, seed=length) for length in (1, 9)]
        if self.ours.has_tokenizer:
            self.prompts[1] = np.array(self.ours.tokenizer.encode("Once upon a time there was"), np.int32)

    def reference(self, prompt: NDArray[np.int32], **options: Any) -> Any:
        """What transformers generates: greedily and without an end token unless ``options`` say otherwise."""
        ids = torch.tensor(prompt[None].astype(np.int64))
        settings = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
        with torch.no_grad():
            return self.theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                return_dict_in_generate=True,
                output_scores=True,
                **settings,
            )

    def greedy(self, prompt: NDArray[np.int32], **options: Any) -> list[int]:
        """The tokens after the prompt."""
        found = self.reference(prompt, max_new_tokens=STEPS, **options)
        return found.sequences[0, len(prompt) :].tolist()

    def usual_tokens(self, prompt: NDArray[np.int32]) -> list[int]:
        """Tokens that really occur in the output, so that an option about tokens changes something."""
        return self.ours.generate(prompt, max_new_tokens=STEPS, eos_token_id=[]).token_ids


@pytest.fixture(scope="module", params=["embedded", "deep", "many_small_heads"])
def pair(
    request: pytest.FixtureRequest, embedded_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    if request.param == "embedded":
        return Pair(embedded_dir)
    return Pair(write_shape(tmp_path_factory.mktemp("shape") / request.param, request.param))


@pytest.fixture(scope="module")
def embedded(embedded_dir: Path) -> Pair:
    return Pair(embedded_dir)


def with_eos(tokens: list[int], eos: list[int]) -> list[int]:
    """The tokens up to and including the first that ends a text; transformers pads after it."""
    ends = [place for place, token in enumerate(tokens) if token in eos]
    return tokens[: ends[0] + 1] if ends else tokens


# Name -> (our options, transformers' options), made from tokens of the plain output.
GREEDY: dict[str, Any] = {
    "plain": lambda usual: ({}, {}),
    "repetition_penalty": lambda usual: ({"repetition_penalty": 1.3},) * 2,
    "repetition_penalty_below_1": lambda usual: ({"repetition_penalty": 0.8},) * 2,
    "no_repeat_ngram_size_1": lambda usual: ({"no_repeat_ngram_size": 1},) * 2,
    "no_repeat_ngram_size_3": lambda usual: ({"no_repeat_ngram_size": 3},) * 2,
    "suppress_tokens": lambda usual: ({"suppress_tokens": usual[:9:3]},) * 2,
    "bad_words": lambda usual: (
        {"bad_words": [[usual[0]], usual[2:4], usual[4:7]]},
        {"bad_words_ids": [[usual[0]], usual[2:4], usual[4:7]]},
    ),
    "logit_bias": lambda usual: (
        {"logit_bias": {usual[0]: -2.0, usual[5]: 0.7}},
        {"sequence_bias": {(usual[0],): -2.0, (usual[5],): 0.7}},
    ),
    "eos_token_id": lambda usual: ({"eos_token_id": usual[20]},) * 2,
    "several_eos_token_ids": lambda usual: ({"eos_token_id": [usual[30], usual[12]]},) * 2,
    "min_new_tokens": lambda usual: ({"eos_token_id": usual[8], "min_new_tokens": 25},) * 2,
    "all_at_once": lambda usual: (
        {
            "repetition_penalty": 1.2,
            "no_repeat_ngram_size": 2,
            "suppress_tokens": usual[3:5],
            "bad_words": [usual[:2]],
        },
        {
            "repetition_penalty": 1.2,
            "no_repeat_ngram_size": 2,
            "suppress_tokens": usual[3:5],
            "bad_words_ids": [usual[:2]],
        },
    ),
}


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_tokens(pair: Pair, name: str) -> None:
    for prompt in pair.prompts:
        ours, other = GREEDY[name](pair.usual_tokens(prompt))
        found = pair.ours.generate(prompt, max_new_tokens=STEPS, **{"eos_token_id": [], **ours})
        expected = pair.greedy(prompt, **other)
        ends = ours.get("eos_token_id", [])
        assert found.token_ids == with_eos(expected, ends if isinstance(ends, list) else [ends])


def test_a_forced_prefix_is_continued_as_if_it_were_prompt(pair: Pair) -> None:
    for prompt in pair.prompts:
        forced = random_ids(pair.ours, 3, seed=5)
        found = pair.ours.generate(
            prompt, max_new_tokens=STEPS, forced_prefix=forced.tolist(), eos_token_id=[]
        )
        expected = pair.greedy(np.concatenate([prompt, forced]))
        assert found.token_ids == (forced.tolist() + expected)[:STEPS]


BEAMS: list[dict[str, Any]] = [
    {"num_beams": 2},
    {"num_beams": 4, "num_return_sequences": 4},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0},
    {"num_beams": 4, "num_return_sequences": 3, "length_penalty": -1.0},
    {"num_beams": 5, "num_return_sequences": 5, "length_penalty": 2.0, "early_stopping": "never"},
    {"num_beams": 4, "early_stopping": True},
    {"num_beams": 4, "early_stopping": "never", "num_return_sequences": 4},
    {"num_beams": 3, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "num_return_sequences": 3},
    {"num_beams": 3, "min_new_tokens": 12, "num_return_sequences": 3},
]


@pytest.mark.parametrize("ends", [False, True], ids=["to the limit", "with ends"])
@pytest.mark.parametrize("options", BEAMS, ids=str)
def test_beam_search(pair: Pair, options: dict[str, Any], ends: bool) -> None:
    prompt = pair.prompts[-1]
    usual = pair.usual_tokens(prompt)
    eos = [usual[6], usual[2]] if ends else []
    expected = pair.reference(prompt, max_new_tokens=24, **options, eos_token_id=eos or None)
    given = {"num_return_sequences": 1, **options}
    found = pair.ours.generate(prompt, max_new_tokens=24, eos_token_id=eos, **given)
    sequences = [with_eos(one, eos) for one in expected.sequences[:, len(prompt) :].tolist()]
    assert [one.token_ids for one in found] == sequences
    assert [one.finish_reason == "eos" for one in found] == [one[-1] in eos for one in sequences]
    np.testing.assert_allclose([one.score for one in found], expected.sequences_scores.numpy(), rtol=1e-4)


@pytest.mark.parametrize("options", [BEAMS[1], BEAMS[4], BEAMS[5], BEAMS[7]], ids=str)
def test_beam_search_with_stop_strings(embedded_dir: Path, embedded: Pair, options: dict[str, Any]) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_dir)
    prompt = embedded.prompts[-1]
    given = {"num_return_sequences": 1, **options, "max_new_tokens": 24}
    ended = set()
    for stop in (["e ", ". "], ["the"], ["\n", " a"], ["a", "e", "i", "o", "u"]):
        expected = embedded.reference(
            prompt, **given, stop_strings=stop, tokenizer=tokenizer, output_logits=True
        )
        found = embedded.ours.generate(prompt, **given, eos_token_id=[], stop_strings=stop, logprobs=0)
        lengths = (expected.beam_indices >= 0).sum(1).tolist()
        rows = expected.sequences[:, len(prompt) :].tolist()
        assert [one.token_ids for one in found] == [
            row[:length] for row, length in zip(rows, lengths, strict=True)
        ]
        # Sums of log-probabilities, whose errors do not shrink with them.
        np.testing.assert_allclose([one.score for one in found], expected.sequences_scores.numpy(), atol=1e-4)
        for one, beams in zip(found, expected.beam_indices.tolist(), strict=True):
            assert one.logprobs is not None
            theirs = [
                float(expected.logits[place][beams[place]].log_softmax(-1)[token])
                for place, token in enumerate(one.token_ids)
            ]
            np.testing.assert_allclose(one.logprobs.chosen, theirs, atol=1e-4)
        ended |= {one.finish_reason for one in found}
    assert "stop" in ended


def processed(
    logits: NDArray[np.float32], prompt: Any, output: Any, options: dict[str, Any], dtype: Any
) -> Any:
    """transformers' distribution: its processors and warpers in its order."""
    eos = options["eos_token_ids"]
    sampled = options["do_sample"]
    table = [
        ("logit_bias", True, lambda v: theirs.SequenceBiasLogitsProcessor({(t,): b for t, b in v})),
        ("repetition_penalty", True, theirs.RepetitionPenaltyLogitsProcessor),
        ("no_repeat_ngram_size", True, theirs.NoRepeatNGramLogitsProcessor),
        ("bad_words", True, lambda v: theirs.NoBadWordsLogitsProcessor(v, eos)),
        ("min_new_tokens", True, lambda v: theirs.MinNewTokensLengthLogitsProcessor(len(prompt), v, eos)),
        ("suppress_tokens", True, theirs.SuppressTokensLogitsProcessor),
        ("temperature", sampled, theirs.TemperatureLogitsWarper),
        ("top_k", sampled, theirs.TopKLogitsWarper),
        ("top_p", sampled, theirs.TopPLogitsWarper),
        ("min_p", sampled, theirs.MinPLogitsWarper),
        ("typical_p", sampled, theirs.TypicalLogitsWarper),
    ]
    ids = torch.tensor(np.concatenate([prompt, output])[None].astype(np.int64))
    scores = torch.tensor(logits, dtype=dtype)[None]
    for name, applies, make in table:
        if applies and options.get(name):
            scores = make(options[name])(ids, scores)
    return scores.softmax(-1)[0].numpy()


def random_options(rng: np.random.Generator, vocabulary: int) -> dict[str, Any]:
    """Some options, each with a value that does something."""
    tokens = rng.integers(0, min(vocabulary, 12), (6, 3)).tolist()
    values: dict[str, Any] = {
        "temperature": float(rng.choice([0.1, 0.7, 1.3, 3.0])),
        "top_k": int(rng.choice([1, 2, 5, 50, 1500])),
        "top_p": float(rng.choice([0.01, 0.3, 0.9, 0.99])),
        "min_p": float(rng.choice([0.01, 0.3, 1.0])),
        "typical_p": float(rng.choice([0.1, 0.5, 0.95])),
        "repetition_penalty": float(rng.choice([0.7, 1.2, 2.0])),
        "no_repeat_ngram_size": int(rng.integers(1, 5)),
        "bad_words": [word[: rng.integers(1, 4)] for word in tokens[:4]],
        "min_new_tokens": int(rng.integers(1, 30)),
        "suppress_tokens": rng.choice(vocabulary, 2, replace=False).tolist(),
        "logit_bias": [(int(t), float(rng.normal() * 4)) for t in rng.choice(vocabulary, 4, replace=False)],
    }
    chosen = {name: value for name, value in values.items() if rng.random() < 0.35}
    return chosen | {
        "do_sample": bool(rng.random() < 0.8),
        "eos_token_ids": rng.choice(vocabulary, 2, replace=False).tolist(),
    }


def ours(
    logits: NDArray[np.float32], prompt: Any, output: Any, options: dict[str, Any]
) -> NDArray[np.float32]:
    request = core.Request(prompt.astype(np.int32))
    shared = core.GenerationOptions()
    for name, value in options.items():
        setattr(shared, name, value)
    return core.next_token_distribution(request, shared, output.astype(np.int32), logits)


def assert_equal_distributions(
    logits: NDArray[np.float32], prompt: Any, output: Any, options: dict[str, Any]
) -> None:
    found = ours(logits, prompt, output, options)
    if np.isnan(processed(logits, prompt, output, options, torch.float64)).any():
        assert not found.any()  # every token is forbidden
        return
    # If a sum of probabilities equals a limit, rounding decides; one precision or the other agrees.
    errors = [
        float(np.abs(found - processed(logits, prompt, output, options, dtype)).max())
        for dtype in (torch.float32, torch.float64)
    ]
    assert min(errors) <= 1e-5, options


@pytest.mark.parametrize("seed", range(120))
def test_processed_distributions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = int(rng.choice([7, 17, 100, 1000, 4096]))
    scale = float(rng.choice([0.3, 1.0, 3.0, 10.0]))
    logits = (rng.standard_normal(vocabulary) * scale - 20 * rng.random()).astype(np.float32)
    prompt = rng.integers(0, vocabulary if rng.random() < 0.5 else min(vocabulary, 8), rng.integers(1, 60))
    output = rng.integers(0, vocabulary if rng.random() < 0.5 else min(vocabulary, 8), rng.integers(0, 40))
    assert_equal_distributions(logits, prompt, output, random_options(rng, vocabulary))


SAMPLED: list[dict[str, Any]] = [
    {"do_sample": True},
    {"top_k": 0},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 7},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"typical_p": 0.7},
    {"temperature": 1.4, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.3},
]

#: The defaults of both libraries.
DEFAULTS: dict[str, Any] = {"do_sample": True, "eos_token_ids": [], "top_k": 50}


@pytest.mark.parametrize("options", SAMPLED, ids=str)
def test_distributions_of_the_models(pair: Pair, options: dict[str, Any]) -> None:
    given = {**DEFAULTS, **options}
    for prompt in pair.prompts:
        logits = pair.ours.logits(prompt, rows=-1)[0, 0]
        assert_equal_distributions(logits, prompt, prompt[:0], given)


@pytest.mark.parametrize("options", SAMPLED, ids=str)
def test_sampling_frequencies(pair: Pair, options: dict[str, Any]) -> None:
    """Chi-square over 2,000 draws; the seeds are fixed, so that the test does not depend on luck."""
    prompt, draws = pair.prompts[-1], 2000
    results = pair.ours.generate(
        prompt, max_new_tokens=1, num_return_sequences=draws, seed=1000, eos_token_id=[], **options
    )
    counts = np.bincount([one.token_ids[0] for one in results], minlength=pair.ours.config.vocab_size)
    logits = pair.ours.logits(prompt, rows=-1)[0, 0]
    given = {**DEFAULTS, **options}
    expected = processed(logits, prompt, prompt[:0], given, torch.float64) * draws
    assert not counts[expected == 0].any()
    frequent = expected >= 5
    rest = [expected[~frequent].sum()] if expected[~frequent].sum() >= 5 else []
    wanted = np.concatenate([expected[frequent], rest])
    found = np.concatenate([counts[frequent], [counts[~frequent].sum()] if rest else []])
    freedom = len(wanted) - 1
    if freedom == 0:
        return
    chi_square = float(((found - wanted) ** 2 / wanted).sum())
    # Wilson and Hilferty: the cube root is nearly normal. 4 deviations are exceeded once in 30,000 times.
    spread = 2 / (9 * freedom)
    assert abs((chi_square / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5 < 4
