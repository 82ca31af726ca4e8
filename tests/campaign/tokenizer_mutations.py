"""Changes a ``tokenizer.json`` so that most of what comes out is a tokenizer still, another one each time."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_TEXTS = (
    "",
    " ",
    "a",
    "the",
    "▁",
    "Ġ",
    "##",
    "</w>",
    "é",
    "中",
    "  ",
    "<|sep|>",
    "0",
    "\U0001f999",
    "-" * 40,
)
_NUMBERS = (0, 1, 2, 3, 7, 100)
_CHOICES = {
    "behavior": ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"),
    "prepend_scheme": ("always", "never", "first"),
    "pattern": (
        *({"String": text} for text in (" ", "a", "th", "▁", "</w>", "é")),
        *({"Regex": text} for text in (r"\s+", r"\w", r"\b", "(?i)THE", "[^a-z]*", r"(?<=e)", "^", "a|b|")),
    ),
    "strip_accents": (None, True, False),
}
_SPLIT = {"behavior": "Isolated", "invert": False}
_NORMALIZERS: tuple[Any, ...] = (
    *(
        {"type": kind}
        for kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel")
    ),
    {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Prepend", "prepend": "▁"},
)
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
_PRE_TOKENIZERS: tuple[Any, ...] = (
    *({"type": kind} for kind in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts")),
    *(_BYTE_LEVEL, _METASPACE),
    {"type": "Punctuation", "behavior": "Isolated"},
    {"type": "Digits", "individual_digits": True},
    {"type": "Split", "pattern": {"Regex": r"\w+|[^\w\s]+"}, **_SPLIT},
    {"type": "CharDelimiterSplit", "delimiter": "e"},
)
_DECODERS: tuple[Any, ...] = (
    *({"type": kind} for kind in ("ByteFallback", "Fuse")),
    *(_BYTE_LEVEL, _METASPACE),
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "BPEDecoder", "suffix": "</w>"},
    {"type": "CTC", "pad_token": "a", "word_delimiter_token": "|", "cleanup": True},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
)
#: Part of the file -> what it may be, and the name of the list in a sequence of several.
_PARTS = {
    "normalizer": (_NORMALIZERS, "normalizers"),
    "pre_tokenizer": (_PRE_TOKENIZERS, "pretokenizers"),
    "decoder": (_DECODERS, "decoders"),
}
_MOST_STEPS = 4


def mutate_tokenizer(generator: random.Random, data: bytes) -> bytes:
    """A tokenizer with one to five changes; ValueError if it is none."""
    values = json.loads(data)
    try:
        for _ in range(generator.choice((1, 1, 2, 3, 5))):
            generator.choice(_CHANGES)(generator, values)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no tokenizer: {error!r}") from None
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _swap_part(generator: random.Random, values: dict[str, Any]) -> None:
    """Another kind of normalizer, pre-tokenizer or decoder, none, or several."""
    part = generator.choice(list(_PARTS))
    kinds, steps = _PARTS[part]
    choice = generator.randrange(4)
    if choice == 0:
        values[part] = None
    elif choice == 1:
        chosen = [dict(generator.choice(kinds)) for _ in range(generator.randrange(_MOST_STEPS + 1))]
        values[part] = {"type": "Sequence", steps: chosen}
    else:
        values[part] = dict(generator.choice(kinds))


def _change_option(generator: random.Random, values: dict[str, Any]) -> None:
    """Another value of the same type."""
    options = [
        (step, name)
        for part in (*_PARTS, "post_processor")
        for step in _steps(values.get(part))
        for name in step
        if name not in ("type", "single", "pair", "special_tokens")
    ]
    options += [
        (values["model"], name) for name in values["model"] if name not in ("type", "vocab", "merges")
    ]
    step, name = generator.choice(options)
    step[name] = _other(generator, values, name, step[name])


def _steps(part: Any) -> list[dict[str, Any]]:
    if not isinstance(part, dict):
        return []
    inner = next((value for value in part.values() if isinstance(value, list)), None)
    return (
        [part]
        if inner is None or part["type"] != "Sequence"
        else [one for step in inner for one in _steps(step)]
    )


def _other(generator: random.Random, values: dict[str, Any], name: str, value: Any) -> Any:
    if name in _CHOICES:
        return generator.choice(_CHOICES[name])
    if name in ("unk_token", "sep", "cls"):
        token = generator.choice(_tokens(values))
        return token if name == "unk_token" else [token, _ids(values)[token]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return generator.choice((*_NUMBERS, value + 1))
    if isinstance(value, str):
        return generator.choice(_TEXTS)
    return generator.choice((None, True, 0.5, "a"))


def _change_added(generator: random.Random, values: dict[str, Any]) -> None:
    """An added token more or less, or other flags."""
    added = values["added_tokens"]
    choice = generator.randrange(4)
    if choice == 0 and added:
        added.pop(generator.choice((-1, generator.randrange(len(added)))))
    elif choice == 1 and added:
        flag = generator.choice(_FLAGS)
        token = generator.choice(added)
        token[flag] = not token[flag]
    else:
        ids = _ids(values)
        content = generator.choice((*_TEXTS, *_tokens(values), " fox", "time", "<", "There"))
        token_id = ids.get(content, max(ids.values(), default=-1) + 1)
        flags = {flag: generator.random() < 0.5 for flag in _FLAGS}
        added.append({"id": token_id, "content": content, **flags})


def _change_template(generator: random.Random, values: dict[str, Any]) -> None:
    """Another post-processor, of tokens that are there."""
    tokens, ids = _tokens(values), _ids(values)
    named = [generator.choice(tokens) for _ in range(3)]
    pieces = [generator.choice(("A", *named)) for _ in range(generator.randrange(6))]
    first, last = ([token, ids[token]] for token in named[:2])
    template = {
        "type": "TemplateProcessing",
        "single": _pieces(pieces),
        "pair": [*_pieces(pieces), {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in named},
    }
    kinds = (
        *(None, template, template, template, _BYTE_LEVEL),
        {"type": "BertProcessing", "sep": last, "cls": first},
        {
            "type": "RobertaProcessing",
            "sep": last,
            "cls": first,
            "trim_offsets": True,
            "add_prefix_space": False,
        },
        {"type": "Sequence", "processors": [_BYTE_LEVEL, template]},
    )
    values["post_processor"] = generator.choice(kinds)


def _pieces(names: list[str]) -> list[dict[str, Any]]:
    return [
        {"Sequence": {"id": "A", "type_id": 0}}
        if name == "A"
        else {"SpecialToken": {"id": name, "type_id": 0}}
        for name in names
    ]


def _change_vocabulary(generator: random.Random, values: dict[str, Any]) -> None:
    """A token renamed, gone, new, or with the id of another; a piece with another score."""
    vocabulary = values["model"]["vocab"]
    choice = generator.randrange(4)
    if isinstance(vocabulary, list):
        at, other = (generator.randrange(len(vocabulary)) for _ in range(2))
        if choice == 0:
            vocabulary[at], vocabulary[other] = vocabulary[other], vocabulary[at]
        elif choice == 1:
            vocabulary.pop()
        elif choice == 2:
            vocabulary.append([generator.choice(_TEXTS), -generator.random() * 20])
        else:
            vocabulary[at] = [vocabulary[at][0], generator.choice((0.0, -1e30, 1.0, -0.5))]
        return
    token, other = (generator.choice(list(vocabulary)) for _ in range(2))
    if choice == 0:
        vocabulary[token], vocabulary[other] = vocabulary[other], vocabulary[token]
    elif choice == 1:
        del vocabulary[max(vocabulary, key=vocabulary.__getitem__)]
    elif choice == 2:
        new = generator.choice((*_TEXTS, token + other, "<0x41>", "<0xFF>"))
        vocabulary.setdefault(new, max(vocabulary.values()) + 1)
    else:
        vocabulary[generator.choice((*_TEXTS, token + "x"))] = vocabulary.pop(token)


def _change_merges(generator: random.Random, values: dict[str, Any]) -> None:
    """A merge gone, elsewhere, twice or new, of tokens that are there."""
    merges, vocabulary = values["model"]["merges"], values["model"]["vocab"]
    choice = generator.randrange(4)
    if choice == 0 and merges:
        merges.pop(generator.randrange(len(merges)))
    elif choice == 1 and merges:
        merges.insert(generator.randrange(len(merges)), merges.pop())
    elif choice == 2 and merges:
        merges.append(generator.choice(merges))
    else:
        first, second = (generator.choice(list(vocabulary)) for _ in range(2))
        vocabulary.setdefault(first + second, max(vocabulary.values()) + 1)
        merges.append(f"{first} {second}")


def _swap_model(generator: random.Random, values: dict[str, Any]) -> None:
    """Another kind of model with the same tokens."""
    tokens = _tokens(values)
    vocabulary = {token: at for at, token in enumerate(tokens)}
    unknown = generator.choice(tokens)
    kinds: tuple[dict[str, Any], ...] = (
        {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown},
        {
            "type": "WordPiece",
            "vocab": vocabulary,
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
        {
            "type": "Unigram",
            "unk_id": vocabulary[unknown],
            "byte_fallback": False,
            "vocab": [[token, -float(at)] for token, at in vocabulary.items()],
        },
    )
    values["model"] = generator.choice(kinds)


def _set_training(generator: random.Random, values: dict[str, Any]) -> None:
    """Settings that belong to training."""
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": generator.choice(("BatchLongest", {"Fixed": 9})),
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "a",
    }
    values["truncation"] = generator.choice((None, cut))
    values["padding"] = generator.choice((None, padding))


def _tokens(values: dict[str, Any]) -> list[str]:
    vocabulary = values["model"]["vocab"]
    return [one[0] for one in vocabulary] if isinstance(vocabulary, list) else list(vocabulary)


def _ids(values: dict[str, Any]) -> dict[str, int]:
    """The id of every token, added ones too."""
    vocabulary = values["model"]["vocab"]
    ids = (
        {token: at for at, token in enumerate(_tokens(values))}
        if isinstance(vocabulary, list)
        else vocabulary
    )
    return {**ids, **{token["content"]: token["id"] for token in values["added_tokens"]}}


_CHANGES: tuple[Callable[[random.Random, dict[str, Any]], None], ...] = (
    *(_swap_part, _swap_part, _change_option, _change_option, _change_added, _change_template),
    *(_change_vocabulary, _change_merges, _swap_model, _set_training),
)
