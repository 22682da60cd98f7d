"""What goes wrong is told in one shape, and never says more than it should."""

import base64
import gzip
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
import requests
from flask import Flask, g
from marshmallow import ValidationError
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

import live
from keyosk import app, config, errors
from keyosk.errors import Fault
from keyosk.installation import Installation
from keyosk.web import errors as web_errors
from live import Client, LiveServer
from people import ok
from tables import table

JSON = {"Content-Type": "application/json"}
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
HSTS = {"Strict-Transport-Security": "max-age=31536000"}  # of the application, not of the server
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
#: Words of Python, of a library, of a database or of a page.
INTERNAL = re.compile(
    r"traceback|exception|file \"|line \d|\.py\b|<html|<!doctype|werkzeug|flask|marshmallow|peewee"
    r"|sqlite|psycopg|postgres|select |insert |codec|0x[0-9a-f]{4}",
    re.IGNORECASE,
)


def assert_problem(
    response: requests.Response, status: int, code: str | None = None, *fields: str
) -> None:
    """A response as RFC 9457 and the design have it; ``fields``: those at fault."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    body = response.json()
    expected = {"type", "title", "status", "detail", "code", "request_id"}
    assert body.keys() == (expected | {"errors"} if fields else expected)
    assert body["type"] == "about:blank"
    assert body["status"] == status
    assert body["title"]
    assert re.fullmatch(r"[A-Z].*\.", body["detail"]) or fields
    assert code is None or body["code"] == code
    assert re.fullmatch(r"[a-z_]+", body["code"])
    assert body["request_id"] == response.headers["X-Request-Id"]
    for fault in body.get("errors", []):
        assert fault.keys() == {"field", "message"}
        assert fault["message"]
    assert [fault["field"] for fault in body.get("errors", [])] == list(fields)
    assert not INTERNAL.search(response.text)


def assert_headers(response: requests.Response) -> None:
    assert UUID.fullmatch(response.headers["X-Request-Id"])
    assert SECURITY_HEADERS.items() <= response.headers.items()
    assert response.headers["Server"] == "keyosk"


# --- Where there is nothing -----------------------------------------------------------------------


@table(
    "path",
    [
        "/nothing",
        "/auth",
        "/auth/token/",
        "/accounts/",
        "/accounts//grants",
        "/static/x",
        "/accounts/%00/x",
        "/%ff",
        "/nothing?password=hunter2",
        "/<script>",
    ],
)
def test_an_address_that_does_not_exist(server: LiveServer, admin: Client, path: str) -> None:
    for client in (server.client(), admin):
        response = client.get(path)
        assert_problem(response, 404, "not_found")
        assert "hunter2" not in response.text
        assert_headers(response)


@table(
    ("path", "meant"),
    [
        ("/token", "/auth/token"),
        ("/oauth/token", "/auth/token"),
        ("/realms/master/protocol/openid-connect/certs", "/auth/jwks"),
        ("/v1/Users/", "/accounts"),
        ("/healthz", "/health/ready"),
        ("/metrics", "KEYOSK_METRICS_BIND"),
        ("/accounts/", "None ends in a slash"),
    ],
)
def test_a_path_of_another_system_is_told_where_it_is_here(
    server: LiveServer, path: str, meant: str
) -> None:
    response = server.client().post(path, data={"grant_type": "client_credentials"})
    assert_problem(response, 404, "not_found")
    assert meant in response.json()["detail"]


def test_the_paths_that_may_be_meant_exist(server: LiveServer) -> None:
    client = server.client()
    for path in set(web_errors.MEANT.values()):
        assert client.request("OPTIONS", path).status_code == 204, path


@table("method", ["PUT", "PROPFIND", "TRACE", "X" * 20])
def test_a_method_that_an_address_does_not_have(server: LiveServer, method: str) -> None:
    response = server.client().request(method, "/accounts")

    assert_problem(response, 405, "method_not_allowed")
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
    assert response.json()["detail"].endswith("; it supports GET, HEAD, OPTIONS, POST.")
    assert_headers(response)


# --- Bodies ---------------------------------------------------------------------------------------


@table(
    ("path", "body", "fault"),
    [
        (
            "/accounts",
            {"displayName": ""},
            "displayName: Unknown field; did you mean display_name?",
        ),
        ("/accounts", {"colour": ""}, "colour: Unknown field"),
        (
            "/accounts",
            {"grants": {"scope": []}},
            "grants.scope: Unknown field; did you mean scopes?",
        ),
        ("/accounts", {"grants": []}, "grants: must be an object"),
        ("/accounts", [], "body: must be an object"),
        (
            "/services",
            {"scopes": [{"title": ""}, {"names": ""}]},
            "scopes.1.names: Unknown field; did",
        ),
    ],
)
def test_a_fault_of_a_body_says_what_may_be_meant(
    admin: Client, path: str, body: Any, fault: str
) -> None:
    assert fault in admin.post(path, json=body).json()["detail"]


def test_fields_are_suggested_for_a_few_only(admin: Client) -> None:
    body = {f"display_name{number}": "" for number in range(2_000)}
    assert admin.post("/accounts", json=body).json()["detail"].count("did you mean") == 3


def test_a_body_above_64_kib_is_refused_by_its_length(server: LiveServer, admin: Client) -> None:
    for client in (server.client(), admin):
        for path in ("/accounts", "/auth/token", "/nothing"):
            response = client.post(path, data=b" " * (64 * 1024 + 1), headers=JSON)
            assert_problem(response, 413)
            assert response.headers["Connection"] == "close"
            assert_headers(response)
    assert_problem(admin.post("/accounts", data=b" " * (64 * 1024), headers=JSON), 400)


def test_a_body_above_64_kib_is_refused_unread(server: LiveServer) -> None:
    head = (
        f"POST /accounts HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_chunked_body_above_64_kib_is_refused(server: LiveServer, admin: Client) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        for _ in range(size // 1024):
            yield b" " * 1024

    for client in (server.client(), admin):
        response = client.post("/accounts", data=chunks(65 * 1024), headers=JSON)
        assert_problem(response, 413)
        assert_headers(response)
    assert_problem(admin.post("/accounts", data=chunks(64 * 1024), headers=JSON), 400)


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/accounts", "application/json"),
        ("/apply", "application/json"),
        ("/accounts/import", "application/jsonl"),
    ],
)
def test_a_compressed_body_is_refused(admin: Client, path: str, content_type: str) -> None:
    body = (
        {"username": live.unique("packed")}
        if path != "/apply"
        else {"owner": live.unique("packed")}
    )
    plain = json.dumps(body).encode()
    for coding, data in (("gzip", gzip.compress(plain)), ("GZIP", plain), ("br, gzip", plain)):
        headers = {"Content-Type": content_type, "Content-Encoding": coding}
        response = admin.post(path, data=data, headers=headers)
        assert_problem(response, 415, "unsupported_media_type")
        assert "Content-Encoding" in response.json()["detail"]
        assert response.headers["Accept-Encoding"] == "identity"
    headers = {"Content-Type": content_type, "Content-Encoding": "identity"}
    assert admin.post(path, data=plain, headers=headers).status_code in (200, 201)


def test_no_login_is_unpacked(server: LiveServer) -> None:
    headers = {"Content-Encoding": "gzip"}
    client = server.client("admin", live.ADMIN_PASSWORD)
    response = client.post("/auth/token", data={"scope": "keyosk:admin"}, headers=headers)
    assert (response.status_code, response.json()["error"]) == (415, "invalid_request")
    # Those of the request that a proxy asks about are about its body, not about ours.
    assert client.get("/auth/forward/keyosk", headers=headers).status_code == 200


@table(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'username': 'x'}",
        b'{"username": "x",}',
        b'{"username": "x"} {}',
        b'{"username": NaN}',
        b'{"metadata": {"x": Infinity}}',
        b'{"metadata": {"x": -Infinity}}',
        b'{"username": "x", "username": "y"}',
        b'{"username": "x", "metadata": {"a": {"b": 1, "b": 2}}}',
        b'{"username": "\xff"}',
        b'\xef\xbb\xbf{"username": "x"}',
        '{"username": "x"}'.encode("utf-16"),
        b'{"username": "a\nb"}',
        b'{"username": 0x1}',
        b'{"metadata": {"x": ' + b"9" * 5000 + b"}}",
        b"[" * 60_000,
        b'{"metadata": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_malformed_json_is_refused(admin: Client, body: bytes) -> None:
    for method, path in (("POST", "/accounts"), ("PATCH", "/accounts/admin")):
        assert_problem(admin.request(method, path, data=body, headers=JSON), 400, "bad_request")


@pytest.fixture(autouse=True, scope="module")
def other(admin: Client) -> None:
    """An account whose credentials an admin handles without a proof."""
    assert admin.post("/accounts", json={"username": "other"}).status_code in (201, 409)


@table(
    "path",
    [
        "/accounts/other/password",
        "/accounts/other/grants",
        "/services/keyosk/scopes",
    ],
)
def test_what_replaces_something_is_read_as_strictly_as_new(admin: Client, path: str) -> None:
    for body in (b"[]", b"1", b"null", b"true", b'"text"', b'[{"username": "x"}]'):
        response = admin.put(path, data=body, headers=JSON)
        assert_problem(response, 422, "invalid", "body")
    for content_type in ("text/plain", "application/jsonp", ""):
        response = admin.put(path, data=b"{}", headers={"Content-Type": content_type})
        assert_problem(response, 415, "unsupported_media_type")
    assert_problem(admin.put(path), 415, "unsupported_media_type")


@table(
    ("method", "path", "body", "fields"),
    [
        ("POST", "/accounts", {"username": "x", "\ud800": 1}, ["?"]),
        ("POST", "/accounts", {"kind": "robot", "color": 1}, ["color", "kind", "username"]),
        ("PATCH", "/accounts/admin/grants", {"add": {"scopes": {}}}, ["add.scopes"]),
        ("PUT", "/accounts/other/password", {}, ["password"]),
        ("PUT", "/accounts/other/password", {"password": 1}, ["password"]),
        ("POST", "/services", {"name": "x", "scopes": [{"name": "a", "x": 1}]}, ["scopes.0.x"]),
        ("POST", "/services", {"name": "x", "scopes": [None]}, ["scopes.0"]),
        ("POST", "/services", {"name": "\u00e9"}, ["audience", "name"]),
    ],
)
def test_a_field_that_is_wrong_is_named_by_its_place(
    admin: Client, method: str, path: str, body: Any, fields: list[str]
) -> None:
    response = admin.request(method, path, json=body)
    assert sorted(fault["field"] for fault in response.json()["errors"]) == fields
    assert_problem(response, 422, "invalid", *(each["field"] for each in response.json()["errors"]))


@table("method", ["POST", "PATCH"])
@table("field", ["metadata", "claims", "color"])
def test_no_depth_of_nesting_is_an_error_of_ours(admin: Client, method: str, field: str) -> None:
    username = live.unique("deep")
    if method == "PATCH":
        ok(admin.post("/accounts", json={"username": username}), 201)
    statuses = set()
    for depth in [5, *range(150, 1000, 50), 990, 1500]:
        nested = '{"a":' * depth + "1" + "}" * depth
        if method == "POST":
            body = f'{{"username": "{username}-{depth}", "{field}": {nested}}}'
            response = admin.post("/accounts", data=body, headers=JSON)
        else:
            body = f'{{"{field}": {nested}}}'
            response = admin.patch(f"/accounts/{username}", data=body, headers=JSON)
        statuses.add(response.status_code)
        if response.status_code in (200, 201):
            # What was taken can be given.
            assert admin.get(f"/accounts/{response.json()['id']}").json() == response.json()
        elif response.status_code == 400:
            assert_problem(response, 400, "bad_request")
        else:
            assert_problem(response, 422, "invalid", field)
    assert 400 in statuses
    assert statuses & {200, 201, 422}


# --- What the server answers by itself ------------------------------------------------------------


@table(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: a miracle\r\n\r\n", 417),
    ],
    ids=["no host", "nonsense", "large head", "long line", "large body", "expectation"],
)
def test_also_what_never_reaches_the_application_is_answered_in_the_same_shape(
    server: LiveServer, request_bytes: bytes, status: int
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request_bytes)
        raw = b""
        while piece := connection.recv(65536):
            raw += piece
    head, _, content = raw.partition(b"\r\n\r\n")
    response = requests.Response()
    response.status_code = int(head.split()[1])
    lines = head.decode().split("\r\n")[1:]
    response.headers.update(dict(line.split(": ", 1) for line in lines))
    response._content = content

    assert_problem(response, status)
    assert_headers(response)


# --- On every response ----------------------------------------------------------------------------


def test_every_answer_has_an_id_and_the_security_headers(server: LiveServer, admin: Client) -> None:
    anybody = server.client()
    responses = [
        anybody.get("/auth/jwks"),
        anybody.get("/auth/jwks", headers={"If-None-Match": "*"}),
        anybody.request("HEAD", "/health/ready"),
        anybody.request("OPTIONS", "/accounts"),
        anybody.get("/accounts"),
        anybody.get("/nothing"),
        anybody.post("/auth/token"),
        admin.get("/accounts"),
        admin.get("/accounts/me"),
        admin.post("/accounts", json={"username": live.unique("headers")}),
        admin.post("/accounts", json={}),
    ]

    assert [response.status_code for response in responses] == [
        200, 304, 200, 204, 401, 404, 401, 200, 200, 201, 422
    ]  # fmt: skip
    for response in responses:
        assert_headers(response)
        assert HSTS.items() <= response.headers.items()
    assert len({response.headers["X-Request-Id"] for response in responses}) == len(responses)


def test_nobody_chooses_the_request_id_from_outside(server: LiveServer) -> None:
    chosen = "11111111-1111-7111-8111-111111111111"

    response = server.client().get("/nothing", headers={"X-Request-Id": chosen})

    assert response.headers["X-Request-Id"] != chosen


# --- Secrets --------------------------------------------------------------------------------------


def test_a_secret_in_a_broken_request_comes_back_nowhere(server: LiveServer, admin: Client) -> None:
    """flask-restful answers with the raw input of marshmallow's error, in production only."""
    secret = "Zaphod-never-tells-42"
    username = live.unique("leak")
    creation = admin.post("/accounts", json={"username": username, "password": secret})
    assert creation.status_code == 201
    own = server.client(username, secret)
    encoded = base64.b64encode(f"{username}:{secret}".encode()).decode()
    json_text = f'{{"username": "leak2", "password": "{secret}"'
    responses = [
        creation,
        admin.post("/accounts", json={"username": username, "password": secret}),
        admin.post("/accounts", json={"username": "a b", "password": secret}),
        admin.post("/accounts", json={"username": 1, "password": secret, "color": 1}),
        admin.post("/accounts", json={"username": "leak2", "password": [secret]}),
        admin.post("/accounts", json={"username": "leak2", "password": {"x": secret}}),
        admin.post("/accounts", json={"username": secret + "/", "password": secret}),
        admin.post("/accounts", json=[secret]),
        admin.post("/accounts", json=secret),
        admin.post("/accounts", data=json_text, headers=JSON),
        admin.post("/accounts", data=json_text + ', "password": ""}', headers=JSON),
        admin.post("/accounts", data=json_text + ', "x": "\\ud800"}', headers=JSON),
        admin.post("/accounts", data=json_text.encode() + b"\xff}", headers=JSON),
        admin.post("/accounts", data=f"password={secret}"),
        admin.put("/accounts/me/password", json={"password": secret, "color": 1}),
        admin.put("/accounts/me/password", json={"password": secret, "current_password": secret}),
        admin.put(f"/accounts/{username}/password", json={"password": secret[:12]}),
        own.put("/accounts/me/password", json={"password": "short", "current_password": secret}),
        own.get("/accounts"),
        own.get("/accounts/me"),
        own.post("/auth/token", data={"grant_type": secret, "format": secret}),
        own.post("/auth/token", data={"audience": secret}),
        own.post("/auth/token", json=[secret]),
        own.post("/auth/token", json={secret: 1, "scope": {"x": secret}}),
        own.post(f"/auth/token?password={secret}"),
        own.get(f"/accounts?password={secret}", headers={"Cookie": f"session={secret}"}),
        server.client("nobody", secret).get("/accounts"),
        server.client(username, secret + "!").post("/auth/token"),
        server.client(username, quote_plus("\u00e9" + secret)).post("/auth/token"),
        server.client().get("/accounts", headers={"Authorization": f"Basic {encoded}x"}),
        server.client().get("/accounts", headers={"Authorization": f"Bearer {secret}"}),
        server.client().get("/accounts", headers={"Authorization": f"Secret {secret}"}),
    ]

    assert {response.status_code for response in responses} == {
        200,
        201,
        400,
        401,
        403,
        409,
        415,
        422,
    }
    log = server.log.read_text()
    assert f'"path": "/accounts/{username}/password"' in log  # so the log is that of these requests
    for text in (secret, secret[:12], encoded):
        assert text not in log
        for response in responses:
            assert text not in response.text + str(response.headers), response.request.url
    token = own.post("/auth/token", data={"format": "token"}).text.strip()
    assert token not in server.log.read_text()


