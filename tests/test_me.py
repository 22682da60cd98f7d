"""What people do with their own account, without any scope."""

from typing import Any

import pytest

import live
from live import Client
from people import PASSWORD, Person, assert_refused, make_key, make_person, make_service, ok

NEW_PASSWORD = "slowly orbit lamps violet"
KEYS = "/accounts/me/api-keys"


@pytest.fixture
def person(admin: Client) -> Person:
    return make_person(admin)


def test_one_sees_oneself_and_what_one_may_do(admin: Client) -> None:
    todo = make_service(admin)
    limited = {"name": f"{todo}:write", "with": "password"}
    person = make_person(admin, f"{todo}:read", limited)
    note = {"metadata": {"note": "for admins"}, "claims": {"team": "red"}}
    ok(admin.patch(person.path, json=note))
    key, secret = make_key(admin, person)
    for client in (person.login(), person.bearer(), person.login(secret), person.bearer(secret)):
        me = ok(client.get("/accounts/me"))
        assert (me["id"], me["username"], me["claims"]) == (
            person.id,
            person.username,
            note["claims"],
        )
        assert "metadata" not in me
        grants = ok(client.get("/accounts/me/grants"))
        assert grants == {"scopes": [f"{todo}:read", limited], "roles": []}
        keys = ok(client.get(KEYS))["items"]
        assert [item["id"] for item in keys] == [key]
        assert ok(client.get(f"{KEYS}/{key}")) == keys[0]


def test_by_password_one_makes_changes_rotates_and_drops_ones_own_keys(person: Person) -> None:
    client = person.login()
    response = client.post(KEYS, json={"name": "laptop", "description": "At home."})
    created = ok(response, 201)
    assert response.headers["Location"] == f"{client.url}{person.path}/api-keys/{created['id']}"
    assert person.login(created["secret"]).get("/accounts/me").status_code == 200
    path = f"{KEYS}/{created['id']}"

    changed = ok(client.patch(path, json={"name": "old laptop", "networks": ["192.0.2.1"]}))
    assert (changed["name"], changed["networks"]) == ("old laptop", ["192.0.2.1/32"])
    assert person.login(created["secret"]).get("/accounts/me").status_code == 401
    ok(client.patch(path, json={"networks": None}))

    new = ok(client.post(f"{path}/rotate", json={"overlap": 60}), 201)
    for secret in (created["secret"], new["secret"]):
        assert person.login(secret).get("/accounts/me").status_code == 200
    ok(client.delete(path), 204)
    ok(client.delete(f"{KEYS}/{new['id']}"), 204)
    for secret in (created["secret"], new["secret"]):
        assert person.login(secret).get("/accounts/me").status_code == 401


def test_a_key_of_ones_own_gives_no_more_than_one_holds(admin: Client) -> None:
    todo = make_service(admin)
    person = make_person(admin, f"{todo}:read")
    scopes = [f"{todo}:read", f"{todo}:write", "keyosk:admin"]

    created = ok(person.login().post(KEYS, json={"name": "greedy", "scopes": scopes}), 201)

    assert ok(person.login(created["secret"]).post("/auth/token"))["scope"] == f"{todo}:read"
    assert person.login(created["secret"]).get("/accounts").status_code == 403


def test_one_changes_ones_password_with_the_current_one(admin: Client, person: Person) -> None:
    _, secret = make_key(admin, person)
    client, path = person.bearer(), "/accounts/me/password"
    assert_refused(client.put(path, json={"password": NEW_PASSWORD}), "proof_required")
    wrong = {"password": NEW_PASSWORD, "current_password": "not the password at all"}
    assert_refused(client.put(path, json=wrong), "forbidden")
    weak = {"password": "too short", "current_password": PASSWORD}
    assert_refused(client.put(path, json=weak), "invalid", 422)
    assert person.login().get("/accounts/me").status_code == 200

    ok(client.put(path, json={"password": NEW_PASSWORD, "current_password": PASSWORD}), 204)

    assert person.login().get("/accounts/me").status_code == 401
    assert person.login(NEW_PASSWORD).get("/accounts/me").status_code == 200
    assert person.login(secret).get("/accounts/me").status_code == 200


