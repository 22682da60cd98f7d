"""One's own credentials: to make, change or rotate them needs the password in that request."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import pytest

import live
from keyosk.accounts.console_sessions import VIA
from keyosk.credentials.authentication import caller_of
from keyosk.errors import Conflict, ProofRequired
from keyosk.ids import new_id
from keyosk.installation import Installation
from keyosk.model import Caller
from keyosk.web.access import itself_or, itself_proven_or, scope
from keyosk.web.accounts import PasswordResource
from keyosk.web.api_keys import ApiKeyResource, RotateResource
from keyosk.web.route import Route
from keyosk.web.routes import ROUTES
from live import Client, LiveServer
from people import (
    NEW_PASSWORD,
    PASSWORD,
    Person,
    assert_refused,
    make_key,
    make_person,
    make_service,
    ok,
    token_of,
)
from tables import table

pytestmark = pytest.mark.in_process

ADMIN: Final = "keyosk:admin"
PROOF: Final = "proof_required"
NETWORK: Final = {"networks": ["192.0.2.1"]}
OPENED: Final = {"networks": None}
#: What handles one's own credentials: method, path below the account, body, status when proven.
HANDLED: Final[tuple[tuple[str, str, Mapping[str, Any] | None, int], ...]] = (
    ("POST", "/api-keys", {"name": "lasting"}, 201),
    ("PATCH", "/api-keys/{key}", OPENED, 200),
    ("PATCH", "/api-keys/{key}", {"scopes": None, "expires_at": None}, 200),
    ("PATCH", "/api-keys/{key}", {"enabled": False}, 200),
    ("PATCH", "/api-keys/{key}", {}, 200),
    ("POST", "/api-keys/{key}/rotate", {"overlap": 60}, 201),
    ("PUT", "/password", {"password": NEW_PASSWORD}, 204),
    ("DELETE", "/password", None, 204),
)


def spellings(person: Person) -> list[str]:
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in person.username if letter.isalnum())
    names = ["me", person.id, person.id.upper(), person.username, person.username.upper()]
    if person.username.isalnum():
        names.append(wide)
    return names


def tokens(person: Person, admin: Client) -> dict[str, Client]:
    """Tokens of all kinds that began with the password."""
    shown = token_of(person, audience=["keyosk", make_service(admin)])
    return {
        "full": person.bearer(),
        "short": person.bearer(lifetime="60"),
        "shown to a service": Client(person.url, token=shown),
    }


# --- A token is no proof --------------------------------------------------------------------------


@pytest.mark.attack
@table("scopes", [(), ("keyosk:audit:read",), ("keyosk:accounts:write",), (ADMIN,)])
def test_a_token_made_credentials_that_outlive_it(admin: Client, scopes: tuple[str, ...]) -> None:
    person = make_person(admin, *scopes)
    key, secret = make_key(admin, person, **NETWORK)
    for name, client in tokens(person, admin).items():
        for account in spellings(person):
            for method, below, body, _ in HANDLED:
                path = f"/accounts/{account}{below.format(key=key)}"
                response = client.request(method, path, json=body)
                assert_refused(response, PROOF)
                assert "current_password" in response.json()["detail"], name
                assert "secret" not in response.json()

    assert person.login().get("/accounts/me").status_code == 200
    (kept,) = ok(admin.get(f"{person.path}/api-keys"))["items"]
    assert (kept["id"], kept["networks"], kept["enabled"]) == (key, ["192.0.2.1/32"], True)
    assert person.login(secret).get("/accounts/me").status_code == 401


@pytest.mark.attack
def test_a_token_for_the_audit_log_made_a_key_for_everything(admin: Client) -> None:
    person = make_person(admin, ADMIN)
    client = person.bearer(scope="keyosk:audit:read", lifetime="30")

    assert_refused(client.post("/accounts/me/api-keys", json={"name": "x"}), PROOF)

    assert ok(admin.get(f"{person.path}/api-keys"))["items"] == []


@pytest.mark.attack
def test_a_token_that_refresh_tokens_gave_is_no_proof(server: LiveServer, admin: Client) -> None:
    todo = make_service(admin, refresh_allowed=True)
    person = make_person(admin, f"{todo}:read")
    asked = {"audience": todo, "scope": f"{todo}:read offline_access"}
    refresh = ok(person.login().post("/auth/token", data=asked))["refresh_token"]
    body = {"grant_type": "refresh_token", "refresh_token": refresh}
    token = ok(server.client().post("/auth/token", data=body))["access_token"]

    client = Client(server.url, token=token)
    assert client.post("/accounts/me/api-keys", json={"name": "x"}).status_code in (401, 403)

    assert ok(admin.get(f"{person.path}/api-keys"))["items"] == []


@table("scopes", [(), (ADMIN,)])
def test_a_token_alone_may_take_away(admin: Client, scopes: tuple[str, ...]) -> None:
    for number in range(len(spellings(make_person(admin)))):
        # Another person each time: the tokens of one who revoked some wait for the next second.
        person = make_person(admin, *scopes)
        account = spellings(person)[number]
        key, secret = make_key(admin, person)
        client = person.bearer()
        ok(client.delete(f"/accounts/{account}/api-keys/{key}"), 204)
        assert person.login(secret).get("/accounts/me").status_code == 401
        ok(client.delete(f"/accounts/{account}/tokens"))


def test_an_admin_handles_the_credentials_of_others_by_token(admin: Client) -> None:
    helper = make_person(admin, "keyosk:accounts:write").bearer()
    person = make_person(admin)
    for method, below, body, status in HANDLED:
        key, _ = make_key(admin, person)
        ok(helper.request(method, person.path + below.format(key=key), json=body), status)


# --- The password is one --------------------------------------------------------------------------


@table("scopes", [(), (ADMIN,)])
@table("way", ["basic", "body", "both"])
def test_with_the_password_one_handles_ones_own_credentials(
    admin: Client, scopes: tuple[str, ...], way: str
) -> None:
    for method, below, body, status in HANDLED:
        person = make_person(admin, *scopes)
        key, _ = make_key(admin, person)
        client = person.bearer() if way == "body" else person.login()
        sent = body if way == "basic" else {**(body or {}), "current_password": PASSWORD}
        path = f"/accounts/{person.id.upper()}{below.format(key=key)}"

        response = client.request(method, path, json=sent)

        created = ok(response, status)
        assert PASSWORD not in response.text
        assert "current_password" not in (created or {})


def test_a_wrong_current_password_is_refused_whatever_else_was_shown(admin: Client) -> None:
    person = make_person(admin, ADMIN)
    key, _ = make_key(admin, person)
    for client in (person.bearer(), person.login()):
        for method, below, body, _ in HANDLED[:4]:
            sent = {**(body or {}), "current_password": "not the password at all"}
            response = client.request(method, f"/accounts/me{below.format(key=key)}", json=sent)
            assert_refused(response, "forbidden")
    for strange in (None, 1, ["x"], {"a": 1}):
        response = person.bearer().post(
            "/accounts/me/api-keys", json={"name": "x", "current_password": strange}
        )
        assert_refused(response, "invalid", 422)
        assert response.json()["errors"][0]["field"] == "current_password"

    assert len(ok(admin.get(f"{person.path}/api-keys"))["items"]) == 1


def test_the_password_of_another_is_no_proof_for_oneself(admin: Client) -> None:
    person, other = make_person(admin), make_person(admin)
    ok(admin.put(f"{other.path}/password", json={"password": NEW_PASSWORD}), 204)

    body = {"name": "x", "current_password": NEW_PASSWORD}
    assert_refused(person.bearer().post("/accounts/me/api-keys", json=body), "forbidden")
    by_other = other.login(NEW_PASSWORD).post(f"{person.path}/api-keys", json={"name": "x"})
    assert_refused(by_other, "insufficient_scope")


@pytest.mark.attack
def test_the_current_password_cannot_be_guessed_at_the_keys_either(admin: Client) -> None:
    client = make_person(admin).bearer()
    body = {"name": "x", "current_password": "not the password at all"}
    ended = [client.post("/accounts/me/api-keys", json=body).status_code for _ in range(20)]

    assert set(ended) == {403, 429}
    assert ended.count(403) <= 12


def test_an_account_without_a_password_is_told_that_it_has_no_proof(admin: Client) -> None:
    person = make_person(admin)
    _, secret = make_key(admin, person)
    ok(admin.delete(f"{person.path}/password"), 204)
    for client in (person.login(secret), person.bearer(secret)):
        for method, below, body, _ in HANDLED:
            response = client.request(
                method, f"/accounts/me{below.format(key=live.unique('k'))}", json=body
            )
            assert_refused(response, "refused_by_rule")
            assert "without a password" in response.json()["detail"]


# --- Neighbours -----------------------------------------------------------------------------------


@pytest.mark.attack
def test_an_answer_with_a_secret_is_repeated_to_nobody_with_a_mere_token(admin: Client) -> None:
    person = make_person(admin)
    same = {"json": {"name": "once"}, "headers": {"Idempotency-Key": live.unique("once")}}
    secret = ok(person.login().post("/accounts/me/api-keys", **same), 201)["secret"]

    response = person.bearer().post("/accounts/me/api-keys", **same)
    assert_refused(response, PROOF)
    assert secret not in response.text

    assert ok(person.login().post("/accounts/me/api-keys", **same), 201)["secret"] == secret


@pytest.mark.attack
def test_an_answer_with_a_secret_is_not_repeated_to_a_narrower_token(admin: Client) -> None:
    boss = make_person(admin, ADMIN)
    above = make_person(admin, ADMIN)
    same = {"json": {"name": "once"}, "headers": {"Idempotency-Key": live.unique("once")}}
    secret = ok(boss.bearer().post(f"{above.path}/api-keys", **same), 201)["secret"]

    response = boss.bearer(scope="keyosk:accounts:write").post(f"{above.path}/api-keys", **same)

    assert response.status_code in (403, 422)
    assert secret not in response.text
    assert ok(boss.bearer().post(f"{above.path}/api-keys", **same), 201)["secret"] == secret


@pytest.mark.attack
@table("on_conflict", ["skip", "update", "fail"])
def test_an_import_sets_no_password_of_who_imports(admin: Client, on_conflict: str) -> None:
    person = make_person(admin, ADMIN)
    line = json.dumps({"username": person.username.upper(), "password": NEW_PASSWORD})

    person.bearer().post(
        f"/accounts/import?on_conflict={on_conflict}",
        data=line,
        headers={"Content-Type": "application/jsonl"},
    )

    assert person.login().get("/accounts/me").status_code == 200
    assert person.login(NEW_PASSWORD).get("/accounts/me").status_code == 401


# --- By construction ------------------------------------------------------------------------------


def test_a_route_that_lets_accounts_handle_themselves_without_a_proof_cannot_be_stated() -> None:
    for resource, method in (
        (RotateResource, "POST"),
        (PasswordResource, "PUT"),
        (ApiKeyResource, "PATCH"),
    ):
        access = dict.fromkeys(resource.methods or (), scope(ADMIN))
        with pytest.raises(TypeError, match=f"{method} .* proof"):
            Route("/accounts/<account>/factors", resource, access | {method: itself_or(ADMIN)})
        Route("/accounts/<account>/factors", resource, access | {method: itself_proven_or(ADMIN)})


def test_what_a_token_alone_may_do_to_its_own_account_is_to_look_and_to_take_away() -> None:
    alone = {
        f"{method} {route.path}"
        for route in ROUTES
        for method, access in route.access.items()
        if access.itself and not access.proof and method != "GET"
    }
    assert alone == {
        "DELETE /accounts/<account>/api-keys/<key>",
        "DELETE /accounts/<account>/tokens",
        "DELETE /accounts/<account>/tokens/<session>",
        "DELETE /accounts/<account>/console-sessions/<session>",
    }


def _by(installation: Installation) -> Caller:
    """The first admin as a token has them, whatever the gate made of the address."""
    login = installation.authentication.preview_login(installation.accounts.get("admin").id, None)
    return caller_of(login, frozenset({ADMIN}), frozenset({ADMIN}))


def test_a_name_that_became_ones_own_after_the_gate_had_looked_was_another_s(
    installation: Installation,
) -> None:
    by = _by(installation)
    own = by.account_id or ""
    for handle in (
        lambda: installation.api_keys.create(by, own, name="x"),
        lambda: installation.accounts.set_password(by, own, NEW_PASSWORD),
        lambda: installation.accounts.remove_password(by, own),
        lambda: installation.second_factors.remove(replace(by, via=VIA), own, new_id()),
    ):
        with pytest.raises(ProofRequired):
            handle()


def test_a_password_changed_after_it_was_shown_proves_nothing(installation: Installation) -> None:
    by = replace(_by(installation), proof="00000000-0000-7000-8000-000000000000")
    own = by.account_id or ""
    for handle in (
        lambda: installation.api_keys.create(by, own, name="x"),
        lambda: installation.accounts.set_password(by, own, NEW_PASSWORD),
        lambda: installation.accounts.remove_password(by, own),
    ):
        with pytest.raises(Conflict):
            handle()
