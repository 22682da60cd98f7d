"""A refusal of one of several values says which."""

from collections.abc import Callable
from typing import Any

import pytest

from installed import installed
from keyosk.errors import Conflict
from keyosk.model import OPERATOR
from live import Client, LiveServer, unique
from people import PASSWORD, make_account, make_person, make_service, ok, problem

pytestmark = [pytest.mark.every_database, pytest.mark.in_process]

NO_CLAIM = "~2"
NO_ID = "01900000-0000-7000-8000-000000000000"
PAST = "2020-01-01T00:00:00Z"

#: What is sent, the field at fault, and the value that the sentence has to name.
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("/services", {"audiences": ["good", "bad one"]}, "audiences", "bad one"),
    ("/services", {"audiences": ["https://a", "https://b#c"]}, "audiences", "https://b#c"),
    ("/services", {"audiences": ["good", ""]}, "audiences", "''"),
    ("/services", {"scopes": ["a:good", "bad one"]}, "scopes", "bad one"),
    ("/services", {"scopes": ["a:good", "keyosk:b"]}, "scopes", "keyosk:b"),
    (
        "/services",
        {"scopes": ["a:good", {"name": "a:bad", "description": "\a"}]},
        "scopes",
        "the description of a:bad",
    ),
    ("/services", {"claims": ["good", "iss"]}, "claims", "iss"),
    ("/issuers", {"required_claims": ["sub", f"/{NO_CLAIM}"]}, "required_claims", f"/{NO_CLAIM}"),
    ("/issuers", {"prefix_claims": ["sub", "a\tb"]}, "prefix_claims", "a\tb"),
]


@pytest.mark.parametrize(("path", "fields", "field", "value"), WRONG)
def test_a_wrong_value_among_others_is_named(
    admin: Client, path: str, fields: dict[str, Any], field: str, value: str
) -> None:
    name = unique("new")
    body = {"name": name, **fields}
    if path == "/issuers":
        body["issuer"] = f"https://{name}.example.com"
    (fault,) = problem(admin.post(path, json=body), 422, field)["errors"]
    assert fault["message"].startswith(f"{value} ")


def test_a_wrong_pattern_of_a_rule_is_named(admin: Client) -> None:
    issuer = unique("issuer")
    body = {"name": issuer, "issuer": f"https://{issuer}.example.com", "required_claims": []}
    ok(admin.post("/issuers", json=body), 201)
    rule = {
        "name": "a",
        "account": make_account(admin, kind="machine")["username"],
        "claims": {"ref": ["main", "ma*n", "x" * 2_000]},
    }
    response = admin.post(f"/issuers/{issuer}/rules", json=rule)
    faults = problem(response, 422, "claims.ref", "claims.ref")["errors"]
    assert [fault["message"].split()[0] for fault in faults] == ["ma*n", "x" * 200]


