"""Whatever hashes a password is handed over to the threads that may take long, by whatever route.

The hook of the server stands in for a thread that must not take long: it raises. Whether a request
hashes is decided where it hashes, so a route that is not in this list is handed over as well.
"""

import base64
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from installed import installed, rows_of
from keyosk import app
from keyosk.credentials import concurrency
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Scope
from keyosk.web.middleware import HAND_OVER
from live import ADMIN_PASSWORD
from people import NEW_PASSWORD, PASSWORD


class HandedOver(BaseException):
    """What the server's hook raises."""


def hand_over() -> NoReturn:
    raise HandedOver


@pytest.fixture
def keyosk(prepared_url: str) -> Iterator[Installation]:
    with installed(prepared_url) as made:
        made.services.create(OPERATOR, name="todo", scopes=[Scope("todo:read")])
        made.grants.create_account(
            OPERATOR, [Grant("todo:read")], username="alice", password=PASSWORD
        )
        yield made
    concurrency.hand_over.set(None)


@pytest.fixture
def client(keyosk: Installation) -> FlaskClient:
    return app.create_app(keyosk).test_client()


def bearer(client: FlaskClient, name: str, password: str) -> dict[str, str]:
    response = client.post("/auth/token", data={"audience": "keyosk"}, auth=(name, password))
    return {"Authorization": f"Bearer {response.get_json()['access_token']}"}


def basic(name: str, secret: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{secret}'.encode()).decode()}"}


ADMIN, ALICE = ("admin", ADMIN_PASSWORD), ("alice", PASSWORD)
#: Who by token (or nobody), the method, the address, and what else is sent.
BY_TOKEN: list[tuple[tuple[str, str] | None, str, str, dict[str, Any]]] = [
    (
        ALICE,
        "PUT",
        "/accounts/me/password",
        {"json": {"password": NEW_PASSWORD, "current_password": PASSWORD}},
    ),
    (ALICE, "DELETE", "/accounts/me/password", {"json": {"current_password": PASSWORD}}),
    (ADMIN, "PUT", "/accounts/alice/password", {"json": {"password": NEW_PASSWORD}}),
    (ADMIN, "POST", "/accounts", {"json": {"username": "bob", "password": PASSWORD}}),
    (
        ADMIN,
        "POST",
        "/accounts",
        {"json": {"username": "bob", "password": PASSWORD}, "headers": {"Idempotency-Key": "once"}},
    ),
    (
        ADMIN,
        "POST",
        "/accounts/import",
        {
            "data": f'{{"username": "bob", "password": "{PASSWORD}"}}\n',
            "content_type": "application/jsonl",
        },
    ),
]
BY_PASSWORD = [
    ("POST", "/auth/token", {}),
    ("GET", "/auth/token", {}),
    ("POST", "/auth/introspect", {"data": {"token": "x"}}),
    ("POST", "/auth/revoke", {"data": {"token": "x"}}),
    ("GET", "/auth/forward", {"headers": {"X-Keyosk-Service": "todo"}}),
    ("GET", "/accounts/me", {}),
    ("HEAD", "/accounts/me", {}),
    ("PATCH", "/accounts/me", {"json": {"display_name": "A"}}),
    ("DELETE", "/accounts/me/tokens", {}),
    ("POST", "/auth/explain", {"json": {}}),
]  # fmt: skip


def state(keyosk: Installation) -> list[Any]:
    tables = (
        "account",
        "password",
        "allowance",
        "login_failure",
        "waiting_audit_row",
        "idempotency",
    )
    return [
        rows_of(keyosk, f"SELECT count(*) FROM {table}") for table in (*tables, "waiting_audit_row")
    ]


def assert_handed_over(
    keyosk: Installation, client: FlaskClient, method: str, path: str, options: dict[str, Any]
) -> None:
    before = state(keyosk)
    with pytest.raises(HandedOver):
        client.open(path, method=method, environ_overrides={HAND_OVER: hand_over}, **options)
    assert state(keyosk) == before
    # Where it may take long, the same request goes on.
    again: TestResponse = client.open(path, method=method, **options)
    assert again.status_code != 500
    assert state(keyosk) != before  # it guessed, or changed something


@pytest.mark.parametrize(("who", "method", "path", "options"), BY_TOKEN)
def test_a_password_in_a_body_is_not_hashed_where_others_wait(
    keyosk: Installation,
    client: FlaskClient,
    who: tuple[str, str],
    method: str,
    path: str,
    options: dict[str, Any],
) -> None:
    headers = {**options.get("headers", {}), **bearer(client, *who)}
    assert_handed_over(keyosk, client, method, path, {**options, "headers": headers})


@pytest.mark.parametrize(("method", "path", "options"), BY_PASSWORD)
@pytest.mark.parametrize("secret", [PASSWORD, "not it"])
def test_a_login_by_password_is_not_hashed_where_others_wait(
    keyosk: Installation,
    client: FlaskClient,
    method: str,
    path: str,
    options: dict[str, Any],
    secret: str,
) -> None:
    headers = {**options.get("headers", {}), **basic("alice", secret)}
    assert_handed_over(keyosk, client, method, path, {**options, "headers": headers})


@pytest.mark.parametrize("path", ["/auth/token", "/auth/introspect", "/auth/revoke"])
def test_a_client_secret_is_not_hashed_where_others_wait(
    keyosk: Installation, client: FlaskClient, path: str
) -> None:
    form = {"client_id": "alice", "client_secret": PASSWORD, "token": "x"}
    if path == "/auth/token":
        del form["token"]
    assert_handed_over(keyosk, client, "POST", path, {"data": form})


def test_what_hashes_nothing_is_not_handed_over(keyosk: Installation, client: FlaskClient) -> None:
    key = keyosk.api_keys.create(OPERATOR, "alice", name="k").secret
    fast = {HAND_OVER: hand_over}
    for path in ("/auth/jwks", "/health/ready", "/auth/revocations", "/openapi.json"):
        assert client.get(path, environ_overrides=fast).status_code == 200
    token = client.post("/auth/token", auth=("alice", key), environ_overrides=fast)
    assert token.status_code == 200
    assert (
        client.get("/accounts/me", auth=("alice", key), environ_overrides=fast).status_code == 200
    )


def test_hashing_itself_refuses_where_others_wait(keyosk: Installation) -> None:
    """Whatever calls it: a new route cannot forget."""
    concurrency.hand_over.set(hand_over)
    hashings: list[Callable[[], object]] = [
        lambda: keyosk.authentication._passwords.hash(PASSWORD),
        lambda: keyosk.authentication._passwords.verify(PASSWORD, None),
    ]
    for hashing in hashings:
        with pytest.raises(HandedOver):
            hashing()
