"""Who may do what, and the safeguards against privilege escalation."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

import live
from keyosk.web.routes import ROUTES
from live import ADMIN_PASSWORD, Client, LiveServer, soon, wait_for
from people import PASSWORD, Person, assert_refused, make_key, make_person, make_role, ok
from people import make_service as new_service
from postgres import PostgresServer
from tables import table

pytestmark = [pytest.mark.every_database(always=True), pytest.mark.in_process]

RULE = "refused_by_rule"
ADMIN = "keyosk:admin"
READ, WRITE = "keyosk:accounts:read", "keyosk:accounts:write"
GRANT = "keyosk:grants:write"
ABSENT_KEY = "00000000-0000-7000-8000-000000000000"
NEW_PASSWORD = "slowly orbit lamps violet"


@pytest.fixture(scope="module")
def todo(admin: Client) -> str:
    """A service with two scopes."""
    return new_service(admin)


@pytest.fixture(scope="module")
def victim(admin: Client) -> Person:
    """Holds nothing, and is done nothing to."""
    return make_person(admin)


def grants(client: Client, person: Person) -> Any:
    return ok(client.get(f"{person.path}/grants"))


# --- Role x endpoint x method ---------------------------------------------------------------------

#: Who stands in each column of the table, by the scopes of Keyosk's own that they hold. Besides:
#: nobody at all, and the one with full rights by API key.
CALLERS: Mapping[str, tuple[str, ...]] = {
    "self": (),
    "read": (READ, "keyosk:services:read"),
    "acct": (READ, WRITE),
    "give": (GRANT,),
    "serv": ("keyosk:services:read", "keyosk:services:write"),
    "look": ("keyosk:audit:read",),
    "full": (ADMIN,),
}
# Written down from the design, not from the code. Bodies make no sense, so that whoever is let in
# gets 422, and what is deleted is not there.
TABLE = """
                                               none self read acct give serv look full  key
