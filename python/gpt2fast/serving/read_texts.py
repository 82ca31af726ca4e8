"""Routes that read texts and generate none: embeddings, scores, rankings."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from gpt2fast.serving.errors import bad_request
from gpt2fast.serving.service import Service

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.serving.openai import EmbeddingFields, RankFields, ScoreFields


async def create_embedding(service: Service, body: EmbeddingFields) -> Response:
    """One vector for each text."""
    if body.dimensions is not None:
        width = service.calls.config.n_embd
        raise bad_request(f"dimensions is not supported: a vector has {width}", "dimensions")
    texts = await _texts(service, body)
    n_positions = service.calls.config.n_positions
    for index, ids in enumerate(texts):
        if len(ids) > n_positions:
            raise bad_request(
                f"This model's maximum context length is {n_positions} tokens, but input[{index}] has "
                f"{len(ids)}",
                "input",
                "context_length_exceeded",
            )
    normalize = body.normalize is not False  # OpenAI's vectors have length 1
    vectors = await service.calls.embed(texts, body.pooling or "mean", normalize)
    as_text = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if as_text else vector}
        for index, vector in enumerate(vectors)
    ]
    return _list(service, data, sum(map(len, texts)))


async def create_score(service: Service, body: ScoreFields) -> Response:
    """The log-probability of each token of texts of any length."""
    texts = await _texts(service, body)
    _check_windows(service, texts, body.stride)
    scores = await service.calls.score(texts, body.stride)
    data = [
        {
            "object": "score",
            "index": index,
            "token_ids": score.token_ids,
            "token_logprobs": _numbers(score.logprobs),
            "total_logprob": score.total,
            "mean_logprob": score.mean,
            "perplexity": score.perplexity,
        }
        for index, score in enumerate(scores)
    ]
    return _list(service, data, sum(map(len, texts)))


async def create_rank(service: Service, body: RankFields) -> Response:
    """Choices after a prompt, the likeliest first."""
    given: Any = body
    service.check_count(len(given.choices), "choices")
    for index, choice in enumerate(given.choices):
        if not choice:
            raise bad_request(f"choices[{index}] must not be empty", f"choices[{index}]")
    (prompt,) = await service.calls.token_ids([given.prompt], "prompt")
    choices = await service.calls.token_ids(given.choices, "choices", add_special_tokens=False)
    _check_tokens(service, [prompt, *choices], "choices")
    overflow = body.overflow or "error"
    _check_contexts(service, prompt, choices, overflow)
    ranked = await service.calls.rank(prompt, choices, body.by or "mean", overflow)
    data = [
        {
            "object": "rank",
            "index": one.index,
            "choice": given.choices[one.index],
            "token_ids": one.token_ids,
            "token_logprobs": _numbers(one.logprobs),
            "total_logprob": one.total,
            "mean_logprob": one.mean,
        }
        for one in ranked
    ]
    return _list(service, data, len(prompt) + sum(map(len, choices)))


def _check_contexts(
    service: Service, prompt: Sequence[int], choices: Sequence[Sequence[int]], overflow: str
) -> None:
    n_positions = service.calls.config.n_positions
    for index, choice in enumerate(choices):
        beyond = len(prompt) + len(choice) - n_positions - 1  # the last token is not read
        if beyond <= 0 or (overflow == "truncate" and beyond < len(prompt)):
            continue
        advice = "overflow='truncate' cuts the prompt" if beyond < len(prompt) else "give a shorter one"
        raise bad_request(
            f"This model's maximum context length is {n_positions} tokens, but the prompt has {len(prompt)} "
            f"and choices[{index}] {len(choice)}; {advice}",
            f"choices[{index}]",
            "context_length_exceeded",
        )


async def _texts(service: Service, body: EmbeddingFields | ScoreFields) -> list[list[int]]:
    given: Any = body
    service.check_count(len(given.input), "input")
    texts = await service.calls.token_ids(given.input, "input")
    _check_tokens(service, texts, "input")
    return texts


def _check_tokens(service: Service, texts: Sequence[Sequence[int]], name: str) -> None:
    limit, tokens = service.settings.limits.tokens, sum(map(len, texts))
    if tokens > limit:
        raise bad_request(
            f"the texts of a request may have {limit} tokens together on this server, got {tokens}", name
        )


def _check_windows(service: Service, texts: Sequence[Sequence[int]], stride: int | None) -> None:
    """Refuse a stride that makes more to read of long texts than the default does: twice their tokens."""
    if stride is None:
        return
    width, limit = service.calls.config.n_positions, 2 * service.settings.limits.tokens
    tokens = sum(width * -(-(len(text) - width) // stride) for text in texts if len(text) > width)
    if tokens > limit:
        raise bad_request(
            f"stride={stride} makes windows of {tokens} tokens together of the texts, more than {limit} on "
            f"this server; give a larger stride",
            "stride",
        )


def _list(service: Service, data: list[dict[str, Any]], tokens: int) -> Response:
    answer = {
        "object": "list",
        "model": service.settings.model_name,
        "data": data,
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
    }
    # NaN, such as the first token's log-probability, becomes null.
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


def _numbers(values: NDArray[np.float32]) -> list[float]:
    numbers: list[float] = values.tolist()
    return numbers


def _base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
