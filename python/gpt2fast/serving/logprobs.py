"""Log-probabilities in the forms of OpenAI's two interfaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpt2fast.serving.token_names import TokenNames, TokenOffsets

if TYPE_CHECKING:
    from gpt2fast.inference.results import TokenLogprobs

#: One token: its id, its log-probability (None for a text's first), the likeliest at its place by their ids.
_Place = tuple[int, float | None, dict[int, float] | None]


def completion_logprobs(
    token_ids: Sequence[int],
    logprobs: TokenLogprobs,
    names: TokenNames,
    offsets: TokenOffsets,
    *,
    with_ids: bool = False,
) -> dict[str, Any]:
    """The object ``logprobs`` of a choice of a completion; one entry for each token.

    A token that was chosen is among the likeliest at its place, even if they are fewer, with the same value.
    """
    places = _places(token_ids, logprobs)
    answer: dict[str, Any] = {
        "tokens": [names[token] for token in token_ids],
        "token_logprobs": [value for _, value, _ in places],
        "top_logprobs": [
            None if top is None else {names[token]: value for token, value in top.items()}
            for _, _, top in places
        ],
        "text_offset": offsets.feed(token_ids),
    }
    if with_ids:
        answer["top_token_ids"] = [
            None if top is None else {names[token]: token for token in top} for _, _, top in places
        ]
    return answer


def chat_logprobs(
    token_ids: Sequence[int], logprobs: TokenLogprobs, names: TokenNames, top_count: int
) -> dict[str, Any]:
    """The object ``logprobs`` of a choice of a chat."""
    content = []
    for token, value, top in _places(token_ids, logprobs):
        likeliest = sorted((top or {}).items(), key=lambda one: one[1], reverse=True)[:top_count]
        entry = _entry(token, value, names)
        entry["top_logprobs"] = [_entry(one, each, names) for one, each in likeliest]
        content.append(entry)
    return {"content": content, "refusal": None}


def _entry(token: int, value: float | None, names: TokenNames) -> dict[str, Any]:
    return {"token": names[token], "logprob": value, "bytes": names.bytes_of(token)}


def _places(token_ids: Sequence[int], logprobs: TokenLogprobs) -> list[_Place]:
    places: list[_Place] = []
    chosen, top_ids, top = logprobs.chosen.tolist(), logprobs.top_ids.tolist(), logprobs.top.tolist()
    for token, value, ids, values in zip(token_ids, chosen, top_ids, top, strict=True):
        if math.isnan(value):  # a text's first token
            places.append((token, None, None))
            continue
        likeliest = dict(zip(ids, values, strict=True))
        likeliest[token] = value
        places.append((token, value, likeliest))
    return places
