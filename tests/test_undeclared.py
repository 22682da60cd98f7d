"""What a write does not declare is refused at every endpoint: nobody believes it was honoured."""

from collections.abc import Iterator

import pytest
import requests

from keyosk.web import operations
from keyosk.web.operations import Operation
from keyosk.web.routes import ROUTES
from live import Client, LiveServer
from people import assert_refused, ok, problem
from tables import walking

#: Names of what does not exist: a request that was not refused first would get 404.
ABSENT = {
    **dict.fromkeys(("key", "session", "factor"), "00000000-0000-7000-8000-000000000000"),
    **dict.fromkeys(("account", "service", "role", "issuer", "rule"), "nothing-of-this-name"),
    "kid": "x" * 43,
}


@pytest.fixture(scope="module")
def server(in_process: LiveServer) -> LiveServer:
    return in_process


@pytest.fixture(scope="module")
def admin(server: LiveServer) -> Client:
    return server.admin()


def writes() -> Iterator[tuple[str, str, Operation]]:
    """Every write outside OAuth, whose endpoints ignore unknown parameters (RFC 6749 3.2)."""
    for route in ROUTES:
        path = route.path
        for variable, name in ABSENT.items():
            path = path.replace(f"<{variable}>", name)
        for method in route.access.keys() - {"GET"}:
            if not route.oauth:
                yield method, path, operations.of(route.resource, method)


def assert_names_colour(response: requests.Response) -> None:
    assert_refused(response, "invalid", 422)
    assert "colour" in [fault["field"] for fault in response.json()["errors"]]


def test_an_unknown_member_of_a_body_is_refused(admin: Client) -> None:
    walked = 0
    for method, path, operation in writes():
        if operation.body_types:  # JSON Lines: a line has a result of its own
            continue
        with walking(f"{method} {path}"):
            assert_names_colour(admin.request(method, path, json={"colour": "blue"}))
            problem(admin.request(method, path, json=["colour"]), 422, "body")
            walked += 1
    assert walked > 30


def test_an_unknown_parameter_of_a_query_is_refused(admin: Client) -> None:
    walked = 0
    for method, path, operation in writes():
        with walking(f"{method} {path}"):
            headers = {"Content-Type": (*operation.body_types, "application/json")[0]}
            options = {"params": {"colour": "blue"}, "headers": headers}
            # Where the query has ``force``, it is read after the body, which must be right.
            body = '{"scopes": []}' if path.endswith("/scopes") else "{}"
            assert_names_colour(admin.request(method, path, data=body, **options))
            walked += 1
    assert walked > 30


def test_without_a_declared_body_only_an_empty_one_is_accepted(admin: Client) -> None:
    walked = 0
    for method, path, operation in writes():
        if operation.body is not None:
            continue
        with walking(f"{method} {path}"):
            assert_refused(admin.request(method, path), "not_found", 404)
            assert_refused(admin.request(method, path, json={}), "not_found", 404)
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            assert_refused(admin.request(method, path, headers=form), "not_found", 404)
            refused = admin.request(method, path, data="reason=x", headers=form)
            assert_refused(refused, "unsupported_media_type", 415)
            malformed = {"data": "{", "headers": {"Content-Type": "application/json"}}
            assert_refused(admin.request(method, path, **malformed), "bad_request", 400)
            walked += 1
    assert walked > 10


def test_no_key_is_compromised_by_a_request_for_more(server: LiveServer, admin: Client) -> None:
    kid = server.client().get("/auth/jwks").json()["keys"][0]["kid"]
    path = f"/signing-keys/{kid}"
    before = ok(admin.get("/signing-keys"))["items"]
    headers = {"Idempotency-Key": "compromise"}
    for _ in range(2):
        refused = admin.post(f"{path}/compromise", json={"replace": False}, headers=headers)
        problem(refused, 422, "replace")
        problem(admin.post(f"{path}/compromise", params={"dry_run": "true"}), 422, "dry_run")
        problem(admin.delete(path, json={"reason": "x"}), 422, "reason")
    assert ok(admin.get("/signing-keys"))["items"] == before
