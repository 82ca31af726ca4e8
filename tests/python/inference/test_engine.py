"""The engine from Python: the same bits in any company, slots, interruption, threads."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2fast import GPT2
from gpt2fast._native import core
from gpt2fast.storage.model_directory import PRECISIONS
from support.processes import SECONDS, run_python
from support.random_models import SHAPES, random_ids, write_random_checkpoint, write_shape

SAMPLED = {"temperature": 0.9, "top_k": 40, "repetition_penalty": 1.2, "eos_token_id": []}
PROMPTS = ["Once", "The King said to his daughter, who was the fairest of all:", "", "A wolf"]


# Each precision with its default cache, and some with another.
KINDS = [*((precision, None) for precision in PRECISIONS), ("fp32", "int8"), ("int8", "fp16")]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def model(request: pytest.FixtureRequest) -> GPT2:
    precision, kv_cache = request.param
    return GPT2.from_pretrained(precision=precision, kv_cache=kv_cache)


def test_a_text_is_the_same_alone_and_in_a_batch(model: GPT2) -> None:
    together = model.generate(PROMPTS, max_new_tokens=40, seed=3, **SAMPLED)
    for prompt, expected in zip(PROMPTS, together, strict=True):
        alone = model.generate(prompt, max_new_tokens=40, seed=3, use_prefix_cache=False, **SAMPLED)
        assert alone.token_ids == expected.token_ids


def test_more_prompts_than_slots(model: GPT2) -> None:
    few_slots = GPT2.from_pretrained(precision=model.precision, kv_cache=model.kv_cache, max_sequences=2)
    prompts = [f"{word} and" for word in ("One", "Two", "Three", "Four", "Five")]
    expected = [one.token_ids for one in model.generate(prompts, max_new_tokens=12)]
    assert [one.token_ids for one in few_slots.generate(prompts, max_new_tokens=12)] == expected


def test_logits_are_the_same_bits_however_the_tokens_are_cut(model: GPT2) -> None:
    ids = random_ids(model, 300, seed=1)
    whole, past = model.forward(ids)
    for cuts in ([1], [16, 17, 255], list(range(1, 40))):
        pieces, piece_past = [], None
        for piece in np.split(ids, cuts):
            hidden, piece_past = model.forward(piece, past=piece_past)
            pieces.append(hidden)
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
        assert piece_past is not None
        for ours, expected in zip(piece_past, past, strict=True):
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_the_bits(model: GPT2, threads: int) -> None:
    other = GPT2.from_pretrained(precision=model.precision, kv_cache=model.kv_cache, threads=threads)
    ids = random_ids(model, 3, 70, seed=2)
    np.testing.assert_array_equal(other.logits(ids), model.logits(ids))
    texts = [m.generate(PROMPTS, max_new_tokens=30, seed=1, **SAMPLED) for m in (model, other)]
    assert [one.token_ids for one in texts[0]] == [one.token_ids for one in texts[1]]


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_shape_keeps_its_bits_in_a_batch(shape: str, precision: str, tmp_path: Path) -> None:
    model = GPT2.from_pretrained(write_shape(tmp_path / shape, shape), precision=precision)
    prompts = [random_ids(model, n, seed=n) for n in (1, 7, 20)]
    together = model.generate(prompts, max_new_tokens=12, eos_token_id=[])
    for prompt, expected in zip(prompts, together, strict=True):
        assert model.generate(prompt, max_new_tokens=12, eos_token_id=[]).token_ids == expected.token_ids


def test_kv_caches_stay_within_their_precision() -> None:
    models = {
        kind: GPT2.from_pretrained(precision="fp32", kv_cache=kind) for kind in ("fp32", "fp16", "int8")
    }
    ids = random_ids(models["fp32"], 300, seed=4)
    exact = models["fp32"].logits(ids)
    errors = {}
    for kind, one in models.items():
        assert one.kv_cache == kind
        errors[kind] = np.linalg.norm(one.logits(ids) - exact) / np.linalg.norm(exact)
    assert errors["fp32"] == 0
    assert 0 < errors["fp16"] < 2**-11  # half a unit in the last place of fp16
    assert errors["fp16"] < errors["int8"] < 5e-3
    sizes = {kind: one.cache_bytes_per_sequence for kind, one in models.items()}
    head_dim = models["fp32"].config.head_dim
    assert sizes["fp16"] * 2 == sizes["fp32"]
    assert sizes["int8"] * 4 * head_dim == sizes["fp32"] * (head_dim + 4)


@pytest.mark.parametrize(
    ("precision", "kv_cache"),
    [("fp32", "fp32"), ("bf16", "fp16"), ("int8", "int8"), ("int4", "int8"), ("int4-all", "int8")],
)
def test_the_kv_cache_follows_the_precision(precision: Any, kv_cache: str) -> None:
    assert GPT2.from_pretrained(precision=precision).kv_cache == kv_cache


def test_an_unknown_kv_cache_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="kv_cache must be one of 'fp32', 'fp16', 'int8', got 'q8'"):
        GPT2.from_pretrained("no/such/model", kv_cache="q8")  # type: ignore[arg-type]


def test_prompt_lookup_does_not_change_the_text(model: GPT2) -> None:
    prompt = "one two three four one two three four one two"
    for options in ({"eos_token_id": []}, {"seed": 5, **SAMPLED}):
        plain = model.generate(prompt, max_new_tokens=60, **options)
        drafted = model.generate(prompt, max_new_tokens=60, prompt_lookup_num_tokens=8, **options)
        assert drafted.token_ids == plain.token_ids


def test_shared_prefixes_do_not_change_the_text(model: GPT2) -> None:
    story = "Once upon a time there was a king who had three sons, and the youngest of them was called Hans. "
    model.clear_prefix_cache()
    fresh = model.generate(story + "He", max_new_tokens=20, use_prefix_cache=False)
    model.generate(story, max_new_tokens=5)
    reused = model.generate(story + "He", max_new_tokens=20)
    assert fresh.cached_tokens == 0
    assert reused.cached_tokens > 10
    assert reused.token_ids == fresh.token_ids
    model.clear_prefix_cache()
    copies = model.generate(story + "He", num_return_sequences=3, max_new_tokens=20, top_k=1)
    assert [copy.token_ids for copy in copies] == [fresh.token_ids] * 3
    assert [copy.cached_tokens > 10 for copy in copies] == [False, True, True]


def test_results_say_when_their_tokens_were_chosen() -> None:
    model = GPT2.from_pretrained()
    begin = time.perf_counter()
    first, *_, last = model.generate(["Once", "Twice", "The"], max_new_tokens=30, eos_token_id=[])
    seconds = time.perf_counter() - begin
    for one in (first, last):
        assert 0 < one.started_seconds < one.first_token_seconds < one.last_token_seconds < seconds
    single = model.generate("Once", max_new_tokens=1)
    assert single.first_token_seconds == single.last_token_seconds
    for options in ({"max_new_tokens": 0}, {"max_new_tokens": 3, "num_beams": 2}):
        other = model.generate("Once", **options)
        assert other.started_seconds is other.first_token_seconds is other.last_token_seconds is None
    assert single == model.generate("Once", max_new_tokens=1)  # when is no part of what


def test_results_say_when_their_text_got_its_slot() -> None:
    model = GPT2.from_pretrained(max_sequences=1)
    first, second = model.generate(["Once", "Twice"], max_new_tokens=30, eos_token_id=[])
    assert first.started_seconds < first.first_token_seconds
    # It waits for the other's last token.
    assert first.first_token_seconds < second.started_seconds < second.first_token_seconds


def test_a_paused_stream_leaves_its_slot_and_goes_on_with_the_same_text() -> None:
    model = GPT2.from_pretrained(max_sequences=1, read_ahead=4)
    alone = model.generate("Once", max_new_tokens=50)
    twice = model.generate("Twice", max_new_tokens=9)
    stream = model.stream("Once", max_new_tokens=50)
    chunks = [next(stream)]
    assert model.generate("Twice", max_new_tokens=9).token_ids == twice.token_ids
    assert model.stats().recomputed == 1
    chunks += stream
    assert [token for chunk in chunks for token in chunk.token_ids] == alone.token_ids
    assert "".join(chunk.text for chunk in chunks) == alone.text


def test_a_slot_comes_back_from_a_dropped_stream() -> None:
    model = GPT2.from_pretrained(max_sequences=1)
    for close in (True, False):
        stream = model.stream("Once", max_new_tokens=50)
        next(stream)
        assert model.stats().slots_used == 1
        if close:
            stream.close()
        del stream
        assert model.stats().slots_used == 0


def test_streams_side_by_side_do_not_mix() -> None:
    model = GPT2.from_pretrained()
    expected = [model.generate(prompt, max_new_tokens=20).text for prompt in PROMPTS]
    streams = [model.stream(prompt, max_new_tokens=20) for prompt in PROMPTS]
    texts = ["" for _ in PROMPTS]
    live = set(range(len(PROMPTS)))
    while live:
        for i in sorted(live):
            chunk = next(streams[i], None)
            if chunk is None:
                live.discard(i)
            else:
                texts[i] += chunk.text
    assert texts == expected


def test_many_threads_on_one_model() -> None:
    model = GPT2.from_pretrained(max_sequences=3)
    prompts = [f"The {word} went" for word in ("wolf", "king", "queen", "fox", "hen", "boy", "girl", "cat")]
    expected = {
        prompt: model.generate(prompt, max_new_tokens=25, seed=1, **SAMPLED).text for prompt in prompts
    }
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            (prompt, pool.submit(model.generate, prompt, max_new_tokens=25, seed=1, **SAMPLED))
            for prompt in prompts * 6
        ]
        for prompt, job in jobs:
            assert job.result().text == expected[prompt]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_stops_a_long_generation() -> None:
    # A context so large that the generation can't end by itself meanwhile.
    model = GPT2.from_pretrained(max_sequences=1)
    done = threading.Event()

    def interrupt() -> None:
        while not model.stats().steps:
            if done.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGINT)

    # A shell's background job, which a test run may be, ignores interrupts.
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            model.generate(["Once"] * 64, max_new_tokens=10_000_000, overflow="slide", eos_token_id=[])
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGINT, previous)
    assert model.generate("Twice", max_new_tokens=2).text


def test_max_time_ends_an_endless_generation() -> None:
    model = GPT2.from_pretrained()
    started = time.monotonic()
    out = model.generate("Once", max_new_tokens=10_000_000, overflow="slide", eos_token_id=[], max_time=0.2)
    assert out.finish_reason == "time"
    assert time.monotonic() - started >= 0.2


def test_sliding_goes_beyond_the_context_window() -> None:
    model = GPT2.from_pretrained()
    tokens = model.config.n_positions + 100
    out = model.generate("Once", max_new_tokens=tokens, overflow="slide", eos_token_id=[])
    assert len(out.token_ids) == tokens
    assert out.finish_reason == "length"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no such call on this system")
def test_threads_may_use_the_cores_that_they_might_before() -> None:
    cores = os.sched_getaffinity(0)
    model = GPT2.from_pretrained(threads=2)
    model.generate("Once", max_new_tokens=2)
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread of an earlier test that has just ended
            assert os.sched_getaffinity(int(thread.name)) == cores


# In a process of its own, away from the memory of other tests.
MEMORY_SCRIPT = """
from gpt2fast import GPT2
from support.processes import resident_bytes

