"""What users of other libraries type, and what to write here instead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

# Names of other libraries -> our option with the same meaning and the same values.
_SAME = {
    "bad_words_ids": "bad_words",
    "guided_choice": "choices",
    "guided_grammar": "grammar",
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "n": "num_return_sequences",
    "n_predict": "max_new_tokens",
    "num_hypotheses": "num_return_sequences",
    "repeat_penalty": "repetition_penalty",
    "sampling_temperature": "temperature",
    "sampling_topk": "top_k",
    "sampling_topp": "top_p",
    "stop": "stop_strings",
    "stop_token_ids": "eos_token_id",
    "timeout": "max_time",
}

_DRAWS = "beams of one kind only: write num_beams alone, or do_sample=True with num_return_sequences"
_BY_PROCESSOR = "write it as a function for logits_processor"
_ATTENTIONS = (
    "the result is text, ids and, with logprobs=N, log-probabilities; attention weights are not kept"
)
_HIDDEN_STATES = "write model.forward(ids, output_hidden_states=True).hidden_states"

# Names of transformers that mean something else here, or nothing -> what to write.
_ADVICE = {
    "assistant_tokenizer": "leave it out: assistant_model must have the model's vocabulary",
    "begin_suppress_tokens": _BY_PROCESSOR,
    "cache_implementation": "leave it out; from_pretrained(kv_cache=...) says in which format they are",
    "constraints": "write regex, json_schema, grammar or choices",
    "device": "leave it out: the model runs on the CPU; from_pretrained(threads=...) says on how much of it",
    "diversity_penalty": _DRAWS,
    "encoder_no_repeat_ngram_size": "write no_repeat_ngram_size, which counts the prompt too",
    "encoder_repetition_penalty": "write repetition_penalty, which counts the prompt too",
    "epsilon_cutoff": "write min_p or typical_p",
    "eta_cutoff": "write min_p or typical_p",
    "exponential_decay_length_penalty": _BY_PROCESSOR,
    "force_words_ids": "write regex, grammar or forced_prefix",
    "forced_bos_token_id": "write forced_prefix=[token id]: the output begins with it",
    "forced_eos_token_id": "leave it out: an output that is cut off has finish_reason 'length'",
    "generation_config": "write options=GenerationOptions(...), or generation_config=None to ignore the "
    "model's own",
    "guidance_scale": _BY_PROCESSOR,
    "inputs": "give the text or the ids as the first argument, or as input_ids=",
    "inputs_embeds": "give token ids: a prompt can't be vectors",
    "max_length": "it counts the prompt too: write max_new_tokens = max_length less the prompt's tokens",
    "min_length": "it counts the prompt too: write min_new_tokens = min_length less the prompt's tokens",
    "negative_prompt_ids": _BY_PROCESSOR,
    "num_beam_groups": _DRAWS,
    "output_attentions": _ATTENTIONS,
    "output_hidden_states": _HIDDEN_STATES,
    "output_logits": "write logprobs=N: out.logprobs holds the chosen tokens' and the N likeliest",
    "output_scores": "write logprobs=N: out.logprobs holds the chosen tokens' and the N likeliest, before "
    "any option changed them",
    "padding": "leave it out: prompts of different lengths need none",
    "padding_side": "leave it out: prompts of different lengths need no padding",
    "pad_token_id": "leave it out: prompts of different lengths need no padding",
    "past_key_values": "write prefix=model.prefill(text); prompts that begin alike share that anyway",
    "penalty_alpha": _BY_PROCESSOR,
    "position_ids": "leave it out: a prompt begins at position 0, without its padding",
    "prefix_allowed_tokens_fn": "write regex, json_schema, grammar, choices or a logits_processor",
    "renormalize_logits": "leave it out: log-probabilities always add up to 1",
    "return_dict_in_generate": "leave it out: a result always has text, token_ids, finish_reason, ...",
    "return_full_text": "write echo=True for the text with its prompt",
    "return_tensors": "leave it out: out.token_ids is a list, which numpy.array or torch.tensor takes",
    "sequence_bias": "write logit_bias={token id: number}; for a sequence of tokens, a logits_processor",
    "skip_special_tokens": "leave it out; model.tokenizer.decode(out.token_ids, skip_special_tokens=False) "
    "shows them",
    "stopping_criteria": "write stop_strings, max_time or cancel=CancelToken(); or leave a loop over "
    "model.stream(...)",
    "streamer": "write for chunk in model.stream(prompt, ...): print(chunk.text, end='')",
    "synced_gpus": "leave it out: the model runs on the CPU",
    "token_type_ids": "leave it out: GPT-2 has none",
    "tokenizer": "leave it out: the model has its tokenizer, or takes one at from_pretrained(tokenizer=...)",
    "truncation": "write overflow='truncate'",
    "use_cache": "leave it out: keys and values are always kept; use_prefix_cache is about those of other "
    "prompts",
    "watermarking_config": _BY_PROCESSOR,
}

# Values of these names that change nothing here.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "diversity_penalty": (0.0,),
    "guidance_scale": (1.0,),
    "num_beam_groups": (1,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "output_logits": (False,),
    "output_scores": (False,),
    "penalty_alpha": (0.0,),
    "renormalize_logits": (True, False),
    "return_dict_in_generate": (False,),
    "return_full_text": (False,),
    "skip_special_tokens": (True,),
    "synced_gpus": (False,),
    "use_cache": (True,),
}

# What from_pretrained of transformers takes -> what to write.
_SETTINGS = {
    "attn_implementation": "leave it out: there is one implementation",
    "cache_dir": "set the environment variable GPT2FAST_CACHE (converted models) or HF_HOME (downloads)",
    "config": "leave it out: it is read from the model's files",
    "device": "leave it out: the model runs on the CPU; threads=N says on how much of it",
    "device_map": "leave it out: the model runs on the CPU; threads=N says on how much of it",
    "dtype": "write precision='fp32', 'bf16', 'int8' (the default) or 'int4'",
    "load_in_4bit": "write precision='int4'",
    "load_in_8bit": "write precision='int8', the default",
    "local_files_only": "set the environment variable HF_HUB_OFFLINE=1, or give the path of a directory",
    "low_cpu_mem_usage": "leave it out: weights are mapped, not copied",
    "output_attentions": _ATTENTIONS,
    "output_hidden_states": _HIDDEN_STATES,
    "pad_token_id": "leave it out: prompts of different lengths need no padding",
    "quantization_config": "write precision='int8' or 'int4'",
    "torch_dtype": "write precision='fp32', 'bf16', 'int8' (the default) or 'int4'",
    "trust_remote_code": "leave it out: no code of a model is ever run",
    "use_auth_token": "write token=...",
    "use_safetensors": "leave it out: model.safetensors is taken where there is one",
}


def is_foreign(name: str) -> bool:
    """Whether a name is known from another library."""
    return name in _SAME or name in _ADVICE


def is_harmless(name: str, value: Any) -> bool:
    """Whether another library's option changes nothing with this value.

    Prompts are never padded, so any ``pad_token_id`` does; ``generation_config=None`` is read before.
    """
    if name == "pad_token_id" or (name == "generation_config" and value is None):
        return True
    if name not in _ADVICE:
        return False
    return value is None or any(type(value) is type(one) and value == one for one in _HARMLESS.get(name, ()))


def advice(name: str, names: Collection[str]) -> str:
    """What to write in place of an option that doesn't exist."""
    if name in _SAME:
        return f"did you mean {_SAME[name]!r}?"
    return _ADVICE.get(name) or _nearest(name, names) or "help(gpt2fast.GenerationOptions) lists the options"


def our_name(name: str) -> str | None:
    """Our option with the meaning of another library's."""
    return _SAME.get(name)


def unknown_option(name: str, names: Collection[str]) -> TypeError:
    """The error for an option that doesn't exist."""
    return TypeError(f"unknown generation option {name!r}; {advice(name, names)}")


def refuse_settings(given: Mapping[str, Any], from_pretrained: Callable[..., Any]) -> None:
    """Raise TypeError for arguments that ``from_pretrained`` doesn't have."""
    for name in given:
        import inspect

        names = inspect.signature(from_pretrained).parameters
        hint = _SETTINGS.get(name) or _nearest(name, names) or f"it takes {', '.join(names)}"
        raise TypeError(f"from_pretrained has no argument {name!r}; {hint}")


def _nearest(name: str, names: Collection[str]) -> str | None:
    from difflib import get_close_matches

    near = get_close_matches(name, names, n=1, cutoff=0.75)
    return f"did you mean {near[0]!r}?" if near else None
