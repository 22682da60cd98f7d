"""Accounts that tests act as, on a running Keyosk."""

from dataclasses import dataclass
from typing import Any

import jwt
import requests

import live
from live import Client, LiveServer

PASSWORD = "violet lamps orbit slowly"
NEW_PASSWORD = "green kettles hum at noon"


@dataclass(frozen=True)
class Person:
    """An account with a password."""

    url: str
    id: str
    username: str

    @property
    def path(self) -> str:
        return f"/accounts/{self.id}"

    def login(self, secret: str = PASSWORD) -> Client:
        """A client that sends a secret each time."""
        return Client(self.url, auth=(self.username, secret))

    def bearer(self, secret: str = PASSWORD, **parameters: str) -> Client:
        """A client with a token for Keyosk that the secret got."""
        response = self.login(secret).post("/auth/token", data={"audience": "keyosk", **parameters})
        assert response.status_code == 200, response.text
        return Client(self.url, token=response.json()["access_token"])


def claims_of(token: str) -> dict[str, Any]:
    """What a token says; nothing is verified."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def forwarded_claims(response: requests.Response) -> dict[str, Any]:
    """The claims of the token that forward authentication passes on to the service."""
    assert response.status_code == 200, response.text
    return claims_of(response.headers["Authorization"].removeprefix("Bearer "))


def token_of(person: Person, secret: str = PASSWORD, **parameters: Any) -> str:
    """A token that a secret of the person gets."""
    text: str = ok(person.login(secret).post("/auth/token", data=parameters))["access_token"]
    return text


def make_person(admin: Client, *scopes: Any, roles: tuple[Any, ...] = ()) -> Person:
    """A new account that holds these scopes and roles."""
    username = live.unique("person")
    grants = {"scopes": list(scopes), "roles": list(roles)}
    body = {"username": username, "password": PASSWORD, "grants": grants}
    return Person(admin.url, ok(admin.post("/accounts", json=body), 201)["id"], username)


def make_account(admin: Client, stem: str = "account", **fields: Any) -> dict[str, Any]:
    """A new account as the API shows it."""
    account: dict[str, Any] = ok(
        admin.post("/accounts", json={"username": live.unique(stem), **fields}), 201
    )
    return account


def make_key(admin: Client, person: Person, **fields: Any) -> tuple[str, str]:
    """A new API key of the person: its id and its secret."""
    api_key = ok(admin.post(f"{person.path}/api-keys", json={"name": "a key", **fields}), 201)
    return api_key["id"], api_key["secret"]


def make_service(admin: Client, *verbs: str, **fields: Any) -> str:
    """A new service with the scopes ``<name>:read`` and ``<name>:write``, or of other verbs."""
    name = live.unique("todo")
    scopes = [f"{name}:{verb}" for verb in verbs or ("read", "write")]
    ok(admin.post("/services", json={"name": name, "scopes": scopes, **fields}), 201)
    return name


def make_role(admin: Client, *scopes: str) -> str:
    """A new role of these scopes."""
    name = live.unique("role")
    ok(admin.post("/roles", json={"name": name, "scopes": list(scopes)}), 201)
    return name


def ok(response: requests.Response, status: int = 200) -> Any:
    """The body of a response that must have this status, one of success."""
    assert response.status_code == status, (
        f"{response.request.method} {response.url}: {response.text}"
    )
    return response.json() if response.content else None


def assert_refused(response: requests.Response, code: str, status: int = 403) -> None:
    """The response refuses with the status and the code."""
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def problem(response: requests.Response, status: int, *fields: str) -> dict[str, Any]:
    """The problem details of a refusal, after a look at all that every one of them has.

    ``fields``: those that are at fault, in order.
    """
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["request_id"] == response.headers["X-Request-Id"]
    assert [error["field"] for error in body.get("errors", [])] == list(fields)
    return body


def can_log_in(server: LiveServer, username: str, secret: str) -> bool:
    """Whether a secret of an account gets a token."""
    response = server.client(username, secret).post("/auth/token")
    assert response.status_code in (200, 401), response.text
    return response.status_code == 200
