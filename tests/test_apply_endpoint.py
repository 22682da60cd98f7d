"""POST /apply: a manifest by HTTP, by whoever holds the scopes of what it changes."""

from typing import Any

import pytest

from live import Client, LiveServer, unique
from people import assert_refused, make_key, make_person, make_role, make_service, ok
from tables import table

ADMIN = "keyosk:admin"
ACCOUNTS, GRANTS = "keyosk:accounts:write", "keyosk:grants:write"
SERVICES = "keyosk:services:write"


def applied(client: Client, query: str = "", **manifest: Any) -> Any:
    return ok(client.post(f"/apply{query}", json=manifest))


def fresh() -> dict[str, Any]:
    name = unique("todo")
    return {"services": [{"name": name, "scopes": [f"{name}:read"]}]}


def test_a_manifest_is_applied_once_and_then_there_is_nothing_to_do(admin: Client) -> None:
    manifest = fresh()
    [step] = applied(admin, **manifest)["changes"]
    name = manifest["services"][0]["name"]
    assert (step["action"], step["kind"], step["name"]) == ("create", "service", name)
    assert ok(admin.get(f"/services/{name}"))["audience"] == name
    assert applied(admin, **manifest) == {"changes": []}


def test_a_dry_run_says_what_would_be_done_and_does_nothing(admin: Client) -> None:
    manifest = fresh()
    planned = applied(admin, "?dry_run=true", **manifest)
    name = manifest["services"][0]["name"]
    assert admin.get(f"/services/{name}").status_code == 404
    assert applied(admin, **manifest) == planned


@pytest.mark.attack
def test_a_dry_run_under_an_idempotency_key_does_nothing_either(admin: Client) -> None:
    manifest = fresh()
    name = manifest["services"][0]["name"]
    key = {"Idempotency-Key": unique("key")}
    for _ in range(2):
        response = admin.post("/apply?dry_run=true", json=manifest, headers=key)
        assert len(ok(response)["changes"]) == 1
        assert "Idempotency-Replayed" not in response.headers
        assert admin.get(f"/services/{name}").status_code == 404


def test_a_manifest_that_is_sent_again_under_its_key_gets_the_first_answer(admin: Client) -> None:
    manifest, key = fresh(), {"Idempotency-Key": unique("key")}
    first = admin.post("/apply", json=manifest, headers=key)
    again = admin.post("/apply", json=manifest, headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert ok(first) == ok(again)
    assert len(ok(again)["changes"]) == 1


def test_what_is_wrong_is_told_all_at_once_by_its_path_and_nothing_is_done(admin: Client) -> None:
    manifest = fresh()
    manifest["roles"] = [{"name": unique("role"), "scopes": ["no:such"]}]
    manifest["accounts"] = [{"username": "two words", "pasword": "x"}]
    response = admin.post("/apply", json=manifest)
    assert_refused(response, "invalid", 422)
    assert [fault["field"] for fault in response.json()["errors"]] == ["accounts.0.pasword"]
    del manifest["accounts"][0]["pasword"]
    response = admin.post("/apply", json=manifest)
    assert_refused(response, "invalid", 422)
    fields = {fault["field"] for fault in response.json()["errors"]}
    assert fields == {"roles.0.scopes", "accounts.0.username"}
    name = manifest["services"][0]["name"]
    assert admin.get(f"/services/{name}").status_code == 404


@table("query", ["?dry_run=yes", "?colour=red", "?force=true&force=true"])
def test_a_query_that_means_nothing_here_is_refused(admin: Client, query: str) -> None:
    assert_refused(admin.post(f"/apply{query}", json={}), "invalid", 422)


def test_a_manifest_may_be_larger_than_other_bodies_but_not_of_any_size(admin: Client) -> None:
    name = unique("todo")
    scopes = [{"name": f"{name}:{n}", "description": "d" * 200} for n in range(500)]
    assert len(applied(admin, services=[{"name": name, "scopes": scopes}])["changes"]) == 1
    for body in (b" " * (4 * 1024 * 1024) + b"{}", iter([b" " * 2_100_000, b" " * 2_100_000])):
        response = admin.post("/apply", data=body, headers={"Content-Type": "application/json"})
        assert_refused(response, "body_too_large", 413)


# --- Who may --------------------------------------------------------------------------------------

#: A part of a manifest, and the scopes that it needs.
PARTS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "services": ({"services": [{"name": "keyless"}]}, (SERVICES,)),
    "roles": ({"roles": [{"name": "roleless"}]}, (SERVICES,)),
    "accounts": ({"accounts": [{"username": "nobody-yet"}]}, (ACCOUNTS,)),
    "grants of an account": (
        {"accounts": [{"username": "nobody-yet", "grants": {"scopes": []}}]},
        (ACCOUNTS, GRANTS),
    ),
    "grants": ({"grants": [{"account": "admin", "scopes": []}]}, (GRANTS,)),
}


@pytest.mark.attack
@table("part", PARTS)
def test_each_part_needs_the_scopes_of_its_own_endpoint(admin: Client, part: str) -> None:
    manifest, needed = PARTS[part]
    for missing in needed:
        held = {ACCOUNTS, GRANTS, SERVICES, "keyosk:accounts:read"} - {missing}
        person = make_person(admin, *held)
        for query in ("", "?dry_run=true"):
            response = person.login().post(f"/apply{query}", json=manifest)
            assert_refused(response, "insufficient_scope")
            assert missing in response.json()["detail"]
    enough = make_person(admin, *needed)
    assert enough.login().post("/apply?dry_run=true", json=manifest).status_code == 200


