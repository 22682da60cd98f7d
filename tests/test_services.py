"""/services: applications, the scopes they own, and what they say of their tokens."""

from typing import Any

import pytest

from live import Client, at_once, posting, putting, unique
from people import make_person, ok, problem


def make(admin: Client, *scopes: str, **fields: Any) -> dict[str, Any]:
    """A service whose scopes have its name in front."""
    name = unique("service")
    body = {"name": name, "scopes": [f"{name}:{scope}" for scope in scopes], **fields}
    service: dict[str, Any] = ok(admin.post("/services", json=body), 201)
    return service


# --- Create and read ------------------------------------------------------------------------------


def test_a_service_without_an_audience_has_its_name_as_one(admin: Client) -> None:
    created = make(admin)
    assert created["audience"] == created["name"]
    for reference in (created["name"], created["id"], created["id"].upper()):
        assert admin.get(f"/services/{reference}").json() == created


def test_the_scopes_of_a_service_are_listed_by_name(admin: Client) -> None:
    name = unique("full")
    scopes = [f"{name}:write", {"name": f"{name}:read", "description": "To see it."}]
    created = admin.post("/services", json={"name": name, "scopes": scopes}).json()
    assert created["scopes"] == [
        {"name": f"{name}:read", "description": "To see it."},
        {"name": f"{name}:write", "description": ""},
    ]
    assert admin.get(f"/services/{name}/scopes").json() == {"scopes": created["scopes"]}


# --- Uniqueness -----------------------------------------------------------------------------------


@pytest.mark.every_database(always=True)
def test_the_field_that_is_taken_is_told_right_even_if_its_value_reads_like_an_index(
    admin: Client,
) -> None:
    # PostgreSQL says which value it was; service_name is how its index of names is called.
    for name in ("service_name", "service_audience"):
        first = admin.post("/services", json={"name": unique("s"), "audience": name})
        assert first.status_code == 201
        second = admin.post("/services", json={"name": unique("s"), "audience": name})
        problem(second, 409, "audience")
        admin.delete(first.headers["Location"])


@pytest.mark.every_database(always=True)
def test_a_scope_of_one_service_cannot_be_taken_by_another(admin: Client) -> None:
    owner, other = make(admin, "read"), make(admin, "own")
    taken = owner["scopes"][0]["name"]
    name = unique("thief")
    problem(admin.post("/services", json={"name": name, "scopes": [taken]}), 409, "scopes")
    assert admin.get(f"/services/{name}").status_code == 404  # nothing half made
    path = f"/services/{other['id']}"
    wanted = {"scopes": [other["scopes"][0]["name"], taken]}
    problem(admin.put(f"{path}/scopes", json=wanted), 409, "scopes")
    problem(admin.patch(path, json={**wanted, "title": "taken"}), 409, "scopes")
    assert admin.get(path).json() == other
    assert admin.get(f"/services/{owner['id']}").json() == owner
    # Once its owner gives it up, it is free.
    admin.put(f"/services/{owner['id']}/scopes", json={"scopes": []})
    ok(admin.put(f"{path}/scopes", json=wanted))


@pytest.mark.fault
def test_of_services_at_once_with_one_scope_one_is_made(admin: Client) -> None:
    scope = unique("contested") + ":read"
    names = [unique("racer") for _ in range(8)]
    bodies = [{"name": name, "scopes": [scope]} for name in names]
    responses = at_once(admin, [posting("/services", body) for body in bodies])
    statuses = [response.status_code for response in responses]
    assert sorted(statuses) == [201] + [409] * 7
    exist = [admin.get(f"/services/{name}").status_code for name in names]
    assert exist == [200 if status == 201 else 404 for status in statuses]


@pytest.mark.fault
def test_scopes_put_at_once_end_as_one_of_them_said(admin: Client) -> None:
    name = make(admin, "a")["name"]
    wishes = [[f"{name}:a", f"{name}:{letter}"] for letter in "bcdefgbcdefg"]
    asked = [putting(f"/services/{name}/scopes", {"scopes": scopes}) for scopes in wishes]
    assert {response.status_code for response in at_once(admin, asked)} == {200}
    assert [scope["name"] for scope in admin.get(f"/services/{name}").json()["scopes"]] in wishes


# --- Changes --------------------------------------------------------------------------------------


def test_a_patch_changes_several_things_at_once_or_none(admin: Client) -> None:
    created = make(admin, "old")
    path = f"/services/{created['id']}"
    name = unique("renamed")
    changed = admin.patch(path, json={"name": name, "title": "T", "scopes": [f"{name}:new"]}).json()
    assert (changed["name"], changed["title"]) == (name, "T")
    assert changed["scopes"] == [{"name": f"{name}:new", "description": ""}]
    assert changed["audience"] == created["audience"]  # verifiers rely on it
    assert admin.get(f"/services/{created['name']}").status_code == 404
    problem(admin.patch(path, json={"title": "U", "scopes": ["keyosk:new"]}), 422, "scopes")
    assert changed.pop("effective_at_latest")  # its old scope went
    assert admin.get(path).json() == changed


