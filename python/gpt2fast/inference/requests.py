"""Checks the prompts and options of a call, and makes one request of the core for each text."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from gpt2fast._native import core
from gpt2fast._validation import MAX_PROMPTS, Integer, all_in_range
from gpt2fast.inference.hooks import Hooks
from gpt2fast.inference.model_defaults import join_defaults, limit_by_defaults
from gpt2fast.inference.options import CONSTRAINTS, GenerationOptions
from gpt2fast.inference.other_names import is_harmless
from gpt2fast.loading.loaded_model import LoadedModel
from gpt2fast.text.prompts import check_token_ids, read_prompts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gpt2fast.inference.constraints import Constraint
    from gpt2fast.inference.hooks import ProcessScores
    from gpt2fast.text.prompts import Prompt


#: The default of transformers when it samples.
DEFAULT_TOP_K = 50

OPTION_NAMES = GenerationOptions.__dataclass_fields__.keys()

_EARLY_STOPPING: dict[bool | str, core.EarlyStopping] = {
    False: core.EarlyStopping.FALSE,
    True: core.EarlyStopping.TRUE,
    "never": core.EarlyStopping.NEVER,
}


@dataclass(frozen=True, eq=False)
class Call:
    """What one call generates.

    Attributes
    ----------
    requests : list of core.Request
        One for each text, the copies of a prompt one after another.
    shared : core.GenerationOptions
        What they share, in the core's terms: one object, which nobody changes.
    options : GenerationOptions
        The same as the caller gave it, with the model's own defaults.
    single : bool
        Whether the caller expects one result, not a list.
    """

    requests: list[core.Request]
    shared: core.GenerationOptions
    options: GenerationOptions
    single: bool


def read_call(
    model: LoadedModel,
    prompts: Prompt | Sequence[Prompt] | None,
    options: GenerationOptions | None = None,
    overrides: dict[str, Any] | None = None,
    *,
    prefix_scope: int = 0,
    stop_begins_in_prompt: bool = True,
) -> Call:
    """Check the arguments of :meth:`gpt2fast.GPT2.generate` and make requests of them, before any work.

    Texts share keys and values of their prompts with those of the same ``prefix_scope`` alone. Without
    ``stop_begins_in_prompt``, stop strings are sought in the output alone.
    """
    if model.config.classifier is not None:
        warnings.warn(
            "the model was trained for classification (see classify): its head for tokens is the untrained "
            "table, and texts that it generates may mean nothing",
            stacklevel=3,
        )
    if overrides and not overrides.keys() <= OPTION_NAMES:
        prompts, overrides = _take_inputs(model, prompts, overrides)
    chosen = choose_options(model, options, overrides)
    if chosen.num_beams > model.engine.max_sequences:
        raise ValueError(
            f"num_beams ({chosen.num_beams}) must not exceed max_sequences ({model.engine.max_sequences}), "
            f"with which the model was loaded"
        )
    before = None
    if chosen.prefix is not None:
        chosen.prefix.check_model(model)
        before = chosen.prefix.token_ids
    token_ids, single = read_prompts(prompts, model.config, model.tokenizer, before=before)
    if model.defaults is not None:
        chosen = limit_by_defaults(model.defaults, chosen, token_ids, model.config.n_positions)
    _check_number(len(token_ids), chosen)
    fitted = [_fit(prompt, chosen, model.config.n_positions) for prompt in token_ids]
    shared = _shared_options(model, chosen)
    shared.prefix_scope = prefix_scope
    shared.stop_begins_in_prompt = stop_begins_in_prompt
    requests = _build_requests(model, fitted, chosen, shared)
    return Call(requests, shared, chosen, single and chosen.num_return_sequences is None)


def choose_options(
    model: LoadedModel, options: GenerationOptions | None, overrides: Mapping[str, Any] | None
) -> GenerationOptions:
    """The options of a call: single values, then those of the object, then the model's own defaults.

    ``generation_config=None`` among the single values leaves the model's defaults out. Options of other
    libraries are accepted with values that change nothing.
    """
    overrides = {} if overrides is None else overrides
    defaults = model.defaults
    if not overrides.keys() <= OPTION_NAMES:
        if overrides.get("generation_config", options) is None and "generation_config" in overrides:
            defaults = None
        overrides = {name: value for name, value in overrides.items() if not is_harmless(name, value)}
    if defaults is not None:
        chosen = join_defaults(defaults, options, overrides)
    else:
        chosen = GenerationOptions.make(options, overrides)
        if model.defaults is not None:
            chosen = chosen.with_given(OPTION_NAMES)
    chosen.check_needs()
    return chosen


def _take_inputs(model: LoadedModel, prompts: Any, overrides: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The prompts and the options, where the prompts are given as ``transformers`` takes them.

    ``input_ids`` are the prompts. Only tokens that ``attention_mask`` marks count; without a mask, all but
    those that are ``pad_token_id``, unless that token ends texts, too.
    """
    options = dict(overrides)
    ids, mask, pad = (options.pop(name, None) for name in ("input_ids", "attention_mask", "pad_token_id"))
    if ids is not None:
        if prompts is not None:
            raise TypeError("input_ids contradicts prompts; leave one of them out")
        prompts = ids
    if pad is not None:
        pad = Integer(0, model.config.vocab_size - 1)("pad_token_id", pad)
    if mask is not None or (pad is not None and pad not in model.config.eos_token_ids):
        from gpt2fast.text.arrays import unpadded

        prompts = unpadded(prompts, mask, pad)
    return prompts, options


