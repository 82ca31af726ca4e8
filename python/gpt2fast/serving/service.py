"""The state that the routes of one service share."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gpt2fast.serving.chat_template import ChatTemplate, find_chat_template
from gpt2fast.serving.errors import ApiError, bad_request
from gpt2fast.serving.lifecycle import Lifecycle
from gpt2fast.serving.metrics import Metrics
from gpt2fast.serving.model_calls import ModelCalls
from gpt2fast.serving.request_body import Budget
from gpt2fast.serving.settings import Settings
from gpt2fast.serving.token_names import TokenNames

if TYPE_CHECKING:
    from gpt2fast.model import GPT2


class Service:
    """A model that is served.

    Parameters
    ----------
    model : GPT2
        The model; it has a tokenizer.
    settings : Settings
        How it is served.
    """

    def __init__(self, model: GPT2, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(settings.model_name, model.config.n_positions)
        self.calls = ModelCalls(model, settings.limits)
        self.bodies = Budget(settings.limits)
        self.lifecycle = Lifecycle(self.calls.answer_once)
        self.chat_template: ChatTemplate | None = find_chat_template(
            model.directory, settings.chat_template, self.calls.tokenizer
        )
        self.created = int(time.time())

    @cached_property
    def names(self) -> TokenNames:
        """Names of the model's tokens."""
        return TokenNames(self.calls.tokenizer)

    def exposition(self) -> bytes:
        """The metrics as Prometheus reads them."""
        self.observe()
        return self.metrics.exposition()

    def observe(self) -> None:
        """Update the metrics with what the model is doing."""
        self.metrics.state(self.calls.stats())

    def check_count(self, count: int, name: str) -> None:
        """Refuse more prompts, texts or choices in the field ``name`` than a request may have."""
        limit = self.settings.limits.prompts
        if count > limit:
            raise bad_request(f"{name} must have at most {limit} entries on this server, got {count}", name)

    def check_model(self, name: str | None) -> None:
        """Raise an error for the name of a model that isn't served."""
        if name is not None and name != self.settings.model_name:
            raise ApiError(
                404,
                f"The model {name!r} does not exist; this server has {self.settings.model_name!r}.",
                param="model",
                code="model_not_found",
            )

    def model_card(self) -> dict[str, Any]:
        """The model as ``/v1/models`` shows it."""
        return {
            "id": self.settings.model_name,
            "object": "model",
            "created": self.created,
            "owned_by": "gpt2fast",
            "max_model_len": self.calls.config.n_positions,
        }
