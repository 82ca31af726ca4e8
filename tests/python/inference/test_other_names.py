"""What users of transformers write: every name of theirs is known, and errors say what to write here."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2
from gpt2fast.inference import other_names
from gpt2fast.inference.options import GenerationOptions
from gpt2fast.text import transformers_names

# Names of GenerationConfig, generate and from_pretrained that nobody types.
INTERNAL = {
    *("_from_model_config", "transformers_version", "self", "kwargs", "_commit_hash", "_from_auto"),
    *("_from_pipeline", "model_args", "pretrained_model_name_or_path"),
}


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained(precision="fp32", generation_config=None)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_every_option_of_transformers_is_known() -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    theirs = {
        *transformers.GenerationConfig().to_dict(),
        *inspect.signature(transformers.GPT2LMHeadModel.generate).parameters,
        *inspect.signature(transformers.GPT2LMHeadModel.forward).parameters,
    }
    ours = {*GenerationOptions.__dataclass_fields__, "input_ids", "attention_mask"}
    unknown = theirs - ours - INTERNAL
    assert {name for name in unknown if not other_names.is_foreign(name)} == set()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_every_setting_of_transformers_is_known() -> None:
    pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers").PreTrainedModel.from_pretrained
    popped = re.findall(r'kwargs\.pop\("(\w+)"', inspect.getsource(theirs))
    ours = inspect.signature(GPT2.from_pretrained).parameters
    names = {*popped, *inspect.signature(theirs).parameters} - {*ours} - INTERNAL
    assert names - other_names._SETTINGS.keys() == set()


def test_an_unknown_setting_lists_those_that_there_are() -> None:
    with pytest.raises(TypeError, match=r"no argument 'foo'; it takes source, .*, generation_config$"):
        GPT2.from_pretrained(foo=1)


class LogitsProcessorList(list[Any]):
    """As that of transformers: a list that can be called."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return scores


def test_empty_lists_are_none(model: GPT2) -> None:
    plain = model.generate([5], max_new_tokens=3)
    empty: dict[str, Any] = {"logits_processor": LogitsProcessorList(), "stopping_criteria": []}
    assert model.generate([5], max_new_tokens=3, **empty) == plain
    with pytest.raises(TypeError, match=r"'stopping_criteria'; write stop_strings"):
        model.generate([5], stopping_criteria=[len])


def test_the_members_of_a_processor_list_are_checked() -> None:
    with pytest.raises(TypeError, match=r"logits_processor\[0\] must be a function, got 5"):
        GenerationOptions(logits_processor=LogitsProcessorList([5]))
    message = r"logits_processor\[0\] must take \(prompt_ids, output_ids, scores\) and change the scores"
    with pytest.raises(TypeError, match=message):
        GenerationOptions(logits_processor=lambda input_ids, scores: scores)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("to", r"leave it out: the model runs on the CPU"),
        ("eval", r"leave it out: the model only runs"),
        ("save_pretrained", r"`gpt2fast export`"),
        ("transformer", r"write model\.forward\(ids\)"),
        ("compute_transition_scores", r"logprobs=0"),
    ],
)
def test_methods_of_models(model: GPT2, name: str, advice: str) -> None:
    with pytest.raises(AttributeError, match=f"'GPT2' object has no attribute '{name}'; .*{advice}"):
        getattr(model, name)


def test_what_nobody_has_gets_no_advice(model: GPT2) -> None:
    with pytest.raises(AttributeError, match=r"'GPT2' object has no attribute 'foo'$"):
        model.foo  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(AttributeError, match=r"'Generation' object has no attribute 'foo'$"):
        model.generate([5], max_new_tokens=1).foo  # type: ignore[attr-defined] # noqa: B018


def test_a_model_is_not_called(model: GPT2) -> None:
    with pytest.raises(TypeError, match=r"a GPT2 is not called: write model\.logits\(ids\)"):
        model([5])  # type: ignore[operator]


