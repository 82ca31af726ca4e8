"""The OpenAPI document, made of the models of requests and answers."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic.json_schema import JsonSchemaMode, models_json_schema

from gpt2fast.serving.answers import ANSWERS, Error
from gpt2fast.serving.fields import LIMIT
from gpt2fast.serving.openai import REQUESTS
from gpt2fast.serving.route_names import ROUTES
from gpt2fast.serving.settings import Limits, Settings

Json = dict[str, Any]

_STREAMS = ("/v1/completions", "/v1/chat/completions")
_OTHER_TYPES = {
    "/metrics": "text/plain",
    "/openapi.json": "application/json",
    "/docs": "text/html",
    "/": "text/html",
}
_ERRORS = {
    400: "The request must be changed; `param` names the field",
    401: "The API key is missing or wrong",
    404: "There is no such model",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is no JSON by its Content-Type",
    429: "Too many requests wait; come back after `Retry-After` seconds",
    503: "The server ends, or has no memory left",
}
_GET_ERRORS = (400, 401, 404, 503)
_BOUNDS = {"integer": "maximum", "string": "maxLength", "array": "maxItems"}


def openapi_document(settings: Settings, root_path: str) -> Json:
    """The document of a service that is reached under ``root_path``."""
    document: Json = _with_limits(_document(), settings.limits)
    document["info"] = {
        "title": "gpt2fast",
        "version": _version(),
        "description": f"GPT-2 on the CPU, by OpenAI's interface. The model is `{settings.model_name}`.",
    }
    if root_path:
        document["servers"] = [{"url": root_path}]
    if settings.api_keys:
        scheme = {"type": "http", "scheme": "bearer"}
        document["components"] = {**document["components"], "securitySchemes": {"key": scheme}}
        document["security"] = [{"key": []}]
    return document


def _with_limits(value: Any, limits: Limits) -> Any:
    """A copy in which the server's own limits are bounds."""
    if isinstance(value, list):
        return [_with_limits(one, limits) for one in value]
    if not isinstance(value, dict):
        return value
    copied = {key: _with_limits(one, limits) for key, one in value.items()}
    name = copied.pop(LIMIT, None)
    return copied if name is None else _bounded(copied, getattr(limits, name))


def _bounded(schema: Json, most: int) -> Json:
    if "anyOf" in schema:
        return {**schema, "anyOf": [_bounded(one, most) for one in schema["anyOf"]]}
    bound = _BOUNDS.get(schema.get("type", ""))
    return schema if bound is None else {**schema, bound: min(most, schema.get(bound, most))}


def _version() -> str:
    from gpt2fast import __version__

    return __version__


@cache
def _document() -> Json:
    modes: list[tuple[Any, JsonSchemaMode]] = [
        *((model, "validation") for model in REQUESTS.values()),
        *((model, "validation") for model in (*ANSWERS.values(), Error)),
    ]
    references, definitions = models_json_schema(modes, ref_template="#/components/schemas/{model}")
    schemas = {model: reference for (model, _), reference in references.items()}
    return {
        "openapi": "3.1.0",
        "paths": {path: _path(path, schemas) for path in ROUTES},
        "components": {"schemas": definitions["$defs"]},
    }


def _path(path: str, schemas: dict[Any, Json]) -> Json:
    method = "post" if path in REQUESTS else "get"
    operation: Json = {
        "summary": ROUTES[path],
        "operationId": path.strip("/").replace("/", "_").replace("{", "").replace("}", "") or "page",
        "responses": {"200": _success(path, schemas)},
    }
    if path in REQUESTS:
        content = {"application/json": {"schema": schemas[REQUESTS[path]]}}
        operation["requestBody"] = {"required": True, "content": content}
    if path.endswith("{model}"):
        name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
        operation["parameters"] = [name]
    if path == "/health":
        operation["security"] = []
    error = {"application/json": {"schema": schemas[Error]}}
    for status, text in _ERRORS.items():
        if path in REQUESTS or status in _GET_ERRORS:
            operation["responses"][str(status)] = {"description": text, "content": error}
    return {method: operation}


def _success(path: str, schemas: dict[Any, Json]) -> Json:
    if path in _OTHER_TYPES:
        return {"description": ROUTES[path], "content": {_OTHER_TYPES[path]: {"schema": {}}}}
    content: Json = {"application/json": {"schema": schemas[ANSWERS[path]]}}
    if path in _STREAMS:
        # One event: a chunk as JSON, or "[DONE]".
        data = {"type": "string", "contentMediaType": "application/json"}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        content["text/event-stream"] = {"schema": event}
    return {"description": ROUTES[path], "content": content}