def test_one_drops_ones_password_with_the_current_one(admin: Client, person: Person) -> None:
    _, secret = make_key(admin, person)
    client, path = person.bearer(), "/accounts/me/password"
    assert_refused(client.delete(path), "proof_required")
    wrong = {"current_password": "not the password at all"}
    assert_refused(client.delete(path, json=wrong), "forbidden")
    right = {"current_password": PASSWORD}
    assert_refused(person.login(secret).delete(path, json=right), "refused_by_rule")
    assert ok(person.login().get("/accounts/me"))["has_password"] is True

    ok(client.delete(path, json=right), 204)

    assert person.login().get("/accounts/me").status_code == 401
    assert ok(person.login(secret).get("/accounts/me"))["has_password"] is False


@pytest.mark.parametrize("way", ["key", "token from the key"])
def test_by_key_one_may_look_and_change_nothing(admin: Client, person: Person, way: str) -> None:
    key, secret = make_key(admin, person)
    client = person.login(secret) if way == "key" else person.bearer(secret)
    before = ok(client.get(KEYS))["items"][0]
    change = {"password": NEW_PASSWORD, "current_password": PASSWORD}
    for method, path, body in (
        ("POST", KEYS, {"name": "another"}),
        ("PATCH", f"{KEYS}/{key}", {"name": "mine"}),
        ("POST", f"{KEYS}/{key}/rotate", None),
        ("DELETE", f"{KEYS}/{key}", None),
        ("PUT", "/accounts/me/password", change),
    ):
        assert_refused(client.request(method, path, json=body), "refused_by_rule")

    (after,) = ok(client.get(KEYS))["items"]
    assert {**after, "last_used_at": None} == {**before, "last_used_at": None}
    assert person.login().get("/accounts/me").status_code == 200


@pytest.mark.parametrize(
    ("method", "below", "body"),
    [
        ("PATCH", "", {"display_name": "Somebody"}),
        ("PATCH", "", {"username": "admin2"}),
        ("PATCH", "", {"expires_at": None}),
        ("PATCH", "", {"enabled": False}),
        ("PATCH", "", {"claims": {"admin": True}}),
        ("DELETE", "", None),
        ("PUT", "/grants", {"scopes": ["keyosk:admin"]}),
        ("PATCH", "/grants", {"add": {"scopes": ["keyosk:admin"]}}),
    ],
)
def test_one_does_not_change_what_admins_decide(
    admin: Client, person: Person, method: str, below: str, body: Any
) -> None:
    before = ok(admin.get(person.path))
    client = person.bearer()
    for name in ("me", person.id, person.username):
        response = client.request(method, f"/accounts/{name}{below}", json=body)
        assert_refused(response, "insufficient_scope")
    after = ok(admin.get(person.path))
    assert {**after, "last_login_at": None} == {**before, "last_login_at": None}


def test_one_reaches_nobody_else(admin: Client, person: Person) -> None:
    other = make_person(admin)
    key, secret = make_key(admin, other)
    client = person.bearer()
    change = {"password": NEW_PASSWORD, "current_password": PASSWORD}
    for method, below, body in (
        ("GET", "", None),
        ("GET", "/grants", None),
        ("GET", "/api-keys", None),
        ("GET", f"/api-keys/{key}", None),
        ("POST", "/api-keys", {"name": "stolen"}),
        ("PATCH", f"/api-keys/{key}", {"enabled": False}),
        ("POST", f"/api-keys/{key}/rotate", None),
        ("DELETE", f"/api-keys/{key}", None),
        ("PUT", "/password", change),
        ("DELETE", "/password", {"current_password": PASSWORD}),
    ):
        for name in (other.id, other.username):
            response = client.request(method, f"/accounts/{name}{below}", json=body)
            assert_refused(response, "insufficient_scope")
        if "api-keys/" in below:
            proven = body if method == "DELETE" else {**(body or {}), "current_password": PASSWORD}
            response = client.request(method, f"/accounts/me{below}", json=proven)
            assert_refused(response, "not_found", 404)
    assert other.login(secret).get("/accounts/me").status_code == 200
    assert other.login().get("/accounts/me").status_code == 200


def test_nobody_is_called_me(admin: Client) -> None:
    for username in ("me", "ME", "Ｍｅ"):  # the last in full width: the same name
        assert_refused(admin.post("/accounts", json={"username": username}), "invalid", 422)


def test_what_one_did_is_in_the_log_under_ones_own_name(admin: Client, person: Person) -> None:
    response = person.login().post(KEYS, json={"name": live.unique("own")})
    ok(response, 201)

    rows = ok(admin.get("/audit", params={"actor": person.id}))["items"]

    assert [(row["action"], row["credential"]) for row in rows] == [("api_key.create", "password")]
    assert rows[0]["request_id"] == response.headers["X-Request-Id"]
