"""What the fields of objects hand out, and who may: the rules wherever a right is written."""

import json
from dataclasses import dataclass
from typing import Any, Final

import pytest

import live
from keyosk.model import Condition, CredentialKind
from live import Client
from people import (
    Person,
    assert_refused,
    make_key,
    make_person,
    make_role,
    make_service,
    ok,
)

pytestmark = pytest.mark.in_process

RULE: Final = "refused_by_rule"
ADMIN, GRANT = "keyosk:admin", "keyosk:grants:write"
READ, WRITE = "keyosk:services:read", "keyosk:services:write"
INTROSPECT: Final = "keyosk:tokens:introspect"
SOON, LATER = "2090-01-01T00:00:00Z", "2095-01-01T00:00:00Z"


@dataclass(frozen=True)
class Shop:
    """A service to be attacked, and one that is shown tokens."""

    billing: str
    front: str
    alice: Person


@pytest.fixture
def shop(admin: Client) -> Shop:
    billing, front = make_service(admin), make_service(admin)
    return Shop(billing, front, make_person(admin, f"{front}:read", f"{billing}:write"))


# --- Services: field x the right that it hands out x who may --------------------------------------

#: A field as a small admin writes it, and what they must hold for it besides services:write.
FIELDS: Final[tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...]] = (
    ("exchanges", {"exchanges": [{"service": "{billing}", "scopes": ["{billing}:write"]}]},
     ("{billing}:write",)),
    ("account", {"account": "{me}"}, (INTROSPECT,)),
    ("account, another", {"account": "{puppet}"}, (INTROSPECT,)),
    ("account and exchanges",
     {"account": "{me}",
      "exchanges": [{"service": "{billing}", "scopes": ["{billing}:write"]}]},
     (INTROSPECT, "{billing}:write")),
    ("account above", {"account": "{above}"}, (INTROSPECT, "{billing}:read")),
)  # fmt: skip


def filled(value: Any, names: dict[str, str]) -> Any:
    text = json.dumps(value)
    for name, real in names.items():
        text = text.replace(f"{{{name}}}", real)
    return json.loads(text)


@pytest.mark.attack
@pytest.mark.parametrize("how", ["create", "change"])
@pytest.mark.parametrize(("field", "body", "needed"), FIELDS, ids=[row[0] for row in FIELDS])
def test_who_may_write_services_reached_other_people_s_scopes(
    admin: Client,
    shop: Shop,
    how: str,
    field: str,
    body: dict[str, Any],
    needed: tuple[str, ...],
) -> None:
    puppet = make_person(admin)
    above = make_person(admin, f"{shop.billing}:read")
    names = {"billing": shop.billing, "puppet": puppet.username, "above": above.username}
    needed = filled(needed, names)

    def attempt(*scopes: str) -> Any:
        me = make_person(admin, READ, WRITE, *scopes)
        sent = filled(body, {**names, "me": me.username})
        if how == "change":
            return me.bearer().patch(f"/services/{shop.front}", json=sent)
        return me.bearer().post("/services", json={"name": live.unique("own"), **sent})

    for missing in needed:
        assert_refused(attempt(*(scope for scope in needed if scope != missing)), RULE)
    kept = ok(admin.get(f"/services/{shop.front}"))
    assert (kept["account"], kept["exchanges"]) == (None, [])

    assert attempt(*needed).status_code in (200, 201)


@pytest.mark.attack
def test_by_api_key_no_service_is_made_that_acts_for_others(admin: Client, shop: Shop) -> None:
    person = make_person(admin, ADMIN)
    _, secret = make_key(admin, person)
    for fields in (
        {"account": person.username},
        {"exchanges": [{"service": shop.billing, "scopes": [f"{shop.billing}:write"]}]},
    ):
        new_service = {"name": live.unique("own"), **fields}
        assert_refused(person.login(secret).post("/services", json=new_service), RULE)
        assert_refused(person.bearer(secret).patch(f"/services/{shop.front}", json=fields), RULE)


@pytest.mark.attack
def test_an_account_that_acts_does_not_act_for_another_audience(admin: Client, shop: Shop) -> None:
    me = make_person(admin, READ, WRITE)
    ok(admin.patch(f"/services/{shop.front}", json={"account": me.username}))
    other = {"audience": f"https://{live.unique('moved')}.example.com"}

    assert_refused(me.bearer().patch(f"/services/{shop.front}", json=other), RULE)
    for harmless in ({"title": "Ours"}, {"account": me.username}, {"account": None}):
        ok(me.bearer().patch(f"/services/{shop.front}", json=harmless))


@pytest.mark.attack
def test_nobody_takes_a_service_from_an_account_above_them(admin: Client, shop: Shop) -> None:
    above = make_person(admin, ADMIN)
    ok(admin.patch(f"/services/{shop.front}", json={"account": above.username}))
    small = make_person(admin, READ, WRITE, INTROSPECT)

    for account in (None, small.username):
        response = small.bearer().patch(f"/services/{shop.front}", json={"account": account})
        assert_refused(response, RULE)


