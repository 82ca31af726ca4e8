"""Generated texts as JSON objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.inference.results import Generation


def result_fields(result: Generation) -> dict[str, Any]:
    """What depends on the prompt and the options alone."""
    values: dict[str, Any] = {
        "text": result.text,
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        "prompt_tokens": len(result.prompt_token_ids),
        "seed": result.seed,
    }
    if result.score is not None:
        values["score"] = result.score
    if result.logprobs is not None:
        values["logprobs"] = _without_nan(result.logprobs.chosen)
        values["top_token_ids"] = result.logprobs.top_ids.tolist()
        values["top_logprobs"] = [_without_nan(row) for row in result.logprobs.top]
    return values


def _without_nan(values: NDArray[np.float32]) -> list[float | None]:
    """JSON has no NaN; null replaces it."""
    return [None if value != value else value for value in values.tolist()]
