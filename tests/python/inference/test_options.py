"""GenerationOptions: defaults, rules, and for every bad value an error that names the option."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2fast import (
    CancelToken,
    Generation,
    GenerationOptions,
    RankedChoice,
    StreamChunk,
    TextScore,
    TokenLogprobs,
)
from gpt2fast.inference import other_names
from support.processes import allocated_bytes, run_python

NAMES = [option.name for option in fields(GenerationOptions)]

TOKEN = CancelToken()

# (option, valid values as they are stored, values of a wrong type, values out of range)
TABLE: list[tuple[str, list[Any], list[Any], list[Any]]] = [
    ("max_new_tokens", [0, 1, 128, 10**6], [1.0, "5", True, [1]], [-1, 2**31]),
    ("min_new_tokens", [0, 128], [1.5, None, False], [-1]),
    ("do_sample", [True, False, None], [1, 0, "yes"], []),
    ("seed", [0, 2**64 - 1, None], [1.0, True, "1"], [-(2**63) - 1, 2**64]),
    ("temperature", [0, 1e-4, 1.0, 100.0, None], ["1", True, [1.0]], [-0.5, 1e-5, math.nan, math.inf, 1e5]),
    ("top_k", [0, 1, 50, 10**6, None], [5.0, "5", True], [-1, 2**31]),
    ("top_p", [1e-9, 0.9, 1.0, None], ["0.9", True], [0.0, -0.1, 1.5, math.nan]),
    ("min_p", [0.0, 0.05, 1.0, None], ["0", False], [-0.1, 1.01, math.nan]),
    ("typical_p", [0.2, 1.0, None], ["0.2"], [0.0, 1.1, math.nan]),
    ("repetition_penalty", [0.5, 1.0, 1.3], ["1", None], [0.0, -1.0, 1000.0, math.nan, math.inf]),
    ("presence_penalty", [-2.0, 0.0, 2.0], ["1", None], [-101.0, math.nan, math.inf]),
    ("frequency_penalty", [-2.0, 0.0, 2.0], [True, None], [101.0, math.nan, -math.inf]),
    ("no_repeat_ngram_size", [0, 3], [3.0, None], [-1]),
    ("suppress_tokens", [(), (1, 2)], ["a", [1.5], [True], 1.5, {1: 2}, None], [[-1], [2**31]]),
    ("bad_words", [(), ("a", (1, 2))], [5, [5], [[1.5]], None], [[""], [[]], [[-1]]]),
    (
        "logit_bias",
        [None, {}, {5: -1.5}, {5: -math.inf}],
        [[1], "a", {"a": 1}, {1: "a"}, {True: 1.0}],
        [{-1: 0.0}, {1: math.nan}, {1: math.inf}, {1: 1e9}],
    ),
    ("forced_prefix", [(), "Once", (1, 2)], [5, [1.5], None], [[-1]]),
    ("eos_token_id", [None, (), (0,), (0, 5)], ["a", 1.5, True, [None]], [-1, [2**31]]),
    ("stop_strings", [(), ("a", "b")], [5, [5], b"a", None], ["", ["a", ""], ["a"] * 257]),
    ("include_stop_string", [True, False], [1, None, "no"], []),
    ("max_time", [0.5, 10.0, None], ["1", True], [0.0, -1.0, math.nan, math.inf]),
    ("num_return_sequences", [1, None], [1.0, True], [0, -1, 5000]),
    ("best_of", [None], [1.0, True], [0, -1, 5000]),
    ("num_beams", [1, 4], [1.0, True, None], [0, -1, 5000]),
    ("length_penalty", [1.0], ["1", None], [math.nan, math.inf, 101.0]),
    ("early_stopping", [False], [1, "always", None], []),
    ("logprobs", [0, 5, None], [1.5, True], [-1, 5000]),
    ("echo", [True, False], [1, None], []),
    ("logits_processor", [(), (print, print)], [5, [5], "f", None, [len]], [[print] * 65]),
    ("regex", [None, "a+"], [5, b"a", ["a"]], ["", "a" * (2**20 + 1)]),
    ("json_schema", [None, '{"type": "string"}'], [5, True, [{}]], ["", {"x": math.nan}, {"x": {1}}]),
    ("grammar", [None, 'start: "a"'], [5, b"a", ["a"]], ["", "a" * (2**20 + 1)]),
    ("choices", [None, ("a", "b")], [5, [5], b"a"], [[], ["a", ""], ["a"] * 4097]),
    ("overflow", ["error", "truncate", "slide"], [], ["ignore", None, 5]),
    ("prompt_lookup_num_tokens", [0, 10], [1.5, None], [-1, 65]),
    ("assistant_model", [None], ["gpt2", 5], []),
    ("num_assistant_tokens", [1, 64], [1.5, None], [0, 65]),
    ("prefix", [None], ["Once", [1, 2]], []),
    ("use_prefix_cache", [True, False], [1, None], []),
    ("priority", [0, -1000, 1000], [1.5, None], [-1001, 1001]),
    ("cancel", [None, TOKEN], [True, "now"], []),
]


def flat(kind: int) -> list[tuple[str, Any]]:
    return [(row[0], value) for row in TABLE for value in row[kind]]


def test_the_table_is_complete() -> None:
    assert [row[0] for row in TABLE] == NAMES


def test_defaults() -> None:
    options = GenerationOptions()
    assert options.max_new_tokens == 128
    assert options.overflow == "error"
    assert options.eos_token_id is None
    assert not options.sampling


@pytest.mark.parametrize(("name", "value"), flat(1))
def test_valid_values(name: str, value: Any) -> None:
    assert getattr(GenerationOptions.make(None, {name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), flat(2))
def test_wrong_types(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        GenerationOptions.make(None, {name: value})


@pytest.mark.parametrize(("name", "value"), flat(3))
def test_values_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        GenerationOptions.make(None, {name: value})


def test_errors_name_value_and_range() -> None:
    with pytest.raises(ValueError, match=r"^top_p must be in \(0, 1\], got 1\.5$"):
        GenerationOptions(top_p=1.5)
    with pytest.raises(ValueError, match=r"^temperature must be 0 or in \[0\.0001, 10000\], got nan$"):
        GenerationOptions(temperature=math.nan)
    with pytest.raises(TypeError, match=r"^top_k must be an integer, got '5' \(str\)$"):
        GenerationOptions(top_k="5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^temperature must be 0 or in \[0.0001, 10000\], got -inf$"):
        GenerationOptions(temperature=-(10**400))
    with pytest.raises(ValueError, match=r"^top_k must be .*, got an integer of 19932 bits$"):
        GenerationOptions(top_k=10**6000)


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [
        ("topk", "top_k"),
        ("temprature", "temperature"),
        ("max_tokens", "max_new_tokens"),
        ("stop", "stop_strings"),
        ("n", "num_return_sequences"),
        ("bad_words_ids", "bad_words"),
    ],
)
def test_unknown_names_get_the_nearest(given_name: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"unknown generation option '{given_name}'; did you mean '{meant}'"):
        GenerationOptions.make(None, {given_name: 1})


def test_unknown_names_far_from_all() -> None:
    with pytest.raises(TypeError, match=r"'xyzzy'; help\(gpt2fast.GenerationOptions\) lists the options"):
        GenerationOptions.make(None, {"xyzzy": 1})


@pytest.mark.parametrize(
    "name", ["pad_token_id", "use_cache", "constraints", "forced_eos_token_id", "penalty_alpha", "foo"]
)
def test_there_is_no_hint_by_a_spelling_far_away(name: str) -> None:
    with pytest.raises(TypeError, match=f"unknown generation option '{name}'; ") as caught:
        GenerationOptions(**{name: "x"})
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("given_name", "written"),
    [
        ("max_length", "max_new_tokens = max_length less the prompt's tokens"),
        ("streamer", r"for chunk in model\.stream"),
        ("stopping_criteria", "stop_strings, max_time or cancel"),
        ("output_scores", "logprobs=N"),
        ("forced_bos_token_id", "forced_prefix"),
        ("sequence_bias", "logit_bias"),
        ("past_key_values", r"prefix=model\.prefill"),
    ],
)
def test_what_to_write_for_names_of_transformers(given_name: str, written: str) -> None:
    with pytest.raises(TypeError, match=f"'{given_name}'; .*{written}"):
        GenerationOptions.make(None, {given_name: 1})


def test_every_hint_names_options_that_exist() -> None:
    assert set(other_names._SAME.values()) <= set(NAMES)


def test_overrides_win() -> None:
    base = GenerationOptions(top_k=5, max_new_tokens=7)
    assert GenerationOptions.make(base, {"top_k": 9}) == GenerationOptions(top_k=9, max_new_tokens=7)
    assert GenerationOptions.make(base) == base
    with pytest.raises(TypeError, match="options must be a GenerationOptions, got dict"):
        GenerationOptions.make({"top_k": 5})  # type: ignore[arg-type]


def test_a_changed_copy_checks_what_is_changed() -> None:
    options = GenerationOptions(logit_bias={5: -1.5}, top_k=5)
    copied = options.changed(top_k=9, stop_strings="a")
    assert copied.logit_bias is options.logit_bias  # a long one is not gone through again
    assert copied == GenerationOptions(logit_bias={5: -1.5}, top_k=9, stop_strings=["a"])
    assert copied.given == {"logit_bias", "top_k", "stop_strings"}
    assert (options.top_k, options.given) == (5, {"logit_bias", "top_k"})
    with pytest.raises(ValueError, match="top_k=5 contradicts do_sample=False"):
        GenerationOptions(top_k=5).changed(top_k=5, do_sample=False)
    with pytest.raises(TypeError, match="top_k must be an integer, got 'x'"):
        options.changed(top_k="x")
    with pytest.raises(TypeError, match="unknown generation option 'topk'; did you mean 'top_k'"):
        options.changed(topk=1)


def test_single_values_become_tuples() -> None:
    options = GenerationOptions(
        stop_strings="end", eos_token_id=5, suppress_tokens=[1, np.int32(2)], bad_words=["a", [1, 2]]
    )
    assert options.stop_strings == ("end",)
    assert options.eos_token_id == (5,)
    assert options.suppress_tokens == (1, 2)
    assert options.bad_words == ("a", (1, 2))


@pytest.mark.parametrize(
    ("given", "stored"), [(-2, 2**64 - 2), (-(2**63), 2**63), (-1, None), (2**64 - 1, 2**64 - 1)]
)
def test_seeds_are_unsigned(given: int, stored: int | None) -> None:
    assert GenerationOptions(seed=given).seed == stored


def test_numpy_numbers_are_numbers() -> None:
    options = GenerationOptions(top_k=np.int64(3), temperature=np.float32(0.5), seed=np.uint64(2**63))
    assert (options.top_k, options.temperature, options.seed) == (3, 0.5, 2**63)
    assert type(options.top_k) is int


@pytest.mark.parametrize(
    ("values", "sampling"),
    [
        ({}, False),
        ({"seed": 3}, True),
        ({"temperature": 0.8}, True),
        ({"top_k": 50}, True),
        ({"min_p": 0.1}, True),
        ({"temperature": 0}, False),
        ({"temperature": 0, "top_k": 50, "seed": 3}, False),
        ({"do_sample": True}, True),
        ({"do_sample": False, "seed": 3}, False),
        ({"do_sample": False, "temperature": 0}, False),
        ({"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}, False),
        ({"repetition_penalty": 1.2}, False),
    ],
)
def test_when_tokens_are_sampled(values: dict[str, Any], sampling: bool) -> None:
    assert GenerationOptions(**values).sampling is sampling


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"do_sample": False, "temperature": 0.7}, "temperature=0.7 contradicts do_sample=False"),
        ({"do_sample": False, "top_p": 0.9}, "top_p=0.9 contradicts do_sample=False"),
        ({"do_sample": True, "temperature": 0}, "temperature=0 .* contradicts do_sample=True"),
        (
            {"min_new_tokens": 9, "max_new_tokens": 8},
            r"min_new_tokens \(9\) must not exceed max_new_tokens \(8\)",
        ),
        ({"seed": 3, "best_of": 2, "num_return_sequences": 3}, r"\(3\) must not exceed best_of \(2\)"),
    ],
)
def test_contradictions(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GenerationOptions(**values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"num_return_sequences": 2}, "num_return_sequences=2 needs sampling"),
        ({"best_of": 2}, "best_of=2 needs sampling"),
        ({"early_stopping": True}, "early_stopping=True needs num_beams above 1"),
        ({"length_penalty": 2.0}, r"length_penalty=2\.0 needs num_beams above 1"),
    ],
)
def test_options_that_need_others(values: dict[str, Any], named: str) -> None:
    """Which the model may have, so that the call is the first to know."""
    with pytest.raises(ValueError, match=named):
        GenerationOptions(**values).check_needs()


class Word(str, Enum):
    """As programs keep the words of a setting."""

    SLIDE = "slide"


def test_a_member_of_an_enumeration_is_its_word() -> None:
    overflow: Any = Word.SLIDE
    stored = GenerationOptions(overflow=overflow).overflow
    assert (stored, type(stored)) == ("slide", str)
    words: Any = np.array(["slide", "error"])
    with pytest.raises(ValueError, match="overflow must be one of 'error', 'truncate', 'slide', got array"):
        GenerationOptions(overflow=words)


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.float16])
def test_minus_infinity_of_any_kind_forbids_a_token(kind: Any) -> None:
    assert GenerationOptions(logit_bias={5: kind("-inf")}).logit_bias == {5: -math.inf}
    with pytest.raises(ValueError, match=r"logit_bias\[5\] must be in .*, got inf"):
        GenerationOptions(logit_bias={5: kind("inf")})


def test_an_array_without_dimensions_is_a_number() -> None:
    token: Any = np.array(5)
    assert GenerationOptions(eos_token_id=token, suppress_tokens=token).eos_token_id == (5,)
    with pytest.raises(TypeError, match=r"stop_strings must be a string or a list of strings, got array"):
        GenerationOptions(stop_strings=np.array("a"))  # type: ignore[arg-type]


def test_options_are_frozen_and_copied() -> None:
    bias = {1: 1.0}
    options = GenerationOptions(logit_bias=bias)
    bias[2] = 5.0
    assert options.logit_bias == {1: 1.0}
    with pytest.raises(FrozenInstanceError):
        options.top_k = 5  # type: ignore[misc]


def test_every_option_is_documented() -> None:
    documentation = GenerationOptions.__doc__
    assert documentation is not None
    for name in NAMES:
        assert f"\n{name} : " in documentation


ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
)


@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING))
def test_any_values_give_options_or_a_named_error(values: dict[str, Any]) -> None:
    try:
        options = GenerationOptions(**values)
    except (TypeError, ValueError) as error:
        assert any(name in str(error) for name in values)  # noqa: PT017 - which one depends on the values
    else:
        assert replace(options) == options


def test_results_have_short_reprs() -> None:
    result = Generation(text="x" * 500, token_ids=[1] * 300, finish_reason="length", prompt_token_ids=[0])
    shown = f"(text='{'x' * 47}'..., token_ids=[300 ids], finish_reason='length')"
    assert repr(result).endswith(shown)
    assert len(repr(result)) < 120
    assert str(result) == "x" * 500
    assert repr(StreamChunk("a", [5])) == "StreamChunk(index=0, text='a', token_ids=[5])"


def test_results_become_json() -> None:
    logprobs = TokenLogprobs(
        np.array([np.nan, -1.5], np.float32),
        np.array([[-1], [7]], np.int32),
        np.array([[-np.inf], [-0.5]], np.float32),
    )
    result = Generation("a", [5, 6], "eos", [0], seed=3, logprobs=logprobs)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == {
        "text": "a",
        "token_ids": [5, 6],
        "finish_reason": "eos",
        "prompt_token_ids": [0],
        "seed": 3,
        "cached_tokens": 0,
        "logprobs": {"chosen": [None, -1.5], "top_ids": [[-1], [7]], "top": [[None], [-0.5]]},
        "score": None,
        "started_seconds": None,
        "first_token_seconds": None,
        "last_token_seconds": None,
    }
    assert StreamChunk("a", [5], 1).to_dict() == {
        "text": "a",
        "token_ids": [5],
        "index": 1,
        "finish_reason": None,
        "logprobs": None,
    }
    assert TextScore([5], np.array([np.nan], np.float32)).to_dict()["logprobs"] == [None]
    ranked = RankedChoice(" a", 0, [5], np.array([-2.0], np.float32), -2.0, -2.0)
    assert ranked.to_dict() == {
        "choice": " a",
        "index": 0,
        "token_ids": [5],
        "logprobs": [-2.0],
        "total": -2.0,
        "mean": -2.0,
    }


# In a process of its own, away from the memory of other tests.
ALLOCATED_BY_TEXTS = """
from gpt2fast import GPT2
from support.processes import allocated_bytes

