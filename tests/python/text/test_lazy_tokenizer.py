"""The tokenizer is read once, when text goes in or out, never for ids; results whose text is read later."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import shutil
import threading
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from gpt2fast import GPT2, Generation, ModelError, StreamChunk, Tokenizer
from gpt2fast._native import core
from gpt2fast.inference.results import UnreadText
from gpt2fast.text.lazy_tokenizer import LazyTokenizer
from support.processes import SECONDS, imported_by

IDS = [50, 60, 70]
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained()


@pytest.fixture
def broken(model: GPT2, tmp_path: Path) -> Path:
    """A model directory whose tokenizer.json is not a tokenizer."""
    directory = tmp_path / "broken"
    shutil.copytree(model.directory.path, directory)
    (directory / "tokenizer.json").write_text('{"model": 5}')
    return directory


def test_ids_alone_leave_the_tokenizer_unread(model: GPT2, broken: Path) -> None:
    loaded = GPT2.from_pretrained(broken)
    options: dict[str, Any] = {"max_new_tokens": 5, "eos_token_id": []}
    result = loaded.generate(IDS, **options)
    chunks = list(loaded.stream(IDS, **options))
    searched = loaded.generate(IDS, num_beams=2, **options)
    echoed = loaded.generate(IDS, echo=True, **options)
    kept = loaded.generate(IDS, best_of=2, temperature=1.0, seed=1, **options)
    assert loaded.has_tokenizer
    assert result.token_ids == model.generate(IDS, **options).token_ids
    assert [token for chunk in chunks for token in chunk.token_ids] == result.token_ids
    assert loaded.score(IDS).token_ids == IDS
    assert repr(result) == f"Generation(token_ids={result.token_ids}, finish_reason='length')"
    assert repr(chunks[0]) == f"StreamChunk(index=0, token_ids={result.token_ids[:1]})"
    for without_text in (result, chunks[2], searched, echoed, kept):
        with pytest.raises(ModelError, match=r"broken/tokenizer\.json: not a tokenizer"):
            without_text.text  # noqa: B018


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.tokenizer,
        lambda model: model.generate(PROMPT, max_new_tokens=5),
        lambda model: model.stream(PROMPT, max_new_tokens=5),
        lambda model: model.generate(IDS, stop_strings="a", max_new_tokens=5),
        lambda model: model.generate(IDS, forced_prefix="a", max_new_tokens=5),
        lambda model: model.generate(IDS, regex="a+", max_new_tokens=5),
        lambda model: model.score(PROMPT),
        lambda model: model.prefill(PROMPT),
    ],
)
def test_text_that_cannot_be_read_stops_before_any_work(broken: Path, call: Any) -> None:
    loaded = GPT2.from_pretrained(broken)
    with pytest.raises(ModelError, match=r"broken/tokenizer\.json: not a tokenizer"):
        call(loaded)


def test_a_tokenizer_that_does_not_fit_is_named_when_it_is_needed(broken: Path, model: GPT2) -> None:
    loaded = GPT2.from_pretrained(broken)
    values = json.loads(model.tokenizer.to_json())
    values["model"]["vocab"]["<|more|>"] = 4096
    (broken / "tokenizer.json").write_text(json.dumps(values), "utf-8")
    result = loaded.generate(IDS, max_new_tokens=2)
    with pytest.raises(ModelError, match=r"broken/tokenizer\.json: the tokenizer does not fit .* is 4096"):
        result.text  # noqa: B018
    shutil.copy(model.directory.path / "tokenizer.json", broken / "tokenizer.json")
    assert result.text == model.tokenizer.decode(result.token_ids)


def test_a_given_tokenizer_is_read_at_once(model: GPT2, broken: Path) -> None:
    with pytest.raises(ModelError, match="not a tokenizer"):
        GPT2.from_pretrained(model.directory.path, tokenizer=broken / "tokenizer.json")
    given = GPT2.from_pretrained(broken, tokenizer=model.tokenizer)
    assert given.generate(PROMPT, max_new_tokens=3) == model.generate(PROMPT, max_new_tokens=3)


def test_ids_need_neither_numpy_nor_the_tokenizers_package(model: GPT2) -> None:
    load = f"from gpt2fast import GPT2\nmodel = GPT2.from_pretrained({str(model.directory.path)!r})\n"
    ids = load + "assert model.generate([50, 60], max_new_tokens=3, seed=1).token_ids\n"
    ids += "assert model.generate([50, 60], max_new_tokens=3, num_beams=2).token_ids\n"
    ids += "assert len(list(model.stream([[50], (60, 70)], max_new_tokens=3, eos_token_id=[]))) == 6"
    unwanted = {"numpy", "tokenizers", "secrets", "asyncio", "difflib", "filelock", "platformdirs"}
    assert not imported_by(ids) & unwanted
    text = load + "assert model.generate('Once', stop_strings='zzz', max_new_tokens=3).text"
    assert imported_by(text) & unwanted == {"tokenizers"}


def test_threads_load_once(model: GPT2) -> None:
    threads = 8
    start = threading.Barrier(threads)
    first = threading.Event()
    loads = []

    def load() -> Tokenizer:
        loads.append(threading.get_ident())
        assert first.wait(SECONDS)  # until all have asked
        return model.tokenizer

    lazy = LazyTokenizer(load)

    def ask(_: int) -> tuple[Tokenizer, core.TokenBytes]:
        if start.wait() == 0:
            first.set()
        return lazy.get(), lazy.token_bytes()

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(ask, range(threads)))
    assert len(loads) == 1
    assert {id(tokenizer) for tokenizer, _ in found} == {id(model.tokenizer)}
    assert len({id(table) for _, table in found}) == 1


def test_a_failed_load_is_retried(model: GPT2) -> None:
    answers = iter([ModelError("not yet"), model.tokenizer])

    def load() -> Tokenizer:
        answer = next(answers)
        if isinstance(answer, ModelError):
            raise answer
        return answer

    lazy = LazyTokenizer(load)
    with pytest.raises(ModelError, match="not yet"):
        lazy.get()
    assert lazy.get() is lazy.get() is model.tokenizer


def test_text_is_what_the_ids_decode_to(model: GPT2) -> None:
    options: dict[str, Any] = {"max_new_tokens": 30, "seed": 4, "temperature": 1.5}
    plain = model.generate(PROMPT, **options)
    assert plain.text == model.tokenizer.decode(plain.token_ids) != ""
    stopped = model.generate(PROMPT, stop_strings=plain.text[20:24], **options)
    assert plain.text.startswith(stopped.text)
    assert plain.text[20:24] not in stopped.text
    echoed = model.generate(PROMPT, echo=True, **options)
    assert echoed.text == PROMPT + plain.text
    best = model.generate(PROMPT, echo=True, best_of=3, **options)
    assert best.text == PROMPT + model.tokenizer.decode(best.token_ids)


@pytest.mark.parametrize("options", [{}, {"stop_strings": ["the", "qqq"]}, {"echo": True}])
def test_chunks_may_be_read_in_any_order_or_not_at_all(model: GPT2, options: dict[str, Any]) -> None:
    options = {"max_new_tokens": 40, "seed": 3, "temperature": 2.0, **options}
    expected = [chunk.text for chunk in model.stream(PROMPT, **options)]
    assert "".join(expected) == model.generate(PROMPT, **options).text
    later = list(model.stream(PROMPT, **options))
    assert [chunk.text for chunk in reversed(later)] == expected[::-1]
    assert [chunk.text for chunk in later] == expected
    every_third = list(model.stream(PROMPT, **options))
    assert [chunk.text for chunk in every_third[::3]] == expected[::3]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda chunk: chunk.text, list(model.stream(PROMPT, **options)))) == expected


def test_a_stream_that_nobody_reads_leaves_nothing_to_collect(model: GPT2) -> None:
    def unread_texts() -> int:
        return sum(issubclass(type(one), UnreadText) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = unread_texts()
        chunks = list(model.stream(IDS, max_new_tokens=9, eos_token_id=[]))
        assert unread_texts() == before + 9
        del chunks
        assert unread_texts() == before
    finally:
        gc.enable()


def test_a_text_that_is_read_late_is_that_of_the_output(model: GPT2) -> None:
    result = model.generate(PROMPT, max_new_tokens=5, echo=True)
    chunk = next(model.stream(PROMPT, max_new_tokens=5))
    result_ids, chunk_ids = list(result.token_ids), list(chunk.token_ids)
    result.token_ids.clear()
    result.prompt_token_ids.clear()
    chunk.token_ids.clear()
    assert result.text == PROMPT + model.tokenizer.decode(result_ids)
    assert chunk.text == model.tokenizer.decode(chunk_ids)


class Unread(UnreadText):
    def __init__(self, read: Callable[[], str]) -> None:
        self.read = read

    def decode(self) -> str:
        return self.read()

    def at_hand(self) -> bool:
        return True


def unread(read: Callable[[], str]) -> Any:
    return Unread(read)


def made() -> Generation:
    return Generation(unread(lambda: "some text"), [1, 2], "eos", [3], seed=4)


WHOLE = Generation("some text", [1, 2], "eos", [3], seed=4)


def test_results_are_dataclasses_as_with_a_text_of_their_own() -> None:
    assert made() == WHOLE
    assert made() != replace(WHOLE, text="other")
    assert str(made()) == "some text"
    assert (
        repr(made()) == repr(WHOLE) == "Generation(text='some text', token_ids=[1, 2], finish_reason='eos')"
    )
    assert asdict(made()) == asdict(WHOLE)
    assert replace(made(), score=1.0) == replace(WHOLE, score=1.0)
    assert [field.name for field in fields(Generation)][:2] == ["text", "token_ids"]
    with pytest.raises(FrozenInstanceError):
        made().text = "other"  # type: ignore[misc]


def test_chunks_are_dataclasses_too() -> None:
    whole = StreamChunk("part", [1], 2, "stop")
    chunk = StreamChunk(unread(lambda: "part"), [1])
    assert chunk == StreamChunk(text="part", token_ids=[1], index=0, finish_reason=None)
    assert replace(chunk, index=2, finish_reason="stop") == whole
    assert asdict(chunk) == {
        "text": "part",
        "token_ids": [1],
        "index": 0,
        "finish_reason": None,
        "logprobs": None,
    }
    assert [field.name for field in fields(StreamChunk)] == list(vars(whole))
    with pytest.raises(FrozenInstanceError):
        chunk.index = 1  # type: ignore[misc]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        StreamChunk("text")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))]
)
def test_copies_hold_the_text(copied: Any) -> None:
    other = copied(made())
    assert other == WHOLE
    assert vars(other)["text"] == "some text"
    chunk = StreamChunk(unread(lambda: "part"), [1], 2, "stop")
    assert copied(chunk) == StreamChunk("part", [1], 2, "stop")


def test_the_results_of_a_model_travel_between_processes(model: GPT2) -> None:
    result = model.generate(PROMPT, max_new_tokens=5)
    assert pickle.loads(pickle.dumps(result)).text == model.tokenizer.decode(result.token_ids)


def test_a_repr_shows_the_text_when_the_tokenizer_is_there(model: GPT2) -> None:
    loaded = GPT2.from_pretrained(model.directory.path)
    options: dict[str, Any] = {"max_new_tokens": 9, "eos_token_id": []}
    result = loaded.generate(IDS, **options)
    chunk = next(loaded.stream(IDS, **options))
    ids = ", ".join(str(token) for token in result.token_ids[:8])
    assert repr(result) == f"Generation(token_ids=[{ids}, ... 9 in all], finish_reason='length')"
    assert repr(chunk) == f"StreamChunk(index=0, token_ids=[{result.token_ids[0]}])"
    text = loaded.tokenizer.decode(result.token_ids)
    assert repr(result) == f"Generation(text={text!r}, token_ids=[9 ids], finish_reason='length')"
    assert repr(chunk) == f"StreamChunk(index=0, text={chunk.text!r}, token_ids={chunk.token_ids})"
    given = GPT2.from_pretrained(model.directory.path, tokenizer=loaded.tokenizer)
    assert repr(given.generate(IDS, **options)) == repr(result)


def test_a_text_is_decoded_once() -> None:
    calls = []

    def decode() -> str:
        calls.append(1)
        return "text"

    result = Generation(unread(decode), [1], "eos", [2])
    assert not calls
    assert result.text == result.text == "text"
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("offsets", "silent"),
    [([0, 1], []), ([0, 3, 2], []), ([1, 2], []), ([], []), ([0, 2], [1]), ([0, 2], [-1])],
)
def test_the_core_refuses_a_table_that_does_not_fit(offsets: list[int], silent: list[int]) -> None:
    with pytest.raises(ValueError, match=r"offsets must ascend|silent tokens must be in the table"):
        core.TokenBytes(b"ab", array("i", offsets), silent)


def test_the_core_takes_only_int32_offsets() -> None:
    with pytest.raises(ValueError, match="offsets must be contiguous int32"):
        core.TokenBytes(b"ab", array("q", [0, 2]), [])


def test_the_core_needs_the_table_for_stop_strings_only(model: GPT2) -> None:
    requests = [core.Request(IDS)]
    options = core.GenerationOptions()
    options.max_new_tokens = 3
    call = model.loaded.engine.generate(requests, options)
    call.wait()
    (((token_ids, _, kept_bytes, *_),),) = call.results()
    assert kept_bytes is None
    assert len(token_ids) == 3
    options.stop_strings = [b"zzz"]
    with pytest.raises(ValueError, match="stop_strings need token_bytes"):
        model.loaded.engine.generate(requests, options)