def test_an_api_key_is_in_no_log(server: LiveServer, admin: Client) -> None:
    username = live.unique("keyed")
    ok(admin.post("/accounts", json={"username": username}), 201)
    creation = admin.post(f"/accounts/{username}/api-keys", json={"name": "k"})
    secret = creation.json()["secret"]
    path = f"/accounts/{username}/api-keys/{creation.json()['id']}"

    assert server.client(username, secret).get("/accounts/me").status_code == 200
    assert server.client("somebody", secret).get("/accounts/me").status_code == 401
    for response in (admin.get(path), admin.get(f"/accounts/{username}/api-keys")):
        assert response.status_code == 200
        assert secret not in response.text
    assert path in server.log.read_text()
    assert secret not in server.log.read_text()


# --- The table, in this process -------------------------------------------------------------------


@pytest.fixture(scope="module")
def flask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """The application with some addresses that fail. TESTING stays off."""
    folder = tmp_path_factory.mktemp("errors")
    (folder / "keyosk.toml").write_text("")
    settings = config.load(
        {
            "KEYOSK_DATABASE_URL": f"sqlite:///{folder / 'keyosk.db'}",
            "KEYOSK_SECRET_KEY": live.SECRET_KEY,
            "KEYOSK_ADMIN_PASSWORD": live.ADMIN_PASSWORD,
            "KEYOSK_CONFIG": str(folder / "keyosk.toml"),
        }
    )
    app.prepare(settings)
    installation = Installation(settings)
    yield app.create_app(installation)
    installation.database.close()


