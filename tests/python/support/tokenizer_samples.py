"""Small tokenizers of all kinds as directories, and what `transformers` makes of texts with them.

The answers are in `transformers_tokenizers.json`, made by this command with transformers 5.24:

    PYTHONPATH=tests/python python -m support.tokenizer_samples
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOLDENS = Path(__file__).with_name("transformers_tokenizers.json")
TEXTS = (
    "",
    "Once upon a time<|sep|> there was  a fox.",
    "<s>one</s> two<mask>, three !",
    " NOTE_1 NOTE_2 BAR",
    "Does it n't work ? I 'm sure .",
    "unaffable é 中文 \U0001f999 x",
)
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_WORDS = ("the", "fox", "time", "Once", "upon", "there", "was", "a", "one", "two", "three", "it", "work", "I")


def write_sample(name: str, directory: Path) -> Path:
    """The tokenizer called ``name``, with the config.json of a GPT-2 beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {"config.json": {"model_type": "gpt2", "vocab_size": 400}, **SAMPLES[name]()}
    for file, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        (directory / file).write_text(text, "utf-8")
    return directory


def byte_alphabet() -> list[str]:
    """The characters that stand for bytes, in the order of the bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


def _bpe(*named: str) -> tuple[dict[str, int], list[str]]:
    merges = ["t h", "th e", "Ġ the", "Ġ t", "o n", "on e", "Ġ w", "f o", "fo x"]
    tokens = [*byte_alphabet(), *(merge.replace(" ", "") for merge in merges), *named]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def _original(*named: str, **beside: Any) -> dict[str, Any]:
    vocabulary, merges = _bpe(*named)
    files = {"vocab.json": vocabulary, "merges.txt": "\n".join(["#version: 0.2", *merges, ""])}
    return files | {f"{name}.json": value for name, value in beside.items()}


def _token(token_id: int, content: str, **flags: bool) -> dict[str, Any]:
    return {"id": token_id, "content": content, **_FLAGS, **flags}


def _single(model: dict[str, Any], config: dict[str, Any] | None = None, **parts: Any) -> dict[str, Any]:
    values = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        **parts,
        "model": model,
    }
    found = {"tokenizer.json": values}
    return found if config is None else {**found, "tokenizer_config.json": config}


def _byte_level(
    config: dict[str, Any] | None = None, dropout: float | None = None, **parts: Any
) -> dict[str, Any]:
    vocabulary, merges = _bpe("<|endoftext|>", "<s>", "</s>")
    model = {"type": "BPE", "dropout": dropout, "unk_token": None, "vocab": vocabulary, "merges": merges}
    stage = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [_token(vocabulary["<|endoftext|>"], "<|endoftext|>")]
    return _single(
        model, config, **{"pre_tokenizer": stage, "decoder": stage, "added_tokens": added, **parts}
    )


def _template(*parts: str, **ids: int) -> dict[str, Any]:
    pieces = [
        {"Sequence": {"id": "A", "type_id": 0}}
        if part == "A"
        else {"SpecialToken": {"id": part, "type_id": 0}}
        for part in parts
    ]
    named = {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ids.items()}
    pair = [*pieces, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pair, "special_tokens": named}


_FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}


def _word_level(config: dict[str, Any] | None = None) -> dict[str, Any]:
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "NOTE_1",
        "NOTE_2",
        "BAR",
        ".",
        "?",
        "!",
        "n't",
        "'m",
        "sure",
        "Does",
        *_WORDS,
    ]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    config = {**_FAST, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **(config or {})}
    added = [_token(index, tokens[index]) for index in range(3)]
    return _single(model, config, pre_tokenizer={"type": "WhitespaceSplit"}, added_tokens=added)


def _word_piece() -> dict[str, Any]:
    tokens = [
        "[UNK]",
        "un",
        "##aff",
        "##able",
        "##n",
        "##c",
        "##e",
        "o",
        ",",
        ".",
        "!",
        "?",
        "'",
        "it",
        "##s",
        *_WORDS,
    ]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    model = {
        "type": "WordPiece",
        "vocab": vocabulary,
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    config = {**_FAST, "unk_token": "[UNK]"}
    return _single(model, config, pre_tokenizer={"type": "BertPreTokenizer"}, decoder=decoder)


def _unigram() -> dict[str, Any]:
    pieces = [
        "<unk>",
        "</s>",
        *(f"▁{word}" for word in _WORDS),
        "▁",
        "中",
        "文",
        "中文",
        "un",
        "able",
        *"abefnu.?!",
    ]
    vocabulary = [[piece, -float(index)] for index, piece in enumerate(pieces)]
    stage = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": False}
    parts = {
        "pre_tokenizer": stage,
        "decoder": stage,
        "added_tokens": [_token(0, "<unk>"), _token(1, "</s>")],
    }
    template = _template("A", "</s>", **{"</s>": 1})
    config = {**_FAST, "eos_token": "</s>", "unk_token": "<unk>"}
    return _single(model, config, **parts, post_processor=template)


def _word_end() -> dict[str, Any]:
    tokens = ["<unk>", *"abcdefhinoprstuwx", *(f"{c}</w>" for c in "abcdefhinoprstuwx.?!"), "th", "the</w>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "end_of_word_suffix": "</w>",
        "vocab": vocabulary,
        "merges": ["t h", "th e</w>"],
        "fuse_unk": False,
    }
    decoder = {"type": "BPEDecoder", "suffix": "</w>"}
    config = {**_FAST, "unk_token": "<unk>"}
    return _single(
        model,
        config,
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder=decoder,
        normalizer={"type": "Lowercase"},
    )


def _byte_fallback() -> dict[str, Any]:
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"Oncetuphawsif.",
        "▁t",
    ]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": vocabulary,
        "merges": ["▁ t"],
    }
    normalizers = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        *(
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ),
    ]
    return _single(
        model,
        {**_FAST, "bos_token": "<s>", "eos_token": "</s>"},
        normalizer={"type": "Sequence", "normalizers": normalizers},
        decoder={"type": "Sequence", "decoders": decoders},
        post_processor=_template("<s>", "A", **{"<s>": 1}),
        added_tokens=[_token(index, tokens[index]) for index in range(3)],
    )


def _bert() -> dict[str, Any]:
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "un",
        "##aff",
        "##able",
        "中",
        "文",
        ",",
        ".",
        "!",
        "it",
        "once",
    ]
    return {
        "vocab.txt": "\n".join([*tokens, *_WORDS, ""]),
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
    }


_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<s>", "pad_token": "</s>"}
_MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": True, "single_word": False}
#: Every sample by its name; with 266 or so tokens in GPT-2's form, the next id follows.
SAMPLES: dict[str, Callable[[], dict[str, Any]]] = {
    "plain": lambda: _original("<|endoftext|>"),
    "added_tokens": lambda: _original("<|endoftext|>", added_tokens={"<|sep|>": 266}),
    "special_tokens_map": lambda: _original("<|endoftext|>", "<s>", "</s>", special_tokens_map=_ROLES),
    "named_in_config": lambda: _original("<|endoftext|>", "<s>", "</s>", tokenizer_config=_ROLES),
    "extra_special_tokens": lambda: _original(
        "<|endoftext|>",
        added_tokens={"<|sep|>": 266, "<mask>": 267},
        special_tokens_map={"additional_special_tokens": ["<|sep|>"], "mask_token": _MASK},
    ),
    "added_tokens_decoder": lambda: _original(
        "<|endoftext|>",
        tokenizer_config={
            "added_tokens_decoder": {"266": {**_MASK, "special": False}},
            "mask_token": "<mask>",
        },
        added_tokens={"<|sep|>": 267},
    ),
    "prefix_space": lambda: _original("<|endoftext|>", tokenizer_config={"add_prefix_space": True}),
    "bos_in_front": lambda: _original(
        "<|endoftext|>", "<s>", tokenizer_config={"bos_token": "<s>", "add_bos_token": True}
    ),
    "eos_behind": lambda: _original("<|endoftext|>", tokenizer_config={"add_eos_token": True}),
    "json_plain": _byte_level,
    "json_template": lambda: _byte_level(_FAST, post_processor=_template("<s>", "A", **{"<s>": 266})),
    "json_prefix_space": lambda: _byte_level({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}),
    "json_roles": lambda: _byte_level({**_FAST, **_ROLES}),
    "json_added_tokens_decoder": lambda: _byte_level(
        {**_FAST, "added_tokens_decoder": {"268": _MASK | {"special": True}}, "mask_token": "<mask>"}
    ),
    "json_add_bos": lambda: _byte_level({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}),
    "json_without_words": lambda: _byte_level({"tokenizer_class": "GPT2Tokenizer"}, pre_tokenizer=None),
    "json_dropout": lambda: _byte_level({"tokenizer_class": "GPT2Tokenizer"}, dropout=0.5),
    "word_level": _word_level,
    "word_level_cleaned_up": lambda: _word_level({"clean_up_tokenization_spaces": True}),
    "word_piece": _word_piece,
    "unigram": _unigram,
    "word_end": _word_end,
    "byte_fallback": _byte_fallback,
    "bert": _bert,
}


def answers(name: str) -> dict[str, Any]:
    """What transformers makes of the texts, and its names."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as directory:
        tokenizer = AutoTokenizer.from_pretrained(write_sample(name, Path(directory)))
    roles = ("bos_token", "eos_token", "unk_token", "pad_token")
    ids = [tokenizer(text).input_ids for text in TEXTS]
    return {
        "ids": ids,
        "ids_alone": [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS],
        "texts": [tokenizer.decode(one) for one in ids],
        "texts_without_special": [tokenizer.decode(one, skip_special_tokens=True) for one in ids],
        "roles": {role: getattr(tokenizer, role) for role in roles},
        "role_ids": {role: getattr(tokenizer, f"{role}_id") for role in roles},
        "length": len(tokenizer),
        "special": sorted(tokenizer.all_special_ids),
    }


if __name__ == "__main__":
    made = {name: answers(name) for name in SAMPLES}
    GOLDENS.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", "utf-8")
