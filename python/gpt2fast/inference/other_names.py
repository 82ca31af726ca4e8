"""What users of other libraries type, and what to write here instead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

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
    "stop_sequence": "stop_strings",
    "stop_token_ids": "eos_token_id",
    "timeout": "max_time",
}

_DRAWS = "beams of one kind only: write num_beams alone, or do_sample=True with num_return_sequences"
_BY_PROCESSOR = "write it as a function for logits_processor"
_ATTENTIONS = (
    "the result is text, ids and, with logprobs=N, log-probabilities; attention weights are not kept"
)
_NO_ENCODER = "leave it out: GPT-2 has no encoder"
_GUESSES = "leave it out: num_assistant_tokens is the most that assistant_model guesses, and adapts by itself"
_NOT_COMPILED = "leave it out: nothing is compiled when a model runs"
_KEPT = "leave it out; from_pretrained(kv_cache=...) says in which format they are"
_CLEANED_UP = "leave it out: what the tokenizer's files say counts"
_ONE_WAY = "leave it out: there is one implementation"
_ONE_MACHINE = "leave it out: the model runs on the CPU; threads=N says on how much of it"
_HIDDEN_STATES = "write model.forward(ids, output_hidden_states=True).hidden_states"

# Names of transformers that mean something else here, or nothing -> what to write.
_ADVICE = {
    "add_special_tokens": "give token ids: model.tokenizer.encode(text, add_special_tokens=False)",
    "assistant_confidence_threshold": _GUESSES,
    "assistant_early_exit": _GUESSES,
    "assistant_ensemble_weight": _GUESSES,
    "assistant_lookbehind": _GUESSES,
    "assistant_tokenizer": "leave it out: assistant_model must have the model's vocabulary",
    "batch_size": "leave it out: from_pretrained(max_sequences=...) says how many texts share a step",
    "begin_suppress_tokens": _BY_PROCESSOR,
    "bos_token_id": "leave it out: an empty prompt begins with the model's own",
    "cache": "write prefix=model.prefill(text); prompts that begin alike share that anyway",
    "cache_config": _KEPT,
    "cache_implementation": _KEPT,
    "clean_up_tokenization_spaces": _CLEANED_UP,
    "compile_config": _NOT_COMPILED,
    "constraints": "write regex, json_schema, grammar or choices",
    "continuous_batching_config": "leave it out: all callers share every step",
    "custom_generate": _BY_PROCESSOR,
    "decoder_input_ids": _NO_ENCODER,
    "decoder_start_token_id": _NO_ENCODER,
    "device": "leave it out: the model runs on the CPU; from_pretrained(threads=...) says on how much of it",
    "disable_compile": _NOT_COMPILED,
    "diversity_penalty": _DRAWS,
    "dola_layers": "leave it out: layers are not contrasted",
    "encoder_attention_mask": _NO_ENCODER,
    "encoder_hidden_states": _NO_ENCODER,
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
    "handle_long_generation": "write overflow='truncate'",
    "inputs": "give the text or the ids as the first argument, or as input_ids=",
    "inputs_embeds": "give token ids: a prompt can't be vectors",
    "is_assistant": _GUESSES,
    "labels": "write -model.score(text).mean, which is the loss",
    "logits_to_keep": "write model.logits(ids, rows=...)",
    "logits_warper": _BY_PROCESSOR,
    "low_memory": "leave it out: beams share what is computed for their common beginning",
    "max_cache_len": _KEPT,
    "max_length": "it counts the prompt too: write max_new_tokens = max_length less the prompt's tokens",
    "max_matching_ngram_size": "leave it out: prompt_lookup_num_tokens finds the longest repetition",
    "min_length": "it counts the prompt too: write min_new_tokens = min_length less the prompt's tokens",
    "negative_prompt_attention_mask": _BY_PROCESSOR,
    "negative_prompt_ids": _BY_PROCESSOR,
    "num_assistant_tokens_schedule": _GUESSES,
    "num_beam_groups": _DRAWS,
    "output_attentions": _ATTENTIONS,
    "output_hidden_states": _HIDDEN_STATES,
    "output_logits": "write logprobs=N: out.logprobs holds the chosen tokens' and the N likeliest",
    "output_scores": "write logprobs=N: out.logprobs holds the chosen tokens' and the N likeliest, before "
    "any option changed them",
    "pad_token_id": "leave it out: prompts of different lengths need no padding",
    "padding": "leave it out: prompts of different lengths need none",
    "padding_side": "leave it out: prompts of different lengths need no padding",
    "past_key_values": "write prefix=model.prefill(text); prompts that begin alike share that anyway",
    "penalty_alpha": _BY_PROCESSOR,
    "position_ids": "leave it out: a prompt begins at position 0, without its padding",
    "prefill_chunk_size": "leave it out: long prompts are read in parts by themselves",
    "prefix_allowed_tokens_fn": "write regex, json_schema, grammar, choices or a logits_processor",
    "remove_invalid_values": "leave it out: scores that are no numbers are an error",
    "renormalize_logits": "leave it out: log-probabilities always add up to 1",
    "return_attention_mask": "leave it out: prompts of different lengths need no padding",
    "return_dict_in_generate": "leave it out: a result always has text, token_ids, finish_reason, ...",
    "return_full_text": "write echo=True for the text with its prompt",
    "return_legacy_cache": _KEPT,
    "return_tensors": "leave it out: out.token_ids is a list, which numpy.array or torch.tensor takes",
    "return_text": "leave it out: a result always has text and token_ids",
    "return_type": "leave it out: a result always has text and token_ids",
    "sequence_bias": "write logit_bias={token id: number}; for a sequence of tokens, a logits_processor",
    "skip_special_tokens": "leave it out; model.tokenizer.decode(out.token_ids, skip_special_tokens=False) "
    "shows them",
    "speculation_type": "write prompt_lookup_num_tokens or assistant_model",
    "stopping_criteria": "write stop_strings, max_time or cancel=CancelToken(); or leave a loop over "
    "model.stream(...)",
    "streamer": "write for chunk in model.stream(prompt, ...): print(chunk.text, end='')",
    "synced_gpus": "leave it out: the model runs on the CPU",
    "target_lookbehind": _GUESSES,
    "token_healing": "leave it out: a prompt's last token stays as it is",
    "token_type_ids": "leave it out: GPT-2 has none",
    "tokenizer": "leave it out: the model has its tokenizer, or takes one at from_pretrained(tokenizer=...)",
    "top_h": "write min_p or typical_p",
    "truncation": "write overflow='truncate'",
    "trust_remote_code": "leave it out: no code of a model is ever run",
    "use_cache": "leave it out: keys and values are always kept; use_prefix_cache is about those of other "
    "prompts",
    "use_model_defaults": "write generation_config=None to ignore the model's own",
    "use_mtp": "write prompt_lookup_num_tokens or assistant_model",
    "watermarking_config": _BY_PROCESSOR,
}

# Values of these names that change nothing here.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "clean_up_tokenization_spaces": (False,),
    "disable_compile": (True, False),
    "diversity_penalty": (0.0,),
    "guidance_scale": (1.0,),
    "is_assistant": (False,),
    "low_memory": (True, False),
    "num_beam_groups": (1,),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "output_logits": (False,),
    "output_scores": (False,),
    "penalty_alpha": (0.0,),
    "remove_invalid_values": (False,),
    "renormalize_logits": (True, False),
    "return_attention_mask": (True, False),
    "return_dict_in_generate": (False,),
    "return_full_text": (False,),
    "return_legacy_cache": (False,),
    "return_text": (True,),
    "skip_special_tokens": (True,),
    "synced_gpus": (False,),
    "token_healing": (False,),
    "trust_remote_code": (True, False),
    "use_cache": (True,),
    "use_model_defaults": (True,),
    "use_mtp": (False,),
}

# What from_pretrained of transformers takes -> what to write.
_SETTINGS = {
    "adapter_kwargs": "write adapter=...",
    "adapter_name": "write adapter=...",
    "add_prefix_space": "leave it out: what the tokenizer's files say counts; tokenizer=... takes another",
    "allow_all_kernels": _ONE_WAY,
    "attn_implementation": _ONE_WAY,
    "cache_dir": "set the environment variable GPT2FAST_CACHE (converted models) or HF_HOME (downloads)",
    "config": "leave it out: it is read from the model's files",
    "device": _ONE_MACHINE,
    "device_map": _ONE_MACHINE,
    "device_mesh": _ONE_MACHINE,
    "disable_mmap": _ONE_WAY,
    "distributed_config": _ONE_MACHINE,
    "dtype": "write precision='fp32', 'bf16', 'int8' (the default) or 'int4'",
    "experts_implementation": _ONE_WAY,
    "force_download": "leave it out: what has changed on the hub is fetched",
    "from_flax": "save it with safetensors: files of Flax are not read",
    "from_tf": "leave it out: checkpoints of TensorFlow are recognised",
    "fusion_config": _ONE_WAY,
    "gguf_file": "give the path of the file as the source",
    "id2label": "leave it out: labels are those of config.json",
    "ignore_mismatched_sizes": "leave it out: tensors must have the sizes that config.json says",
    "kernel_config": _ONE_WAY,
    "key_mapping": "save the tensors under the names of transformers",
    "load_in_4bit": "write precision='int4'",
    "load_in_8bit": "write precision='int8', the default",
    "local_files_only": "set the environment variable HF_HUB_OFFLINE=1, or give the path of a directory",
    "low_cpu_mem_usage": "leave it out: weights are mapped, not copied",
    "max_memory": _ONE_MACHINE,
    "model_max_length": "write tokenizer(text, max_length=...), or generate(..., overflow='truncate')",
    "num_labels": "leave it out: labels are those of config.json",
    "offload_buffers": _ONE_MACHINE,
    "offload_folder": _ONE_MACHINE,
    "output_attentions": _ATTENTIONS,
    "output_hidden_states": _HIDDEN_STATES,
    "output_loading_info": "leave it out: a warning says what of a model is not used",
    "pad_token": "set model.tokenizer.pad_token",
    "pad_token_id": "leave it out: prompts of different lengths need no padding",
    "padding_side": "set model.tokenizer.padding_side",
    "proxies": "set the environment variable HTTPS_PROXY",
    "quantization_config": "write precision='int8' or 'int4'",
    "resume_download": "leave it out: transfers are resumed by themselves",
    "state_dict": "save it, and give the path as the source",
    "subfolder": "give the path of the directory as the source",
    "torch_dtype": "write precision='fp32', 'bf16', 'int8' (the default) or 'int4'",
    "tp_plan": _ONE_MACHINE,
    "tp_size": _ONE_MACHINE,
    "tqdm_class": "leave it out: a bar is shown on a terminal only",
    "trust_remote_code": "leave it out: no code of a model is ever run",
    "use_auth_token": "write token=...",
    "use_fast": "leave it out: tokenizers are fast ones",
    "use_kernels": _ONE_WAY,
    "use_safetensors": "leave it out: model.safetensors is taken where there is one",
    "variant": "give the path of the file as the source",
    "weights_only": "leave it out: no pickle is ever run",
}

_ON_CPU = "leave it out: the model runs on the CPU, and from_pretrained(precision=...) says how it computes"
_NOT_TRAINED = "leave it out: the model only runs; train with transformers, and load what it saves"
_WRITES = "the command `gpt2fast export` writes models for other programs, `gpt2fast convert` for this one"
# Attributes of transformers' models, and of what they return -> what to write.
_OF_MODELS = {
    **dict.fromkeys(("to", "cpu", "cuda", "half", "float", "bfloat16", "device", "dtype"), _ON_CPU),
    **dict.fromkeys(("eval", "train", "requires_grad_", "zero_grad", "parameters"), _NOT_TRAINED),
    **dict.fromkeys(("compile", "tie_weights", "gradient_checkpointing_enable"), _NOT_TRAINED),
    **dict.fromkeys(("save_pretrained", "push_to_hub", "state_dict"), _WRITES),
    "compute_transition_scores": "write generate(..., logprobs=0): out.logprobs.chosen has them",
    "lm_head": "write model.logits(ids)",
    "num_parameters": "model.config has the sizes",
    "resize_token_embeddings": "resize with transformers, and load what it saves",
    "transformer": "write model.forward(ids), whose first value is last_hidden_state",
}
_TEXT = "write out.text; with generate(..., echo=True) the prompt is in it"
_OF_RESULTS = {
    "generated_text": _TEXT,
    "logits": "write generate(..., logprobs=N): out.logprobs",
    "scores": "write generate(..., logprobs=N): out.logprobs",
    "sequences": "write out.token_ids, or out.prompt_token_ids + out.token_ids",
    "sequences_scores": "write out.score",
    "tokens": "write out.token_ids",
}


class NotOfModels:
    """A part of :class:`gpt2fast.GPT2`: what to write for what only models of ``transformers`` have."""

    if not TYPE_CHECKING:  # a type checker knows what is there

        def __getattr__(self, name: str) -> Any:
            raise _missing("GPT2", name, _OF_MODELS)

        def __call__(self, *arguments: Any, **options: Any) -> Any:  # noqa: D102 - an error, always
            raise TypeError(
                "a GPT2 is not called: write model.logits(ids), model.forward(ids) or model.score(text)"
            )


def missing_of_result(name: str) -> AttributeError:
    """The error for an attribute that generated texts don't have."""
    return _missing("Generation", name, _OF_RESULTS)


def no_index() -> TypeError:
    """The error for a result that is used as a list or a dictionary."""
    return TypeError("a Generation is one text with its ids: write out.text or out.token_ids")


def _missing(kind: str, name: str, hints: Mapping[str, str]) -> AttributeError:
    hint = f"; {hints[name]}" if name in hints else ""
    return AttributeError(f"{kind!r} object has no attribute {name!r}{hint}")


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
    if isinstance(value, list) and not value:
        return True  # such as a StoppingCriteriaList without criteria
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

        parameters = inspect.signature(from_pretrained).parameters.values()
        names = [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]
        hint = _SETTINGS.get(name) or _nearest(name, names) or f"it takes {', '.join(names)}"
        raise TypeError(f"from_pretrained has no argument {name!r}; {hint}")


def _nearest(name: str, names: Collection[str]) -> str | None:
    from difflib import get_close_matches

    near = get_close_matches(name, names, n=1, cutoff=0.75)
    return f"did you mean {near[0]!r}?" if near else None