def naming(admin: Client, scopes: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """A path and a body for everything that is created with scopes."""
    account, issuer = make_account(admin, kind="machine"), unique("issuer")
    body = {"name": issuer, "issuer": f"https://{issuer}.example.com", "required_claims": []}
    ok(admin.post("/issuers", json=body), 201)
    rule = {"name": "a", "account": account["username"], "claims": {"ref": "main"}}
    return [
        ("/accounts", {"username": unique("new"), "grants": {"scopes": scopes}}),
        (f"/accounts/{account['id']}/api-keys", {"name": "k", "scopes": scopes}),
        ("/roles", {"name": unique("role"), "scopes": scopes}),
        (f"/issuers/{issuer}/rules", {**rule, "scopes": scopes}),
    ]


def test_scopes_with_commas_between_them_are_told_so(admin: Client) -> None:
    for path, sent in naming(admin, ["todo:read,todo:write"]):
        (fault,) = problem(admin.post(path, json=sent), 422, "scopes")["errors"]
        assert fault["message"] == (
            "there is no scope todo:read,todo:write; name each scope by itself, without commas"
        )
        lone = {**sent, "scopes": ["no:such"], "grants": {"scopes": ["no:such"]}}
        (fault,) = problem(admin.post(path, json={k: lone[k] for k in sent}), 422, "scopes")[
            "errors"
        ]
        assert fault["message"] == "there is no scope no:such"


def test_a_grant_that_ends_in_the_past_is_named(admin: Client) -> None:
    name = make_service(admin)
    account = make_account(admin)["username"]
    scopes = [f"{name}:read", {"name": f"{name}:write", "until": PAST}]
    response = admin.put(f"/accounts/{account}/grants", json={"scopes": scopes})
    (fault,) = problem(response, 422, "until")["errors"]
    assert fault["message"] == f"the end of {name}:write must be in the future"


def apply(admin: Client, name: str, scopes: list[str]) -> str:
    manifest = {"services": [{"name": unique("other")}, {"name": name, "scopes": scopes}]}
    (fault,) = problem(admin.post("/apply", json=manifest), 422, "services.1.scopes")["errors"]
    message: str = fault["message"]
    return message


def post(admin: Client, name: str, scopes: list[str]) -> str:
    response = admin.post("/services", json={"name": name, "scopes": scopes})
    detail: str = problem(response, 409, "scopes")["detail"]
    return detail


def patch(admin: Client, name: str, scopes: list[str]) -> str:
    ok(admin.post("/services", json={"name": name}), 201)
    response = admin.patch(f"/services/{name}", json={"scopes": scopes})
    detail: str = problem(response, 409, "scopes")["detail"]
    return detail


def put(admin: Client, name: str, scopes: list[str]) -> str:
    ok(admin.post("/services", json={"name": name}), 201)
    response = admin.put(f"/services/{name}/scopes", json={"scopes": scopes})
    detail: str = problem(response, 409, "scopes")["detail"]
    return detail


@pytest.mark.every_database(always=True)
@pytest.mark.parametrize("send", [post, patch, put, apply])
def test_scopes_that_another_service_has_are_named(
    admin: Client, send: Callable[[Client, str, list[str]], str]
) -> None:
    taken = make_service(admin)
    name = unique("new")
    scopes = [f"{name}:read", f"{taken}:write", f"{taken}:read"]
    detail = send(admin, name, scopes)
    assert detail == f"Another service already has {taken}:read, {taken}:write."
    assert f"{name}:read" not in admin.get("/services", params={"limit": 200}).text


@pytest.mark.every_database(always=True)
def test_an_audience_that_another_service_has_is_named(admin: Client) -> None:
    taken = make_service(admin)
    response = admin.post("/services", json={"name": unique("new"), "audiences": ["free", taken]})
    detail = problem(response, 409, "audiences")["detail"]
    assert detail == f"Another service already has the name or audience {taken}, or a similar one."


@pytest.mark.every_database(always=True)
def test_what_is_deleted_while_it_is_named_is_a_conflict(
    prepared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the write: the database alone notices."""
    with installed(prepared_url) as keyosk:
        keyosk.services.create(OPERATOR, name="todo")
        keyosk.roles.create(OPERATOR, name="reader")
        keyosk.grants.create_account(OPERATOR, [], username="todo-service")
        stores = keyosk._stores
        monkeypatch.setattr(stores.services, "existing_scopes", set)
        monkeypatch.setattr(stores.services, "account_id", lambda _: NO_ID)
        monkeypatch.setattr(keyosk._context.safeguards, "may_change", lambda *_: None)
        writes: list[tuple[str, Callable[[], object]]] = [
            ("scopes", lambda: keyosk.roles.create(OPERATOR, name="editor", scopes=["todo:gone"])),
            ("scopes", lambda: keyosk.roles.change(OPERATOR, "reader", {"scopes": ["todo:gone"]})),
            ("account", lambda: keyosk.services.create(OPERATOR, name="bill", account="gone")),
            ("account", lambda: keyosk.services.change(OPERATOR, "todo", {"account": "gone"})),
        ]
        for field, write in writes:
            with pytest.raises(Conflict, match="send the request again") as found:
                write()
            assert found.value.field == field


def test_a_misspelt_scope_is_told_which_may_be_meant(admin: Client) -> None:
    service = make_service(admin)
    for path, sent in naming(admin, [f"{service}:raed", "no:such"]):
        faults = problem(admin.post(path, json=sent), 422, "scopes", "scopes")["errors"]
        messages = {fault["message"] for fault in faults}
        assert f"there is no scope {service}:raed; did you mean {service}:read?" in messages, path
        assert "there is no scope no:such" in messages


def test_no_scope_is_named_to_whoever_does_not_hold_it(server: LiveServer, admin: Client) -> None:
    service = make_service(admin)
    writer = make_person(admin, "keyosk:accounts:write", "keyosk:grants:write")
    client = server.client(writer.username, PASSWORD)
    sent = {"username": unique("new"), "grants": {"scopes": [f"{service}:raed"]}}
    (fault,) = problem(client.post("/accounts", json=sent), 422, "scopes")["errors"]
    assert fault["message"] == f"there is no scope {service}:raed"
