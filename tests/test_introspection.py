"""POST /auth/introspect (RFC 7662) and POST /auth/revoke (RFC 7009)."""

from typing import Any

import pytest

from live import Client, LiveServer
from people import Person, make_key, make_person, make_service, ok, token_of

INACTIVE = {"active": False}


@pytest.fixture
def todo(admin: Client) -> str:
    return make_service(admin)


@pytest.fixture
def alice(admin: Client, todo: str) -> Person:
    return make_person(admin, f"{todo}:read")


@pytest.fixture
def text(alice: Person) -> str:
    return token_of(alice)


@pytest.fixture
def backend_of(admin: Client, todo: str) -> Person:
    """The account that acts for the service todo."""
    backend = make_person(admin)
    ok(admin.patch(f"/services/{todo}", json={"account": backend.username.upper()}))
    return backend


def introspect(person: Person, token: str, **fields: str) -> dict[str, Any]:
    response = person.login().post("/auth/introspect", data={"token": token, **fields})
    assert response.headers["Cache-Control"] == "no-store"
    document: dict[str, Any] = ok(response)
    return document


def test_its_owner_sees_what_it_is(server: LiveServer, alice: Person, todo: str, text: str) -> None:
    document = introspect(alice, text, token_type_hint="access_token")
    times = [document.pop(name) for name in ("iat", "exp")]
    assert times[1] - times[0] == 900
    assert len(document.pop("jti")) == 36
    assert document == {
        "active": True,
        "scope": f"{todo}:read",
        "client_id": alice.username,
        "username": alice.username,
        "token_type": "Bearer",
        "sub": alice.id,
        "aud": [todo],
        "iss": server.url,
    }


def test_a_token_from_a_key_tells_which(admin: Client, alice: Person) -> None:
    key, secret = make_key(admin, alice)
    assert introspect(alice, token_of(alice, secret))["key_id"] == key


def test_whoever_acts_for_the_service_sees_its_tokens_and_no_others(
    admin: Client, alice: Person, backend_of: Person, text: str
) -> None:
    assert introspect(backend_of, text)["active"]
    assert introspect(backend_of, token_of(alice, audience="keyosk")) == INACTIVE
    assert introspect(make_person(admin), text) == INACTIVE
    assert introspect(make_person(admin, "keyosk:tokens:introspect"), text)["active"]


@pytest.mark.parametrize(
    "what", ["garbage", "tampered", "revoked", "account disabled", "service disabled", "key", ""]
)
def test_what_is_not_active_is_only_that(
    server: LiveServer, admin: Client, alice: Person, todo: str, what: str
) -> None:
    auditor = make_person(admin, "keyosk:tokens:introspect")
    key, secret = make_key(admin, alice)
    text = token_of(alice, secret)
    assert introspect(auditor, text)["active"]
    if what == "garbage":
        text = "garbage \u20ac"
    elif what == "tampered":
        text = text[:-5] + ("AAAAA" if text[-5:] != "AAAAA" else "BBBBB")
    elif what == "revoked":
        assert alice.login().post("/auth/revoke", data={"token": text}).status_code == 200
    elif what == "account disabled":
        ok(admin.patch(alice.path, json={"enabled": False}))
    elif what == "service disabled":
        ok(admin.patch(f"/services/{todo}", json={"enabled": False}))
    elif what == "key":
        ok(admin.delete(f"{alice.path}/api-keys/{key}"), 204)
    else:
        text = server.client().get("/auth/revocations", headers={"Accept": "application/jwt"}).text
    assert introspect(auditor, text.strip()) == INACTIVE


@pytest.mark.parametrize("path", ["/auth/introspect", "/auth/revoke"])
def test_wrong_requests_are_refused(
    server: LiveServer, alice: Person, text: str, path: str
) -> None:
    def error(client: Client, **options: Any) -> tuple[int, str]:
        response = client.post(path, **options)
        return response.status_code, response.json()["error"]

    login, anybody = alice.login(), server.client()
    assert error(login) == (400, "invalid_request")
    assert error(login, data={"token": ""}) == (400, "invalid_request")
    assert error(login, data={"token": [text, text]}) == (400, "invalid_request")
    assert error(login, params={"token": text}) == (400, "invalid_request")
    assert error(login, data=text, headers={"Content-Type": "text/plain"})[0] == 400
    assert error(anybody, data={"token": text}) == (401, "invalid_client")
    bearer = {"Authorization": f"Bearer {text}"}
    assert error(anybody, data={"token": text}, headers=bearer) == (401, "invalid_client")
    assert login.get(path).status_code == 405
    ok(login.post(path, json={"token": text}))


def test_a_revoked_token_is_refused_at_once(server: LiveServer, alice: Person) -> None:
    text = token_of(alice, audience="keyosk")
    other = token_of(alice, audience="keyosk")
    client = Client(server.url, token=text)
    assert client.get("/accounts/me").status_code == 200

    response = alice.login().post(
        "/auth/revoke", data={"token": text, "token_type_hint": "refresh_token"}
    )

    assert ok(response)["effective_at_latest"] == response.headers["Effective-At-Latest"]
    assert client.get("/accounts/me").status_code == 401
    assert Client(server.url, token=other).get("/accounts/me").status_code == 200
    entries = ok(server.client().get("/auth/revocations"))["entries"]
    assert sum("jti" in each and each.keys() == {"jti", "expires"} for each in entries) >= 1
    # Once more is no fault.
    assert alice.login().post("/auth/revoke", data={"token": text}).status_code == 200


def test_only_its_owner_and_admins_revoke_a_token(admin: Client, alice: Person, text: str) -> None:
    refusal = make_person(admin).login().post("/auth/revoke", data={"token": text})
    assert (refusal.status_code, refusal.json()["error"]) == (400, "invalid_grant")
    assert introspect(alice, text)["active"]
    operator = make_person(admin, "keyosk:accounts:write")
    assert operator.login().post("/auth/revoke", data={"token": text}).status_code == 200
    assert introspect(alice, text) == INACTIVE


@pytest.mark.parametrize("text", ["garbage", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "\u20ac"])
def test_what_is_no_token_of_ours_is_no_fault(alice: Person, text: str) -> None:
    # JSON, because clients such as simple-oauth2 for Node.js fail on any other body.
    assert ok(alice.login().post("/auth/revoke", data={"token": text})) == {}


def test_the_account_of_a_service_exists_and_no_key_chooses_it(admin: Client, todo: str) -> None:
    path = f"/services/{todo}"
    assert admin.patch(path, json={"account": "nobody of that name"}).status_code == 422
    manager = make_person(
        admin, "keyosk:services:write", "keyosk:services:read", "keyosk:tokens:introspect"
    )
    _, secret = make_key(admin, manager)
    body = {"account": manager.username}
    assert manager.login(secret).patch(path, json=body).status_code == 403
    assert ok(manager.login().patch(path, json=body))["account"] == manager.username
    ok(admin.delete(manager.path), 204)
    assert ok(admin.get(path))["account"] is None
