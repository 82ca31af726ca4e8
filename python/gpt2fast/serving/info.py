"""Routes about the service itself: alive, ready, its model, its numbers, its schema."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from gpt2fast.serving.errors import ApiError, unavailable
from gpt2fast.serving.metrics import CONTENT_TYPE
from gpt2fast.serving.page import SECURITY_HEADERS
from gpt2fast.serving.service import Service


async def health(request: Request) -> Response:
    """The process is alive."""
    return _json({"status": "ok"})


async def ready(request: Request) -> Response:
    """The model answers; while it doesn't yet, or no longer: 503."""
    service: Service = request.app.state.service
    if not await service.lifecycle.ready():
        raise unavailable("The server ends and takes no more requests.")
    return _json({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Numbers for Prometheus."""
    service: Service = request.app.state.service
    return Response(service.exposition(), media_type=CONTENT_TYPE)


async def models(request: Request) -> Response:
    """The model, as a list."""
    service: Service = request.app.state.service
    return _json({"object": "list", "data": [service.model_card()]})


async def model(request: Request) -> Response:
    """The model."""
    service: Service = request.app.state.service
    service.check_model(request.path_params["model"])
    return _json(service.model_card())


async def openapi(request: Request) -> Response:
    """The schema of all this."""
    return _json(_document(request))


async def docs(request: Request) -> Response:
    """The schema for people."""
    from gpt2fast.serving.docs_page import docs_html

    return HTMLResponse(docs_html(_document(request)), headers=SECURITY_HEADERS)


def not_found(request: Request) -> ApiError:
    """There is no such route."""
    return ApiError(404, f"There is no {request.url.path}; /docs lists what there is.", code="unknown_url")


def _document(request: Request) -> dict[str, Any]:
    # Made at the first request for it, since it would make the start half as long again.
    from gpt2fast.serving.openapi import openapi_document

    service: Service = request.app.state.service
    return openapi_document(service.settings, request.scope.get("root_path", ""))


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
