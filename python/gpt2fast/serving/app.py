"""The ASGI application: which path leads where."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gpt2fast.serving import info
from gpt2fast.serving.access import Access
from gpt2fast.serving.chat import create_chat
from gpt2fast.serving.completions import create_completion
from gpt2fast.serving.errors import ApiError, of_library
from gpt2fast.serving.event_stream import EventStream
from gpt2fast.serving.openai import REQUESTS, RequestModel
from gpt2fast.serving.page import page_routes
from gpt2fast.serving.read_texts import create_embedding, create_rank, create_score
from gpt2fast.serving.request_body import read_body
from gpt2fast.serving.route_names import ROUTES
from gpt2fast.serving.service import Service
from gpt2fast.serving.settings import Settings
from gpt2fast.serving.tokens import detokenize, tokenize, tokenizer_info

if TYPE_CHECKING:
    from gpt2fast.model import GPT2

_Answer = Callable[[Service, Any], Awaitable[Response | EventStream]]

_MODEL_ROUTES: dict[str, _Answer] = {
    "/v1/completions": create_completion,
    "/v1/chat/completions": create_chat,
    "/v1/embeddings": create_embedding,
    "/v1/score": create_score,
    "/v1/rank": create_rank,
    "/tokenize": tokenize,
    "/detokenize": detokenize,
}


def create_app(model: GPT2, settings: Settings | None = None) -> Starlette:
    """The service as an ASGI application, to run with any server or to mount in another application.

    Parameters
    ----------
    model : GPT2
        The model, with a tokenizer.
    settings : Settings, optional
        Names, keys and limits.

    Returns
    -------
    Starlette
        Its ``state.service`` is the :class:`gpt2fast.serving.service.Service`.

    Raises
    ------
    ModelError
        The model has no tokenizer.
    ValueError
        The chat template is broken.
    """
    settings = settings or Settings()
    service = Service(model, settings)
    routes = [
        *(
            Route(path, _ModelRoute(REQUESTS[path], answer), methods=["POST"])
            for path, answer in _MODEL_ROUTES.items()
        ),
        Route("/v1/models", info.models),
        Route("/v1/models/{model:path}", info.model),
        Route("/tokenizer_info", tokenizer_info),
        Route("/health", info.health),
        Route("/ready", info.ready),
        Route("/metrics", info.metrics),
        Route("/openapi.json", info.openapi),
        Route("/docs", info.docs),
        *page_routes(),
    ]
    middleware = [Middleware(Access, service=service)]
    if settings.cors_origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client sends some of its own
            expose_headers=["Retry-After", "X-Request-Id"],
        )
        middleware.insert(0, cors)
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: _routing_error})
    app.router.redirect_slashes = False  # see _redirect
    app.state.service = service
    return app


class _ModelRoute:
    """A route that asks the model: its work ends when the client leaves."""

    def __init__(self, request_model: type[RequestModel], answer: _Answer) -> None:
        self._request_model = request_model
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service: Service = scope["app"].state.service
        body = await read_body(scope, receive, self._request_model, service.settings.limits, service.bodies)
        service.check_model(body.model)
        service.lifecycle.check()  # again, as the body may have taken its time
        await service.lifecycle.run(receive, self._work(service, body, scope, receive, send))

    async def _work(
        self, service: Service, body: RequestModel, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            response = await self._answer(service, body)
            await response(scope, receive, send)
        except ApiError:
            raise
        except Exception as error:
            answer = of_library(error, self._request_model.model_fields)
            if answer is None:
                raise
            raise answer from error


def _routing_error(request: Request, error: Exception) -> Response:
    """No such path, or not by this method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        headers = getattr(error, "headers", None)
        message = f"{request.url.path} does not take {request.method}."
        return ApiError(405, message, code="method_not_allowed", headers=headers).response()
    return _redirect(request.scope) or info.not_found(request).response()


def _redirect(scope: Scope) -> Response | None:
    """Where a path leads that has a slash too many or too few at its end; a path, as proxies change hosts."""
    root = scope.get("root_path", "")
    path = scope["path"].removeprefix(root)
    other = path[:-1] if path.endswith("/") else f"{path}/"
    if other not in ROUTES:
        return None
    query = scope.get("query_string", b"").decode("latin-1")
    return Response(status_code=307, headers={"location": root + other + (query and f"?{query}")})
