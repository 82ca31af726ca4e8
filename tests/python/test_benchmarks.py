"""The comparison with other programs in benchmarks/: targets, tables, runners, limits."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpt2fast import GPT2, Tokenizer
from gpt2fast.evaluation.speed import (
    Case,
    Timing,
    usual_cases,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import report
from benchmarks.checkpoints import checkpoint_directory
from benchmarks.comparison import Comparison, Results, measure_starts
from benchmarks.gguf_checkpoint import write_gguf
from benchmarks.limits import Limits, build_probe, measure_limits, median_limits
from benchmarks.runners import NAMES, contrib_graph, runner_module
from benchmarks.systems import System, all_systems, convert_all, missing_package
from benchmarks.targets import Model, Target, all_targets
from benchmarks.worker import resident_bytes

POSITIONS = 1024
USUAL, LONG, MIDDLE = "1 x 128", "1 x 990", "1 x 512"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_bytes_hold_the_anonymous_ones() -> None:
    used = resident_bytes()
    assert used["total"] >= used["anonymous"] > 1 << 20


def _timings(step: float, first: float, rate: float) -> list[Timing]:
    return [Timing(first, step, rate)]


def _results() -> tuple[Results, list[System], Model]:
    """Ours is twice as fast as an 8-bit peer; a contributed graph that is faster than both is not a peer.

    A peer with 32 bits and ours with 16 and 32 read prompts only; that peer is the best for these.
    """
    ours, peer = System("gpt2fast", "int8", 8, 2), System("ctranslate2", "int8", 8, 2)
    graph, single = System("contrib_graph", "int8", 8, 2), replace(ours, threads=1)
    floats, halves = System("gpt2fast", "fp32", 32, 2), System("gpt2fast", "bf16", 16, 2)
    exact = System("transformers", "fp32", 32, 2)
    results = Results(limits=Limits({100: 2.0}, 0.0))
    for system, factor in ((ours, 1.0), (peer, 2.0), (graph, 0.1), (single, 1.9)):
        for case, step in ((USUAL, 2.5), ("1 x 10", 2.4), (LONG, 3.6), (MIDDLE, 3.0), ("8 x 128", 4.0)):
            results.timings[system.name][case] = _timings(step * factor, 50 * factor, 800 / factor)
    for system, first in ((exact, 300.0), (floats, 200.0), (halves, 240.0)):
        results.timings[system.name][USUAL] = _timings(20.0, first, 100.0)
    results.draft_step_ms[ours.name] = {0: [2.0, 2.0], 4: [2.4, 2.6]}
    results.scored_per_second = {ours.name: [900.0, 880.0, 910.0], peer.name: [600.0]}
    results.start_seconds = {ours.name: [0.3], peer.name: [0.5]}
    results.resident_bytes[ours.name] = {"total": 130, "anonymous": 10}
    model = Model(POSITIONS, 50257, {ours.name: 100}, {ours.name: 110}, {ours.name: 10})
    return results, [ours, peer, graph, single, floats, halves, exact], model


@pytest.mark.parametrize(
    ("what", "ratio", "verdict"),
    [
        ("gpt2fast int8: decode, 1 x 128", 2.0, "pass"),
        ("gpt2fast int8: decode at 1 x 990 to 1 x 10", 1.5, "falls short"),
        ("gpt2fast int8: time to first token, 1 x 512", 2.0, "pass"),
        ("gpt2fast int8: a step of 8 x 128 to one of 1 x 128", 1.6, "pass"),
        ("gpt2fast int8: tokens per second, 8 x 128", 2.0, "falls short"),
        ("gpt2fast int8: tokens per second, 32 x 128", None, "not measured"),
        ("gpt2fast int8: a step with 4 draft tokens to a plain step", 1.25, "pass"),
        ("gpt2fast int8: tokens per second, texts scored", 1.5, "pass"),
        ("gpt2fast int8: process start to first token", 0.6, "falls short"),
        ("gpt2fast int8: resident memory", 130 / 120, "pass"),
        ("gpt2fast int8: all threads against 1, time to first token, 1 x 512", 1.9, "pass"),
        ("gpt2fast int4: decode, 1 x 128", None, "not measured"),
        ("gpt2fast int4: time to first token, 1 x 128", None, "not measured"),
        ("gpt2fast bf16: time to first token, 1 x 128", 1.25, "falls short"),
        ("gpt2fast fp32: time to first token, 1 x 128", 1.5, "pass"),
    ],
)
def test_targets_compare_with_the_best_peer(what: str, ratio: float | None, verdict: str) -> None:
    target = next(target for target in all_targets(*_results()) if target.what == what)
    assert target.ratio == (None if ratio is None else pytest.approx(ratio))
    assert target.verdict == verdict


def test_target_against_the_limit() -> None:
    target = next(t for t in all_targets(*_results()) if t.against == "reading the weights once")
    assert (target.ratio, target.verdict) == (1.25, "pass")


def test_tables_show_every_system_and_target() -> None:
    results, systems, model = _results()
    results.failures["transformers fp32"] = "torch is not installed"
    targets = all_targets(results, systems, model)
    text = report.tables(results, systems, usual_cases(POSITIONS), model, targets)
    assert "ctranslate2 int8 " in text
    assert "2.50 ±0%" in text
    summary = next(line for line in text.splitlines() if line.startswith("| gpt2fast int8 "))
    assert summary.split("|")[2].strip() == "2.50"
    assert "torch is not installed" in text
    assert text.count("falls short") == sum(target.verdict == "falls short" for target in targets)
    values = json.loads(report.as_json(results, model, targets, {"size": "124M"}))
    assert values["timings"]["gpt2fast int8"][USUAL] == [
        {"first_token_ms": 50.0, "step_ms": 2.5, "tokens_per_second": 800.0}
    ]


def test_verdict_at_the_bound_passes() -> None:
    assert Target("", "", 1.3, 1.3, at_least=False).verdict == "pass"
    assert Target("", "", 1.7, 1.7, at_least=True).verdict == "pass"


def test_made_up_tokenizer_round_trips(tmp_path: Path) -> None:
    directory = checkpoint_directory("tiny", tmp_path)
    tokenizer = Tokenizer.from_source(directory, vocab_size=301)
    text = "Any text: \x00 é 漢 🙂"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"size must be one of embedded, .*124M"):
        checkpoint_directory("125M", tmp_path)


def test_runners_have_the_same_names() -> None:
    for name in NAMES:
        module = runner_module(name)
        assert all(bits in (4, 8, 16, 32) for bits in module.FORMATS.values())
        assert module.PACKAGES
    assert missing_package(System("gpt2fast", "int8", 8, 1)) is None


def test_contrib_graph_computes_the_same_model(tmp_path: Path, embedded_dir: Path) -> None:
    contrib_graph.convert(embedded_dir, tmp_path, "fp32")
    runner = contrib_graph.load(tmp_path, "fp32", threads=1, texts=1)
    ids = np.array([[5, 6, 7, 8]])
    logits = runner.step(ids, 0, runner.cache(1))[0, 0]
    expected = GPT2.from_pretrained(precision="fp32").logits(ids, rows=-1)[0, 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_blocks_are_near_the_weights(bits: int) -> None:
    weight = np.random.default_rng(2).standard_normal((300, 7)).astype(np.float32)
    values, scales = contrib_graph.quantize_blocks(weight, bits)
    if bits == 4:
        values = np.stack([values & 15, values >> 4], axis=-1).reshape(7, 3, -1)
    restored = (values.astype(np.float32) - (1 << (bits - 1))) * scales[..., np.newaxis]
    error = np.abs(restored.reshape(7, -1)[:, :300].T - weight)
    assert error.max() <= scales.max() / 2 * 1.001


@pytest.mark.parametrize(("format", "tolerance"), [("Q8_0", 0.02), ("Q4_0", 0.25)])
def test_gguf_holds_the_same_model(tmp_path: Path, embedded_dir: Path, format: str, tolerance: float) -> None:
    pytest.importorskip("gguf")
    write_gguf(embedded_dir, tmp_path / "model.gguf", format)
    model = GPT2.from_pretrained(precision="fp32")
    # A text of the model's kind: 4 bits change much more of what it makes of arbitrary tokens.
    ids = model.tokenizer.encode("Once upon a time, there was a little girl who loved to play in the garden.")
    found = GPT2.from_pretrained(tmp_path / "model.gguf", precision="fp32").logits(ids, rows=-1)[0, 0]
    expected = model.logits(ids, rows=-1)[0, 0]
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def test_limits_are_measured(tmp_path: Path) -> None:
    probe = build_probe(tmp_path)
    if probe is None:
        pytest.skip("no C++ compiler")
    limits = measure_limits(probe, 1, [1 << 20])
    assert limits.read_ms[1 << 20] > 0
    assert limits.vector_gops >= 0
    assert limits.tile_gops >= 0
    assert limits.float_gops >= 0


def test_limits_are_the_median_of_the_moments() -> None:
    moments = [
        Limits({1: 2.0, 3: 4.0}, 10.0, float_gops=7.0),
        Limits({1: 3.0, 3: 1.0}, 20.0, float_gops=5.0),
        Limits({1: 9.0, 3: 2.0}, 60.0, float_gops=6.0),
    ]
    assert median_limits(moments) == Limits({1: 3.0, 3: 2.0}, 20.0, float_gops=6.0)


@pytest.fixture
def log() -> Callable[[str], None]:
    return lambda message: None


def test_systems_take_turns_and_a_broken_one_is_given_up(
    tmp_path: Path, embedded_dir: Path, log: Callable[[str], None]
) -> None:
    systems = [system for system in all_systems(1, ["gpt2fast"]) if system.format in ("int8", "int4")]
    directories, skipped = convert_all(systems, embedded_dir, tmp_path)
    assert skipped == {}
    int8, int4 = systems
    (directories[int4] / "weights.bin").unlink()
    results = Results()
    rounds: list[bool] = []
    with Comparison(directories, 256, tmp_path, results, log) as comparison:
        cases = [Case("one", 1, 4, 5), Case("some", 2, 4, 5)]
        comparison.run_cases(cases, 6, lambda: rounds.append(True))
        comparison.run_cases(cases[:1], 1)
        comparison.run_drafts(32, 1)
        comparison.run_scoring(2)
    measure_starts(directories, [1, 2, 3], 1, tmp_path, results, log)
    assert {name: len(taken) for name, taken in results.timings[int8.name].items()} == {"one": 7, "some": 3}
    assert len(rounds) == 7  # the first warms up
    assert results.draft_step_ms[int8.name].keys() == {0, 3, 4, 7, 8}
    assert len(results.scored_per_second[int8.name]) == 2
    assert min(results.scored_per_second[int8.name]) > 0
    assert results.start_seconds[int8.name][0] > 0
    assert results.resident_bytes[int8.name]["total"] > 1 << 20
    assert "weights.bin" in results.failures[int4.name]
    assert int4.name not in results.timings


def test_conversion_failure_names_the_reason(tmp_path: Path, embedded_dir: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(embedded_dir, broken)
    (broken / "config.json").unlink()
    system = System("gpt2fast", "int8", 8, 1)
    directories, skipped = convert_all([system], broken, tmp_path)
    assert directories == {}
    assert "config.json" in skipped[system.name]
