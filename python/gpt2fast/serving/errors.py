"""Error answers in OpenAI's form, and which of the library's errors become which of them."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

import orjson
from starlette.responses import Response

from gpt2fast.errors import BusyError, ModelError

#: Seconds after which a client may try again.
RETRY_AFTER = 1
_LONGEST_MESSAGE = 2000

_TYPES = {401: "authentication_error", 429: "rate_limit_error", 503: "server_error"}

#: The library's options that have another name in requests.
REQUEST_NAMES = {"max_new_tokens": "max_tokens", "num_return_sequences": "n", "stop_strings": "stop"}
_LIBRARY_NAME = re.compile(rf"\b({'|'.join(REQUEST_NAMES)})\b")
# What a request has no field for.
_LIBRARY_ADVICE = re.compile(r"(?:, or|;) generation_config=None ignores that")
_FIRST_NAME = re.compile(r"(?:a key of )?(([a-z_]+)(?:\[\d+\])*)")


class ClientGone(Exception):  # noqa: N818 - no error, but the end of a request
    """The client has left."""


class ApiError(Exception):
    """An error that becomes the answer to a request.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        What is wrong, and what would do.
    param : str, optional
        The field of the request that is wrong.
    code : str, optional
        OpenAI's code for the error.
    headers : mapping, optional
        Headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("retry-after", str(RETRY_AFTER))

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        message = str(self)
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + "..."
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def log_text(self) -> str:
        """What the log says: of a request, which messages quote, nothing but the names of fields."""
        if self.status not in (400, 404):
            return str(self)
        return f"{self.code or 'invalid request'}{f' in {self.param[:100]!r}' if self.param else ''}"

    def response(self) -> Response:
        """The answer."""
        return Response(
            orjson.dumps(self.body()), self.status, headers=self.headers, media_type="application/json"
        )


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The error 400, for a request that must be changed."""
    return ApiError(400, message, param=param, code=code)


def unavailable(message: str) -> ApiError:
    """The error 503, for a request that may succeed later or on another server."""
    return ApiError(503, message, code="service_unavailable")


def of_library(error: Exception, fields: Container[str] = ()) -> ApiError | None:
    """The answer to a request with these fields that made the library raise ``error``.

    None if the request isn't to blame.
    """
    if isinstance(error, BusyError):
        return ApiError(429, str(error), code="rate_limit_exceeded")
    if isinstance(error, MemoryError):
        return unavailable("The server has no memory left for this request; try again, or send less.")
    if isinstance(error, ImportError):  # an optional package is missing
        message = f"This server can't do that: {error}"
        return bad_request(message, param_of(str(error), fields), "unsupported_parameter")
    if isinstance(error, (ValueError, TypeError)) and not isinstance(error, ModelError):
        message = _LIBRARY_ADVICE.sub("", str(error))
        message = _LIBRARY_NAME.sub(lambda match: REQUEST_NAMES[match[1]], message)
        return bad_request(message, param_of(message, fields))
    return None


def param_of(message: str, fields: Container[str]) -> str | None:
    """The field, or the item of it, that an error message of the library begins with."""
    match = _FIRST_NAME.match(message)
    return match[1] if match and match[2] in fields else None
