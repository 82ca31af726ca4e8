"""Labels of texts and of tokens: a classification head on the last hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpt2fast.errors import ModelError
from gpt2fast.inference.results import AnyClassification, Classification, TokenClassification
from gpt2fast.inference.scoring import read_hidden_states, read_whole_texts
from gpt2fast.loading.loaded_model import LoadedModel
from gpt2fast.text.prompts import Prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gpt2fast.config import ClassifierConfig
    from gpt2fast.inference.work import Work


def classify(
    model: LoadedModel, texts: Prompt | Sequence[Prompt]
) -> Work[AnyClassification | list[AnyClassification]]:
    """See :meth:`gpt2fast.GPT2.classify`."""
    config = model.config.classifier
    if config is None:
        raise ModelError(_without_head(model))
    ids, single = read_whole_texts(model, texts)
    if config.kind == "sequence":
        head = model.classifier["score.weight"]
        of_texts: list[AnyClassification] = []

        def label_text(index: int, hidden: NDArray[np.float32]) -> None:
            # One text at a time, so that its bits don't depend on its company.
            state = hidden[_last_place(ids[index], config.pad_token_id)]
            of_texts.append(_classification(config, head @ state))

        yield from read_hidden_states(model, ids, label_text)
        return of_texts[0] if single else of_texts
    weight, bias = model.classifier["classifier.weight"], model.classifier["classifier.bias"]
    of_tokens: list[AnyClassification] = []

    def label_tokens(index: int, hidden: NDArray[np.float32]) -> None:
        of_tokens.append(_token_classification(config, ids[index], hidden @ weight.T + bias))

    yield from read_hidden_states(model, ids, label_tokens)
    return of_tokens[0] if single else of_tokens


def _without_head(model: LoadedModel) -> str:
    message = (
        f"{model.directory.path}: the model has no head for classification (score.weight or "
        f"classifier.weight), as checkpoints of GPT2ForSequenceClassification and "
        f"GPT2ForTokenClassification have"
    )
    return "; ".join([message, *model.directory.warnings])


def _last_place(ids: Sequence[int], pad: int | None) -> int:
    """Where transformers reads a text's label: at its last token but padding, or at the first of padding."""
    return next((place for place in range(len(ids) - 1, -1, -1) if ids[place] != pad), 0)


def _classification(config: ClassifierConfig, logits: NDArray[np.float32]) -> Classification:
    scores = _scores(config, logits)
    best = int(scores.argmax())
    return Classification(config.labels[best], float(scores[best]), config.labels, scores, logits)


def _scores(config: ClassifierConfig, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the text-classification pipeline of transformers makes of logits [labels]."""
    if config.problem_type == "regression":
        return logits
    if config.problem_type == "multi_label_classification" or len(logits) == 1:
        # 1 / (1 + exp(-x)), without overflow.
        return (0.5 * (1 + np.tanh(logits.astype(np.float64) / 2))).astype(np.float32)
    return _softmax(logits)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    scores: NDArray[np.float32] = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    return scores


def _token_classification(
    config: ClassifierConfig, ids: list[int], logits: NDArray[np.float32]
) -> TokenClassification:
    scores = _softmax(logits)
    best = scores.argmax(axis=1).tolist()
    return TokenClassification(
        ids,
        [config.labels[one] for one in best],
        [float(row[one]) for row, one in zip(scores, best, strict=True)],
        config.labels,
        scores,
        logits,
    )
