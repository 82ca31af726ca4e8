"""``serve run gpt2fast.serving.ray:app``: replicas of the service, each with a group of cores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from gpt2fast.model import GPT2
from gpt2fast.serving.app import create_app
from gpt2fast.serving.ray.cores import assigned_cores, node_cores
from gpt2fast.serving.settings import KEY_VARIABLE, Limits, Settings, default_model_name

if TYPE_CHECKING:
    from ray.serve import Application
    from starlette.applications import Starlette

    from gpt2fast.serving.model_calls import ModelCalls

_DEFAULTS = Limits()
# Seconds that requests have to finish at shutdown, as for `gpt2fast serve`.
_GRACE_SECONDS = 30.0


class AppOptions(BaseModel):
    """Options: ``name=value`` for ``serve run``, ``args`` in a configuration file of Serve.

    Attributes
    ----------
    model, precision, kv_cache, tokenizer, max_sequences
        As for :meth:`gpt2fast.GPT2.from_pretrained`. Paths are those of each node.
    served_model_name : str, optional
        The model's id in requests and answers. Default: the model's name.
    cores : int, optional
        Cores of each replica. Default: those of the smallest node.
    min_replicas, max_replicas : int
        Limits on the number of replicas, which follows the number of requests. Default of the upper one: as
        many as fit the nodes that the cluster has now.
    max_waiting : int
        Requests that may wait at each replica, and in front of all of them; one more gets 503.
    api_keys : tuple of str
        API keys, which Ray's dashboard shows. The replicas' environment variable ``GPT2FAST_API_KEY`` adds
        one that it does not show.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = None
    precision: Literal["int8", "int4", "int4-all", "bf16", "fp32"] | None = None
    kv_cache: Literal["int8", "fp16", "fp32"] | None = None
    tokenizer: str | None = None
    max_sequences: int = Field(32, ge=1, le=4096)
    served_model_name: str | None = None
    cores: int | None = Field(None, ge=1)
    min_replicas: int = Field(1, ge=0)
    max_replicas: int | None = Field(None, ge=1)
    max_waiting: int = Field(_DEFAULTS.waiting, ge=0)
    api_keys: tuple[str, ...] = ()

    def settings(self) -> Settings:
        """Settings of a replica; called where it runs, since its own environment counts."""
        key = os.environ.get(KEY_VARIABLE)
        return Settings(
            model_name=self.served_model_name or default_model_name(self.model),
            api_keys=(*self.api_keys, key) if key else self.api_keys,
            limits=Limits(waiting=self.max_waiting),
        )


class Replica:
    """The application of ``gpt2fast serve`` over a model of its own, with a thread for each core that it has.

    A checkpoint is converted once for each node: replicas that start together wait for the one that does it.
    """

    def __init__(self, options: AppOptions) -> None:
        model = GPT2.from_pretrained(
            options.model,
            precision=options.precision,
            threads=assigned_cores(),
            tokenizer=options.tokenizer,
            kv_cache=options.kv_cache,
            max_sequences=options.max_sequences,
        )
        model.generate([0], max_new_tokens=1)  # shows that the model works, before Ray sends requests
        self._application = create_app(model, options.settings())
        self._calls: ModelCalls = self._application.state.service.calls
        self._steps = 0

    def __serve_build_asgi_app__(self) -> Starlette:
        """The ASGI application to which Ray sends requests."""
        return self._application

    async def check_health(self) -> None:
        """Return if the replica works. Ray calls this every few seconds, and replaces a replica that is late.

        Steps since the last call show that it works; only without any is a token generated, since that could
        wait long for its turn.
        """
        steps = self._calls.stats().steps
        if steps == self._steps:
            await self._calls.answer_once()
            steps = self._calls.stats().steps
        self._steps = steps


_DEPLOYMENT = serve.deployment(
    serve.ingress()(Replica), name="gpt2fast", graceful_shutdown_timeout_s=_GRACE_SECONDS
)


def app(options: AppOptions | Mapping[str, Any]) -> Application:
    """The service as an application of Ray Serve.

    Parameters
    ----------
    options : AppOptions or mapping
        From ``serve run gpt2fast.serving.ray:app model=... cores=4``, or ``args`` of a configuration file.

    Raises
    ------
    pydantic.ValidationError
        An unknown option, or a wrong value; the message names it.
    """
    if not isinstance(options, AppOptions):
        options = AppOptions.model_validate(options)
    nodes = node_cores()
    cores = options.cores or min(nodes, default=1)
    room = sum(count // cores for count in nodes)
    replicas = _DEPLOYMENT.options(
        ray_actor_options={"num_cpus": cores},
        # This many texts fill the steps of a replica; more would wait.
        autoscaling_config={
            "min_replicas": options.min_replicas,
            "max_replicas": options.max_replicas or max(1, options.min_replicas, room),
            "target_ongoing_requests": options.max_sequences,
        },
        max_ongoing_requests=options.max_sequences + options.max_waiting,
        max_queued_requests=options.max_waiting,
    )
    application: Application = replicas.bind(options)
    return application
