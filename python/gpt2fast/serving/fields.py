"""Fields of request models, made of the checks that the library's own options pass."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import Field, PlainValidator, ValidationInfo, WithJsonSchema

from gpt2fast import _validation as checks
from gpt2fast._validation import shown
from gpt2fast.inference.options import CONSTRAINTS, GenerationOptions

#: Options of ``GenerationOptions`` that have another name or form in OpenAI's interface.
OPENAI_OPTIONS = (
    "max_new_tokens",
    "num_return_sequences",
    "stop_strings",
    "logprobs",
    "echo",
    "best_of",
    "logit_bias",
)
# Options with a limit of the server's own: its name in ``Limits``.
_LIMITED = {
    "num_return_sequences": "texts_per_prompt",
    "best_of": "texts_per_prompt",
    "num_beams": "texts_per_prompt",
    "logprobs": "logprobs",
    "priority": "priority",
}
# Options that are objects of Python, which a request can't hold, or have no effect without one.
_OF_PYTHON = (checks.Callables, checks.Instance)
_OF_AN_ASSISTANT = ("num_assistant_tokens",)

#: Names in a schema the limit of the server's own that holds there, until a server writes its document.
LIMIT = "x-limit"

_AN_ID = re.compile(r"(0|[1-9][0-9]{0,9})")

Schema = dict[str, Any]


def checked(
    check: Callable[[str, Any], Any],
    schema: Mapping[str, Any],
    text: str,
    default: Any = None,
    limit: str | None = None,
) -> Any:
    """A field that takes null and what passes ``check``; ``text`` documents it.

    An integer may also have a ``limit`` among the server's limits, the context of the validation.
    """

    def validate(value: Any, info: ValidationInfo) -> Any:
        if value is None:
            return default
        try:
            own = check if limit is None else _at_most(check, getattr(info.context, limit))
            return own(info.field_name or "", value)
        except TypeError as error:  # which pydantic would let through
            raise ValueError(str(error)) from None

    shown = {"anyOf": [dict(schema), {"type": "null"}], "default": default}
    return Annotated[Any, PlainValidator(validate), WithJsonSchema(shown), Field(description=text)]


def option_field(name: str) -> Any:
    """The field for an option of ``GenerationOptions``."""
    option = GenerationOptions.__dataclass_fields__[name]
    check, text, limit = option.metadata["check"], option.metadata["help"], _LIMITED.get(name)
    shown = "grammar" if name in CONSTRAINTS else limit
    schema = schema_of(check) if shown is None else {**schema_of(check), LIMIT: shown}
    return checked(_from_json(check), schema, text, limit=limit)


def own_options() -> dict[str, Any]:
    """Fields, with their default, for the options that OpenAI's interface lacks."""
    return {
        option.name: (option_field(option.name), None)
        for option in fields(GenerationOptions)
        if option.name not in (*OPENAI_OPTIONS, *_OF_AN_ASSISTANT)
        and not isinstance(option.metadata["check"], _OF_PYTHON)
    }


def token_weights(value: Any) -> Any:
    """OpenAI's ``logit_bias``, whose keys are ids as strings; the check refuses other values."""
    if not isinstance(value, Mapping):
        return value
    weights = {}
    for key, weight in value.items():
        # One way to write an id: "7" and "07" would be one key given twice.
        if not _AN_ID.fullmatch(key):
            raise ValueError(f"logit_bias must map token ids to numbers, got the key {shown(key)}")
        weights[int(key)] = weight
        if isinstance(weight, float) and not math.isfinite(weight):  # JSON has no such number
            raise ValueError(f"logit_bias[{key}] must be a finite number, got {weight}")
    return weights


def _at_most(check: Any, highest: int) -> checks.Integer:
    return checks.Integer(check.low, min(check.high, highest))


def _from_json(check: checks.Check) -> Callable[[str, Any], Any]:
    if isinstance(check, checks.TokenWeights):
        return lambda name, value: check(name, token_weights(value))
    return check


def schema_of(check: checks.Check) -> Schema:
    """What passes a check, as JSON Schema."""
    schema = _schemas(check)
    if schema is None:
        raise TypeError(f"no JSON schema for {type(check).__name__}")
    return schema


def _schemas(check: checks.Check) -> Schema | None:
    if isinstance(check, checks.Integer):
        return {"type": "integer", "minimum": check.low, "maximum": check.high}
    if isinstance(check, checks.Seed):
        return _schemas(check.limits)
    if isinstance(check, checks.Real):
        return _real(check)
    if isinstance(check, checks.Flag):
        return {"type": "boolean"}
    if isinstance(check, checks.FlagOr):
        return {"anyOf": [{"type": "boolean"}, {"const": check.word}]}
    if isinstance(check, checks.Choice):
        return {"enum": list(check.words)}
    if isinstance(check, checks.String):
        return {"type": "string", "minLength": 1, "maxLength": check.limit}
    if isinstance(check, checks.JsonSchema):
        return {"anyOf": [{"type": "object"}, {"type": "string", "minLength": 1, "maxLength": check.limit}]}
    if isinstance(check, checks.TokenWeights):
        weight = {"type": "number", "minimum": -check.largest, "maximum": check.largest}
        names = {"pattern": f"^{_AN_ID.pattern}$"}
        return {"type": "object", "propertyNames": names, "additionalProperties": weight}
    return _lists(check)


def _lists(check: checks.Check) -> Schema | None:
    token = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    string = {"type": "string", "minLength": 1}
    if isinstance(check, checks.Strings):
        return _one_or_several(string, check.limit)
    if isinstance(check, checks.TokenIds):
        return _one_or_several(token, check.limit)
    if isinstance(check, checks.Text):
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": token, "maxItems": check.limit}]}
    if isinstance(check, checks.Texts):
        several = {"anyOf": [string, {"type": "array", "items": token, "minItems": 1}]}
        return {"anyOf": [string, {"type": "array", "items": several, "maxItems": check.limit}]}
    return None


def _real(check: checks.Real) -> Schema:
    low = "exclusiveMinimum" if check.open_low else "minimum"
    schema: Schema = {"type": "number", low: check.low, "maximum": check.high}
    return {"anyOf": [schema, {"const": 0}]} if check.zero else schema


def _one_or_several(item: Schema, limit: int) -> Schema:
    return {"anyOf": [item, {"type": "array", "items": item, "maxItems": limit}]}