@dataclass(frozen=True)
class Response:
    """The response to an error outside OAuth and inside."""

    status: int
    headers: Mapping[str, str]
    problem: dict[str, Any]
    oauth: dict[str, Any]
    oauth_headers: Mapping[str, str]


def response_to(flask: Flask, error: Exception, **request: Any) -> Response:
    with flask.test_request_context("/anything", **request):
        g.request_id = "the-id"
        g.oauth_errors = False
        problem = web_errors.response_to(error)
        g.oauth_errors = True
        oauth = web_errors.response_to(error)
    assert problem.status_code == oauth.status_code
    assert problem.content_type == "application/problem+json"
    assert oauth.content_type == "application/json"
    return Response(
        problem.status_code,
        dict(problem.headers),
        json.loads(problem.data),
        json.loads(oauth.data),
        dict(oauth.headers),
    )


BASIC = 'Basic realm="keyosk", charset="UTF-8"'
ROWS: list[tuple[errors.KeyoskError, int, str, str]] = [
    (errors.Invalid([Fault("a", "is bad")]), 422, "invalid", "invalid_request"),
    (errors.InvalidRequest("A sentence."), 400, "invalid_request", "invalid_request"),
    (errors.InvalidScope("A sentence."), 400, "invalid_scope", "invalid_scope"),
    (errors.InvalidTarget("A sentence."), 400, "invalid_target", "invalid_target"),
    (errors.UnsupportedGrantType("A sentence."), 400, "unsupported_grant_type",
     "unsupported_grant_type"),
    (errors.UnsupportedResponseType("A sentence."), 400, "unsupported_response_type",
     "unsupported_response_type"),
    (errors.InvalidGrant("A sentence."), 400, "invalid_grant", "invalid_grant"),
    (errors.UnauthorizedClient("A sentence."), 400, "unauthorized_client", "unauthorized_client"),
    (errors.BadCredentials(), 401, "bad_credentials", "invalid_client"),
    (errors.BadToken("A sentence."), 401, "invalid_token", "invalid_request"),
    (errors.Forbidden("A sentence."), 403, "forbidden", "invalid_request"),
    (errors.RefusedByRule("A sentence."), 403, "refused_by_rule", "invalid_request"),
    (errors.ProofRequired(), 403, "proof_required", "invalid_request"),
    (errors.InsufficientScope("a:b"), 403, "insufficient_scope", "invalid_request"),
    (errors.NotFound("A sentence."), 404, "not_found", "invalid_request"),
    (errors.Conflict("name", "A sentence."), 409, "conflict", "invalid_request"),
    (errors.InUse("A sentence."), 409, "in_use", "invalid_request"),
    (errors.Stale("A sentence."), 412, "stale", "invalid_request"),
    (errors.Throttled(7), 429, "throttled", "temporarily_unavailable"),
    (errors.Unavailable("A sentence."), 503, "unavailable", "temporarily_unavailable"),
    (errors.DatabaseUnusable("A sentence."), 503, "unavailable", "temporarily_unavailable"),
    (errors.DatabaseDamaged("A sentence."), 503, "unavailable", "temporarily_unavailable"),
]  # fmt: skip


