"""generation_config.json: a model's own defaults, as in transformers; overridden by options; ignorable."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import GPT2, GenerationOptions
from gpt2fast.checkpoints import open_checkpoint
from gpt2fast.export.huggingface_writer import save_huggingface
from gpt2fast.inference.requests import choose_options
from support.random_models import write_shape

PROMPT = [5, 6, 7, 8]
Load = Callable[..., GPT2]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a small random model whose generation_config.json holds these values."""

    def call(values: dict[str, Any], **how: Any) -> GPT2:
        directory = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        write_shape(directory, "odd")
        (directory / "generation_config.json").write_text(json.dumps(values), "utf-8")
        return GPT2.from_pretrained(directory, precision="fp32", **how)

    return call


def ids(model: GPT2, **options: Any) -> list[int]:
    return model.generate(PROMPT, **options).token_ids


PLAIN: dict[str, Any] = {"generation_config": None, "eos_token_id": []}


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (
            {"repetition_penalty": 1.7, "max_new_tokens": 12},
            {"repetition_penalty": 1.7, "max_new_tokens": 12},
        ),
        ({"no_repeat_ngram_size": 1, "max_new_tokens": 9}, {"no_repeat_ngram_size": 1, "max_new_tokens": 9}),
        ({"max_length": 10}, {"max_new_tokens": 6}),
        ({"max_length": 10, "max_new_tokens": 3}, {"max_new_tokens": 3}),
        ({"num_beams": 3, "max_new_tokens": 6}, {"num_beams": 3, "max_new_tokens": 6}),
        ({"temperature": 0.5, "top_k": 7, "max_new_tokens": 6}, {"max_new_tokens": 6}),
        ({"num_return_sequences": 1, "max_new_tokens": 6}, {"max_new_tokens": 6}),
    ],
)
def test_the_file_gives_the_defaults(load: Load, values: dict[str, Any], options: dict[str, Any]) -> None:
    model = load(values)
    assert ids(model, eos_token_id=[]) == ids(model, **options, **PLAIN)


def test_suppressed_tokens(load: Load) -> None:
    first = ids(load({}), max_new_tokens=1)
    model = load({"suppress_tokens": first, "bad_words_ids": [[1, 2]], "sequence_bias": [[[3], -5.0]]})
    assert ids(model, max_new_tokens=1) != first
    assert model.generation_config == {
        "suppress_tokens": tuple(first),
        "bad_words": ((1, 2),),
        "logit_bias": {3: -5.0},
    }


