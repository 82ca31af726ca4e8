"""Small checkpoints with heads for classification; tests/goldens/make_classifiers.py has their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from support.checkpoint_samples import random_tensors, small_config
from support.huggingface_samples import edit_config, write_directory

PAD = 7
#: A token alone, texts that end with padding or are nothing else, a full context.
TEXTS = [[3], [5, 6, 9, 11], [5, 6, PAD, PAD], [PAD, PAD], [PAD, 5], [one % 50 for one in range(24)]]
#: Name -> the head's tensors' shapes, and what config.json says of it.
CLASSIFIERS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "two labels": (
        {"score.weight": (2, 64)},
        {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}},
    ),
    "three labels, padded": (
        {"score.weight": (3, 64)},
        {
            "id2label": {"1": "b", "0": "a", "2": "c"},
            "label2id": {"a": 0, "b": 1, "c": 2},
            "problem_type": "single_label_classification",
            "pad_token_id": PAD,
        },
    ),
    "several at once": (
        {"score.weight": (3, 64)},
        {
            "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
            "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
            "problem_type": "multi_label_classification",
        },
    ),
    "one label": ({"score.weight": (1, 64)}, {"id2label": {"0": "yes"}, "label2id": {"yes": 0}}),
    "regression": (
        {"score.weight": (1, 64)},
        {"id2label": {"0": "stars"}, "label2id": {"stars": 0}, "problem_type": "regression"},
    ),
    "tokens": (
        {"classifier.weight": (4, 64), "classifier.bias": (4,)},
        {
            "id2label": {"0": "O", "1": "PER", "2": "LOC", "3": "ORG"},
            "label2id": {"O": 0, "PER": 1, "LOC": 2, "ORG": 3},
        },
    ),
}


def write_classifier(directory: Path, name: str) -> Path:
    """One of ``CLASSIFIERS``, in the form that ``save_pretrained`` writes."""
    shapes, settings = CLASSIFIERS[name]
    generator = np.random.default_rng(1)
    config = small_config()
    head = {one: generator.normal(0.0, 0.2, shape).astype(np.float32) for one, shape in shapes.items()}
    write_directory(directory, config, {**random_tensors(config), **head}, heads=tuple(head))
    kind = "Sequence" if "score.weight" in head else "Token"
    edit_config(directory, architectures=[f"GPT2For{kind}Classification"], **settings)
    return directory