model = GPT2.from_pretrained({path!r}, tokenizer={tokenizer!r}, max_sequences=2)
for _ in range(500):
    model.generate("Once", max_new_tokens=1)
before = resident_bytes()
for _ in range(10_000):
    model.generate("Once", max_new_tokens=1)
print(resident_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_finished_texts_leave_no_memory_behind(tmp_path: Path, embedded_dir: Path) -> None:
    # A small model, so that ten thousand texts are soon done on any machine.
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 32, "n_positions": 64, "vocab_size": 4096}
    path = write_random_checkpoint(tmp_path / "model", sizes)
    grown = run_python(MEMORY_SCRIPT.format(path=str(path), tokenizer=str(embedded_dir)))
    assert int(grown) < 4 << 20


def test_the_core_refuses_ids_out_of_range() -> None:
    model = GPT2.from_pretrained()
    request = core.Request([model.config.vocab_size])
    with pytest.raises(ValueError, match="token ids must be from 0 to 4095, got 4096"):
        model.loaded.engine.generate([request], core.GenerationOptions())


def test_a_reader_that_leaves_a_hook_to_be_run_holds_up_nobody() -> None:
    """The stream is being read when the other text comes, and then no more: its hook waits for its reader."""
    begun = 0

    def report(prompt: Any, output: Any, scores: Any) -> None:
        if len(output) == 1:  # of the second token, which is being waited for
            begin.set()
            while model.stats().calls < begun + 2:
                time.sleep(0)

    def other() -> Any:
        assert begin.wait(SECONDS)
        return model.generate("Twice", max_new_tokens=3)

    options: dict[str, Any] = {"max_new_tokens": 40, "seed": 1, "eos_token_id": []}
    with GPT2.from_pretrained(max_sequences=1, read_ahead=4) as model, ThreadPoolExecutor(1) as pool:
        alone = model.generate("Once", **options)
        for turns in range(4):
            begun, begin = model.stats().calls, threading.Event()
            stream = model.stream("Once", logits_processor=report, **options)
            twice = pool.submit(other)
            chunks = [next(stream) for _ in range(2 + turns)]
            assert twice.result(SECONDS).token_ids == model.generate("Twice", max_new_tokens=3).token_ids
            chunks += stream
            assert [token for chunk in chunks for token in chunk.token_ids] == alone.token_ids
