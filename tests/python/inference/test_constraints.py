"""Constraints: every output is valid, or its finish reason says why not."""

from __future__ import annotations

import gc
import json
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2fast import GPT2, Generation
from gpt2fast.inference.constraints import find_constraint
from gpt2fast.inference.options import GenerationOptions
from support.random_models import write_random_checkpoint, write_shape
from support.tokenizer_samples import write_sample

llguidance = pytest.importorskip("llguidance")

PRECISIONS = ["fp32", "bf16", "int8", "int4"]
PROMPTS = ["Once upon a time", "", "The number of the beast is: 6"]
SAMPLED = {"temperature": 1.5, "top_k": 0, "seed": 11}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,8}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["old", "wise", "small"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
SUM = """
start: product ("+" product)*
product: NUMBER | "(" start ")"
NUMBER: /[0-9]{1,3}/
"""


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained()


def assert_person(out: Generation) -> None:
    person = json.loads(out.text)
    assert out.text == json.dumps(person)
    assert set(person) == {"name", "age", "tags"}
    assert re.fullmatch("[A-Z][a-z]{1,8}", person["name"])
    assert 0 <= person["age"] <= 150
    assert len(person["tags"]) <= 3
    assert set(person["tags"]) <= {"old", "wise", "small"}


@pytest.mark.parametrize("sampling", [{}, SAMPLED])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_kind_of_constraint_in_every_precision(precision: str, sampling: dict[str, Any]) -> None:
    model = GPT2.from_pretrained(precision=precision)
    options = {"max_new_tokens": 120, **sampling}
    for out in model.generate(PROMPTS, regex="[a-z]{3,6} [0-9]{2}!", **options):
        assert re.fullmatch("[a-z]{3,6} [0-9]{2}!", out.text)
        assert out.finish_reason == "stop"
    for out in model.generate(PROMPTS, json_schema=PERSON, **options):
        assert_person(out)
        assert out.finish_reason == "stop"
    for out in model.generate(PROMPTS, choices=["yes", "no", "perhaps"], **options):
        assert out.text in ("yes", "no", "perhaps")
        assert out.finish_reason == "stop"
    for out in model.generate(PROMPTS, grammar=SUM, **options):
        assert out.finish_reason in ("eos", "length")
        if out.finish_reason == "eos":
            assert re.fullmatch("[0-9+()]+", out.text)
            assert isinstance(eval(re.sub(r"\b0+(?=\d)", "", out.text)), int)


def test_a_text_ends_when_nothing_can_follow_even_without_an_end_token(model: GPT2) -> None:
    for end in ({}, {"eos_token_id": []}):
        out = model.generate("The answer:", choices=["yes", "no"], **end)
        assert out.text in ("yes", "no")
        assert out.finish_reason == "stop"
        assert model.tokenizer.end_of_text_id not in out.token_ids


def test_the_end_token_is_allowed_exactly_where_the_output_is_complete(model: GPT2) -> None:
    constraint = find_constraint(model.loaded, GenerationOptions(regex="([ab][xy])+"), [0, 5], [])
    assert constraint is not None
    a, b, x, y = (model.tokenizer.encode(letter)[0] for letter in "abxy")
    state = constraint.new_state()

    def allowed(*output: int) -> set[int]:
        words = state.allowed_tokens(np.array(output, np.int32))
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        return set(np.flatnonzero(bits).tolist())

    assert {a, b} <= allowed()
    assert not {x, y, 0} & allowed()
    assert {x, y} <= allowed(a)
    assert not {a, b, 0} & allowed(a)
    assert {a, b, 0} <= allowed(a, y)
    assert 5 not in allowed(a, y)  # a token with text that the grammar does not allow
    # The state follows whatever output it is shown.
    assert 0 not in allowed(b)
    assert 0 in allowed(b, x, a, x)
    assert 0 not in allowed()
    assert not state.is_complete(np.array([a, y], np.int32))


def test_an_end_token_with_text_may_only_complete_the_output(model: GPT2) -> None:
    full_stop = model.tokenizer.encode(".")[0]
    out = model.generate("Once", regex=r"[a-z]\.[a-z]{4}\.", eos_token_id=[full_stop], max_new_tokens=40)
    assert out.finish_reason in ("eos", "constraint")
    if out.finish_reason == "eos":
        assert re.fullmatch(r"[a-z]\.[a-z]{4}\.", out.text)


def test_what_is_cut_off_says_so(model: GPT2) -> None:
    out = model.generate("Once", regex="[a-z]{200}", max_new_tokens=10)
    assert out.finish_reason == "length"
    assert re.fullmatch("[a-z]+", out.text)


def test_what_can_not_be_satisfied_says_so(model: GPT2) -> None:
    digits = [i for i, data in enumerate(model.tokenizer.token_bytes()) if any(48 <= c < 58 for c in data)]
    out = model.generate("Once", regex="a[0-9]", suppress_tokens=digits)
    assert out.text == "a"
    assert out.finish_reason == "constraint"


def test_streams_and_batches_give_the_same_texts(model: GPT2) -> None:
    options = {"json_schema": PERSON, "max_new_tokens": 120, **SAMPLED}
    together = model.generate(PROMPTS, **options)
    assert [model.generate(prompt, **options).text for prompt in PROMPTS] == [one.text for one in together]
    streamed = ["" for _ in PROMPTS]
    for chunk in model.stream(PROMPTS, **options):
        streamed[chunk.index] += chunk.text
    assert streamed == [one.text for one in together]


def test_copies_have_a_state_each(model: GPT2) -> None:
    copies = model.generate("A name:", regex="[A-Z][a-z]{2,9}\n", num_return_sequences=6, **SAMPLED)
    assert len({copy.text for copy in copies}) > 1
    for copy in copies:
        assert re.fullmatch("[A-Z][a-z]{2,9}\n", copy.text)


@pytest.mark.parametrize("sampling", [{}, SAMPLED])
def test_drafts_do_not_change_the_text(model: GPT2, sampling: dict[str, Any]) -> None:
    prompt = "[1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2,"
    options = {"regex": "( [123],){30}", "max_new_tokens": 100, **sampling}
    plain = model.generate(prompt, **options)
    drafted = model.generate(prompt, prompt_lookup_num_tokens=6, **options)
    assert drafted.token_ids == plain.token_ids
    assert model.generate(prompt, assistant_model=model, **options).token_ids == plain.token_ids
    assert re.fullmatch("( [123],){30}", plain.text)


def test_a_stop_string_that_only_began_is_kept(model: GPT2) -> None:
    options: dict[str, Any] = {"choices": ["yes"], "stop_strings": ["s!", "es, sir"]}
    assert model.generate("Well,", **options).text == "yes"
    assert "".join(chunk.text for chunk in model.stream("Well,", **options)) == "yes"


def test_a_choice_that_begins_another_one(model: GPT2) -> None:
    texts = {
        model.generate("Well,", choices=["ab", "abcd"], temperature=9.0, top_k=0, seed=seed).text
        for seed in range(20)
    }
    assert texts == {"ab", "abcd"}


@pytest.mark.parametrize("choice", ["a\x7fb", "a\x00b", 'say "a\\b"\n\t'])
def test_choices_hold_any_characters(model: GPT2, choice: str) -> None:
    assert model.generate("It is", choices=[choice], max_new_tokens=40).text == choice


def test_thousands_of_choices(model: GPT2) -> None:
    choices = [f"number {i} of {i * 7}" for i in range(4096)]
    out = model.generate("It is", choices=choices, **SAMPLED)
    assert out.text in choices


def test_a_forced_prefix_must_fit(model: GPT2) -> None:
    out = model.generate("Once", regex="Xy[a-z]{3}", forced_prefix="Xy")
    assert re.fullmatch("Xy[a-z]{3}", out.text)
    with pytest.raises(ValueError, match="forced_prefix contradicts regex"):
        model.generate("Once", regex="[a-z]{3}", forced_prefix="X")


def test_the_compiled_vocabulary_is_freed_with_the_tokenizer() -> None:
    model = GPT2.from_pretrained()
    model.generate("Once", choices=["a"])
    tokenizer = weakref.ref(model.tokenizer)
    del model
    gc.collect()
    assert tokenizer() is None


def test_min_new_tokens_holds_an_end_token_back(model: GPT2) -> None:
    out = model.generate("Once", regex="[a-z ]*", min_new_tokens=8, max_new_tokens=30)
    assert len(out.token_ids) >= 8


def test_a_vocabulary_larger_than_the_tokenizers(tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64, "vocab_size": 4111}
    path = write_random_checkpoint(tmp_path / "model", sizes)
    model = GPT2.from_pretrained(path, tokenizer=GPT2.from_pretrained().tokenizer)
    for seed in range(5):
        out = model.generate("Once", choices=["left", "right"], max_new_tokens=8, temperature=3.0, seed=seed)
        assert out.text in ("left", "right")


def test_outputs_are_not_normalised(model: GPT2, tmp_path: Path) -> None:
    values = json.loads(model.tokenizer.to_json()) | {"normalizer": {"type": "Lowercase"}}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(values), "utf-8")
    out = GPT2.from_pretrained(tokenizer=path).generate("Once", choices=[" The King said"])
    assert (out.text, out.finish_reason) == (" The King said", "stop")


