"""Generated texts as JSON objects."""

from __future__ import annotations

from typing import Any

from gpt2fast.inference.results import Generation, plain


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
        values["logprobs"] = plain(result.logprobs.chosen)
        values["top_token_ids"] = plain(result.logprobs.top_ids)
        values["top_logprobs"] = plain(result.logprobs.top)
    return values
