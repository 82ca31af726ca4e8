"""What gpt2fast should reach, and whether a comparison shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.comparison import Results
from benchmarks.systems import OURS, System
from gpt2fast.evaluation.speed import Timing

_INT8, _INT4 = f"{OURS} int8", f"{OURS} int4"
_TOGETHER = (8, 32)
# Each format with its bits, and how many times faster than the best peer with as many bits its prompts and
# its texts together should be.
_FORMATS = (("fp32", 32, 1.3, 1.3), ("bf16", 16, 1.7, 2.2), ("int8", 8, 1.7, 2.2), ("int4", 4, 1.7, 2.2))


@dataclass(frozen=True)
class Target:
    """A ratio that should be at least, or at most, a bound; ``ratio`` is None when not measured."""

    what: str
    against: str
    ratio: float | None
    bound: float
    at_least: bool

    @property
    def verdict(self) -> str:
        """``pass``, ``falls short`` or ``not measured``."""
        if self.ratio is None:
            return "not measured"
        reached = self.ratio >= self.bound if self.at_least else self.ratio <= self.bound
        return "pass" if reached else "falls short"


@dataclass(frozen=True)
class Model:
    """Sizes that targets refer to.

    Attributes
    ----------
    n_positions, vocab_size : int
        Of the model.
    streamed_bytes : dict
        System -> bytes of the weights that a step reads.
    file_bytes : dict
        System -> size of the weight file.
    cache_bytes : dict
        System -> size of the keys and values of one text at full length.
    """

    n_positions: int
    vocab_size: int
    streamed_bytes: dict[str, int]
    file_bytes: dict[str, int]
    cache_bytes: dict[str, int]


def all_targets(results: Results, systems: Sequence[System], model: Model) -> list[Target]:
    """Every target, in the order of the table in RESULTS.md."""
    return list(_Targets(results, systems, model).rows())


class _Targets:
    def __init__(self, results: Results, systems: Sequence[System], model: Model) -> None:
        self._results = results
        self._systems = systems
        self._model = model
        usual = model.n_positions // 8
        self._usual = f"1 x {usual}"
        self._middle = f"1 x {model.n_positions // 2}"
        self._long = f"1 x {model.n_positions - 34}"
        self._together = {count: f"{count} x {usual}" for count in _TOGETHER}

    def rows(self) -> Iterator[Target]:
        for name, bits, bound in ((_INT8, 8, 1.35), (_INT4, 4, 1.25)):
            what = f"{name}: decode, {self._usual}"
            yield self._against_peers(what, 2.0, self._usual, _step, bits=bits, name=name)
            yield self._against_limit(what, bound, name)
        for name in (_INT8, _INT4):
            yield self._within(f"{name}: decode at {self._long} to 1 x 10", name, self._long, "1 x 10", 1.25)
        for format, bits, bound, _ in _FORMATS:
            for case in (self._usual, self._middle):
                what, name = f"{OURS} {format}: time to first token, {case}", f"{OURS} {format}"
                yield self._against_peers(what, bound, case, _first, bits=bits, name=name)
        few = self._together[_TOGETHER[0]]
        yield self._within(f"{_INT8}: a step of {few} to one of {self._usual}", _INT8, few, self._usual, 2.0)
        for format, bits, _, bound in _FORMATS:
            for case in self._together.values():
                what, name = f"{OURS} {format}: tokens per second, {case}", f"{OURS} {format}"
                yield self._against_peers(what, bound, case, _rate, bits=bits, name=name, more=True)
        for drafts, bound in ((4, 1.3), (8, 1.7)):
            yield self._drafts(drafts, bound)
        for peer, bound in (("ctranslate2 int8", 1.4), ("transformers fp32", 3.0)):
            yield self._scoring(peer, bound)
        yield self._start()
        yield self._memory()
        for case in (self._middle, self._together[_TOGETHER[-1]]):
            yield self._threads(case)

    def _against_peers(
        self,
        what: str,
        bound: float,
        case: str,
        value: Callable[[Timing], float],
        *,
        bits: int,
        name: str,
        more: bool = False,
    ) -> Target:
        """How many times better than the best peer of the same bits (or more bits)."""
        ours = self._median(name, case, value)
        peers = {
            peer.name: taken
            for peer in self._systems
            if peer.is_peer
            and peer.bits >= bits
            and (taken := self._median(peer.name, case, value)) is not None
        }
        if ours is None or not peers:
            return Target(what, "best peer", None, bound, at_least=True)
        best = (max if more else min)(peers, key=peers.__getitem__)
        ratio = ours / peers[best] if more else peers[best] / ours
        return Target(what, best, ratio, bound, at_least=True)

    def _against_limit(self, what: str, bound: float, name: str) -> Target:
        ours = self._median(name, self._usual, _step)
        limits = self._results.limits
        size = self._model.streamed_bytes.get(name)
        limit = limits.read_ms.get(size) if limits is not None and size is not None else None
        ratio = ours / limit if ours is not None and limit is not None else None
        return Target(what, "reading the weights once", ratio, bound, at_least=False)

    def _within(self, what: str, name: str, case: str, base: str, bound: float) -> Target:
        taken, reference = self._median(name, case, _step), self._median(name, base, _step)
        ratio = taken / reference if taken is not None and reference is not None else None
        return Target(what, "itself", ratio, bound, at_least=False)

    def _drafts(self, drafts: int, bound: float) -> Target:
        steps = self._results.draft_step_ms.get(_INT8, {})
        ratio = median(steps[drafts]) / median(steps[0]) if {0, drafts} <= steps.keys() else None
        what = f"{_INT8}: a step with {drafts} draft tokens to a plain step"
        return Target(what, "itself", ratio, bound, at_least=False)

    def _scoring(self, peer: str, bound: float) -> Target:
        rates = self._results.scored_per_second
        ours, theirs = rates.get(_INT8), rates.get(peer)
        ratio = median(ours) / median(theirs) if ours and theirs else None
        return Target(f"{_INT8}: tokens per second, texts scored", peer, ratio, bound, at_least=True)

    def _start(self) -> Target:
        starts = self._results.start_seconds
        peers = {peer.name: median(starts[peer.name]) for peer in self._systems if starts.get(peer.name)}
        ours = peers.get(_INT8)
        peers = {peer.name: peers[peer.name] for peer in self._systems if peer.is_peer and peer.name in peers}
        best = min(peers, key=peers.__getitem__, default="best peer")
        ratio = ours / peers[best] if ours is not None and peers else None
        return Target(f"{_INT8}: process start to first token", best, ratio, 0.5, at_least=False)

    def _memory(self) -> Target:
        used = self._results.resident_bytes.get(_INT8)
        ratio = None
        if used:
            ratio = used["total"] / (self._model.file_bytes[_INT8] + self._model.cache_bytes[_INT8])
        return Target(f"{_INT8}: resident memory", "weight file + KV cache", ratio, 1.3, at_least=False)

    def _threads(self, case: str) -> Target:
        value = _first if case == self._middle else _step
        one, two = self._median(f"{_INT8}, 1 thread", case, value), self._median(_INT8, case, value)
        ratio = one / two if one is not None and two is not None else None
        kind = "time to first token" if value is _first else "a step"
        return Target(f"{_INT8}: all threads against 1, {kind}, {case}", "itself", ratio, 1.8, at_least=True)

    def _median(self, name: str, case: str, value: Callable[[Timing], float]) -> float | None:
        timings = self._results.timings.get(name, {}).get(case)
        return median(value(timing) for timing in timings) if timings else None


def _step(timing: Timing) -> float:
    return timing.step_ms


def _first(timing: Timing) -> float:
    return timing.first_token_ms


def _rate(timing: Timing) -> float:
    return timing.tokens_per_second
