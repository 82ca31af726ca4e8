"""A model's own defaults of the options, from its generation_config.json, and how they join a caller's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpt2fast._validation import Check
from gpt2fast.inference.options import SAMPLING_OPTIONS, GenerationOptions, sampling_requested
from gpt2fast.loading.loaded_model import ModelDefaults

if TYPE_CHECKING:
    from gpt2fast.storage.model_directory import ModelDirectory

# The name in ``generation_config.json`` -> the option.
_OPTIONS = {
    **{name: name for name in SAMPLING_OPTIONS},
    **{
        name: name
        for name in (
            "do_sample",
            "early_stopping",
            "length_penalty",
            "max_new_tokens",
            "max_time",
            "min_new_tokens",
            "no_repeat_ngram_size",
            "num_beams",
            "num_return_sequences",
            "prompt_lookup_num_tokens",
            "repetition_penalty",
            "stop_strings",
            "suppress_tokens",
        )
    },
    "bad_words_ids": "bad_words",
    "sequence_bias": "logit_bias",
}
# These count the prompt, too.
_LENGTHS = ("max_length", "min_length")
_LIMITS = {"max_new_tokens", "min_new_tokens"}

# Keys that aren't supported -> values besides null with which they change nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": ([],),
    "constraints": ([],),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_decoder_ids": ([],),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "token_healing": (False,),
    "top_h": (),
    "watermarking_config": (),
}


def model_defaults(directory: ModelDirectory) -> ModelDefaults:
    """The defaults of a model; warns of values that are wrong or not supported, which have no effect."""
    options: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    ignored: list[str] = []
    for name, value in directory.generation_config.items():
        if value is None:
            continue
        if name in _UNSUPPORTED and value not in _UNSUPPORTED[name]:
            ignored.append(f"{name} is not supported")
        try:
            if name in _LENGTHS:
                lengths[name] = _check_of("max_new_tokens")(name, value)
            elif name in _OPTIONS:
                option = _OPTIONS[name]
                options[option] = _check_of(option)(name, _converted(name, value))
        except (TypeError, ValueError) as error:
            ignored.append(str(error))
    if ignored:
        warnings.warn(
            f"{directory.path}: generation_config.json: {'; '.join(ignored)}: ignored "
            f"(generation_config=None ignores the whole file)",
            stacklevel=4,
        )
    return ModelDefaults(
        _without_neutral(options), lengths.get("max_length"), lengths.get("min_length") or None
    )


def join_defaults(
    defaults: ModelDefaults, options: GenerationOptions | None, overrides: Mapping[str, Any]
) -> GenerationOptions:
    """A caller's options, with the model's defaults for those that the caller left out.

    Without ``do_sample`` from either, sampling parameters of the file have no effect, as in ``transformers``.
    The numbers of new tokens that the file gives don't count as given: :func:`limit_by_defaults` adapts them.

    Raises
    ------
    ValueError
        The file's values contradict the caller's or each other; the message says which they are.
    """
    made = GenerationOptions.make(options)
    if options is not None and not overrides and defaults.options.keys() <= made.given:
        return made  # as when they have been joined before
    given = {**made.given_values(), **overrides}
    values = {name: value for name, value in defaults.options.items() if name not in given}
    requested = sampling_requested(given)
    sampling = values.pop("do_sample", False)
    if requested is not None:
        sampling = requested
    if not sampling:
        values = {name: value for name, value in values.items() if name not in SAMPLING_OPTIONS}
    elif requested is None:
        values["do_sample"] = True
    if {**values, **given}.get("num_beams", 1) == 1:
        values.pop("length_penalty", None)
        values.pop("early_stopping", None)
    least = values.pop("min_new_tokens", None)
    try:
        joined = made.changed(**values, **overrides)
        if least is not None:
            joined = joined.changed(min_new_tokens=min(least, joined.max_new_tokens))
    except ValueError as error:
        if not values or str(error) == _own_error(given):
            raise
        advice = "give do_sample=False, or " if "do_sample" in values else ""
        raise ValueError(
            f"{error} (from the model's generation_config.json: {', '.join(values)}; {advice}"
            f"generation_config=None ignores that)"
        ) from None
    return joined.with_given(GenerationOptions.__dataclass_fields__.keys() - (_LIMITS - given.keys()))


def _own_error(given: Mapping[str, Any]) -> str | None:
    """What is wrong with the caller's values by themselves."""
    try:
        GenerationOptions(**given)
    except ValueError as error:
        return str(error)
    return None


def limit_by_defaults(
    defaults: ModelDefaults, options: GenerationOptions, prompts: Sequence[Sequence[int]], n_positions: int
) -> GenerationOptions:
    """The options with limits of the model's own, where the caller gave none, that fit the prompts.

    Raises
    ------
    ValueError
        A prompt is as long as a text may become by the file's ``max_length``.
    """
    longest = max(map(len, prompts), default=0)
    limits: dict[str, int] = {}
    most = options.max_new_tokens
    if "max_new_tokens" not in options.given:
        if "max_new_tokens" in defaults.options:
            most = min(most, max(1, n_positions - longest))
        elif defaults.max_length is not None:
            most = min(defaults.max_length - longest, max(1, n_positions - longest))
            if most < 1:
                raise ValueError(
                    f"the prompt has {longest} tokens, and the model's generation_config.json ends texts at "
                    f"max_length = {defaults.max_length}, the prompt included; give max_new_tokens"
                )
        limits["max_new_tokens"] = most
    if "min_new_tokens" not in options.given:
        least = options.min_new_tokens
        if "min_new_tokens" not in defaults.options and defaults.min_length is not None:
            least = max(0, defaults.min_length - longest)
        limits["min_new_tokens"] = min(least, most)
    is_new = any(getattr(options, name) != value for name, value in limits.items())
    return options.changed(**limits) if is_new else options


def _check_of(option: str) -> Check:
    check: Check = GenerationOptions.__dataclass_fields__[option].metadata["check"]
    return check


def _converted(name: str, value: Any) -> Any:
    """A value in the form of the option; ``sequence_bias`` is a list of pairs of ids and a number."""
    if name != "sequence_bias":
        return value
    try:
        weights = {ids[0]: bias for ids, bias in value if len(ids) == 1}
    except (TypeError, ValueError, IndexError):
        raise ValueError("sequence_bias must be a list of [token ids, number]") from None
    if len(weights) != len(value):
        raise ValueError("sequence_bias of several tokens is not supported")
    return weights


def _without_neutral(options: dict[str, Any]) -> dict[str, Any]:
    """The options without values that change nothing: one sequence must not make the result a list."""
    neutral = {"num_return_sequences": 1, "do_sample": False, "num_beams": 1}
    return {name: value for name, value in options.items() if value != neutral.get(name)}