def test_outputs_get_no_prefix_space(tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64, "vocab_size": 400}
    path = write_random_checkpoint(tmp_path / "model", sizes)
    model = GPT2.from_pretrained(path, tokenizer=write_sample("prefix_space", tmp_path / "tokenizer"))
    out = model.generate("Once", json_schema={"const": True}, max_new_tokens=8)
    assert (out.text, out.finish_reason) == ("true", "stop")


def test_a_model_without_tokenizer_is_refused(tmp_path: Path) -> None:
    model = GPT2.from_pretrained(write_shape(tmp_path / "model", "odd"))
    with pytest.raises(ValueError, match="choices needs a tokenizer, and the model has none"):
        model.generate([1], choices=["a"], max_new_tokens=5)


@pytest.mark.parametrize("choices", [['a"b\\c\n', "🙂", "/*", "a\tb"], ["{}", "%x", "|", "é"]])
def test_choices_are_literal(model: GPT2, choices: list[str]) -> None:
    for choice in choices:
        assert model.generate("Once", choices=[choice]).text == choice


_PIECES = st.sampled_from(["a", "[0-9]", "(xy|z)", "é", "[a-f]{2}", r"\.", " ", "[^a-z\n]"])
_REPEATS = st.sampled_from(["", "?", "{2}", "{1,3}"])


