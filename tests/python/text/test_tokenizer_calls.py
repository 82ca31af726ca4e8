"""Tokenizers as users of transformers call them: rows, padding, truncation, names, chat templates."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from gpt2fast import GPT2, ModelError, Tokenizer
from gpt2fast.loading.sources import embedded_model
from support.tokenizer_samples import CHAT, CHAT_TEMPLATE, GOLDENS, SAMPLES, TEXTS, write_sample

ANSWERS: dict[str, Any] = json.loads(GOLDENS.read_text("utf-8"))


def sample(name: str, tmp_path: Path) -> Tokenizer:
    return Tokenizer.from_source(write_sample(name, tmp_path))


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_rows_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    tokenizer = sample(name, tmp_path)
    for options, wanted in ANSWERS[name]["calls"]:
        found = tokenizer(list(TEXTS[1:3]), **options)
        assert found.input_ids == wanted["input_ids"], options
        assert found["attention_mask"] == wanted["attention_mask"], options


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_chat_templates_are_rendered_as_in_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    tokenizer = sample(name, tmp_path)
    options: dict[str, Any] = {"chat_template": CHAT_TEMPLATE, "add_generation_prompt": True}
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, **options) == ANSWERS[name]["chat"]
    assert tokenizer.apply_chat_template(CHAT, **options).input_ids == ANSWERS[name]["chat_ids"]
    assert tokenizer.apply_chat_template(CHAT, return_dict=False, **options) == ANSWERS[name]["chat_ids"]


def test_a_template_beside_the_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    directory = write_sample("plain", tmp_path)
    with pytest.raises(ValueError, match="has no chat template; give one as chat_template="):
        Tokenizer.from_source(directory).apply_chat_template(CHAT)
    (directory / "chat_template.jinja").write_text("{{ messages|length }} turns")
    tokenizer = Tokenizer.from_source(directory)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == "2 turns"
    with pytest.raises(ValueError, match="refuses these messages: no"):
        tokenizer.apply_chat_template(CHAT, chat_template="{{ raise_exception('no') }}")
    with pytest.raises(ValueError, match="the chat template is broken"):
        tokenizer.apply_chat_template(CHAT, chat_template="{% for %}")


TURNS = "{% for turn in messages %}{{ turn.content }}|{% endfor %}"


@pytest.mark.parametrize(
    ("template", "options", "wanted"),
    [
        # What transformers 5.24 makes of CHAT[:1], by apply_chat_template(..., tokenize=False).
        ("{% if tools is none and documents is none %}{{ messages[0].content }}{% endif %}", {}, "Is it?"),
        ("{{ name }}{{ messages[0].content }}", {"name": "Fox: "}, "Fox: Is it?"),
        ("{{ tools[0].name }}{{ documents }}", {"tools": [{"name": "f"}], "documents": ["d"]}, "f['d']"),
        ("a{% generation %}{{ messages[0].content }}{% endgeneration %}b", {}, "aIs it?b"),
        ("{{ messages[0].tool_calls is defined }}", {}, "False"),
    ],
)
def test_variables_of_a_chat_template(template: str, options: dict[str, Any], wanted: str) -> None:
    pytest.importorskip("jinja2")
    chat = [{"role": "user", "content": "Is it?", "tool_calls": None}]
    tokenizer = Tokenizer.from_source(embedded_model())
    assert tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, **options) == wanted
    ids = tokenizer.apply_chat_template(chat, chat_template=template, **options).input_ids
    assert ids == tokenizer.encode(wanted)


def test_several_conversations() -> None:
    pytest.importorskip("jinja2")
    tokenizer = Tokenizer.from_source(embedded_model())
    chats = [[{"role": "user", "content": "Once"}], CHAT]
    texts = tokenizer.apply_chat_template(chats, chat_template=TURNS, tokenize=False)
    assert texts == ["Once|", "Is the fox there ?|It was </s> é|"]
    assert tokenizer.apply_chat_template(chats, chat_template=TURNS).input_ids == [
        tokenizer.encode(text) for text in texts
    ]


@pytest.mark.parametrize(
    ("chat", "options", "error", "message"),
    [
        (
            CHAT,
            {"continue_final_message": True},
            TypeError,
            "'continue_final_message'; write add_generation_pr",
        ),
        (
            CHAT,
            {"return_assistant_tokens_mask": True},
            TypeError,
            "no option 'return_assistant_tokens_mask'; ",
        ),
        (
            "Hello",
            {},
            TypeError,
            "conversation must be a list of dicts with role and content, .* got 'Hello'",
        ),
        (
            ["Hello"],
            {},
            TypeError,
            "conversation must be a list of dicts with role and content, .* got 'Hello'",
        ),
        ([], {}, ValueError, "conversation must have at least one turn"),
    ],
)
def test_conversations_that_are_refused(
    chat: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    pytest.importorskip("jinja2")
    tokenizer = Tokenizer.from_source(embedded_model())
    with pytest.raises(error, match=message):
        tokenizer.apply_chat_template(chat, chat_template=TURNS, tokenize=False, **options)


def test_one_text_and_arrays(tmp_path: Path) -> None:
    tokenizer = sample("special_tokens_map", tmp_path)
    one = tokenizer("the fox")
    assert dict(one) == {"input_ids": [257, 220 - 188, 264], "attention_mask": [1, 1, 1]}
    arrays = tokenizer(["the fox", "the"], padding=True, return_tensors="np")
    assert arrays.input_ids.dtype == np.int64
    np.testing.assert_array_equal(arrays.attention_mask, [[1, 1, 1], [1, 0, 0]])
    with pytest.raises(ValueError, match="rows of different lengths can't be an array; give padding=True"):
        tokenizer(["the fox", "the"], return_tensors="np")
    with pytest.raises(AttributeError, match="token_type_ids: there are input_ids, attention_mask"):
        one.token_type_ids  # noqa: B018


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": True}, "padding needs a token: set tokenizer.pad_token = tokenizer.eos_token"),
        ({"padding": "both"}, "padding must be one of .*, got 'both'"),
        ({"truncation": True}, "truncation needs max_length"),
        ({"truncation": "only_second"}, "truncation must be one of .*, got 'only_second'"),
        ({"return_tensors": "pt"}, "return_tensors must be 'np' or None, got 'pt'"),
        ({"max_length": 0}, "max_length must be"),
    ],
)
def test_options_that_cannot_be_met(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample("plain", tmp_path)(["one", "three"], **options)


def test_only_padding_can_be_set(tmp_path: Path) -> None:
    tokenizer = sample("plain", tmp_path)
    assert tokenizer.pad_token is None
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    assert tokenizer.pad_token_id == 265
    assert tokenizer(["one", "the one"], padding=True).input_ids == [[265, 265, 261], [257, 32, 261]]
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (copy.pad_token_id, copy.padding_side) == (265, "left")
    with pytest.raises(ValueError, match=r"pad_token must be a token of the vocabulary.*got 'x y'"):
        tokenizer.pad_token = "x y"
    with pytest.raises(ValueError, match="pad_token_id must be the id of a token, got 5000"):
        tokenizer.pad_token_id = 5000
    with pytest.raises(ValueError, match="padding_side must be"):
        tokenizer.padding_side = "middle"
    for name in ("eos_token", "model_max_length", "anything"):
        with pytest.raises(AttributeError, match=f"{name} can't be set; of a tokenizer, only pad_token"):
            setattr(tokenizer, name, "x")


def test_tokens_and_ids(tmp_path: Path) -> None:
    tokenizer = sample("special_tokens_map", tmp_path)
    assert tokenizer.tokenize("the fox") == ["the", "Ġ", "fox"]
    assert tokenizer.convert_tokens_to_ids(["fox", "none"]) == [264, 266]
    assert tokenizer.convert_tokens_to_ids("fox") == 264
    assert tokenizer.convert_ids_to_tokens([264, 257]) == ["fox", "the"]
    assert tokenizer.convert_ids_to_tokens(264) == "fox"
    assert tokenizer.get_vocab()["Ġthe"] == 258


def test_bytes_get_no_prefix_space(tmp_path: Path) -> None:
    tokenizer = sample("prefix_space", tmp_path)
    assert tokenizer.encode("the") == [258]
    assert tokenizer.encode_bytes(b"the") == [257]
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(b"a\xff b")) == b"a\xff b"
    with pytest.raises(ValueError, match="encode_bytes needs a byte-level tokenizer"):
        sample("word_level", tmp_path / "other").encode_bytes(b"a")


class LikeTransformers:
    """What is used of a fast tokenizer of transformers."""

    convert_ids_to_tokens = None
    bos_token, eos_token, pad_token = "<s>", "</s>", None
    model_max_length = 10**30
    chat_template = "{{ eos_token }}"

    def __init__(self, directory: Path) -> None:
        self.backend_tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))


def test_a_loaded_tokenizer_of_another_library(tmp_path: Path) -> None:
    foreign = LikeTransformers(write_sample("json_template", tmp_path))
    model = GPT2.from_pretrained(tokenizer=foreign, threads=1)  # type: ignore[arg-type]
    assert model.tokenizer.encode(TEXTS[1]) == ANSWERS["json_template"]["ids"][1]
    assert (model.tokenizer.eos_token, model.tokenizer.eos_token_id) == ("</s>", 267)
    assert (model.tokenizer.model_max_length, model.tokenizer.chat_template) == (None, "{{ eos_token }}")
    assert Tokenizer.from_transformers(foreign.backend_tokenizer).encode("the") == [266, 257]


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    slow = LikeTransformers(write_sample("json_template", tmp_path))
    del slow.backend_tokenizer
    with pytest.raises(TypeError, match="a LikeTransformers is written in Python and can't be copied"):
        GPT2.from_pretrained(tokenizer=slow)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tokenizer must be a tokenizer, a path or the id of a model, got 5"):
        GPT2.from_pretrained(tokenizer=5)  # type: ignore[arg-type]


def test_transformers_tokenizers_are_taken(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(write_sample("bos_in_front", tmp_path))
    ours = Tokenizer.from_transformers(theirs)
    assert [ours.encode(text) for text in TEXTS] == ANSWERS["bos_in_front"]["ids"]
    assert ours.roles() == {
        key: value for key, value in theirs.special_tokens_map.items() if isinstance(value, str)
    }


def test_one_that_does_not_fit_the_model() -> None:
    values = json.loads((embedded_model() / "tokenizer.json").read_text("utf-8"))
    values["model"]["vocab"]["<x>"] = 4096
    with pytest.raises(ModelError, match="does not fit the model: its largest token id is 4096"):
        GPT2.from_pretrained(tokenizer=tokenizers.Tokenizer.from_str(json.dumps(values)))  # type: ignore[arg-type]


def test_added_tokens_without_a_row_in_the_table(tmp_path: Path) -> None:
    """A padding token that was added without a row, as when training a batch: given as object or as files."""
    values = json.loads((embedded_model() / "tokenizer.json").read_text("utf-8"))
    values["added_tokens"].append({**values["added_tokens"][0], "id": 4096, "content": "[PAD]"})
    text = json.dumps(values)
    (tmp_path / "tokenizer.json").write_text(text, "utf-8")
    for given in (tokenizers.Tokenizer.from_str(text), tmp_path):
        with pytest.warns(UserWarning, match=r"added tokens '\[PAD\]' are left out: .* ends at 4095"):
            model = GPT2.from_pretrained(tokenizer=given, threads=1)  # type: ignore[arg-type]
        assert model.generate("Once", max_new_tokens=1).token_ids
        with pytest.raises(ValueError, match="padding needs a token"):
            model.tokenizer(["a", "b c"], padding=True)