def test_nobody_who_is_not_logged_in_may_apply_anything(server: LiveServer) -> None:
    assert server.client().post("/apply", json={}).status_code == 401


@pytest.mark.attack
def test_nobody_learns_by_there_being_nothing_to_do_what_they_may_not_see(admin: Client) -> None:
    secret = make_person(admin)
    ok(admin.patch(secret.path, json={"display_name": "Secret"}))
    curious = make_person(admin, SERVICES).login()
    for name in ("Secret", "Other"):
        account = {"username": secret.username, "display_name": name}
        for manifest in ({"accounts": [account]}, {"grants": [{"account": secret.username}]}):
            assert_refused(curious.post("/apply", json=manifest), "insufficient_scope")


@pytest.mark.attack
def test_what_prune_takes_away_needs_its_scope_too(admin: Client) -> None:
    owner, username = unique("owner"), unique("job")
    applied(admin, owner=owner, accounts=[{"username": username}])
    person = make_person(admin, SERVICES)
    for query in ("", "?dry_run=true"):
        response = person.login().post(f"/apply{query}", json={"owner": owner, "prune": True})
        assert_refused(response, "insufficient_scope")
    assert admin.get(f"/accounts/{username}").status_code == 200


@pytest.mark.attack
def test_taking_over_is_for_those_who_may_do_everything(admin: Client) -> None:
    manifest = fresh()
    applied(admin, owner=unique("one"), **manifest)
    other = {"owner": unique("two"), **manifest}
    response = make_person(admin, SERVICES).login().post("/apply?take_over=true", json=other)
    assert_refused(response, "insufficient_scope")
    assert len(applied(admin, "?take_over=true", **other)["changes"]) == 1


@pytest.mark.attack
def test_nobody_gives_by_a_manifest_what_they_do_not_hold(admin: Client) -> None:
    name = make_service(admin)
    person = make_person(admin, ACCOUNTS, GRANTS, SERVICES)
    friend = make_person(admin)
    scope = f"{name}:write"
    climbs: list[dict[str, Any]] = [
        {"grants": [{"account": friend.username, "scopes": [scope]}]},
        {"accounts": [{"username": unique("new"), "grants": {"scopes": [scope]}}]},
        {"roles": [{"name": unique("role"), "scopes": [scope]}]},
        {"services": [{"name": unique("s"), "account": person.username}]},
        {"grants": [{"account": friend.username, "scopes": [ADMIN]}]},
    ]
    for manifest in climbs:
        for query in ("", "?dry_run=true"):
            assert_refused(person.login().post(f"/apply{query}", json=manifest), "refused_by_rule")
    rows = admin.get(f"/audit?action=rule.refused&actor={person.id}").json()["items"]
    assert rows
    assert rows[0]["target"]


@pytest.mark.attack
def test_no_manifest_gets_at_an_account_above_its_sender_or_their_own_grants(admin: Client) -> None:
    name = make_service(admin)
    above = make_person(admin, f"{name}:write")
    person = make_person(admin, ACCOUNTS, GRANTS, SERVICES)
    for manifest in (
        {"accounts": [{"username": above.username, "enabled": False}]},
        {"grants": [{"account": above.username, "scopes": [ACCOUNTS]}]},
        {"accounts": [{"username": person.username, "enabled": False}]},
        {"grants": [{"account": person.username, "roles": [make_role(admin, ACCOUNTS)]}]},
    ):
        assert_refused(person.login().post("/apply", json=manifest), "refused_by_rule")
    assert ok(admin.get(above.path))["enabled"]


@pytest.mark.attack
def test_an_api_key_widens_no_grants_by_a_manifest(admin: Client) -> None:
    person = make_person(admin, ADMIN)
    _, secret = make_key(admin, person)
    friend = make_person(admin)
    manifest: dict[str, Any] = {"grants": [{"account": friend.username, "scopes": [ACCOUNTS]}]}
    assert_refused(person.login(secret).post("/apply", json=manifest), "refused_by_rule")
    applied(person.login(), **manifest)


@pytest.mark.attack
def test_who_may_not_see_accounts_is_not_told_who_uses_it(admin: Client) -> None:
    name = make_service(admin)
    holder = make_person(admin, f"{name}:read")
    person = make_person(admin, SERVICES)
    manifest = {"services": [{"name": name, "scopes": []}]}
    response = person.login().post("/apply", json=manifest)
    assert_refused(response, "invalid", 422)
    assert holder.username not in response.text
    assert "Repeat with force to remove it." in response.text
    assert len(applied(person.login(), "?force=true", **manifest)["changes"]) == 1
    assert ok(admin.get(f"{holder.path}/grants"))["scopes"] == []


def test_every_change_is_in_the_audit_log_under_the_name_of_who_applied_it(admin: Client) -> None:
    person = make_person(admin, SERVICES)
    manifest = fresh()
    applied(person.login(), "?dry_run=true", **manifest)
    applied(person.login(), **manifest)
    rows = admin.get(f"/audit?actor={person.id}").json()["items"]
    assert [row["action"] for row in rows] == ["service.create"]
    assert rows[0]["request_id"]


def test_a_manifest_that_takes_rights_says_by_when_and_its_dry_run_does_not(admin: Client) -> None:
    manifest = {"accounts": [{"username": make_person(admin).username, "enabled": False}]}
    for query, takes in (("?dry_run=true", False), ("", True), ("", False)):
        response = admin.post(f"/apply{query}", json=manifest)
        assert ("effective_at_latest" in ok(response)) is takes
        assert ("Effective-At-Latest" in response.headers) is takes