def test_results_are_no_arrays(model: GPT2) -> None:
    out: Any = model.generate([5], max_new_tokens=2)
    for name, advice in other_names._OF_RESULTS.items():
        with pytest.raises(AttributeError, match=re.escape(f"no attribute {name!r}; {advice}")):
            getattr(out, name)
    for use in (lambda: out[0], lambda: out["text"], lambda: list(out), lambda: model.tokenizer.decode(out)):
        with pytest.raises(TypeError, match=r"write out\.text or out\.token_ids"):
            use()
    assert pickle.loads(pickle.dumps(out)) == copy.deepcopy(out) == out


def test_tokenizers(model: GPT2) -> None:
    tokenizer: Any = model.tokenizer
    with pytest.raises(AttributeError, match=r"no attribute 'save_pretrained'; write tokenizer\.to_json\(\)"):
        tokenizer.save_pretrained("x")
    with pytest.raises(AttributeError, match=r"chat_template can't be set.*apply_chat_template"):
        tokenizer.chat_template = "x"
    with pytest.raises(TypeError, match="has no option 'pad_to_multiple_of'; write padding='max_length'"):
        tokenizer("Once", pad_to_multiple_of=8)
    with pytest.raises(TypeError, match="has no option 'foo'; it takes add_special_tokens, "):
        tokenizer("Once", foo=False)
    assert tokenizer("Once", return_token_type_ids=False) == tokenizer("Once")
    with pytest.raises(TypeError, match="has no option 'text_pair'; a text has no pair in GPT-2"):
        tokenizer("Once", "upon")
    for nothing in (None, 5):
        with pytest.raises(TypeError, match=f"text must be a str or a list of str, got {nothing}"):
            tokenizer(nothing)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_every_name_of_a_tokenizer_of_transformers_is_known(model: GPT2) -> None:
    theirs = pytest.importorskip("transformers").GPT2Tokenizer(vocab={"<|endoftext|>": 0}, merges=[])
    roles = {f"{role}{end}" for role in theirs.SPECIAL_TOKENS_ATTRIBUTES[:7] for end in ("", "_id")}
    names = {name for name in dir(theirs) if not name.startswith("_")} | roles
    known = {*dir(model.tokenizer), *transformers_names._OTHERS}
    assert names - known == {
        *("SPECIAL_TOKENS_ATTRIBUTES", "can_save_slow_tokenizer", "chat_control_tokens", "files_loaded"),
        *("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", "deprecation_warnings"),
        *("convert_added_tokens", "convert_to_native_format", "init_inputs", "max_len_sentences_pair"),
        *("pretrained_vocab_files_map", "register_for_auto_class", "slow_tokenizer_class", "verbose"),
        "vocab_files_names",
    }


def test_encoding_and_decoding_as_in_transformers(model: GPT2) -> None:
    tokenizer = model.tokenizer
    ids = tokenizer.encode("Once upon a time")
    assert tokenizer.encode("Once upon a time", truncation=True, max_length=2) == ids[:2]
    assert tokenizer.encode("Once upon a time", return_tensors="np").tolist() == [ids]  # type: ignore[attr-defined]
    assert tokenizer.batch_decode(ids) == ["Once upon a time"]
    assert tokenizer.batch_decode([ids, ids[:2]]) == ["Once upon a time", "Once"]
    assert tokenizer.batch_decode([]) == []
    arrays = np.array(ids), np.array([ids[:2], ids[2:4]])
    assert tokenizer.batch_decode(arrays[0]) == ["Once upon a time"]
    assert tokenizer.batch_decode(arrays[1], clean_up_tokenization_spaces=True) == ["Once", " upon a"]
    assert tokenizer.decode(arrays[0][2]) == tokenizer.decode(ids[2]) == " upon"
    with pytest.raises(TypeError, match=r"ids must be integers .*; batch_decode takes several sequences"):
        tokenizer.decode([ids])  # type: ignore[list-item]
    text = "Hi , you ."
    assert (
        tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=True) == text
    )  # as for all BPE