@table(("error", "status", "code", "oauth"), ROWS, ids=[type(row[0]).__name__ for row in ROWS])
def test_each_row_of_the_table(
    flask: Flask, error: errors.KeyoskError, status: int, code: str, oauth: str
) -> None:
    response = response_to(flask, error)

    assert response.status == status
    expected = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.detail,
        "code": code,
        "request_id": "the-id",
    }
    if isinstance(error, errors.Invalid):
        expected["errors"] = [{"field": "a", "message": "is bad"}]
    if isinstance(error, errors.Conflict):
        expected["errors"] = [{"field": "name", "message": "A sentence."}]
    assert response.problem == expected
    assert response.oauth == {"error": oauth, "error_description": error.detail}
    assert ("Retry-After" in response.headers) == (status in (429, 503))
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


def test_the_rows_above_are_all_rows_of_the_table() -> None:
    assert {type(row[0]) for row in ROWS} == set(web_errors.STATUS)


def test_every_error_that_a_request_can_meet_has_a_row() -> None:
    def below(kind: type[errors.KeyoskError]) -> Iterator[type[errors.KeyoskError]]:
        for inner in kind.__subclasses__():
            yield inner
            yield from below(inner)

    # These end the program at its start, before there are requests.
    at_start = {errors.ConfigurationError, errors.DatabaseTooNew, errors.WrongSecretKey}
    ours = {kind for kind in below(errors.KeyoskError) if kind.__module__ == errors.__name__}

    assert ours - at_start == set(web_errors.STATUS)


