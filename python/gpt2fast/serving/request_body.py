"""From the bytes of a request to its checked model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from gpt2fast.serving.errors import REQUEST_NAMES, ApiError, ClientGone, bad_request, param_of
from gpt2fast.serving.openai import RequestModel
from gpt2fast.serving.settings import Limits
from gpt2fast.serving.time_limit import in_time

_Model = TypeVar("_Model", bound=RequestModel)

_BODIES_AT_ONCE = 64
# Longer ones are checked in a thread, so that the event loop doesn't wait.
_LONG_BODY = 1 << 16

# Names of other servers -> ours, where the spelling alone would not suggest it.
_ELSEWHERE = {
    **REQUEST_NAMES,
    "functions": "json_schema",
    "guided_choice": "choices",
    "guided_decoding_regex": "regex",
    "guided_grammar": "grammar",
    "guided_json": "json_schema",
    "guided_regex": "regex",
    "include_stop_str_in_output": "include_stop_string",
    "min_tokens": "min_new_tokens",
    "n_predict": "max_tokens",
    "n_probs": "logprobs",
    "repeat_penalty": "repetition_penalty",
    "stop_token_ids": "eos_token_id",
    "structured_outputs": "json_schema",
    "texts": "input",
    "tools": "json_schema",
    "truncate_prompt_tokens": "overflow",
}


class Budget:
    """The bytes of all bodies that are arriving."""

    def __init__(self, limits: Limits) -> None:
        self._left = limits.body_bytes * _BODIES_AT_ONCE

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes for a body, which are given back at the end."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if count > self._left:
                raise ApiError(
                    429,
                    "The server is busy: too many requests arrive at once. Try again later.",
                    code="rate_limit_exceeded",
                    headers={"connection": "close"},
                )
            self._left -= count
            taken += count

        try:
            yield take
        finally:
            self._left += taken


async def read_body(
    scope: Scope, receive: Receive, model: type[_Model], limits: Limits, budget: Budget
) -> _Model:
    """The request's body as ``model``.

    Raises
    ------
    ApiError
        It isn't JSON, too large, too slow, or holds what it may not.
    ClientGone
        The client left before all of it was there.
    """
    headers = Headers(scope=scope)
    _check_content(headers)
    _check_length(headers, limits.body_bytes)
    with budget.share() as take:
        try:
            body = await in_time(_read(receive, limits.body_bytes, take), limits.body_seconds)
        except asyncio.TimeoutError:
            raise ApiError(
                408,
                f"The body did not arrive within {limits.body_seconds:g} seconds.",
                headers={"connection": "close"},
            ) from None
        if len(body) > _LONG_BODY:
            return await asyncio.to_thread(_checked, body, model, limits)
        return _checked(body, model, limits)


def _checked(body: bytes, model: type[_Model], limits: Limits) -> _Model:
    try:
        found = model.model_validate_json(body, context=limits)
    except ValidationError as error:
        raise _refusal(error, model) from None
    # Each key has a colon: if there are no more of these than fields, none is given twice.
    if body.count(b":") > len(found.model_fields_set):
        _check_keys(body, model)
    return found


def _check_content(headers: Headers) -> None:
    # Pages of other origins may send forms and plain text without asking, along with stored passwords.
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, f"The header Content-Type must be application/json, got {content_type[:100]!r}.")
    coding = headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        raise ApiError(
            415, f"Bodies are taken as they are: leave out Content-Encoding, got {coding[:100]!r}."
        )


def _check_length(headers: Headers, limit: int) -> None:
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise _too_large(limit)


async def _read(receive: Receive, limit: int, take: Callable[[int], None]) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        take(len(chunk))
        body += chunk
        if not message.get("more_body", False):
            return bytes(body)


def _check_keys(body: bytes, model: type[BaseModel]) -> None:
    """Refuse an object that has a key twice: of its values all but one would be ignored without a word."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        keys = set()
        for key, _ in pairs:
            if key in keys:
                param = key if key in model.model_fields else None
                raise bad_request(f"{key!r} is given twice in one object; leave one of them out", param)
            keys.add(key)

    try:
        json.loads(body.decode(), object_pairs_hook=check, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as error:  # pydantic's parser is no less strict
        raise bad_request(f"The body is not valid JSON: {error}.") from None


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"The body must have at most {limit} bytes.",
        code="request_too_large",
        headers={"connection": "close"},
    )


def _refusal(error: ValidationError, model: type[BaseModel]) -> ApiError:
    errors = error.errors(include_url=False, include_input=False)
    # A name that is wrong explains a field that is missing.
    unknown = (one for one in errors if one["type"] == "extra_forbidden")
    first: ErrorDetails = next(unknown, errors[0])
    param = _shown(first["loc"])
    kind = first["type"]
    if kind == "json_invalid":
        return bad_request(f"The body is not valid JSON: {first['msg'].partition(': ')[2]}.")
    if kind == "extra_forbidden":
        return bad_request(f"unknown field {param!r}{_hint(first['loc'], model)}", param, "unknown_parameter")
    if kind == "missing":
        return bad_request(f"{param} is missing", param, "missing_required_parameter")
    if kind == "value_error":
        message = str(first["ctx"]["error"])
        return bad_request(message, param_of(message, model.model_fields) or param)
    if not param:
        return bad_request("The body must be a JSON object.")
    message = first["msg"]
    return bad_request(f"{param}: {message[0].lower()}{message[1:]}", param)


def _shown(location: tuple[int | str, ...]) -> str:
    """``messages[0].content`` and the like."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "str" and (part.isidentifier() or not text):  # else pydantic's name for a union's branch
            text += f".{part}" if text else part
    return text


def _hint(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    """What may have been meant by the field at the end of a location."""
    name = str(location[-1])
    names = _field_names(location[:-1], model)
    near = [_ELSEWHERE.get(name)] if _ELSEWHERE.get(name) in names else get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; the fields are {', '.join(names)}"


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _field_names(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    definitions = schema = _schema(model)
    for part in location:
        if isinstance(part, str) and part in schema.get("properties", {}):
            schema = schema["properties"][part]
        while "$ref" not in schema and ("anyOf" in schema or "items" in schema):
            options = schema.get("anyOf") or [schema["items"]]
            schema = next((one for one in options if "$ref" in one or "items" in one), {})
        if "$ref" in schema:
            schema = definitions["$defs"][schema["$ref"].rpartition("/")[2]]
    return list(schema.get("properties", {}))
