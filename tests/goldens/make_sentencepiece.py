"""Trains four small SentencePiece models, and writes what the library sentencepiece makes of some texts.

python tests/goldens/make_sentencepiece.py tests/goldens/sentencepiece

``normalized.model`` has the settings of Japanese GPT-2s: NFKC, one space between words, a token that a user
defined. ``plain.model`` keeps texts as they are, spaces included, and falls back to bytes. ``bpe.model`` and
``bytes.model`` are the same of the kind BPE; the latter has a prefix of its own, as Llama's has.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import sentencepiece

_WHO = (
    "猫",
    "犬",
    "王様",
    "小さな女の子",
    "おじいさん",
    "the old king",
    "a little girl",
    "The Fox",
    "ガチョウが",
)
_WHERE = ("森で", "山の上で", "お城で", "川のそばで", " in the wood", " at the castle", " by the river")
_DOES = (
    "眠りました。",
    "歌を歌います。",
    "りんごを食べた。",
    "笑った!",
    " slept.",
    " sang a song.",
    " ate 12 apples.",
)
CORPUS = [f"{who}{where}{does}" for who, where, does in product(_WHO, _WHERE, _DOES)]

TEXTS = [
    "",
    " ",
    "猫が森で眠りました。",
    "  the  old king   sang ",
    "王様 and a little girl ate 12 apples.",
    "１２ＡＢＣ ﾘﾝｺ①㌔",
    "The Fox[SEP]猫 [SEP] 犬",
    "tabs\tand\nlines\u3000and\u00a0spaces",
    "unseen: ξ☃🦙 猫☃☃犬",
    "e\u0301te\u0301 — “quoted”…",
    "笑った!笑った!",
    "ｶﾞﾁｮｳか\u3099 ガチョウが",
]
SETTINGS: dict[str, dict[str, Any]] = {
    "normalized": {
        "model_type": "unigram",
        "vocab_size": 160,
        "user_defined_symbols": ["[SEP]"],
        "pad_id": 3,
        "normalization_rule_name": "nmt_nfkc",
    },
    "plain": {
        "model_type": "unigram",
        "vocab_size": 400,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
    },
    "bpe": {
        "model_type": "bpe",
        "vocab_size": 260,
        "user_defined_symbols": ["[SEP]", "[SEP2]"],
        "pad_id": 3,
        "normalization_rule_name": "nmt_nfkc",
    },
    "bytes": {
        "model_type": "bpe",
        "vocab_size": 500,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "split_by_whitespace": False,
    },
}


def main(out: Path) -> None:
    out.mkdir(exist_ok=True)
    answers = {}
    for name, settings in SETTINGS.items():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_prefix=str(out / name),
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
            **settings,
        )
        (out / f"{name}.vocab").unlink()
        library = sentencepiece.SentencePieceProcessor(model_file=str(out / f"{name}.model"))
        ids = [library.encode(text) for text in TEXTS]
        known = [[token for token in row if token != library.unk_id()] for row in ids]
        answers[name] = {"ids": ids, "texts": [library.decode(row) for row in known]}
    text = json.dumps({"texts": TEXTS, **answers}, ensure_ascii=False, indent=1)
    (out / "answers.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
