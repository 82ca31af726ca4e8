"""``/docs``: the OpenAPI document as a page that needs neither code nor another host."""

from __future__ import annotations

from html import escape
from typing import Any

Json = dict[str, Any]

_REFERENCE = "#/components/schemas/"


def docs_html(document: Json) -> str:
    """The page."""
    info = document["info"]
    routes = "".join(
        _route(method, path, operation, document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])}: the interface</title>"
        '<link rel="icon" href="static/icon.svg"><link rel="stylesheet" href="static/docs.css"></head><body>'
        f"<main><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
        f'<p>{_text(info["description"])} <a href="openapi.json">openapi.json</a></p>'
        f"{routes}</main></body></html>"
    )


def _route(method: str, path: str, operation: Json, document: Json) -> str:
    parts = [
        f'<section id="{escape(operation["operationId"])}">',
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{_text(operation['summary'])}.</p>",
    ]
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        parts.append(f"<h3>Request</h3>{_fields(schema, document)}")
    success = operation["responses"]["200"]["content"]
    for content_type, media in success.items():
        if "$ref" in media["schema"]:
            parts.append(f"<h3>Answer</h3>{_fields(media['schema'], document)}")
        else:
            parts.append(f"<p>Answers <code>{escape(content_type)}</code>.</p>")
    errors = "".join(
        f"<tr><td><code>{status}</code></td><td>{_text(answer['description'])}</td></tr>"
        for status, answer in operation["responses"].items()
        if status != "200"
    )
    if errors:
        parts.append(f"<details><summary>Errors</summary><table>{errors}</table></details>")
    return "".join([*parts, "</section>"])


def _fields(schema: Json, document: Json) -> str:
    """A table of an object's fields."""
    resolved = _resolve(schema, document)
    required = resolved.get("required", ())
    rows = []
    for name, field in resolved.get("properties", {}).items():
        needed = " <em>required</em>" if name in required else ""
        kind = escape(_kind(field, document))
        text = _text(field.get("description", ""))
        rows.append(f"<tr><td><code>{escape(name)}</code>{needed}</td><td>{kind}</td><td>{text}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _resolve(schema: Json, document: Json) -> Json:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].removeprefix(_REFERENCE)]
    return schema


def _kind(schema: Json, document: Json) -> str:
    """A type in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].removeprefix(_REFERENCE))
    if "anyOf" in schema:
        kinds = [_kind(one, document) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}), document)}"
    return str(schema.get("type", "any"))


def _text(text: str) -> str:
    """Plain text with words in backquotes as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