model = GPT2.from_pretrained(max_sequences=32)

def allocated(texts, tokens):
    lists = dict(suppress_tokens=tokens, bad_words=[tokens])
    stream = model.stream([[1]] * texts, max_new_tokens=100, eos_token_id=[], **lists)
    begun = set()
    while len(begun) < texts:
        begun.add(next(stream).index)
    held = allocated_bytes()
    stream.close()
    return held

def by_others(tokens):
    allocated(32, tokens)
    return allocated(32, tokens) - allocated(1, tokens)

print(by_others([7] * 200_000) - by_others([7]))
"""


@pytest.mark.skipif(allocated_bytes() == 0, reason="the C library does not tell what is allocated")
def test_texts_share_long_options() -> None:
    # A fixed threshold: long vectors are counted, whichever thread allocates them.
    copied = run_python(ALLOCATED_BY_TEXTS, MALLOC_MMAP_THRESHOLD_="131072")
    assert abs(int(copied)) < 2 << 20  # 31 copies of one list are 25 MB


class LogitsProcessor:
    """As transformers names the base of its own."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores


def test_a_logits_processor_of_transformers_is_refused() -> None:
    class TheirProcessor(LogitsProcessor):
        pass

    with pytest.raises(
        TypeError, match=r"logits_processor\[0\] is a TheirProcessor of transformers, .* in place"
    ):
        GenerationOptions(logits_processor=[TheirProcessor()])