def _check_number(prompts: int, options: GenerationOptions) -> None:
    copies = _copies_per_prompt(options)
    if prompts * copies > MAX_PROMPTS:
        name = "num_return_sequences" if options.best_of is None else "best_of"
        raise ValueError(
            f"{name} ({copies}) for {prompts} prompts is more than {MAX_PROMPTS} texts (MAX_PROMPTS)"
        )


def _build_requests(
    model: LoadedModel,
    prompts: Sequence[list[int]],
    options: GenerationOptions,
    shared: core.GenerationOptions,
) -> list[core.Request]:
    constraint = _constraint(model, options, shared)
    process_scores = _score_hook(options)
    requests = []
    for prompt in prompts:
        first_seed = _new_seed() if options.seed is None else options.seed
        for copy in range(_copies_per_prompt(options)):
            request = core.Request(prompt, (first_seed + copy) % 2**64)
            if constraint is not None:
                state = constraint.new_state()
                request.set_hooks(
                    Hooks(
                        process_scores=process_scores,
                        allowed_tokens=state.allowed_tokens,
                        is_complete=state.is_complete,
                    )
                )
            elif process_scores is not None:
                request.set_hooks(Hooks(process_scores=process_scores))
            requests.append(request)
    return requests


def _new_seed() -> int:
    """A seed of 52 bits: programs whose numbers are doubles, as JavaScript's, can read and repeat it."""
    return int.from_bytes(os.urandom(8), "little") >> 12


def _copies_per_prompt(options: GenerationOptions) -> int:
    """The number of requests for each prompt: always one for a beam search."""
    if options.num_beams > 1:
        return 1
    return options.best_of or options.num_return_sequences or 1


def _score_hook(options: GenerationOptions) -> ProcessScores | None:
    """The caller's processors as a single hook of the core; None if there are none."""
    processors = cast("tuple[Callable[..., None], ...]", options.logits_processor)
    if not processors:
        return None

    def process_scores(
        prompt: NDArray[np.int32], output: NDArray[np.int32], scores: NDArray[np.float32]
    ) -> None:
        # A caller may keep the array; the core's memory is valid only during this call.
        own = scores.copy()
        for processor in processors:
            if processor(prompt, output, own) is not None:
                raise TypeError("logits_processor must change the scores in place and return None")
        scores[:] = own

    return process_scores


def _assistant(model: LoadedModel, options: GenerationOptions) -> LoadedModel | None:
    if options.assistant_model is None:
        return None
    assistant = options.assistant_model.loaded
    if assistant.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"assistant_model must have the model's vocabulary of {model.config.vocab_size} tokens, it has "
            f"{assistant.config.vocab_size}"
        )
    return assistant


def _fit(prompt: list[int], options: GenerationOptions, n_positions: int) -> list[int]:
    """The prompt, or its newest part, so that the output fits the model's positions."""
    tokens, wanted = len(prompt), options.max_new_tokens
    room = n_positions - wanted
    # The last token is not read, so it needs no position.
    if tokens <= min(room + 1, n_positions) or options.overflow == "slide":
        return prompt
    if options.overflow == "truncate" and room > 0:
        return prompt[-room:]
    if room <= 0:
        advice = f"max_new_tokens must be below {n_positions}"
    else:
        most = n_positions + 1 - tokens
        advice = f"give max_new_tokens <= {most}, or" if most > 0 else "give"
        advice += " overflow='truncate' to keep the newest prompt tokens"
    raise ValueError(
        f"prompt ({tokens} tokens) + max_new_tokens ({wanted}) = {tokens + wanted} exceeds the model's "
        f"n_positions ({n_positions}) by more than the last token, which needs none; {advice}"
    )


def _check_against_model(model: LoadedModel, options: GenerationOptions) -> None:
    """Raise ValueError for options that this model, with its vocabulary and tokenizer, can't take."""
    if options.stop_strings and model.tokenizer is None:
        raise ValueError("stop_strings needs a tokenizer, and the model has none")
    suppressed = cast("tuple[int, ...]", options.suppress_tokens)
    check_token_ids(suppressed, "suppress_tokens", model.config)
    if len(set(suppressed)) >= model.config.vocab_size:
        raise ValueError("suppress_tokens holds the whole vocabulary; leave at least one token")
    biased = tuple(options.logit_bias or ())
    if not all_in_range(biased, 0, model.config.vocab_size - 1):
        for token in biased:
            Integer(0, model.config.vocab_size - 1)("a key of logit_bias", token)


