"""A conversation with a model: what was said, the options, and what of it fits the model's window."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt2fast.cli.shared import new_seed
from gpt2fast.inference.options import GenerationOptions, sampling_requested
from gpt2fast.text.conversation import Turn

if TYPE_CHECKING:
    from gpt2fast.inference.cancellation import CancelToken
    from gpt2fast.model import GPT2
    from gpt2fast.text.conversation import TurnFormat

#: The most tokens of an answer, where neither the user nor the model says; never more than half the window.
MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Answered:
    """What is known of an answer once it is complete."""

    seed: int | None
    tokens: int
    seconds: float


class ChatSession:
    """A conversation.

    Parameters
    ----------
    model : GPT2
        It has a tokenizer.
    turn_format : TurnFormat
        How a conversation becomes a prompt.
    options : GenerationOptions
        How to answer; without a word on sampling, answers are drawn.
    notice : callable
        Called with a sentence for the user, before an answer.

    Attributes
    ----------
    turns : list of Turn
        What was said and is not forgotten: questions and answers in turn.
    last : Answered or None
        The newest answer.
    """

    def __init__(
        self, model: GPT2, turn_format: TurnFormat, options: GenerationOptions, notice: Callable[[str], None]
    ) -> None:
        self.model = model
        self.turn_format = turn_format
        self.options = options
        self.last: Answered | None = None
        self._notice = notice
        self.reset()

    def reset(self) -> None:
        """Forget what was said; the options stay."""
        self.turns: list[Turn] = []
        self._has_forgotten = False
        self._is_over = False

    def change(self, name: str, value: Any) -> None:
        """Set an option, or leave it to the model again (None); errors as of ``GenerationOptions``."""
        values = self.options.given_values()
        values.pop(name, None)
        if value is not None:
            values[name] = value
        self.options = GenerationOptions(**values)

    def answer(self, text: str, cancel: CancelToken) -> Iterator[str]:
        """The pieces of the answer to what the user says; what ``cancel`` cuts short counts as said.

        Raises
        ------
        ValueError
            There is no room for it, or the options don't fit the model; it counts as not said.
        """
        if self._is_over:
            self.reset()
        options = self._options_of_an_answer(cancel)
        turns, prompt = self._fit([*self.turns, Turn("user", text)], options)
        ids: list[int] = []
        pieces: list[str] = []
        reason, start = None, time.perf_counter()
        for chunk in self.model.stream(prompt, options):
            ids += chunk.token_ids
            reason = chunk.finish_reason
            if chunk.text:
                pieces.append(chunk.text)
                yield chunk.text
        self.last = Answered(options.seed, len(ids), time.perf_counter() - start)
        # The tokens of a stop string are no part of the text.
        self.turns = [*turns, Turn("assistant", "".join(pieces), None if reason == "stop" else ids)]
        self._is_over = reason == "eos" and self.turn_format.name == "plain"

    def _options_of_an_answer(self, cancel: CancelToken) -> GenerationOptions:
        """One text, of a length that leaves room for a conversation, drawn unless the user says otherwise."""
        chosen = self.options.changed(cancel=cancel, num_beams=1, num_return_sequences=1)
        if "max_new_tokens" not in chosen.given:
            half = self.model.config.n_positions // 2
            own = self.model.generation_config.get("max_new_tokens", MAX_NEW_TOKENS)
            chosen = chosen.changed(max_new_tokens=min(own, half))
        if sampling_requested(self.options.given_values()) is None:
            chosen = chosen.changed(do_sample=True)
        return chosen.changed(seed=new_seed()) if chosen.sampling and chosen.seed is None else chosen

    def _fit(self, turns: list[Turn], options: GenerationOptions) -> tuple[list[Turn], list[int]]:
        """The newest turns that leave room for an answer, whole exchanges, and the prompt that they make."""
        n_positions, most = self.model.config.n_positions, options.max_new_tokens
        # The last token of an answer needs no position.
        room = n_positions if options.overflow == "slide" else min(n_positions, n_positions + 1 - most)
        if room < 1:
            raise ValueError(
                f"max_new_tokens ({most}) must be at most the model's n_positions ({n_positions})"
            )
        whole = len(turns)
        while len(prompt := self.turn_format.prompt(turns)) > room:
            if len(turns) == 1:
                raise ValueError(
                    f"that is {len(prompt)} tokens; with max_new_tokens {most}, the model has room for {room}"
                )
            turns = turns[2:]
        if len(turns) < whole and not self._has_forgotten:
            self._has_forgotten = True
            self._notice(
                f"The conversation exceeds the model's {n_positions:,} tokens: from here on its oldest turns "
                f"are forgotten."
            )
        return turns, prompt
