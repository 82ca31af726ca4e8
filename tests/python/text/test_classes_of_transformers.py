"""Tokenizers of other classes, as transformers saves them beside a GPT-2: ids and texts are the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import Tokenizer
from support.tokenizer_samples import TEXTS, byte_alphabet

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "t"), ("o", "n"), ("f", "o"), ("fo", "x")]
BYTE_LEVEL = {
    token: index for index, token in enumerate(["<|endoftext|>", *byte_alphabet(), *map("".join, MERGES)])
}
BERT = {
    token: index
    for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "one", "##s"])
}
UNIGRAM = [
    ("<pad>", 0.0),
    ("</s>", 0.0),
    ("<unk>", 0.0),
    ("▁the", -1.0),
    ("▁", -2.0),
    *((c, -9.0) for c in "foxnetws."),
]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prefix_space", [False, True])
@pytest.mark.parametrize(
    "name",
    ["RobertaTokenizer", "CodeGenTokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer", "LlamaTokenizer"],
)
def test_tokenizers_of_vocabulary_and_merges(name: str, prefix_space: bool, tmp_path: Path) -> None:
    made = getattr(pytest.importorskip("transformers"), name)
    compare(made(vocab=dict(BYTE_LEVEL), merges=list(MERGES), add_prefix_space=prefix_space), tmp_path)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "vocabulary"),
    [("BertTokenizer", BERT), ("T5Tokenizer", UNIGRAM), ("XLMRobertaTokenizer", UNIGRAM)],
)
def test_other_tokenizers(name: str, vocabulary: Any, tmp_path: Path) -> None:
    compare(getattr(pytest.importorskip("transformers"), name)(vocab=vocabulary), tmp_path)


def compare(theirs: Any, directory: Path) -> None:
    """Save a tokenizer, read it by both libraries, and compare what they make of texts."""
    transformers = pytest.importorskip("transformers")
    (directory / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 400}), "utf-8")
    theirs.save_pretrained(directory)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ours = Tokenizer.from_source(directory)
    ids = [theirs(text).input_ids for text in TEXTS]
    assert [ours.encode(text) for text in TEXTS] == ids
    assert [ours.encode(text, add_special_tokens=False) for text in TEXTS] == [
        theirs(text, add_special_tokens=False).input_ids for text in TEXTS
    ]
    for skip in (False, True):
        texts = [theirs.decode(one, skip_special_tokens=skip) for one in ids]
        assert ours.batch_decode(ids, skip_special_tokens=skip) == texts
    assert sorted(ours.all_special_ids) == sorted(theirs.all_special_ids)