def test_sampling(load: Load) -> None:
    model = load({"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.8, "max_new_tokens": 9})
    out = model.generate(PROMPT)
    assert out.seed is not None
    alike = {"temperature": 0.7, "top_k": 5, "top_p": 0.8, "seed": out.seed, "max_new_tokens": 9}
    assert model.generate(PROMPT, **alike, generation_config=None).token_ids == out.token_ids


@pytest.mark.parametrize("greedy", [{"do_sample": False}, {"temperature": 0}])
def test_the_caller_may_ask_for_the_best_token(load: Load, greedy: dict[str, Any]) -> None:
    model = load({"do_sample": True, "temperature": 0.7, "top_k": 5})
    assert ids(model, max_new_tokens=9, **greedy) == ids(model, max_new_tokens=9, generation_config=None)


def test_sampling_parameters_wait_for_sampling(load: Load) -> None:
    """As in transformers: without do_sample they have no effect, with it they do."""
    model = load({"temperature": 0.4, "max_new_tokens": 9})
    assert ids(model, seed=3) == ids(model, seed=3, temperature=0.4, **PLAIN, max_new_tokens=9)
    assert ids(model, seed=3) != ids(model, seed=3, temperature=4.0, **PLAIN, max_new_tokens=9)


def test_options_take_precedence(load: Load) -> None:
    model = load({"repetition_penalty": 1.7, "max_new_tokens": 4})
    plain = ids(model, max_new_tokens=12, **PLAIN)
    assert ids(model, max_new_tokens=12, repetition_penalty=1.0, eos_token_id=[]) == plain
    given = GenerationOptions(max_new_tokens=12, repetition_penalty=1.0, eos_token_id=[])
    assert model.generate(PROMPT, given).token_ids == plain
    assert model.generate(PROMPT, copy.deepcopy(given)).token_ids == plain
    assert model.generate(PROMPT, pickle.loads(pickle.dumps(given))).token_ids == plain
    penalised = GenerationOptions(max_new_tokens=12, eos_token_id=[])
    assert model.generate(PROMPT, penalised).token_ids != plain
    assert model.generate(PROMPT, replace(penalised)).token_ids == plain  # every option counts as given


def test_several_texts_need_no_word_on_sampling(load: Load) -> None:
    model = load({"do_sample": True, "max_new_tokens": 3})
    assert len(model.generate(PROMPT, num_return_sequences=3)) == 3
    assert [len(one) for one in model.generate_many([PROMPT], num_return_sequences=2)] == [2]


def test_limits_adapt_to_the_prompt_and_the_caller(load: Load) -> None:
    room = load({}).config.n_positions - len(PROMPT)
    model = load({"max_new_tokens": 10**6, "min_new_tokens": 50})
    assert len(ids(model, eos_token_id=[])) == room
    assert len(ids(model, max_new_tokens=5)) == 5
    model = load({"max_length": 9, "min_length": 7})
    both = model.generate([PROMPT, PROMPT[:2]], eos_token_id=[])
    assert [len(one.token_ids) for one in both] == [5, 5]  # by the longest prompt, as in transformers
    assert [len(one.token_ids) for one in model.generate_many([PROMPT, PROMPT[:2]], eos_token_id=[])] == [
        5,
        7,
    ]
    with pytest.raises(ValueError, match=r"the prompt has 9 tokens, .* at max_length = 9"):
        model.generate([5] * 9)
    assert len(ids(load({"max_length": 10**6}), eos_token_id=[])) == room


def test_contradictions_name_the_file(load: Load) -> None:
    model = load({"do_sample": True})
    with pytest.raises(
        ValueError, match=r"num_beams=2 contradicts sampling .*generation_config.json: do_sample"
    ):
        model.generate(PROMPT, num_beams=2)


def test_errors_of_the_caller_do_not_name_the_file(load: Load) -> None:
    model = load({"do_sample": True, "temperature": 0.5})
    for options, message in (
        ({"priority": 1001}, "priority must be from -1000 to 1000, got 1001"),
        ({"regex": "a", "choices": ["b"]}, "regex contradicts choices; leave one of them out"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            ids(model, **options)


def test_what_is_wrong_or_not_supported_is_said(load: Load) -> None:
    values = {
        "top_p": 7,
        "diversity_penalty": 0.5,
        "max_length": "long",
        "num_beam_groups": 1,
        "max_time": None,
    }
    with pytest.warns(UserWarning, match="generation_config.json: ") as caught:
        model = load(values)
    (message,) = [str(one.message) for one in caught]
    assert "top_p must be in (0, 1], got 7" in message
    assert "diversity_penalty is not supported" in message
    assert "max_length must be an integer, got 'long'" in message
    assert "num_beam_groups" not in message
    assert model.generation_config == {}


def test_the_file_is_ignored_on_request(load: Load) -> None:
    values = {"repetition_penalty": 1.7, "top_p": 7}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load(values, generation_config=None)
    assert model.generation_config == {}
    assert ids(model, max_new_tokens=12) == ids(load({}), max_new_tokens=12)
    assert pickle.loads(pickle.dumps(model)).generation_config == {}


def test_a_changed_file_is_another_model(tmp_path: Path) -> None:
    write_shape(tmp_path, "odd")
    without = open_checkpoint(tmp_path).fingerprint
    path = tmp_path / "generation_config.json"
    path.write_text('{"eos_token_id": null, "transformers_version": "5.24"}')
    assert open_checkpoint(tmp_path).fingerprint == without
    path.write_text('{"top_k": 5}')
    assert open_checkpoint(tmp_path).fingerprint != without


def test_an_export_keeps_it(tmp_path: Path) -> None:
    write_shape(tmp_path / "model", "odd")
    (tmp_path / "model" / "generation_config.json").write_text('{"top_k": 5, "do_sample": true}')
    save_huggingface(open_checkpoint(tmp_path / "model"), tmp_path / "out")
    found = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (found["top_k"], found["do_sample"]) == (5, True)


def test_options_that_have_the_defaults_are_not_checked_again(load: Load) -> None:
    loaded = load({"do_sample": True, "top_k": 7}).loaded
    once = choose_options(loaded, None, {"max_new_tokens": 3})
    assert (once.do_sample, once.top_k) == (True, 7)
    assert choose_options(loaded, once, None) is once