def test_the_challenges_of_a_refused_login_or_token(flask: Flask) -> None:
    login = response_to(flask, errors.BadCredentials())
    assert login.headers["WWW-Authenticate"] in (BASIC, 'Bearer realm="keyosk"')
    assert login.oauth_headers["WWW-Authenticate"] == BASIC
    token = response_to(flask, errors.BadToken("It is old."))
    challenge = 'Bearer realm="keyosk", error="invalid_token", error_description="It is old."'
    assert token.headers["WWW-Authenticate"] == challenge
    bearer = {"Authorization": "bearer x"}
    scope = response_to(flask, errors.InsufficientScope("a:b"), headers=bearer)
    challenge = 'Bearer realm="keyosk", error="insufficient_scope", scope="a:b"'
    assert scope.headers["WWW-Authenticate"] == challenge


def test_a_new_kind_of_error_is_answered_as_the_one_it_is_made_of(flask: Flask) -> None:
    class Narrow(errors.InsufficientScope):
        code = "narrow"

    response = response_to(flask, Narrow("a:b"))

    assert (response.status, response.problem["code"]) == (403, "narrow")


@table(
    ("error", "code"),
    [
        (BadRequest("secret text"), "bad_request"),
        (NotFound("secret text"), "not_found"),
        (MethodNotAllowed(["GET"], "secret text"), "method_not_allowed"),
        (RequestEntityTooLarge("secret text"), "body_too_large"),
        (UnsupportedMediaType("secret text"), "unsupported_media_type"),
        (Forbidden("secret text"), "forbidden"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_framework_errors_are_in_our_words(flask: Flask, error: HTTPException, code: str) -> None:
    response = response_to(flask, error)

    assert response.status == error.code
    assert response.problem["code"] == code
    assert response.problem["detail"]
    assert "secret" not in json.dumps([response.problem, response.oauth])
    assert response.headers.get("Allow") == ("GET" if response.status == 405 else None)


SECRET = "the text of the exception"
UNKNOWN = [
    RuntimeError(SECRET),
    KeyError(SECRET),
    TypeError(SECRET),
    ValidationError(SECRET, data={"password": SECRET}),
    UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    errors.WrongSecretKey(SECRET),
    errors.KeyoskError(SECRET),
]


@pytest.fixture
def failing(flask: Flask) -> Iterator[Callable[[Exception, str], None]]:
    """Makes /health/live fail: in its resource, or once after it. Whole again at the end."""
    rule = next(rule for rule in flask.url_map.iter_rules() if rule.rule == "/health/live")
    view, after = flask.view_functions[rule.endpoint], list(flask.after_request_funcs[None])

    def make(error: Exception, where: str) -> None:
        failures = iter([error])

        def fail(response: Any = None, **_: Any) -> Any:
            for failure in failures:
                raise failure
            return response

        if where == "resource":
            flask.view_functions[rule.endpoint] = fail
        else:
            flask.after_request_funcs[None].append(fail)

    yield make
    flask.view_functions[rule.endpoint] = view
    flask.after_request_funcs[None][:] = after


@pytest.mark.parametrize("error", UNKNOWN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["resource", "after"])
def test_an_error_that_nobody_knows_is_500_and_says_nothing_also_in_the_log(
    flask: Flask,
    failing: Callable[[Exception, str], None],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    where: str,
) -> None:
    assert flask.testing is False
    failing(error, where)

    with caplog.at_level(logging.DEBUG):
        response = flask.test_client().get("/health/live")

    assert response.status_code == 500
    assert response.content_type == "application/problem+json"
    assert response.json == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "An internal error occurred. The log has details under this request_id.",
        "code": "internal_error",
        "request_id": response.headers["X-Request-Id"],
    }
    assert SECURITY_HEADERS.items() <= dict(response.headers).items()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert type(error).__name__ in record.getMessage()
    assert Path(__file__).name in record.getMessage()
    assert record.__dict__["request_id"] == response.headers["X-Request-Id"]
    assert record.exc_info is None
    assert SECRET not in caplog.text + str(record.__dict__)


def test_at_oauth_urls_it_is_a_server_error(flask: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = next(rule for rule in flask.url_map.iter_rules() if rule.rule == "/auth/token")

    def fail(**_: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setitem(flask.view_functions, rule.endpoint, fail)
    response = flask.test_client().post("/auth/token")

    assert response.status_code == 500
    assert response.content_type == "application/json"
    assert response.json is not None
    assert response.json["error"] == "server_error"
    assert SECRET not in response.text