@settings(max_examples=40)
@given(st.lists(st.tuples(_PIECES, _REPEATS), min_size=1, max_size=5), st.integers(0, 2**32))
def test_any_simple_regex_is_matched(parts: list[tuple[str, str]], seed: int) -> None:
    model = _shared_model()
    pattern = "".join(f"(?:{piece}){repeat}" for piece, repeat in parts)
    out = model.generate("It was", regex=pattern, max_new_tokens=100, temperature=2.0, top_k=0, seed=seed)
    # Only an output that was empty from the start may end without a token.
    assert out.finish_reason in ("stop", "eos")
    assert re.fullmatch(pattern, out.text), (pattern, out.text)


_models: list[GPT2] = []


def _shared_model() -> GPT2:
    if not _models:
        _models.append(GPT2.from_pretrained())
    return _models[0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"regex": "(a"}, ValueError, "regex cannot be used: .*unclosed group"),
        ({"regex": "(?=a)b"}, ValueError, "regex cannot be used: .*look-around"),
        ({"regex": ""}, ValueError, "regex must have from 1 to"),
        ({"regex": 3}, TypeError, "regex must be a string, got 3"),
        ({"regex": "\ud800"}, ValueError, "regex cannot be used"),
        ({"json_schema": {"type": "objekt"}}, ValueError, "json_schema cannot be used: .*objekt"),
        ({"json_schema": {"not": {}}}, ValueError, "json_schema cannot be used: .*not"),
        ({"json_schema": "{"}, ValueError, "json_schema cannot be used"),
        ({"json_schema": "[]"}, ValueError, "json_schema cannot be used: .*object"),
        ({"json_schema": {"enum": [{1}]}}, ValueError, "json_schema must be a JSON schema"),
        ({"json_schema": 1}, TypeError, "json_schema must be a dict or a string"),
        ({"grammar": "start: missing"}, ValueError, "grammar cannot be used: .*unknown name"),
        ({"grammar": ["start"]}, TypeError, "grammar must be a string"),
        ({"choices": []}, ValueError, "choices must hold at least one string"),
        ({"choices": ["a", ""]}, ValueError, r"choices\[1\] must not be empty"),
        ({"choices": [1]}, TypeError, r"choices\[0\] must be a string"),
        ({"choices": ["a"], "regex": "a"}, ValueError, "regex contradicts choices"),
        ({"choices": ["a"], "num_beams": 2}, ValueError, "choices contradicts num_beams=2"),
    ],
)
def test_bad_constraints_are_refused(
    model: GPT2, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="(?s)" + message):
        model.generate("Once", **options)


def test_a_missing_package_is_named(model: GPT2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    fresh = GPT2.from_pretrained()
    with pytest.raises(ImportError, match=r"pip install 'gpt2fast\[constraints\]'"):
        fresh.generate("Once", choices=["a"])


def test_compiled_grammars_are_kept(model: GPT2) -> None:
    from gpt2fast.inference.constraints import vocabulary_of

    model.generate("Once", regex="[k]", max_new_tokens=2)
    vocabulary = vocabulary_of(model.tokenizer, model.config.vocab_size)
    before = vocabulary.compiled.cache_info()
    model.generate("Once", regex="[k]", max_new_tokens=2)
    after = vocabulary.compiled.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