@pytest.mark.every_database(always=True)
def test_a_scope_that_stays_keeps_its_grants_and_one_that_goes_loses_them(admin: Client) -> None:
    name = make(admin, "read", "write")["name"]
    holder = make_person(admin, f"{name}:read", f"{name}:write")
    login = holder.login()
    path = f"/services/{name}/scopes"
    body = {"scopes": [{"name": f"{name}:read", "description": "new words"}, f"{name}:new"]}
    for query in ("", "?force=false"):
        assert problem(admin.put(path + query, json=body), 409)["code"] == "in_use"
    both = [f"{name}:read", f"{name}:write"]
    assert admin.get(f"{holder.path}/grants").json()["scopes"] == both
    assert admin.put(f"{path}?force=true", json=body).json()["scopes"] == [
        {"name": f"{name}:new", "description": ""},
        {"name": f"{name}:read", "description": "new words"},
    ]
    left = {"scopes": [f"{name}:read"], "roles": []}
    assert admin.get(f"{holder.path}/grants").json() == left
    assert ok(login.post("/auth/token"))["scope"] == f"{name}:read"
    # A scope that comes back does not bring its old grants.
    assert admin.put(path, json={"scopes": both}).status_code == 200  # nothing in use goes
    assert admin.get(f"{holder.path}/grants").json() == left


def test_scopes_with_a_fault_replace_nothing(admin: Client) -> None:
    created = make(admin, "a")
    path = f"/services/{created['id']}/scopes"
    for body, field in (
        ({"scopes": ["a b"]}, "scopes"),
        ({"scopes": [f"{created['name']}:x"] * 2}, "scopes"),
        ({"scopes": ["keyosk:x"]}, "scopes"),
        ({}, "scopes"),
        ({"scopes": None}, "scopes"),
        ({"scopes": [], "name": "x"}, "name"),
    ):
        problem(admin.put(path, json=body), 422, field)
    assert admin.get(path).json() == {"scopes": created["scopes"]}


# --- What a service says of its tokens ------------------------------------------------------------


@pytest.mark.every_database(always=True)
def test_a_deleted_service_takes_its_scopes_and_their_grants_along(admin: Client) -> None:
    made, other = make(admin, "read"), make(admin, "read")
    name = made["name"]
    holder = make_person(admin, f"{name}:read", f"{other['name']}:read")
    login = holder.login()
    refused = problem(admin.delete(f"/services/{name}"), 409)
    assert refused["code"] == "in_use"
    assert f"{name}:read is still granted to 1 account ({holder.username})." in refused["detail"]
    assert ok(login.post("/auth/token", data={"audience": name}))["scope"] == f"{name}:read"
    response = admin.delete(f"/services/{name}?force=true")
    assert (response.status_code, response.content) == (204, b"")
    problem(admin.get(f"/services/{made['id']}"), 404)
    problem(admin.delete(f"/services/{name}"), 404)
    assert admin.get(f"{holder.path}/grants").json() == {
        "scopes": [f"{other['name']}:read"],
        "roles": [],
    }
    assert ok(login.post("/auth/token"))["scope"] == f"{other['name']}:read"
    response = login.post("/auth/token", data={"audience": name})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_target")
    # A new service of the same name and scope finds nobody who holds it.
    again = admin.post("/services", json={"name": name, "scopes": [f"{name}:read"]}).json()
    assert again["id"] != made["id"]
    assert ok(login.post("/auth/token"))["scope"] == f"{other['name']}:read"


# --- Keyosk's own ---------------------------------------------------------------------------------


def test_keyosks_own_service_cannot_be_taken_out_of_work(admin: Client) -> None:
    before = admin.get("/services/keyosk").json()
    assert before["audience"] == "keyosk"
    assert "keyosk:admin" in {scope["name"] for scope in before["scopes"]}
    attempts: list[tuple[str, str, Any]] = [
        ("DELETE", "", None),
        ("PATCH", "", {"name": "mine"}),
        ("PATCH", "", {"audience": "mine"}),
        ("PATCH", "", {"enabled": False}),
        ("PATCH", "", {"scopes": []}),
        ("PATCH", "", {"title": "x", "scopes": ["keyosk:admin"]}),
        ("PUT", "/scopes", {"scopes": []}),
        ("PUT", "/scopes", {"scopes": ["keyosk:admin", "keyosk:more"]}),
    ]
    for reference in ("keyosk", before["id"]):
        for method, below, body in attempts:
            response = admin.request(method, f"/services/{reference}{below}", json=body)
            assert problem(response, 403)["code"] == "forbidden", (method, body)
    assert admin.get("/services/keyosk").json() == before
    assert admin.get("/accounts?limit=1").status_code == 200


@pytest.mark.attack
def test_nobody_can_pass_for_keyosks_own_service(admin: Client) -> None:
    problem(admin.post("/services", json={"name": "keyosk", "audience": "x"}), 409, "name")
    problem(
        admin.post("/services", json={"name": unique("x"), "audience": "keyosk"}), 409, "audience"
    )
    created = make(admin)
    for patch, status, field in (
        ({"name": "keyosk"}, 409, "name"),
        ({"audience": "keyosk"}, 409, "audience"),
        ({"scopes": ["keyosk:accounts:write"]}, 422, "scopes"),
    ):
        problem(admin.patch(f"/services/{created['id']}", json=patch), status, field)
