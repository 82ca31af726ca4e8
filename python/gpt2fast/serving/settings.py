"""How a service is set up: names, keys, limits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

#: Environment variable with an API key.
KEY_VARIABLE = "GPT2FAST_API_KEY"
_EMBEDDED_NAME = "gpt2fast-tiny"

# Origins as browsers send them: a scheme and a host in small letters, a port unless it is the scheme's own.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_OWN_PORT = re.compile(r"http://.*:80|https://.*:443")
# What no path of a request holds: the query, the fragment, spaces, ...
_NOT_IN_PATHS = re.compile(r"[?#%\\\s\x00-\x1f\x7f]|//")

#: Whether requests share what they computed: all of them, or only those with the same key.
PrefixCacheScope = Literal["all", "key"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on one request and on all together; what exceeds them is refused before any work.

    Attributes
    ----------
    body_bytes : int
        Size of a request's body; those that arrive at the same time may have 64 times as much together.
    prompts : int
        Prompts, texts or choices of one request.
    texts_per_prompt : int
        The largest ``n``, ``best_of`` and ``num_beams``.
    tokens : int
        Tokens that one request may read and write in all its texts.
    logprobs : int
        The likeliest tokens reported at each place.
    grammar : int
        Characters of a constraint: a regular expression, a schema, a grammar, or all choices together.
    priority : int
        The highest priority of a request.
    waiting : int
        Requests that may wait for their turn; one more is answered with 429.
    seconds : float
        The longest time for a text, or for a request that generates none, waiting included.
    body_seconds : float
        The longest time for a request's body to arrive.
    stalled_seconds : float
        A client that reads nothing for this long is disconnected.
    """

    body_bytes: int = 4 << 20
    prompts: int = 2048
    texts_per_prompt: int = 128
    tokens: int = 1 << 18
    logprobs: int = 100
    grammar: int = 1 << 16
    priority: int = 0
    waiting: int = 256
    seconds: float = 600.0
    body_seconds: float = 30.0
    stalled_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A service apart from its model.

    Attributes
    ----------
    model_name : str
        The model's id in requests and answers.
    api_keys : tuple of str
        Keys of which a request must carry one; without any, requests need none.
    cors_origins : tuple of str
        Origins whose pages may call the service from a browser, such as ``https://app.example.com``; ``"*"``
        for all.
    allowed_hosts : tuple of str
        Values of the header ``Host`` that are answered; ``"*"`` for all.
    root_path : str
        The prefix under which a reverse proxy shows the service.
    chat_template : str or None
        A Jinja template for conversations, in place of the model's own.
    prefix_cache_scope : {"all", "key"}
        Whose keys and values a request may reuse: everybody's, or those of the same API key. A faster answer
        reveals that an earlier prompt began alike.
    limits : Limits
        Limits on requests.
    """

    model_name: str = "gpt2fast"
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ("*",)
    root_path: str = ""
    chat_template: str | None = None
    prefix_cache_scope: PrefixCacheScope = "all"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("api_keys", "cors_origins", "allowed_hosts"):
            # Of a string, each letter would be one.
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a list or tuple of strings, got a string; put it in a list")
        if not all(self.api_keys):  # a request without a key would have it
            raise ValueError("api_keys must not hold an empty one")
        if self.root_path and (self.root_path[0] != "/" or self.root_path[-1] == "/"):
            raise ValueError(f"root_path must begin with / and not end with it, got {self.root_path!r}")
        if found := _NOT_IN_PATHS.search(self.root_path):
            raise ValueError(
                f"root_path must be the path of a URL, decoded, got {found[0]!r} in {self.root_path!r}"
            )
        for origin in self.cors_origins:
            _check_origin(origin)
        if self.prefix_cache_scope == "key" and not self.api_keys:
            raise ValueError("prefix_cache_scope must be 'all' without api_keys, got 'key'")


def _check_origin(origin: str) -> None:
    """Refuse what no browser sends: it would never match."""
    known = origin in ("*", "null") or (_ORIGIN.fullmatch(origin) and not _OWN_PORT.fullmatch(origin))
    if not known:
        raise ValueError(
            f"cors_origins must hold origins as browsers send them, such as 'https://app.example.com' or "
            f"'http://localhost:3000' (small letters, no path, no default port), or '*', got {origin!r}"
        )


def default_model_name(source: str | None) -> str:
    """The id of a model that is served under no other name; of None, the embedded model."""
    if source is None:
        return _EMBEDDED_NAME
    path = Path(source)
    return (path.stem if path.is_file() else path.resolve().name) if path.exists() else source