POST   /auth/explain                            401  422  422  422  422  422  422  422  422
GET    /accounts                                401  403  200  200  403  403  403  200  200
POST   /accounts                                401  403  403  422  403  403  403  422  422
POST   /accounts/import                         401  403  403  415  403  403  403  415  415
GET    /accounts/export                         401  403  200  200  403  403  403  200  200
GET    /accounts/{account}                      401  403  200  200  403  403  403  200  200
PATCH  /accounts/{account}                      401  403  403  422  403  403  403  422  422
DELETE /accounts/{absent}                       401  403  403  404  403  403  403  404  404
PUT    /accounts/{account}/password             401  403  403  422  403  403  403  422  403
DELETE /accounts/{absent}/password              401  403  403  404  403  403  403  404  403
GET    /accounts/{account}/api-keys             401  403  200  200  403  403  403  200  200
POST   /accounts/{account}/api-keys             401  403  403  422  403  403  403  422  403
GET    /accounts/{account}/api-keys/{key}       401  403  404  404  403  403  403  404  404
PATCH  /accounts/{account}/api-keys/{key}       401  403  403  422  403  403  403  422  403
DELETE /accounts/{account}/api-keys/{key}       401  403  403  404  403  403  403  404  403
POST   /accounts/{account}/api-keys/{key}/rotate 401  403  403  422  403  403  403  422  403
GET    /api-keys                                401  403  200  200  403  403  403  200  200
GET    /refresh-sessions                        401  403  200  200  403  403  403  200  200
GET    /console-sessions                        401  403  200  200  403  403  403  200  200
POST   /api-keys/find                           401  403  422  422  403  403  403  422  422
GET    /accounts/{account}/tokens               401  403  200  200  403  403  403  200  200
DELETE /accounts/{account}/tokens/{key}         401  403  403  404  403  403  403  404  404
GET    /accounts/{account}/console-sessions     401  403  200  200  403  403  403  200  200
DELETE /accounts/{account}/console-sessions/{key} 401  403  403  404  403  403  403  404  404
GET    /accounts/{account}/second-factors       401  403  200  200  403  403  403  200  200
DELETE /accounts/{account}/second-factors/{key} 401  403  403  404  403  403  403  404  403
GET    /accounts/me/second-factors              401  200  200  200  200  200  200  200  200
DELETE /accounts/me/second-factors/{key}        401  403  403  403  403  403  403  403  403
GET    /accounts/me/tokens                      401  200  200  200  200  200  200  200  200
DELETE /accounts/me/tokens/{key}                401  404  404  404  404  404  404  404  404
DELETE /accounts/{absent}/tokens                401  403  403  404  403  403  403  404  404
GET    /accounts/{account}/grants               401  403  200  200  403  403  403  200  200
PUT    /accounts/{account}/grants               401  403  403  403  422  403  403  422  422
PATCH  /accounts/{account}/grants               401  403  403  403  422  403  403  422  422
GET    /accounts/{account}/scopes               401  403  200  200  403  403  403  200  200
GET    /accounts/me/scopes                      401  200  200  200  200  200  200  200  200
GET    /unused-scopes                           401  403  200  200  403  403  403  200  200
GET    /accounts/me                             401  200  200  200  200  200  200  200  200
PATCH  /accounts/me                             401  403  403  422  403  403  403  422  422
PUT    /accounts/me/password                    401  403  403  403  403  403  403  403  403
GET    /accounts/me/api-keys                    401  200  200  200  200  200  200  200  200
POST   /accounts/me/api-keys                    401  403  403  403  403  403  403  403  403
GET    /accounts/me/api-keys/{key}              401  404  404  404  404  404  404  404  404
PATCH  /accounts/me/api-keys/{key}              401  403  403  403  403  403  403  403  403
DELETE /accounts/me/api-keys/{key}              401  404  404  404  404  404  404  404  403
POST   /accounts/me/api-keys/{key}/rotate       401  403  403  403  403  403  403  403  403
GET    /accounts/me/grants                      401  200  200  200  200  200  200  200  200
PUT    /accounts/me/grants                      401  403  403  403  422  403  403  422  422
PATCH  /accounts/me/grants                      401  403  403  403  422  403  403  422  422
GET    /services                                401  403  200  403  403  200  403  200  200
POST   /services                                401  403  403  403  403  422  403  422  422
GET    /services/{service}                      401  403  200  403  403  200  403  200  200
PATCH  /services/{service}                      401  403  403  403  403  422  403  422  422
DELETE /services/{absent}                       401  403  403  403  403  404  403  404  404
GET    /services/{service}/scopes               401  403  200  403  403  200  403  200  200
PUT    /services/{service}/scopes               401  403  403  403  403  422  403  422  422
GET    /services/{service}/verification         401  403  404  403  403  404  403  404  404
PUT    /services/{service}/verification         401  403  403  403  403  422  403  422  422
GET    /roles                                   401  403  200  403  403  200  403  200  200
POST   /roles                                   401  403  403  403  403  422  403  422  422
GET    /roles/{role}                            401  403  200  403  403  200  403  200  200
PATCH  /roles/{role}                            401  403  403  403  403  422  403  422  422
DELETE /roles/{absent}                          401  403  403  403  403  404  403  404  404
GET    /issuers                                 401  403  200  403  403  200  403  200  200
POST   /issuers                                 401  403  403  403  403  422  403  422  403
GET    /issuers/{absent}                        401  403  404  403  403  404  403  404  404
PATCH  /issuers/{absent}                        401  403  403  403  403  422  403  422  403
DELETE /issuers/{absent}                        401  403  403  403  403  404  403  404  403
POST   /issuers/{absent}/test                   401  403  422  403  403  422  403  422  422
GET    /issuers/{absent}/rules                  401  403  404  403  403  404  403  404  404
POST   /issuers/{absent}/rules                  401  403  403  403  403  422  403  422  403
GET    /issuers/{absent}/rules/{absent}         401  403  404  403  403  404  403  404  404
PATCH  /issuers/{absent}/rules/{absent}         401  403  403  403  403  422  403  422  403
DELETE /issuers/{absent}/rules/{absent}         401  403  403  403  403  404  403  404  403
POST   /apply                                   401  422  422  422  422  422  422  422  422
GET    /signing-keys                            401  403  403  403  403  403  403  200  200
POST   /signing-keys/rotate                     401  403  403  403  403  403  403  422  403
POST   /signing-keys/import                     401  403  403  403  403  403  403  422  403
GET    /signing-keys/{key}                      401  403  403  403  403  403  403  404  404
DELETE /signing-keys/{key}                      401  403  403  403  403  403  403  404  403
POST   /signing-keys/{key}/compromise           401  403  403  403  403  403  403  422  403
GET    /audit                                   401  403  403  403  403  403  200  200  200
GET    /audit/chain                             401  403  403  403  403  403  200  200  200
GET    /audit/export                            401  403  403  403  403  403  200  200  200
GET    /login-failures                          401  403  403  403  403  403  200  200  200
GET    /diagnosis                               401  403  403  403  403  403  403  200  200
GET    /settings                                401  403  403  403  403  403  403  200  200
GET    /activity                                401  403  403  403  403  403  200  200  200
GET    /nodes                                   401  403  403  403  403  403  200  200  200
"""


@dataclass(frozen=True)
class Row:
    """What each caller gets for one method of one address."""

    method: str
    path: str
    statuses: Mapping[str, int]


def rows() -> list[Row]:
    head, *lines = TABLE.strip("\n").splitlines()
    all_rows = []
    for line in lines:
        method, path, *statuses = line.split()
        numbers = [int(status) for status in statuses]
        all_rows.append(Row(method, path, dict(zip(head.split(), numbers, strict=True))))
    return all_rows


@pytest.fixture(scope="module")
def callers(server: LiveServer, admin: Client) -> Mapping[str, Client]:
    by_name = {"none": server.client()}
    people = {name: make_person(admin, *scopes) for name, scopes in CALLERS.items()}
    by_name.update((name, person.bearer()) for name, person in people.items())
    *_, full_admin = people.values()
    _, secret = make_key(admin, full_admin)
    by_name["key"] = full_admin.bearer(secret)
    return by_name


@table("row", rows(), ids=lambda row: f"{row.method} {row.path}")
def test_each_caller_gets_what_the_table_says(
    admin: Client, callers: Mapping[str, Client], victim: Person, todo: str, row: Row
) -> None:
    role = make_role(admin) if "{role}" in row.path else ""
    path = row.path.format(
        account=victim.id, absent="nobody-at-all", key=ABSENT_KEY, service=todo, role=role
    )
    body = {"no such field": True} if row.method in ("POST", "PUT", "PATCH") else None

    answered = {
        name: client.request(row.method, path, json=body).status_code
        for name, client in callers.items()
    }

    assert answered == row.statuses


def test_the_table_has_every_address_that_is_not_open_to_all() -> None:
    names = {
        "account": "x",
        "absent": "x",
        "key": "x",
        "session": "x",
        "kid": "x",
        "service": "x",
        "role": "x",
        "issuer": "x",
        "rule": "x",
        "factor": "x",
    }
    written = {(row.method, row.path.format(**names)) for row in rows()}
    for route in ROUTES:
        path = route.path
        for name in names:
            path = path.replace(f"<{name}>", "x")
        for method, access in route.access.items():
            assert access.anyone or (method, path) in written, f"{method} {route.path}"


# --- Nobody gives what they do not hold -----------------------------------------------------------


def test_who_gives_grants_gives_only_what_they_hold(admin: Client, todo: str) -> None:
    giver = make_person(admin, GRANT, f"{todo}:read").bearer()
    other = make_person(admin)
    for unheld in (f"{todo}:write", ADMIN, READ):
        refusal = giver.put(f"{other.path}/grants", json={"scopes": [f"{todo}:read", unheld]})
        assert_refused(refusal, RULE)
        assert unheld in refusal.json()["detail"]
        add = {"add": {"scopes": [{"name": unheld, "with": "password"}]}}
        assert_refused(giver.patch(f"{other.path}/grants", json=add), RULE)
    assert grants(admin, other) == {"scopes": [], "roles": []}

    ok(giver.put(f"{other.path}/grants", json={"scopes": [f"{todo}:read", GRANT]}))


def test_a_role_is_given_only_by_who_holds_all_its_scopes(admin: Client, todo: str) -> None:
    giver = make_person(admin, GRANT, f"{todo}:read").bearer()
    other = make_person(admin)
    wide, narrow = (
        make_role(admin, f"{todo}:read", f"{todo}:write"),
        make_role(admin, f"{todo}:read"),
    )

    assert_refused(giver.put(f"{other.path}/grants", json={"roles": [wide]}), RULE)
    assert grants(admin, other)["roles"] == []

    ok(giver.put(f"{other.path}/grants", json={"roles": [narrow]}))


def test_what_is_held_by_a_role_can_be_given(admin: Client, todo: str) -> None:
    role = make_role(admin, GRANT, f"{todo}:write")
    giver = make_person(admin, roles=(role,)).bearer()
    other = make_person(admin)

    ok(giver.put(f"{other.path}/grants", json={"scopes": [f"{todo}:write"], "roles": [role]}))
    assert_refused(giver.put(f"{other.path}/grants", json={"scopes": [f"{todo}:read"]}), RULE)


def test_a_token_that_was_narrowed_gives_no_more_than_it_has(admin: Client, victim: Person) -> None:
    narrow = make_person(admin, ADMIN).bearer(scope=GRANT)

    for unheld in (ADMIN, READ):
        assert_refused(narrow.put(f"{victim.path}/grants", json={"scopes": [unheld]}), RULE)


def test_an_account_is_made_with_no_more_than_its_maker_holds(admin: Client, todo: str) -> None:
    clerk = make_person(admin, WRITE).bearer()
    maker = make_person(admin, WRITE, GRANT).bearer()
    username, role = live.unique("made"), make_role(admin, f"{todo}:write")
    for given in ({"scopes": [ADMIN]}, {"scopes": [f"{todo}:read"]}, {"roles": [role]}):
        assert_refused(maker.post("/accounts", json={"username": username, "grants": given}), RULE)
    body = {"username": username, "grants": {"scopes": [GRANT]}}
    assert_refused(clerk.post("/accounts", json=body), "insufficient_scope")
    assert admin.get(f"/accounts/{username}").status_code == 404

    ok(maker.post("/accounts", json=body), 201)


def test_an_import_gives_no_more_than_its_caller_holds(admin: Client, todo: str) -> None:
    importer = make_person(admin, WRITE, GRANT).bearer()
    role = make_role(admin, f"{todo}:write")
    names = [live.unique("line") for _ in range(3)]
    given = ({"roles": [role]}, {"scopes": [ADMIN]}, {"scopes": [GRANT]})
    lines = "".join(
        json.dumps({"username": name, "grants": each}) + "\n"
        for name, each in zip(names, given, strict=True)
    )

    response = importer.post(
        "/accounts/import", data=lines, headers={"Content-Type": "application/jsonl"}
    )

    results = [json.loads(line) for line in response.text.splitlines()]
    assert [each.get("status") for each in results[:3]] == ["refused", "refused", "created"]
    assert [admin.get(f"/accounts/{name}").status_code for name in names] == [404, 404, 200]


def test_a_role_is_made_and_changed_by_who_holds_what_changes(admin: Client, todo: str) -> None:
    maker = make_person(admin, "keyosk:services:write", f"{todo}:read").bearer()
    read, write = f"{todo}:read", f"{todo}:write"
    name = live.unique("role")
    assert_refused(maker.post("/roles", json={"name": name, "scopes": [read, write]}), RULE)
    assert_refused(maker.post("/roles", json={"name": name, "scopes": [ADMIN]}), RULE)
    assert admin.get(f"/roles/{name}").status_code == 404
    ok(maker.post("/roles", json={"name": name, "scopes": [read]}), 201)
    for scopes in ([read, write], [read, ADMIN]):
        assert_refused(maker.patch(f"/roles/{name}", json={"scopes": scopes}), RULE)
    ok(maker.patch(f"/roles/{name}", json={"scopes": []}))

    above = make_role(admin, read, write)
    for wanted in ([read], [], None):
        assert_refused(maker.patch(f"/roles/{above}", json={"scopes": wanted}), RULE)
    assert_refused(maker.delete(f"/roles/{above}?force=true"), RULE)
    assert ok(admin.get(f"/roles/{above}"))["scopes"] == [read, write]


# --- Who was granted more is out of reach ---------------------------------------------------------

#: What a holder of keyosk:accounts:write does to an account: method, path below it, body, status.
REACHES: tuple[tuple[str, str, Any, int], ...] = (
    ("PATCH", "", {"display_name": "Somebody"}, 200),
    ("PATCH", "", {"enabled": False}, 200),
    ("PATCH", "", {"enabled": True}, 200),
    ("PATCH", "/api-keys/{key}", {"networks": None, "scopes": None}, 200),
    ("POST", "/api-keys/{key}/rotate", {"overlap": 60}, 201),
    ("DELETE", "/api-keys/{key}", None, 204),
    ("POST", "/api-keys", {"name": "mine now"}, 201),
    ("PUT", "/password", {"password": NEW_PASSWORD}, 204),
    ("DELETE", "/password", None, 204),
    ("DELETE", "", None, 204),
)


@table("how", ["admin", "scope", "role", "ended"])
def test_an_account_with_more_rights_is_out_of_reach(admin: Client, todo: str, how: str) -> None:
    end = soon()
    until = datetime.fromtimestamp(end, UTC).isoformat()
    held: dict[str, Any] = {
        "admin": ADMIN,
        "scope": f"{todo}:write",
        "ended": {"name": f"{todo}:write", "until": until},
    }
    if how == "role":
        above = make_person(admin, roles=(make_role(admin, f"{todo}:write"),))
    else:
        above = make_person(admin, held[how])
    if how == "ended":
        wait_for(end)
    key, secret = make_key(admin, above)
    small = make_person(admin, READ, WRITE, GRANT).bearer()

    for method, below, body, _ in REACHES:
        assert_refused(small.request(method, above.path + below.format(key=key), json=body), RULE)
    remaining: dict[str, list[str]] = {"scopes": [], "roles": []}
    assert_refused(small.put(f"{above.path}/grants", json=remaining), RULE)

    assert ok(above.login().get("/accounts/me"))["display_name"] == ""
    assert above.login(secret).get("/accounts/me").status_code == 200


def test_an_account_with_no_more_rights_is_within_reach(admin: Client, todo: str) -> None:
    small = make_person(admin, READ, WRITE, f"{todo}:read").bearer()
    for held in ((), (f"{todo}:read", READ)):
        below = make_person(admin, *held)
        key, _ = make_key(admin, below)
        for method, path, body, status in REACHES:
            ok(small.request(method, below.path + path.format(key=key), json=body), status)


# --- Nobody changes their own grants or enables themselves ----------------------------------------


@table(
    ("method", "below", "body"),
    [
        ("PUT", "/grants", {"scopes": [ADMIN, READ]}),
        ("PUT", "/grants", {"scopes": []}),
        ("PATCH", "/grants", {"add": {"scopes": [READ]}}),
        ("PATCH", "/grants", {"remove": {"scopes": [ADMIN]}}),
        ("PATCH", "", {"enabled": False}),
        ("PATCH", "", {"expires_at": "2099-01-01T00:00:00Z"}),
    ],
)
def test_nobody_changes_their_own_grants_or_end_not_even_an_admin(
    admin: Client, method: str, below: str, body: Any
) -> None:
    person = make_person(admin, ADMIN)
    client = person.bearer()

    for name in ("me", person.id, person.username.upper()):
        assert_refused(client.request(method, f"/accounts/{name}{below}", json=body), RULE)

    assert grants(admin, person)["scopes"] == [ADMIN]
    assert ok(client.patch("/accounts/me", json={"display_name": "Me"}))["enabled"] is True


# --- API keys handle no credentials and give nothing ----------------------------------------------


@pytest.fixture(scope="module", params=["key", "token from the key"])
def by_key(request: pytest.FixtureRequest, admin: Client) -> Client:
    """A full admin who came by API key."""
    person = make_person(admin, ADMIN)
    _, secret = make_key(admin, person)
    return person.login(secret) if request.param == "key" else person.bearer(secret)


def test_by_api_key_nobody_makes_or_reveals_credentials(admin: Client, by_key: Client) -> None:
    person = make_person(admin)
    key, secret = make_key(admin, person)
    for method, below, body in (
        ("PUT", "/password", {"password": NEW_PASSWORD}),
        ("PUT", "/password", {"password": NEW_PASSWORD, "current_password": PASSWORD}),
        ("DELETE", "/password", None),
        ("POST", "/api-keys", {"name": "another"}),
        ("PATCH", f"/api-keys/{key}", {"scopes": []}),
        ("POST", f"/api-keys/{key}/rotate", {"overlap": 0}),
        ("DELETE", f"/api-keys/{key}", None),
    ):
        for account in (person.path, "/accounts/me"):
            assert_refused(by_key.request(method, account + below, json=body), RULE)
    username = live.unique("made")
    body = {"username": username, "password": PASSWORD}
    assert_refused(by_key.post("/accounts", json=body), RULE)

    assert admin.get(f"/accounts/{username}").status_code == 404
    assert person.login().get("/accounts/me").status_code == 200
    assert person.login(secret).get("/accounts/me").status_code == 200
    assert len(ok(by_key.get(f"{person.path}/api-keys"))["items"]) == 1
    assert secret not in by_key.get(f"{person.path}/api-keys/{key}").text


def test_by_api_key_an_import_makes_accounts_and_no_more(admin: Client, by_key: Client) -> None:
    names = [live.unique("line") for _ in range(3)]
    given: tuple[dict[str, Any], ...] = (
        {"password": PASSWORD},
        {"grants": {"scopes": [READ]}},
        {"display_name": "Line"},
    )
    lines = "".join(
        json.dumps({"username": name, **each}) + "\n"
        for name, each in zip(names, given, strict=True)
    )

    by_key.post("/accounts/import", data=lines, headers={"Content-Type": "application/jsonl"})

    assert [admin.get(f"/accounts/{name}").status_code for name in names] == [404, 404, 200]


def test_by_api_key_no_secret_is_had_by_repeating_the_request_of_another(
    admin: Client, by_key: Client, victim: Person
) -> None:
    same = {"json": {"name": "once"}, "headers": {"Idempotency-Key": live.unique("once")}}
    secret = ok(admin.post(f"{victim.path}/api-keys", **same), 201)["secret"]

    response = by_key.post(f"{victim.path}/api-keys", **same)

    assert_refused(response, RULE)
    assert secret not in response.text


def test_by_api_key_grants_are_only_narrowed(admin: Client, by_key: Client, todo: str) -> None:
    read, write = f"{todo}:read", f"{todo}:write"
    role = make_role(admin, read, write)
    limited = {"name": read, "until": "2090-01-01T00:00:00Z"}
    person = make_person(admin, limited, write)
    path = f"{person.path}/grants"
    for add in ({"scopes": [ADMIN]}, {"roles": [role]}, {"scopes": [read]}):
        assert_refused(by_key.patch(path, json={"add": add}), RULE)
        assert_refused(by_key.put(path, json=add), RULE)
    new_account = {"username": live.unique("made"), "grants": {"scopes": [read]}}
    assert_refused(by_key.post("/accounts", json=new_account), RULE)
    assert grants(admin, person) == {"scopes": [limited, write], "roles": []}

    ok(by_key.patch(path, json={"remove": {"scopes": [write]}}))
    assert grants(admin, person) == {"scopes": [limited], "roles": []}
    ok(by_key.put(path, json={"scopes": []}))

    assert_refused(by_key.patch(f"/roles/{role}", json={"scopes": [read, write, ADMIN]}), RULE)
    ok(by_key.patch(f"/roles/{role}", json={"scopes": [read]}))


# --- What counts is what is stored ----------------------------------------------------------------


def test_a_body_that_claims_another_account_changes_nothing(admin: Client, victim: Person) -> None:
    person = make_person(admin)
    client = person.bearer()
    key, _ = make_key(admin, person)
    claims = (("id", person.id), ("account", person.id), ("account_id", person.id), ("sub", "x"))
    for name, value in claims:
        response = client.post(f"{victim.path}/api-keys", json={"name": "stolen", name: value})
        assert_refused(response, "insufficient_scope")
        response = client.put(
            f"{victim.path}/password", json={"password": NEW_PASSWORD, name: value}
        )
        assert_refused(response, "insufficient_scope")
        own = {"name": "stolen", name: victim.id, "current_password": PASSWORD}
        assert_refused(client.post("/accounts/me/api-keys", json=own), "invalid", 422)
        assert_refused(client.patch(f"/accounts/me/api-keys/{key}", json=own), "invalid", 422)

    assert [item["id"] for item in ok(client.get("/accounts/me/api-keys"))["items"]] == [key]
    assert victim.login().get("/accounts/me").status_code == 200


def test_a_key_is_reached_only_below_the_account_that_it_is_of(admin: Client, todo: str) -> None:
    small = make_person(admin, READ, WRITE)
    above = make_person(admin, f"{todo}:write")
    key, secret = make_key(admin, above)
    client = small.bearer()
    for account in ("me", small.id):
        path = f"/accounts/{account}/api-keys/{key}"
        assert_refused(client.delete(path), "not_found", 404)
        proven = {"current_password": PASSWORD}
        assert_refused(client.patch(path, json={"enabled": False, **proven}), "not_found", 404)
        assert_refused(client.post(f"{path}/rotate", json=proven), "not_found", 404)
    assert above.login(secret).get("/accounts/me").status_code == 200


# --- Somebody always can administer ---------------------------------------------------------------


@dataclass(frozen=True)
class Lonely:
    """A Keyosk with one lasting admin, by a role, and a deputy whose rights have an end."""

    last: Person
    role: str
    deputy: Client


@pytest.fixture(scope="module")
def lonely(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lonely]:
    folder = tmp_path_factory.mktemp("lonely")
    url = f"sqlite:///{folder / 'keyosk.db'}"
    if backend != "sqlite":
        postgres: PostgresServer = request.getfixturevalue("postgres_server")
        url = postgres.create_database()
    with LiveServer(url, folder) as server:
        first = server.admin()
        last = Person(server.url, ok(first.get("/accounts/me"))["id"], "admin")
        role = make_role(first, ADMIN)
        second = make_person(first, ADMIN)
        ok(second.bearer().put(f"{last.path}/grants", json={"roles": [role]}))
        # Whose rights have an end gives none of Keyosk's own beyond it.
        temporary = {"scopes": [{"name": ADMIN, "until": "2099-01-01T00:00:00Z"}]}
        ok(last.login(ADMIN_PASSWORD).put(f"{second.path}/grants", json=temporary))
        yield Lonely(last, role, second.login())


TAKE_AWAY: Mapping[str, Callable[[Lonely], Any]] = {
    "disabled": lambda it: it.deputy.patch(it.last.path, json={"enabled": False}),
    "expired": lambda it: it.deputy.patch(
        it.last.path, json={"expires_at": "2098-01-01T00:00:00Z"}
    ),
    "deleted": lambda it: it.deputy.delete(it.last.path),
    "stripped": lambda it: it.deputy.put(f"{it.last.path}/grants", json={}),
    "stripped by name": lambda it: it.deputy.patch(
        f"{it.last.path}/grants", json={"remove": {"roles": [it.role]}}
    ),
    "granted until": lambda it: it.deputy.put(
        f"{it.last.path}/grants",
        json={"scopes": [{"name": ADMIN, "until": "2098-01-01T00:00:00Z"}]},
    ),
    "granted for what it has not": lambda it: it.deputy.put(
        f"{it.last.path}/grants", json={"roles": [{"name": it.role, "with": "api_key"}]}
    ),
    "left without credential": lambda it: it.deputy.delete(f"{it.last.path}/password"),
    "its role emptied": lambda it: it.deputy.patch(f"/roles/{it.role}", json={"scopes": []}),
    "its role deleted": lambda it: it.deputy.delete(f"/roles/{it.role}?force=true"),
}


@table("how", TAKE_AWAY)
def test_the_last_lasting_admin_stays(lonely: Lonely, how: str) -> None:
    assert_refused(TAKE_AWAY[how](lonely), RULE)

    me = lonely.last.login(ADMIN_PASSWORD)
    assert ok(me.get("/accounts/me"))["enabled"] is True
    assert ok(me.get("/roles"))["items"][0]["scopes"] == [ADMIN]


def test_the_last_key_of_an_admin_without_a_password_stays(lonely: Lonely) -> None:
    last, deputy = lonely.last, lonely.deputy
    key, _ = make_key(deputy, last)
    ok(deputy.delete(f"{last.path}/password"), 204)
    path = f"{last.path}/api-keys/{key}"
    try:
        assert_refused(deputy.delete(path), RULE)
        for patch in (
            {"enabled": False},
            {"expires_at": "2098-01-01T00:00:00Z"},
            {"scopes": [READ]},
            {"networks": ["192.0.2.1"]},
        ):
            assert_refused(deputy.patch(path, json=patch), RULE)
        # A successor is as good.
        ok(deputy.post(f"{path}/rotate", json={"overlap": 0}), 201)
        ok(deputy.delete(path), 204)
    finally:
        ok(deputy.put(f"{last.path}/password", json={"password": ADMIN_PASSWORD}), 204)


@pytest.mark.slow
@table("how", ["disabled", "deleted", "stripped", "left without credential"])
def test_of_two_admins_one_may_go(lonely: Lonely, how: str) -> None:
    second = make_person(lonely.last.login(ADMIN_PASSWORD), roles=(lonely.role,))

    response = TAKE_AWAY[how](Lonely(second, lonely.role, lonely.deputy))

    assert response.status_code in (200, 204), response.text
    assert_refused(lonely.deputy.delete(lonely.last.path), RULE)
