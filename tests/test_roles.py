"""Roles, and the token settings of a service."""

import time
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest

import live
from keyosk.times import rfc3339
from live import Client, LiveServer, soon, wait_for
from people import (
    Person,
    assert_refused,
    make_key,
    make_person,
    make_role,
    make_service,
    ok,
)

# Part of `make test-long`.
pytestmark = [pytest.mark.slow, pytest.mark.every_database]

#: In a table of cases: a grant that expires a moment after it was made.
SOON = "soon"
LATER = "2099-01-01T00:00:00Z"
WAIT = 60  # seconds until every process of a server knows a new signing key


@pytest.fixture(scope="module")
def todo(admin: Client) -> str:
    return make_service(admin)


def token(client: Client, **parameters: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims of a new token."""
    response = ok(client.post("/auth/token", data=parameters))
    decoded = jwt.decode_complete(response["access_token"], options={"verify_signature": False})
    return decoded["header"], decoded["payload"]


def claims(client: Client, **parameters: str) -> dict[str, Any]:
    return token(client, **parameters)[1]


def oauth_error(client: Client, **parameters: str) -> str:
    response = client.post("/auth/token", data=parameters)
    assert response.status_code == 400, response.text
    return str(response.json()["error"])


# --- Roles ----------------------------------------------------------------------------------------


def test_the_scopes_of_a_role_are_listed_once_by_name(admin: Client, todo: str) -> None:
    read, write = f"{todo}:read", f"{todo}:write"
    role = ok(admin.post("/roles", json={"name": live.unique("r"), "scopes": [write] * 2}), 201)
    assert role["scopes"] == [write]
    changed = admin.patch(f"/roles/{role['name']}", json={"scopes": [write, read]})
    assert ok(changed)["scopes"] == [read, write]


def test_a_role_that_is_renamed_is_found_by_its_new_name_only(admin: Client) -> None:
    name, renamed = make_role(admin), live.unique("reader")
    role = ok(admin.get(f"/roles/{name}"))
    assert ok(admin.patch(f"/roles/{name}", json={"name": renamed}))["id"] == role["id"]
    assert_refused(admin.get(f"/roles/{name}"), "not_found", 404)
    assert ok(admin.get(f"/roles/{renamed}"))["id"] == role["id"]


def test_roles_are_granted_with_conditions_like_scopes(admin: Client, todo: str) -> None:
    person = make_person(admin)
    _, secret = make_key(admin, person)
    by_key = person.login(secret)
    role = make_role(admin, f"{todo}:read")
    path = f"{person.path}/grants"
    for case, applies in (
        (role, True),
        ({"name": role, "with": "api_key"}, True),
        ({"name": role, "until": LATER}, True),
        ({"name": role, "with": "password"}, False),
        (SOON, False),
    ):
        end = soon()
        if case == SOON:
            until = datetime.fromtimestamp(end, UTC).isoformat().replace("+00:00", "Z")
            grant: Any = {"name": role, "until": until}
        else:
            grant = case
        granted = ok(admin.put(path, json={"roles": [grant]}))
        granted.pop("effective_at_latest", None)
        assert granted == ok(admin.get(path)) == {"scopes": [], "roles": [grant]}
        if not applies:
            wait_for(end)
        token_claims = claims(by_key)
        assert token_claims["scope"] == (f"{todo}:read" if applies else "")
        assert token_claims.get("roles") == ([role] if applies else None)

    removed = admin.patch(path, json={"remove": {"roles": [role]}})
    assert ok(removed) | {"scopes": [], "roles": []} == ok(removed)


def test_a_token_ends_with_the_grant_of_a_role(admin: Client, todo: str) -> None:
    soon = rfc3339(time.time() + 200)
    grant = {"name": make_role(admin, f"{todo}:read"), "until": soon}
    token_claims = claims(make_person(admin, roles=(grant,)).login())
    assert 150 < token_claims["exp"] - token_claims["iat"] <= 200


@pytest.mark.parametrize("roles", [["no-such-role"], ["{role}", "{role}"], ["No Role"]])
def test_grants_of_what_is_no_role_are_refused(admin: Client, roles: list[str]) -> None:
    person, role = make_person(admin), make_role(admin)
    body = {"roles": [name.format(role=role) for name in roles]}

    response = admin.put(f"{person.path}/grants", json=body)

    assert_refused(response, "invalid", 422)
    assert response.json()["errors"][0]["field"] == "roles"
    assert ok(admin.get(f"{person.path}/grants"))["roles"] == []


def test_a_change_of_a_role_reaches_its_holders_at_once(admin: Client, todo: str) -> None:
    read, write = f"{todo}:read", f"{todo}:write"
    role = make_role(admin, read)
    person = make_person(admin, roles=(role,))
    _, secret = make_key(admin, person)
    client = person.login(secret)
    assert claims(client)["scope"] == read

    ok(admin.patch(f"/roles/{role}", json={"scopes": [write, "keyosk:accounts:read"]}))
    assert claims(client)["scope"] == write
    bearer = person.bearer(secret)
    assert bearer.get("/accounts?limit=1").status_code == 200

    ok(admin.patch(f"/roles/{role}", json={"scopes": []}))
    assert "roles" not in claims(client)
    assert bearer.get("/accounts?limit=1").status_code == 401  # revoked


def test_a_key_that_is_limited_gets_of_a_role_only_its_limit(admin: Client, todo: str) -> None:
    person = make_person(admin, roles=(make_role(admin, f"{todo}:read", f"{todo}:write"),))
    _, secret = make_key(admin, person, scopes=[f"{todo}:read"])
    assert claims(person.login(secret))["scope"] == f"{todo}:read"


def test_the_token_names_the_roles_that_gave_its_scopes_alone(admin: Client, todo: str) -> None:
    notes = make_service(admin)
    of_todo, of_notes = make_role(admin, f"{todo}:read"), make_role(admin, f"{notes}:read")
    person = make_person(admin, f"{todo}:write", roles=(of_todo, of_notes, make_role(admin)))
    client = person.login()

    assert sorted(claims(client)["roles"]) == sorted([of_todo, of_notes])
    assert claims(client, audience=todo)["roles"] == [of_todo]
    assert claims(client, scope=f"{notes}:read")["roles"] == [of_notes]
    assert "roles" not in claims(client, scope=f"{todo}:write")


def test_a_role_that_is_held_is_deleted_only_by_force(admin: Client, todo: str) -> None:
    role = make_role(admin, f"{todo}:read")
    people = [make_person(admin, roles=(role,)) for _ in range(2)]
    for query in ("", "?force=false"):
        refusal = admin.delete(f"/roles/{role}{query}")
        assert_refused(refusal, "in_use", 409)
        assert "2 accounts" in refusal.json()["detail"]
    assert_refused(admin.delete(f"/roles/{role}?force=yes"), "invalid", 422)
    assert claims(people[0].login())["scope"] == f"{todo}:read"

    ok(admin.delete(f"/roles/{role}?force=true"), 204)

    assert claims(people[0].login())["scope"] == ""
    assert ok(admin.get(f"{people[1].path}/grants"))["roles"] == []


def test_the_commands_make_list_change_and_delete_roles(
    server: LiveServer, admin: Client, todo: str
) -> None:
    name, person = live.unique("by-command"), make_person(admin)
    for arguments in (
        ("role", "create", name, f"{todo}:read", "--description", "Reads."),
        ("role", "scopes", name, f"{todo}:write"),
        ("grant", "add", person.username, name, "--role", "--until", "2099-01-01"),
    ):
        assert server.run(*arguments).returncode == 0
    assert ok(admin.get(f"/roles/{name}"))["scopes"] == [f"{todo}:write"]
    assert ok(admin.get(f"{person.path}/grants"))["roles"] == [{"name": name, "until": LATER}]

    refused = server.run("role", "delete", name)
    assert (refused.returncode, "1 account" in refused.stderr) == (1, True)
    assert server.run("role", "delete", name, "--force").returncode == 0
    assert admin.get(f"/roles/{name}").status_code == 404


# --- What a service says --------------------------------------------------------------------------


def logins(person: Person, admin: Client) -> dict[str, Client]:
    _, secret = make_key(admin, person)
    return {"password": person.login(), "api_key": person.login(secret)}


@pytest.mark.parametrize("accepts", ["password", "api_key"])
def test_a_service_takes_tokens_of_what_it_accepts(admin: Client, todo: str, accepts: str) -> None:
    picky = make_service(admin, accepts=accepts)
    person = make_person(admin, f"{todo}:read", f"{picky}:read")
    for kind, client in logins(person, admin).items():
        if kind == accepts:
            assert claims(client, audience=picky)["scope"] == f"{picky}:read"
            assert set(claims(client)["aud"]) == {todo, picky}
        else:
            assert oauth_error(client, audience=picky) == "invalid_target"
            assert oauth_error(client, scope=f"{picky}:read") == "invalid_scope"
            token_claims = claims(client)
            assert (token_claims["aud"], token_claims["scope"]) == (todo, f"{todo}:read")

    ok(admin.patch(f"/services/{picky}", json={"accepts": "both"}))
    for client in logins(person, admin).values():
        assert claims(client, audience=picky)["aud"] == picky


def test_a_token_carries_the_claims_that_its_service_asks_for(admin: Client, todo: str) -> None:
    asking = make_service(admin, claims=["team", "level", "missing"])
    person = make_person(admin, f"{todo}:read", f"{asking}:read")
    own = {"team": "red", "level": {"n": [1, None, "ü"]}, "shoe_size": 43, "sub": "admin", "aud": 1}
    ok(admin.patch(person.path, json={"claims": own}))
    client = person.login()

    token_claims = claims(client, audience=asking)

    assert (token_claims["team"], token_claims["level"]) == ("red", {"n": [1, None, "ü"]})
    assert token_claims["sub"] == person.id
    assert "missing" not in token_claims
    assert "shoe_size" not in token_claims
    assert "team" not in claims(client, audience=todo)
    assert claims(client)["team"] == "red"  # for both of them
    ok(admin.patch(person.path, json={"claims": {"team": "blue"}}))
    assert claims(client, audience=asking)["team"] == "blue"


def test_the_type_in_the_header_is_what_the_service_says(admin: Client, todo: str) -> None:
    old = make_service(admin, typ="JWT")
    client = make_person(admin, f"{todo}:read", f"{old}:read").login()

    assert token(client, audience=old)[0]["typ"] == "JWT"
    assert token(client, audience=todo)[0]["typ"] == "at+jwt"
    both = {"scope": f"{old}:read {todo}:read"}
    assert oauth_error(client, **both) == "invalid_target"  # no token can be of both types
    assert token(client)[0]["typ"] == "at+jwt"  # what is unusual has to be asked for


def published_key(server: LiveServer, text: str) -> jwt.PyJWK:
    """The key that checks a token, once all processes of the server have read of it."""
    deadline = time.monotonic() + WAIT
    while True:
        keys = jwt.PyJWKClient(f"{server.url}/.well-known/jwks.json")
        try:
            return keys.get_signing_key_from_jwt(text)
        except jwt.PyJWKClientError:
            assert time.monotonic() < deadline, "the key is not published"


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
def test_a_service_chooses_the_algorithm_and_verifiers_find_the_key(
    own_server: LiveServer, algorithm: str
) -> None:
    own_server.start()  # of its own: one that was announced would not sign yet
    server, admin = own_server, own_server.admin()
    todo = make_service(admin)
    service = make_service(admin, signing_algorithm=algorithm)
    client = make_person(admin, f"{todo}:read", f"{service}:read").login()
    text = ok(client.post("/auth/token", data={"audience": service}))["access_token"]
    assert jwt.get_unverified_header(text)["alg"] == algorithm
    key = published_key(server, text)

    token_claims = jwt.decode(
        text, key, algorithms=[algorithm], audience=service, issuer=server.url
    )

    assert token_claims["scope"] == f"{service}:read"
    # The installation's own goes on: for other services, and for who does not mind.
    assert token(client, audience=todo)[0]["alg"] == "ES256"
    assert token(client, scope=f"{todo}:read {service}:read")[0]["alg"] == algorithm
    assert token(client)[0]["alg"] == "ES256"


# --- What is in use -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["delete", "patch", "put"])
def test_what_is_in_use_is_deleted_only_by_force(admin: Client, how: str) -> None:
    service = make_service(admin)
    read, write = f"{service}:read", f"{service}:write"
    role = make_role(admin, read, write)
    people = [make_person(admin, write), make_person(admin, read, write)]
    path = f"/services/{service}"
    names = ", ".join(person.username for person in people)
    detail = f"still granted to 2 accounts ({names}) and part of 1 role ({role})."
    method, path, body, verb = {
        "delete": ("DELETE", path, None, "are"),
        "patch": ("PATCH", path, {"scopes": [read]}, "is"),
        "put": ("PUT", f"{path}/scopes", {"scopes": [read]}, "is"),
    }[how]
    for query in ("", "?force=false"):
        refusal = admin.request(method, path + query, json=body)
        assert_refused(refusal, "in_use", 409)
        assert f" {verb} {detail}" in refusal.json()["detail"]
    assert_refused(admin.request(method, f"{path}?force=1", json=body), "invalid", 422)
    assert claims(people[0].login())["scope"] == write

    response = admin.request(method, f"{path}?force=true", json=body)

    assert response.status_code == (204 if how == "delete" else 200), response.text
    kept = [] if how == "delete" else [read]
    assert ok(admin.get(f"/roles/{role}"))["scopes"] == kept
    assert [ok(admin.get(f"{person.path}/grants"))["scopes"] for person in people] == [[], kept]
    assert claims(people[0].login())["scope"] == ""


def test_what_nobody_uses_needs_no_force(admin: Client) -> None:
    service = make_service(admin)
    ok(admin.put(f"/services/{service}/scopes", json={"scopes": [f"{service}:read"]}))
    ok(admin.patch(f"/services/{service}", json={"scopes": []}))
    ok(admin.delete(f"/services/{service}"), 204)


def test_the_command_sets_what_it_is_told_and_no_more(server: LiveServer, admin: Client) -> None:
    service = make_service(admin, title="To do", contact="todo@example.org")
    before = ok(admin.get(f"/services/{service}"))
    options = [
        "--disabled",
        "--on-request-only",
        "--cors-preflight",
        "--accepts",
        "api_key",
        "--token-lifetime",
        "60",
    ]
    more = ["--typ", "JWT", "--claim", "team", "--claim", "level", "--reset", "title"]

    result = server.run("service", "set", service, *options, *more, "--json")

    assert result.returncode == 0, result.stderr
    after = ok(admin.get(f"/services/{service}"))
    assert after == {
        **before,
        "updated_at": after["updated_at"],
        "title": "",
        "enabled": False,
        "on_request_only": True,
        "cors_preflight": True,
        "accepts": "api_key",
        "token_lifetime": 60,
        "typ": "JWT",
        "claims": ["team", "level"],
    }
    refused = server.run("service", "set", service, "--claim", "sub")
    assert (refused.returncode, "claims" in refused.stderr) == (1, True)


def test_a_service_by_command_has_its_name_as_audience(server: LiveServer, admin: Client) -> None:
    name = live.unique("by-command")
    assert server.run("service", "create", name, "--scope", f"{name}:read").returncode == 0
    assert ok(admin.get(f"/services/{name}"))["audience"] == name