def _shared_options(model: LoadedModel, options: GenerationOptions) -> core.GenerationOptions:
    """What all texts of a call share; raises before any work is done."""
    _check_against_model(model, options)
    config, tokenizer = model.config, model.tokenizer
    # GenerationOptions stores sequences as tuples, whatever it was given.
    stop_strings = cast("tuple[str, ...]", options.stop_strings)
    forced = _ids_of(model, options.forced_prefix, "forced_prefix")
    if len(forced) > options.max_new_tokens:
        raise ValueError(
            f"forced_prefix has {len(forced)} tokens, more than max_new_tokens ({options.max_new_tokens})"
        )
    shared = core.GenerationOptions()
    shared.max_new_tokens = options.max_new_tokens
    shared.min_new_tokens = options.min_new_tokens
    shared.do_sample = options.sampling
    shared.temperature = options.temperature or 1.0
    shared.top_k = min(DEFAULT_TOP_K if options.top_k is None else options.top_k, config.vocab_size)
    shared.top_p = 1.0 if options.top_p is None else options.top_p
    shared.min_p = options.min_p or 0.0
    shared.typical_p = 1.0 if options.typical_p is None else options.typical_p
    shared.repetition_penalty = options.repetition_penalty
    shared.presence_penalty = options.presence_penalty
    shared.frequency_penalty = options.frequency_penalty
    shared.no_repeat_ngram_size = options.no_repeat_ngram_size
    shared.suppress_tokens = list(cast("tuple[int, ...]", options.suppress_tokens))
    shared.bad_words = _bad_words(model, options)
    shared.logit_bias = list((options.logit_bias or {}).items())
    shared.forced_prefix = forced
    shared.eos_token_ids = _eos_token_ids(model, options)
    if stop_strings and tokenizer is not None:
        shared.stop_strings = [
            _utf8(text, f"stop_strings[{position}]") for position, text in enumerate(stop_strings)
        ]
        shared.token_bytes = tokenizer.token_bytes()
    shared.include_stop_string = options.include_stop_string
    shared.logprobs = _logprobs(model, options)
    shared.prompt_lookup_num_tokens = options.prompt_lookup_num_tokens
    shared.slide = options.overflow == "slide"
    shared.use_prefix_cache = options.use_prefix_cache
    if options.prefix is not None:
        shared.prefix = options.prefix.core
    assistant = _assistant(model, options)
    if assistant is not None:
        shared.assistant = assistant.engine
        shared.num_assistant_tokens = options.num_assistant_tokens
    if options.num_beams > 1:
        shared.num_beams = options.num_beams
        shared.num_return_sequences = options.num_return_sequences or 1
        shared.length_penalty = options.length_penalty
        shared.early_stopping = _EARLY_STOPPING[options.early_stopping]
    return shared


def _constraint(
    model: LoadedModel, options: GenerationOptions, shared: core.GenerationOptions
) -> Constraint | None:
    if all(getattr(options, name) is None for name in CONSTRAINTS):
        return None
    from gpt2fast.inference.constraints import find_constraint

    return find_constraint(model, options, shared.eos_token_ids, shared.forced_prefix)


def _logprobs(model: LoadedModel, options: GenerationOptions) -> int:
    """How many of the likeliest tokens to report; -1: nothing at all. ``best_of`` needs the chosen ones."""
    if options.logprobs is None:
        return -1 if options.best_of is None else 0
    return min(options.logprobs, model.config.vocab_size)


def _eos_token_ids(model: LoadedModel, options: GenerationOptions) -> list[int]:
    if options.eos_token_id is None:
        return list(model.config.eos_token_ids)
    ids = list(cast("tuple[int, ...]", options.eos_token_id))
    check_token_ids(ids, "eos_token_id", model.config)
    return ids


def _bad_words(model: LoadedModel, options: GenerationOptions) -> list[list[int]]:
    words: list[list[int]] = []
    for i, word in enumerate(options.bad_words):
        # Within a text, most words include the preceding space in their first token.
        forms = (word, f" {word}") if isinstance(word, str) and not word[0].isspace() else (word,)
        words.extend(_ids_of(model, form, f"bad_words[{i}]") for form in forms)
    return words


def _ids_of(model: LoadedModel, text: str | Sequence[int], name: str) -> list[int]:
    if isinstance(text, str):
        if not text:
            return []
        if model.tokenizer is None:
            raise ValueError(
                f"{name} is text, but the model has no tokenizer; give token ids, or a tokenizer: "
                f"from_pretrained(tokenizer=...)"
            )
        encode = model.tokenizer.get().encode
        try:
            return encode(text, add_special_tokens=False)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    check_token_ids(text, name, model.config)
    return list(text)


def _utf8(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        found = ord(text[error.start])
        raise ValueError(
            f"{name} holds the lone surrogate U+{found:04X} at position {error.start}, which is no Unicode "
            f"character"
        ) from None
