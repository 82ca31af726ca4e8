"""What an engine does and has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """A snapshot of a model's work; counts are since the model was loaded in this process.

    Attributes
    ----------
    running, waiting : int
        Texts that are in steps, and that wait for their first place.
    slots, slots_used : int
        Places for texts, and those taken.
    calls, refused, failed : int
        Calls that were accepted, that got BusyError, and that ended with an error.
    finished, cancelled, timed_out : int
        Texts that ended, and those among them that were cancelled or reached ``max_time``.
    recomputed : int
        How often a paused text lost its place to another.
    prompt_tokens, generated_tokens : int
        Prompt tokens computed, and tokens chosen.
    prefix_queries, prefix_hits : int
        Prompt tokens looked up in the prefix cache, and those found there.
    drafted_tokens, accepted_tokens : int
        Draft tokens verified, and those that were right.
    steps, step_rows : int
        Steps made, and the texts in them all.
    step_seconds : float
        Time in them all, in seconds.
    """

    running: int
    waiting: int
    slots: int
    slots_used: int
    calls: int
    finished: int
    cancelled: int
    timed_out: int
    failed: int
    refused: int
    recomputed: int
    prompt_tokens: int
    generated_tokens: int
    prefix_queries: int
    prefix_hits: int
    drafted_tokens: int
    accepted_tokens: int
    steps: int
    step_rows: int
    step_seconds: float
