"""Makes classifiers.json: what transformers says with the checkpoints of support/classifier_samples.py.

Run with torch and transformers installed: ``PYTHONPATH=python:tests/python python
tests/goldens/make_classifiers.py``. ``scores`` are what its pipelines make of the logits.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from support.classifier_samples import CLASSIFIERS, TEXTS, write_classifier


def golden(directory: Path, kind: str) -> list[dict[str, Any]]:
    """Logits and scores of each text."""
    made = getattr(transformers, f"AutoModelFor{kind}Classification").from_pretrained(directory)
    model = made.eval()
    pipeline = None
    if kind == "Sequence":
        pipeline = transformers.TextClassificationPipeline(model=model, tokenizer=None)
    found = []
    for ids in TEXTS:
        with torch.no_grad():
            output = model(torch.tensor([ids]))
        logits = output.logits[0]
        if pipeline is None:
            scores = logits.softmax(-1).tolist()
        else:
            ranked = pipeline.postprocess(output, top_k=None, _legacy=False)
            by_label = {one["label"]: one["score"] for one in ranked}
            scores = [by_label[model.config.id2label[index]] for index in range(logits.shape[0])]
        found.append({"logits": logits.tolist(), "scores": scores})
    return found


def main() -> None:
    values = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, (shapes, _) in CLASSIFIERS.items():
            kind = "Sequence" if "score.weight" in shapes else "Token"
            values[name] = golden(write_classifier(Path(directory) / name, name), kind)
    Path(__file__).with_name("classifiers.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
