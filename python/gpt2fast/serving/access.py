"""Middleware around all routes: request ids, access checks, the last resort for errors, the log."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt2fast.serving.errors import ApiError, ClientGone, unavailable
from gpt2fast.serving.metrics import Metrics
from gpt2fast.serving.model_calls import PREFIX_SCOPE
from gpt2fast.serving.route_names import ROUTES
from gpt2fast.serving.service import Service

LOG = logging.getLogger("gpt2fast.serving")

#: Paths that need no API key.
OPEN_PATHS = ("/health",)
#: Paths that are answered while the service shuts down.
_UNTIL_THE_END = ("/health", "/ready", "/metrics")
# Pages that a browser opens. It sends no bearer token, but can ask its user for a password.
_PAGES = ("/", "/docs", "/static/")
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: The status in the log of a request whose client left before the answer; nginx's number.
_CLIENT_GONE = 499


class Keys:
    """The API keys, compared in constant time.

    Parameters
    ----------
    keys : sequence of str
        Without any, every request is accepted.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def number(self, headers: Headers) -> int:
        """The number of the key that a request carries, from 1 on: as bearer token or as Basic password.

        0 if it carries no valid key, 1 if the service has no keys.
        """
        if not self._digests:
            return 1
        given = _digest(_given_key(headers.get("authorization", "")))
        found = 0
        for number, digest in enumerate(self._digests, 1):  # all are compared, so that time says nothing
            found = max(found, number * hmac.compare_digest(digest, given))
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _given_key(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return value.strip() if scheme.lower() == "bearer" else ""


class Access:
    """ASGI middleware around all routes of a service.

    Parameters
    ----------
    app : ASGI application
        The routes.
    service : Service
        The service that they belong to.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._keys = Keys(service.settings.api_keys)
        self._hosts = frozenset(host.lower() for host in service.settings.allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = self._under_root(scope)
        headers = Headers(scope=scope)
        exchange = _Exchange(scope, headers, send, self._service.metrics)
        try:
            self._check(headers, exchange.path)
            await self._app(scope, receive, exchange.send)
        except ClientGone:
            exchange.answered(_CLIENT_GONE)
        except ApiError as error:
            await exchange.fail(error, scope, receive)
        except Exception:
            LOG.exception("request %s failed", exchange.id, extra={"request_id": exchange.id})
            failed = unavailable(f"The server failed to answer; its log says why (request {exchange.id}).")
            await exchange.fail(failed, scope, receive)
        finally:
            self._note(scope, exchange)

    def _under_root(self, scope: Scope) -> Scope:
        """The scope with the proxy's prefix in its path, whether or not the proxy has removed it."""
        root, path = self._service.settings.root_path, scope["path"]
        if not root or scope.get("root_path"):
            return scope
        if path != root and not path.startswith(f"{root}/"):
            path = root + path
        return {**scope, "root_path": root, "path": path}

    def _check(self, headers: Headers, path: str) -> None:
        if "*" not in self._hosts and _host_name(headers.get("host", "")) not in self._hosts:
            raise ApiError(
                400,
                f"The host {headers.get('host', '')!r} is not served here; --allowed-host adds one.",
                code="unknown_host",
            )
        key = self._keys.number(headers)
        if self._service.settings.prefix_cache_scope == "key":
            PREFIX_SCOPE.set(key)
        if path not in OPEN_PATHS and key == 0:
            page = path in _PAGES or path.startswith("/static/")
            raise ApiError(
                401,
                "A valid API key is needed, in the header Authorization: Bearer KEY.",
                code="invalid_api_key",
                headers={"www-authenticate": 'Basic realm="gpt2fast"' if page else "Bearer"},
            )
        if path not in _UNTIL_THE_END:
            self._service.lifecycle.check()

    def _note(self, scope: Scope, exchange: _Exchange) -> None:
        client = scope.get("client")
        seconds = time.perf_counter() - exchange.started
        LOG.info(
            "%s %s %d %.1f ms",
            scope["method"],
            exchange.path if exchange.path.isprintable() else ascii(exchange.path),  # in one line
            exchange.status,
            seconds * 1000,
            extra={
                "request_id": exchange.id,
                "method": scope["method"],
                "path": exchange.path,
                "status": exchange.status,
                "duration_ms": round(seconds * 1000, 3),
                "client": client[0] if client else None,
                "error": exchange.error,
            },
        )


class _Exchange:
    """One request and what has been answered so far."""

    def __init__(self, scope: Scope, headers: Headers, send: Send, metrics: Metrics) -> None:
        wanted = headers.get("x-request-id", "")
        self.id = wanted if _SANE_ID.fullmatch(wanted) else os.urandom(16).hex()
        # In a mounted application the path begins with the mount point.
        self.path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        self.started = time.perf_counter()
        self.status = 0
        self.error: str | None = None
        self._send = send
        self._method = scope["method"]
        self._metrics = metrics

    def answered(self, status: int) -> None:
        """Record the status when the answer begins, or when it is known that it will not come, or end."""
        if self.status == 0:  # a stream that its client leaves has been counted
            self._metrics.answer(self._method, _handler(self.path), status)
        self.status = status

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.answered(message["status"])
            headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            message = {**message, "headers": headers}
        await self._send(message)

    async def fail(self, error: ApiError, scope: Scope, receive: Receive) -> None:
        """Answer with an error, unless an answer has begun."""
        self.error = error.log_text()
        if self.status == 0:
            await error.response()(scope, receive, self.send)


def _handler(path: str) -> str:
    """The label of a path in the metrics; one for all unknown paths, so that their number is bounded."""
    if path.startswith("/v1/models/"):
        return "/v1/models/{model}"
    return path if path in ROUTES else "none"


def _host_name(host: str) -> str:
    """The header ``Host`` without the port."""
    name = host.lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]