@pytest.mark.attack
def test_a_service_opens_what_it_closed_by_who_holds_its_scopes(admin: Client, shop: Shop) -> None:
    path = f"/services/{shop.billing}"
    small = make_person(admin, READ, WRITE).bearer()
    holder = make_person(admin, READ, WRITE, f"{shop.billing}:read", f"{shop.billing}:write")
    boss = make_person(admin, ADMIN)
    _, secret = make_key(admin, boss)
    ok(small.patch(path, json={"accepts": "password"}))
    assert_refused(small.patch(path, json={"accepts": "both"}), RULE)
    assert_refused(boss.login(secret).patch(path, json={"accepts": "both"}), RULE)
    ok(holder.bearer().patch(path, json={"accepts": "both"}))

    ok(small.patch(path, json={"enabled": False}))
    assert_refused(boss.login(secret).patch(path, json={"enabled": True}), RULE)
    ok(small.patch(path, json={"enabled": True}))


# --- Grants and roles: no further than one holds --------------------------------------------------


@pytest.mark.attack
@pytest.mark.parametrize(
    ("held", "allowed", "refused"),
    [
        (
            {"until": SOON},
            ({"until": SOON}, {"until": "2080-01-01T00:00:00Z", "with": "api_key"}),
            ({}, {"until": LATER}, {"with": "password"}),
        ),
        (
            {"with": "password"},
            ({"with": "password"}, {"with": "password", "until": SOON}),
            ({}, {"with": "api_key"}, {"until": SOON}),
        ),
        (
            {"with": "password", "until": SOON},
            ({"with": "password", "until": SOON},),
            ({"with": "password"}, {"until": SOON}, {}),
        ),
        ({}, ({}, {"with": "api_key"}, {"until": LATER}), ()),
    ],
    ids=["until", "with", "both", "for good"],
)
@pytest.mark.parametrize("kind", ["service", "keyosk", "admin"])
def test_a_limited_holder_gave_it_on_without_the_limit(
    admin: Client,
    shop: Shop,
    held: dict[str, str],
    allowed: tuple[dict[str, str], ...],
    refused: tuple[dict[str, str], ...],
    kind: str,
) -> None:
    scope = {"service": f"{shop.billing}:read", "keyosk": WRITE, "admin": ADMIN}[kind]
    giver = make_person(admin, GRANT, {"name": scope, **held}).bearer()
    other = make_person(admin)
    role = make_role(admin, scope)
    for conditions in refused:
        grant = {"name": scope, **conditions}
        for body in ({"scopes": [grant]}, {"roles": [{**grant, "name": role}]}):
            assert_refused(giver.put(f"{other.path}/grants", json=body), RULE)
            assert_refused(giver.patch(f"{other.path}/grants", json={"add": body}), RULE)
    assert ok(admin.get(f"{other.path}/grants")) == {"scopes": [], "roles": []}
    for conditions in allowed:
        fresh = make_person(admin)
        body = {"scopes": [{"name": scope, **conditions}]}
        ok(giver.put(f"{fresh.path}/grants", json=body))


@pytest.mark.attack
def test_a_limited_holder_puts_nothing_into_roles_exchanges_new_accounts_or_imports(
    admin: Client, shop: Shop
) -> None:
    scope = f"{shop.billing}:read"
    limited = {"name": scope, "until": SOON}
    scopes = (GRANT, READ, WRITE, "keyosk:accounts:write", limited)
    client = make_person(admin, *scopes).bearer()
    name, username = live.unique("role"), live.unique("made")
    assert_refused(client.post("/roles", json={"name": name, "scopes": [scope]}), RULE)
    role = make_role(admin)
    assert_refused(client.patch(f"/roles/{role}", json={"scopes": [scope]}), RULE)
    exchange = {"exchanges": [{"service": shop.billing, "scopes": [scope]}]}
    assert_refused(client.patch(f"/services/{shop.front}", json=exchange), RULE)
    grants = {"scopes": [scope]}
    assert_refused(client.post("/accounts", json={"username": username, "grants": grants}), RULE)
    filled_role = make_role(admin, scope)
    for given in (grants, {"roles": [filled_role]}):
        client.post(
            "/accounts/import",
            data=json.dumps({"username": username, "grants": given}),
            headers={"Content-Type": "application/jsonl"},
        )
    assert admin.get(f"/accounts/{username}").status_code == 404

    # To take away one needs to hold it, however long.
    ok(client.patch(f"/roles/{filled_role}", json={"scopes": []}))
    body = {"username": username, "grants": {"scopes": [limited]}}
    ok(client.post("/accounts", json=body), 201)


def test_grants_of_a_scope_reach_as_far_as_all_of_them_together(admin: Client, shop: Shop) -> None:
    scope = f"{shop.billing}:read"
    role, another = make_role(admin, scope), make_role(admin, scope)
    giver = make_person(
        admin,
        GRANT,
        {"name": scope, "with": "password"},
        roles=(
            {"name": role, "with": "api_key", "until": SOON},
            {"name": another, "with": "workload", "until": SOON},
        ),
    ).bearer()
    for conditions, status in (({}, 403), ({"until": SOON}, 200), ({"with": "password"}, 200)):
        other = make_person(admin)
        body = {"scopes": [{"name": scope, **conditions}]}
        assert giver.put(f"{other.path}/grants", json=body).status_code == status


def test_a_condition_covers_what_ends_no_later_and_is_no_wider() -> None:
    password, key = CredentialKind.PASSWORD, CredentialKind.API_KEY
    assert Condition().covers(key, None)
    assert Condition(until=10).covers(key, 10)
    assert not Condition(until=10).covers(key, 11)
    assert not Condition(until=10).covers(key, None)
    assert not Condition(credential=password).covers(key, 1)
