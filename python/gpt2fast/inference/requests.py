"""Generation options of a call -> one request of the core for each text: numbers only, all checks done."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from gpt2fast._native import core
from gpt2fast._validation import Integer
from gpt2fast.config import ModelConfig
from gpt2fast.inference.options import CONSTRAINTS, GenerationOptions
from gpt2fast.text.lazy_tokenizer import LazyTokenizer
from gpt2fast.text.prompts import MAX_PROMPTS, check_token_ids

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.inference.constraints import Constraint
    from gpt2fast.model import GPT2


#: As transformers has it when it samples.
DEFAULT_TOP_K = 50


def build_requests(
    prompts: Sequence[list[int]],
    options: GenerationOptions,
    config: ModelConfig,
    tokenizer: LazyTokenizer | None,
) -> list[core.Request]:
    """One request for each text, the copies of a prompt one after another; raises before any work is done."""
    copies = copies_per_prompt(options)
    if len(prompts) * copies > MAX_PROMPTS:
        name = "num_return_sequences" if options.best_of is None else "best_of"
        raise ValueError(
            f"{name} ({copies}) for {len(prompts)} prompts asks for more than {MAX_PROMPTS} texts "
            f"(MAX_PROMPTS)"
        )
    fitted = [_fit(prompt, options, config.n_positions) for prompt in prompts]
    shared = _shared_fields(options, config, tokenizer)
    constraint = _constraint(options, shared, config, tokenizer)
    assistant = _check_assistant(options, config)
    requests = []
    for prompt in fitted:
        first_seed = int.from_bytes(os.urandom(8), "little") if options.seed is None else options.seed
        for copy in range(copies):
            request = core.Request()
            for name, value in shared.items():
                setattr(request, name, value)
            request.prompt = prompt
            request.seed = (first_seed + copy) % 2**64
            hooks = _score_hooks(options)
            if constraint is not None:
                state = constraint.new_state()
                hooks |= {"allowed_tokens": state.allowed_tokens, "is_complete": state.is_complete}
            if hooks:
                request.set_hooks(**hooks)
            if options.prefix is not None:
                request.prefix = options.prefix.core
            if assistant is not None:
                request.assistant = assistant._engine
                request.num_assistant_tokens = options.num_assistant_tokens
            requests.append(request)
    return requests


def copies_per_prompt(options: GenerationOptions) -> int:
    """Requests for each prompt: a search over beams is one, whatever it returns."""
    if options.num_beams > 1:
        return 1
    return options.best_of or options.num_return_sequences or 1


def _score_hooks(options: GenerationOptions) -> dict[str, Any]:
    """The caller's processors as one hook of the core."""
    processors = cast("tuple[Callable[..., None], ...]", options.logits_processor)
    if not processors:
        return {}

    def process_scores(
        prompt: NDArray[np.int32], output: NDArray[np.int32], scores: NDArray[np.float32]
    ) -> None:
        own = scores.copy()  # the core's memory is only good during this call; a caller may keep what it gets
        for processor in processors:
            if processor(prompt, output, own) is not None:
                raise TypeError("logits_processor must change the scores in place and return None")
        scores[:] = own

    return {"process_scores": process_scores}


def _check_assistant(options: GenerationOptions, config: ModelConfig) -> GPT2 | None:
    assistant = options.assistant_model
    if assistant is not None and assistant.config.vocab_size != config.vocab_size:
        raise ValueError(
            f"assistant_model must have the model's vocabulary of {config.vocab_size} tokens, it has "
            f"{assistant.config.vocab_size}"
        )
    return assistant


def _fit(prompt: list[int], options: GenerationOptions, n_positions: int) -> list[int]:
    """The prompt, or its newest part, so that the output fits the model's positions."""
    tokens, wanted = len(prompt), options.max_new_tokens
    room = n_positions - wanted
    if tokens <= room or options.overflow == "slide":
        return prompt
    if options.overflow == "truncate" and room > 0:
        return prompt[-room:]
    if room <= 0:
        advice = f"max_new_tokens must be below {n_positions}"
    else:
        advice = f"give max_new_tokens <= {n_positions - tokens}, or" if tokens < n_positions else "give"
        advice += " overflow='truncate' to keep the newest prompt tokens"
    raise ValueError(
        f"prompt ({tokens} tokens) + max_new_tokens ({wanted}) = {tokens + wanted} exceeds the model's "
        f"n_positions ({n_positions}); {advice}"
    )


