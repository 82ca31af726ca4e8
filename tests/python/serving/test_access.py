"""Who is answered: keys, hosts, origins; and what the log says of it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from gpt2fast import GPT2
from gpt2fast.serving import Settings, create_app
from gpt2fast.serving.logs import JsonFormatter, TextFormatter
from support.processes import imported_by

KEYS = ("sk-first", "sk-second-and-longer")


@pytest.fixture(scope="module")
def keyed(model: GPT2) -> Iterator[TestClient]:
    with TestClient(create_app(model, Settings(api_keys=KEYS))) as client:
        yield client


PATHS = ["/", "/v1/models", "/ready", "/metrics", "/docs", "/openapi.json", "/tokenizer_info", "/nope"]


@pytest.mark.parametrize("path", PATHS)
def test_all_but_health_is_behind_the_key(keyed: TestClient, path: str) -> None:
    assert keyed.get("/health").status_code == 200
    response = keyed.get(path)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert not any(key in response.text for key in KEYS)
    browser_asks = path in ("/", "/docs")
    assert response.headers["www-authenticate"].startswith("Basic" if browser_asks else "Bearer")


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens(keyed: TestClient, key: str) -> None:
    assert keyed.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert keyed.get("/v1/models", auth=("anyone", key)).status_code == 200
    answer = keyed.post("/v1/completions", json={"max_tokens": 1}, headers={"authorization": f"bearer {key}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer sk-firs", "Bearer sk-first2", "sk-first", "Basic sk-first", "Basic !"],
)
def test_nothing_else_does(keyed: TestClient, authorization: str) -> None:
    response = keyed.post("/v1/completions", json={}, headers={"authorization": authorization})
    assert response.status_code == 401


_AS_SENT = (
    "as browsers send them, such as 'https://app.example.com' or 'http://localhost:3000' (small letters, no "
    "path, no default port), or '*', got "
)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"api_keys": ("sk-first", "")}, ValueError, "api_keys must not hold an empty one"),
        ({"api_keys": "sk-first"}, TypeError, "api_keys must be a list or tuple of strings"),
        ({"cors_origins": "*"}, TypeError, "cors_origins must be a list or tuple of strings"),
        ({"allowed_hosts": "localhost"}, TypeError, "allowed_hosts must be a list or tuple of strings"),
        ({"root_path": "llm"}, ValueError, "root_path must begin with / and not end with it, got 'llm'"),
        ({"root_path": "/llm/"}, ValueError, "root_path must begin with / and not end with it, got '/llm/'"),
        (
            {"root_path": "/x?y"},
            ValueError,
            "root_path must be the path of a URL, decoded, got '?' in '/x?y'",
        ),
        ({"root_path": "/x#y"}, ValueError, "got '#' in '/x#y'"),
        ({"root_path": "/a b"}, ValueError, "got ' ' in '/a b'"),
        ({"root_path": "/a%20b"}, ValueError, "got '%' in '/a%20b'"),
        ({"root_path": "//a"}, ValueError, "got '//' in '//a'"),
        *(
            (
                {"cors_origins": ("*", origin)},
                ValueError,
                f"cors_origins must hold origins {_AS_SENT}{origin!r}",
            )
            for origin in (
                "foo",
                "",
                "a.example:8000",
                "https://a.example/",
                "https://a.example/app",
                "https://A.example",
                "HTTPS://a.example",
                "https://a.example:443",
                "http://a.example:80",
                "https://*.example",
                "https://a.example,https://b.example",
            )
        ),
    ],
)
def test_settings_that_would_let_others_in_or_nobody(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        Settings(**settings)


@pytest.mark.parametrize(
    "origin", ["*", "null", "http://localhost:3000", "http://[::1]:8080", "app://x-y", "http://a.example:443"]
)
def test_origins_that_browsers_send(origin: str) -> None:
    assert Settings(cors_origins=(origin,), root_path="/a-b/c.d~é").cors_origins == (origin,)


def test_hosts_that_are_not_named_are_refused(model: GPT2) -> None:
    settings = Settings(allowed_hosts=("localhost", "[::1]"))
    client = TestClient(create_app(model, settings), base_url="http://localhost:8000")
    assert client.get("/health").status_code == 200
    assert client.get("/health", headers={"host": "[::1]:80"}).status_code == 200
    refused = client.get("/health", headers={"host": "rebound.example"})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "unknown_host"


def test_other_origins_are_let_in_by_name(model: GPT2) -> None:
    preflight = {
        "origin": "https://a.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }
    closed = TestClient(create_app(model))
    assert closed.options("/v1/completions", headers=preflight).status_code == 405
    answer = closed.get("/health", headers={"origin": "https://a.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)
    settings = Settings(cors_origins=("https://a.example",), api_keys=KEYS)
    opened = TestClient(create_app(model, settings))
    response = opened.options("/v1/completions", headers=preflight)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://a.example"
    assert "x-stainless-lang" in response.headers["access-control-allow-headers"]
    other = opened.options("/v1/completions", headers={**preflight, "origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("shown", ["/llm/v1/models", "/v1/models"])
def test_behind_a_proxy_with_a_prefix(model: GPT2, shown: str) -> None:
    client = TestClient(create_app(model, Settings(root_path="/llm")))
    assert client.get(shown).json()["data"][0]["id"] == "gpt2fast"
    document = client.get(shown.replace("/v1/models", "/openapi.json")).json()
    assert document["servers"] == [{"url": "/llm"}]


@pytest.mark.parametrize(
    ("root", "path", "location"),
    [
        ("", "/v1/completions/", "/v1/completions"),
        ("", "/docs/?a=b", "/docs?a=b"),
        ("/llm", "/llm/v1/completions/", "/llm/v1/completions"),
        ("/llm", "/v1/completions/", "/llm/v1/completions"),
        ("/llm", "/llm", "/llm/"),
    ],
)
def test_a_slash_at_the_end_is_put_right_whatever_the_host(
    model: GPT2, root: str, path: str, location: str
) -> None:
    client = TestClient(create_app(model, Settings(root_path=root)), follow_redirects=False)
    response = client.post(path, headers={"host": "elsewhere.example"}, json={})
    assert response.status_code == 307
    assert response.headers["location"] == location
    for wrong in ("/v1/", "/docs//", "//docs/", "//elsewhere.example/", "/v1/completions%2f%2f"):
        assert client.get(f"http://testserver{root}{wrong}").status_code == 404


def test_mounted_in_another_application(model: GPT2) -> None:
    outer = Starlette(routes=[Mount("/gpt2", create_app(model, Settings(api_keys=KEYS)))])
    client = TestClient(outer, headers={"authorization": f"Bearer {KEYS[0]}"})
    assert client.get("/gpt2/ready").status_code == 200
    assert client.post("/gpt2/v1/completions", json={"max_tokens": 2}).status_code == 200
    assert client.get("/gpt2/openapi.json").json()["servers"] == [{"url": "/gpt2"}]
    assert TestClient(outer).get("/gpt2/health").status_code == 200
    assert TestClient(outer).get("/gpt2/metrics").status_code == 401


def test_answers_have_the_id_of_their_request(client: httpx.Client) -> None:
    assert client.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = client.get("/health", headers={"x-request-id": "a b" * 100}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)


def test_a_request_is_one_line_of_the_log_without_its_text(
    model: GPT2, caplog: pytest.LogCaptureFixture
) -> None:
    client = TestClient(create_app(model))
    headers = {"x-request-id": "line"}
    with caplog.at_level(logging.INFO, "gpt2fast.serving"):
        client.post("/v1/completions", json={"prompt": "secret", "max_tokens": 1}, headers=headers)
        client.post("/v1/completions", json={"prompt": "secret", "nope\n2": 1}, headers=headers)
        client.post("/v1/completions", json={"prompt": {"text": "secret"}}, headers=headers)
        client.post("/v1/completions", json={"overflow": "secret"}, headers=headers)
        client.get("/nowhere/%0asecond")
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert not any("\n" in line or "secret" in line for line in lines)
    texts = [TextFormatter().format(record) for record in caplog.records]
    assert not any("\n" in text or "secret" in text for text in texts)
    good, bad, *quoted, nowhere = map(json.loads, lines)
    assert (good["status"], good["method"], good["path"]) == (200, "POST", "/v1/completions")
    assert good["request_id"] == "line"
    assert good["duration_ms"] > 0
    assert good["client"] == "testclient"
    assert bad["status"] == 400
    assert bad["error"] == r"unknown_parameter in 'nope\n2'"
    assert [one["error"] for one in quoted] == [
        "invalid request in 'prompt'",
        "invalid request in 'overflow'",
    ]
    assert nowhere["path"] == "/nowhere/\nsecond"
    assert texts[-1].startswith(r"GET '/nowhere/\nsecond' 404 ")


def cached_tokens(model: GPT2, settings: Settings, path: str, **fields: Any) -> list[int]:
    """Tokens found in the prefix cache when each key sends a prompt, and then sends it again."""
    model.clear_prefix_cache()
    client, found = TestClient(create_app(model, settings)), []
    for key in (*KEYS, *KEYS):
        before = model.stats().prefix_hits
        response = client.post(path, json=fields, headers={"authorization": f"Bearer {key}"})
        assert response.status_code == 200
        found.append(model.stats().prefix_hits - before)
    return found


PROMPT = "A prompt that nobody has given before, and of some length. " * 4


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", {"max_tokens": 1}),
        ("/v1/completions", {"max_tokens": 1, "stream": True}),
        ("/v1/completions", {"max_tokens": 2, "choices": ["a", "b"]}),
        ("/v1/rank", {"choices": [" a b", " c d"]}),
    ],
)
def test_prefixes_of_other_keys_are_not_reused_where_that_is_asked_for(
    model: GPT2, path: str, fields: dict[str, Any]
) -> None:
    if "choices" in fields and path == "/v1/completions":
        pytest.importorskip("llguidance")
    tokens = len(model.tokenizer.encode(PROMPT))
    fields = {**fields, "prompt": PROMPT}
    kept = Settings(api_keys=KEYS, prefix_cache_scope="key")
    assert cached_tokens(model, kept, path, **fields) == [0, 0, tokens - 1, tokens - 1]
    shared = Settings(api_keys=KEYS)
    assert cached_tokens(model, shared, path, **fields) == [0, *[tokens - 1] * 3]


def test_without_keys_there_is_nobody_to_keep_prefixes_from() -> None:
    with pytest.raises(ValueError, match="prefix_cache_scope must be 'all' without api_keys, got 'key'"):
        Settings(prefix_cache_scope="key")


def test_settings_need_none_of_the_packages_of_the_service() -> None:
    heavy = {"starlette", "uvicorn", "pydantic", "prometheus_client", "orjson", "jinja2", "numpy"}
    assert not heavy & imported_by(
        "import gpt2fast; from gpt2fast.serving import Limits, Settings; Settings()"
    )
