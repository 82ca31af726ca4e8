"""The page at ``/`` and its files, which are read once, when the service is made."""

from __future__ import annotations

from importlib.resources import files

from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

_CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}

#: Only our own code, no other host, no frame in another page.
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class _Asset:
    """One file as an answer."""

    def __init__(self, data: bytes, content_type: str) -> None:
        headers = {**SECURITY_HEADERS, "cache-control": "no-cache", "content-type": content_type}
        self._response = Response(data, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._response(scope, receive, send)


def page_routes() -> list[Route]:
    """``/`` and ``/static/NAME`` for each file that the page consists of; none without a page."""
    routes = []
    for file in sorted(files("gpt2fast.serving").joinpath("static").iterdir(), key=lambda one: one.name):
        suffix = "." + file.name.rpartition(".")[2]
        if suffix not in _CONTENT_TYPES:
            continue
        asset: ASGIApp = _Asset(file.read_bytes(), _CONTENT_TYPES[suffix])
        path = "/" if file.name == "index.html" else f"/static/{file.name}"
        routes.append(Route(path, asset, methods=["GET"]))
    return routes