def _shared_fields(
    options: GenerationOptions, config: ModelConfig, tokenizer: LazyTokenizer | None
) -> dict[str, Any]:
    """The fields of ``Request`` that all texts of a call share."""
    # GenerationOptions stores sequences as tuples, whatever it was given.
    suppressed = cast("tuple[int, ...]", options.suppress_tokens)
    stop_strings = cast("tuple[str, ...]", options.stop_strings)
    if stop_strings and tokenizer is None:
        raise ValueError("stop_strings needs a tokenizer, and the model has none")
    check_token_ids(suppressed, "suppress_tokens", config)
    if len(set(suppressed)) >= config.vocab_size:
        raise ValueError("suppress_tokens holds the whole vocabulary; leave at least one token")
    logit_bias = options.logit_bias or {}
    for token in logit_bias:
        Integer(0, config.vocab_size - 1)("a key of logit_bias", token)
    forced = _ids_of(options.forced_prefix, "forced_prefix", config, tokenizer)
    if len(forced) > options.max_new_tokens:
        raise ValueError(
            f"forced_prefix has {len(forced)} tokens, more than max_new_tokens ({options.max_new_tokens})"
        )
    return {
        "max_new_tokens": options.max_new_tokens,
        "min_new_tokens": options.min_new_tokens,
        "do_sample": options.sampling,
        "temperature": options.temperature or 1.0,
        "top_k": min(DEFAULT_TOP_K if options.top_k is None else options.top_k, config.vocab_size),
        "top_p": 1.0 if options.top_p is None else options.top_p,
        "min_p": options.min_p or 0.0,
        "typical_p": 1.0 if options.typical_p is None else options.typical_p,
        "repetition_penalty": options.repetition_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "no_repeat_ngram_size": options.no_repeat_ngram_size,
        "suppress_tokens": list(suppressed),
        "bad_words": _bad_words(options, config, tokenizer),
        "logit_bias": list(logit_bias.items()),
        "forced_prefix": forced,
        "eos_token_ids": _eos_token_ids(options, config),
        "stop_strings": [text.encode() for text in stop_strings],
        "token_bytes": tokenizer.token_bytes() if stop_strings and tokenizer is not None else None,
        "include_stop_string": options.include_stop_string,
        "max_seconds": options.max_time or 0.0,
        "logprobs": _logprobs(options, config),
        "prompt_lookup_num_tokens": options.prompt_lookup_num_tokens,
        "slide": options.overflow == "slide",
        "use_prefix_cache": options.use_prefix_cache,
    }


def _constraint(
    options: GenerationOptions,
    shared: dict[str, Any],
    config: ModelConfig,
    tokenizer: LazyTokenizer | None,
) -> Constraint | None:
    if all(getattr(options, name) is None for name in CONSTRAINTS):
        return None
    from gpt2fast.inference.constraints import find_constraint

    return find_constraint(
        options,
        shared["eos_token_ids"],
        shared["forced_prefix"],
        None if tokenizer is None else tokenizer.get(),
        config.vocab_size,
    )


def _logprobs(options: GenerationOptions, config: ModelConfig) -> int:
    """How many of the likeliest tokens to report; -1: nothing at all. ``best_of`` needs the chosen ones."""
    if options.logprobs is None:
        return -1 if options.best_of is None else 0
    return min(options.logprobs, config.vocab_size)


def _eos_token_ids(options: GenerationOptions, config: ModelConfig) -> list[int]:
    if options.eos_token_id is None:
        return list(config.eos_token_ids)
    ids = list(cast("tuple[int, ...]", options.eos_token_id))
    check_token_ids(ids, "eos_token_id", config)
    return ids


def _bad_words(
    options: GenerationOptions, config: ModelConfig, tokenizer: LazyTokenizer | None
) -> list[list[int]]:
    words: list[list[int]] = []
    for i, word in enumerate(options.bad_words):
        # Inside a text most words carry the space before them in their first token.
        forms = (word, f" {word}") if isinstance(word, str) and not word[0].isspace() else (word,)
        words.extend(_ids_of(form, f"bad_words[{i}]", config, tokenizer) for form in forms)
    return words


def _ids_of(
    text: str | Sequence[int], name: str, config: ModelConfig, tokenizer: LazyTokenizer | None
) -> list[int]:
    if isinstance(text, str):
        if not text:
            return []
        if tokenizer is None:
            raise ValueError(f"{name} is text, but the model has no tokenizer; give token ids")
        return tokenizer.get().encode(text)
    check_token_ids(text, name, config)
    return list(text)
