"""The audit log has every change and every danger, no secret, and cannot be touched unseen."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

import peewee
import pytest
import requests

import live
from installed import Clock, installed, rows_of, settings, statements
from keyosk import app, audit, config
from keyosk.audit_chain import GENESIS, row_hash
from keyosk.bulk.records import Line, Status
from keyosk.credentials import api_key_format
from keyosk.credentials.presented import candidates
from keyosk.errors import BadCredentials, KeyoskError, Unavailable
from keyosk.installation import Installation
from keyosk.model import ADMIN, OPERATOR, Account, Caller, CredentialKind, Grant, ListQuery
from keyosk.storage.audit import AuditStore
from keyosk.storage.tables import AuditRow as AuditRowTable
from live import Client, LiveServer
from people import PASSWORD, assert_refused, make_key, make_person, make_role, make_service, ok

# Part of `make test-long`.
pytestmark = [pytest.mark.slow, pytest.mark.every_database]

NEW_PASSWORD = "slowly orbit lamps violet"
DAY = 86_400
WAIT = 60  # seconds for what is written after a response


def trail(client: Client, **filters: Any) -> list[Any]:
    """All rows that pass the filters, oldest first."""
    items: list[Any] = []
    path = "/audit"
    while path:
        page = client.get(path, params={"limit": 200, **filters} if path == "/audit" else None)
        items += ok(page)["items"]
        path = page.links.get("next", {}).get("url", "")
    return items


def row_of(client: Client, response: requests.Response, action: str) -> Any:
    """The row that the answered request left."""
    request_id = response.headers["X-Request-Id"]
    matching = [row for row in trail(client, action=action) if row["request_id"] == request_id]
    assert len(matching) == 1, matching
    return matching[0]


@pytest.fixture(scope="module")
def admin_id(admin: Client) -> str:
    account_id: str = ok(admin.get("/accounts/me"))["id"]
    return account_id


# --- Every change has its row ---------------------------------------------------------------------


def test_a_row_tells_who_whence_what_and_how_it_ended(admin: Client, admin_id: str) -> None:
    started = int(time.time())
    username = live.unique("told")
    body = {"username": username, "display_name": "Told", "password": PASSWORD}

    response = admin.post("/accounts", json=body)

    row = row_of(admin, response, "account.create")
    after = row.pop("after")
    assert (after["username"], after["display_name"]) == (username, "Told")
    assert (after["enabled"], after["has_password"]) == (True, True)
    assert started <= time.mktime(time.strptime(row.pop("time"), "%Y-%m-%dT%H:%M:%SZ"))
    assert len(row.pop("hash")) == 64
    assert row.pop("sequence") > 0
    assert row == {
        "via": None,
        "actor": admin_id,
        "actor_name": "admin",
        "credential": "password",
        "address": admin.source,
        "request_id": response.headers["X-Request-Id"],
        "action": "account.create",
        "target": f"account/{response.json()['id']}",
        "before": None,
        "outcome": "done",
    }


def test_by_api_key_the_row_has_the_id_of_the_key(admin: Client) -> None:
    person = make_person(admin, "keyosk:accounts:write")
    key, secret = make_key(admin, person)
    for client in (person.login(secret), person.bearer(secret)):
        response = client.post("/accounts", json={"username": live.unique("by-key")})
        ok(response, 201)
        row = row_of(admin, response, "account.create")
        assert (row["actor"], row["credential"]) == (person.id, key)


def test_changes_of_an_account_have_rows_with_what_differs(admin: Client) -> None:
    person = make_person(admin)
    target = f"account/{person.id}"
    steps: list[tuple[str, str, Any, str, Any, Any]] = [
        (
            "PATCH",
            "",
            {"display_name": "B", "enabled": False, "kind": "person"},
            "account.change",
            {"display_name": "", "enabled": True},
            {"display_name": "B", "enabled": False},
        ),
        (
            "PATCH",
            "",
            {"claims": {"team": "red"}},
            "account.change",
            {"claims": {}},
            {"claims": {"team": "red"}},
        ),
        ("PUT", "/password", {"password": NEW_PASSWORD}, "password.set", None, None),
        ("DELETE", "/password", None, "password.delete", None, None),
    ]
    for method, below, body, action, before, after in steps:
        row = row_of(admin, admin.request(method, person.path + below, json=body), action)
        assert (row["target"], row["before"], row["after"]) == (target, before, after)
    row = row_of(admin, admin.delete(person.path), "account.delete")
    assert row["target"] == target
    assert (row["before"]["username"], row["after"]) == (person.username, None)


def test_what_was_done_to_an_account_is_found_by_its_username(
    server: LiveServer, admin: Client
) -> None:
    person = make_person(admin)
    by_id = trail(admin, target=f"account/{person.id}")
    assert by_id[0]["action"] == "account.create"
    for name in (person.username, person.username.upper()):
        assert trail(admin, target=f"account/{name}") == by_id
        first = admin.get(
            "/audit", params={"target": f"account/{name}", "limit": 1, "total": "true"}
        )
        assert first.headers["X-Total-Count"] == str(len(by_id))
    exported = admin.get("/audit/export", params={"target": f"account/{person.username}"})
    assert [json.loads(line) for line in exported.text.splitlines()] == by_id
    for other in ("account/nobody", "account/", "account/a b", f"role/{person.username}"):
        assert trail(admin, target=other) == []


def test_changes_of_keys_have_rows(admin: Client) -> None:
    person = make_person(admin)
    path = f"{person.path}/api-keys"
    response = admin.post(path, json={"name": "laptop", "networks": ["10.0.0.0/8"]})
    key = response.json()["id"]
    target = f"account/{person.id}/api-key/{key}"
    row = row_of(admin, response, "api_key.create")
    assert (row["target"], row["after"]["name"]) == (target, "laptop")
    assert row["after"]["networks"] == ["10.0.0.0/8"]

    row = row_of(admin, admin.patch(f"{path}/{key}", json={"networks": None}), "api_key.change")
    assert (row["before"], row["after"]) == ({"networks": ["10.0.0.0/8"]}, {"networks": None})

    rotated = admin.post(f"{path}/{key}/rotate")
    row = row_of(admin, rotated, "api_key.rotate")
    assert row["target"] == target
    assert row["after"]["successor"] == rotated.json()["id"]
    assert row_of(admin, rotated, "api_key.create")["target"].endswith(rotated.json()["id"])

    row = row_of(admin, admin.delete(f"{path}/{key}"), "api_key.delete")
    assert (row["target"], row["before"]["name"]) == (target, "laptop")


def test_changes_of_grants_roles_and_services_have_rows(admin: Client) -> None:
    person, todo = make_person(admin), make_service(admin)
    read, write = f"{todo}:read", f"{todo}:write"
    role = make_role(admin, read)
    given = {"scopes": [{"name": read, "with": "password"}], "roles": [role]}
    row = row_of(admin, admin.put(f"{person.path}/grants", json=given), "grants.change")
    assert row["target"] == f"account/{person.id}"
    assert row["before"] == {"grants": []}
    assert row["after"] == {"grants": [{"scope": read, "with": "password"}, {"role": role}]}
    remove = {"remove": {"scopes": [read]}}
    row = row_of(admin, admin.patch(f"{person.path}/grants", json=remove), "grants.change")
    assert row["before"] == {"grants": [{"scope": read, "with": "password"}]}
    assert row["after"] == {"grants": []}

    changed = admin.patch(f"/roles/{role}", json={"scopes": [read, write]})
    row = row_of(admin, changed, "role.change")
    assert row["target"] == f"role/{role}"
    assert (row["before"], row["after"]) == ({"scopes": [read]}, {"scopes": [read, write]})
    row = row_of(admin, admin.delete(f"/roles/{role}?force=true"), "role.delete")
    assert row["before"]["scopes"] == [read, write]

    row = row_of(admin, admin.patch(f"/services/{todo}", json={"enabled": False}), "service.change")
    assert row["target"] == f"service/{todo}"
    assert (row["before"], row["after"]) == ({"enabled": True}, {"enabled": False})
    row = row_of(admin, admin.delete(f"/services/{todo}"), "service.delete")
    assert row["before"]["scopes"] == [read, write]
    for action, target in (("role.create", f"role/{role}"), ("service.create", f"service/{todo}")):
        assert len(trail(admin, action=action, target=target)) == 1


def test_what_changes_nothing_leaves_no_row_of_a_change(admin: Client) -> None:
    person = make_person(admin)
    target = f"account/{person.id}"
    known = len(trail(admin, target=target))

    assert admin.patch(person.path, json={"kind": "robot"}).status_code == 422
    assert admin.put(f"{person.path}/grants", json={"scopes": ["nothing"]}).status_code == 422
    stale = admin.patch(person.path, json={"display_name": "X"}, headers={"If-Match": '"99"'})
    assert stale.status_code == 412
    ok(person.login().post("/auth/token"))
    ok(admin.get(person.path))

    assert len(trail(admin, target=target)) == known


def test_a_command_is_the_operators(server: LiveServer, admin: Client) -> None:
    username = live.unique("by-command")
    assert server.run("account", "create", username).returncode == 0

    account_id = ok(admin.get(f"/accounts/{username}"))["id"]
    (row,) = trail(admin, target=f"account/{account_id}")

    assert (row["action"], row["actor"], row["actor_name"]) == ("account.create", None, "operator")
    assert (row["credential"], row["address"]) == (None, None)
    assert row["request_id"]  # commands call the API, inside their own process


# --- Every danger has its row ---------------------------------------------------------------------


@pytest.mark.parametrize("way", ["token", "Basic"])
def test_the_first_use_of_a_key_has_a_row_and_the_second_has_none(admin: Client, way: str) -> None:
    person = make_person(admin)
    key, secret = make_key(admin, person)
    target = f"account/{person.id}/api-key/{key}"
    deadline = time.monotonic() + WAIT

    uses: list[Any] = []
    asked = []
    while not uses and time.monotonic() < deadline:  # it is written after the response
        client = person.login(secret)
        response = client.post("/auth/token") if way == "token" else client.get("/accounts/me")
        ok(response)
        asked.append(response.headers["X-Request-Id"])
        uses = trail(admin, action="api_key.first_use", target=target)
    ok(person.login(secret).post("/auth/token"))

    (row,) = trail(admin, action="api_key.first_use", target=target)
    assert (row["actor"], row["credential"]) == (person.id, key)
    assert row["address"].startswith("127.")
    assert row["request_id"] in asked
    assert ok(admin.get(f"{person.path}/api-keys/{key}"))["last_used_at"] is not None


def test_a_key_first_used_by_many_at_once_in_two_processes_has_one_row(prepared_url: str) -> None:
    with installed(prepared_url) as one, installed(prepared_url) as other:
        api_key = one.api_keys.create(OPERATOR, "admin", name="race")
        nodes = [(each, app.create_app(each)) for each in (one, other)]
        together = threading.Barrier(8)

        def use(number: int) -> int:
            keyosk, node = nodes[number % 2]
            with closing(keyosk.database):  # this thread's connection
                response = node.test_client().post("/auth/token", auth=("", api_key.secret))
                together.wait(60)
                response.close()  # what is done after it is done now
            return response.status_code

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(use, range(8))) == [200] * 8
        target = f"account/{api_key.key.account_id}/api-key/{api_key.key.id}"
        one.audit.seal()
        rows = one.audit.page(ListQuery(sort="sequence", filters={"target": target}))
        assert [row.action for row in rows] == ["api_key.create", "api_key.first_use"]


def test_what_a_rule_refused_has_a_row(admin: Client) -> None:
    person = make_person(admin, ADMIN)
    key, secret = make_key(admin, person)
    by_rule = person.bearer().patch("/accounts/me", json={"enabled": False})
    at_the_gate = person.login(secret).post("/accounts/me/api-keys", json={"name": "more"})
    for response, credential, path in (
        (by_rule, "password", "/accounts/me"),
        (at_the_gate, key, "/accounts/me/api-keys"),
    ):
        assert_refused(response, "refused_by_rule")
        row = row_of(admin, response, "rule.refused")
        assert (row["actor"], row["credential"]) == (person.id, credential)
        assert (row["target"], row["outcome"]) == (path, "refused")
        assert row["after"]["reason"] == response.json()["detail"]
        assert row["after"]["method"] == response.request.method


def test_failed_logins_have_a_row_after_their_minute(server: LiveServer, admin: Client) -> None:
    person = make_person(admin)
    unknown = api_key_format.generate()
    wrong, key = person.login("not the password at all"), person.login(unknown)
    for _ in range(3):
        assert wrong.get("/accounts/me").status_code == 401
        assert key.post("/auth/token").status_code == 401
    assert server.client(PASSWORD, "a secret as username").get("/accounts").status_code == 401
    later = Installation(
        config.load(server.environment), clock=lambda: time.time() + 60
    )  # the same database, in a minute
    with closing(later.database):
        later.audit.seal()

    failures = trail(admin, action="login.failed", target=f"account/{person.id}")

    assert sum(row["after"]["count"] for row in failures) == 6
    assert {row["address"] for row in failures} == {wrong.source, key.source}
    assert {row["outcome"] for row in failures} == {"refused"}
    assert len(failures) <= 4  # the minute may have turned meanwhile
    nobody = [row for row in trail(admin, action="login.failed") if row["target"] is None]
    assert nobody
    assert PASSWORD not in json.dumps(nobody)


def test_a_flood_of_failed_logins_is_a_handful_of_rows(prepared_url: str) -> None:
    clock = Clock(1_900_000_020)  # a third into its minute
    with installed(prepared_url, clock=clock) as installation:
        alice = installation.grants.create_account(OPERATOR, [], username="alice")
        installation.audit.seal()
        unknown = api_key_format.generate()
        for number in range(500):
            if number == 250:
                assert not failures(installation)
                clock.now += 60
            username = "alice" if number % 5 else f"nobody-{number}"
            with pytest.raises(BadCredentials):
                installation.authentication.by_secret(
                    candidates([(username, unknown)]),
                    address=("192.0.2.1", "192.0.2.2")[number % 2],
                )
        assert sum(failures(installation)) == 250  # the second minute is not over
        clock.now += 60
        rows = [row for row in all_rows(installation) if row.action == "login.failed"]
        assert len(rows) == 8  # one account and none, two addresses, two minutes
        assert sum((row.after or {})["count"] for row in rows) == 500
        assert {row.target for row in rows} == {f"account/{alice.id}", None}
        assert {row.time for row in rows} == {1_899_999_960 + 60, 1_899_999_960 + 120}
        assert installation.audit_verifier.verify().fault is None


def failures(installation: Installation) -> list[int]:
    rows = [row for row in all_rows(installation) if row.action == "login.failed"]
    return [row.after["count"] for row in rows]


# --- No secret is in it ---------------------------------------------------------------------------


def test_no_secret_is_in_the_log(server: LiveServer, admin: Client) -> None:
    person = make_person(admin, ADMIN)
    key, secret = make_key(admin, person)
    token = person.bearer(secret).session.headers["Authorization"].split()[1]
    new = ok(admin.post(f"{person.path}/api-keys/{key}/rotate"), 201)["secret"]
    wrong = "this was the wrong password"
    secrets = [PASSWORD, NEW_PASSWORD, live.ADMIN_PASSWORD, secret, new, token, wrong]
    change = {"password": NEW_PASSWORD, "current_password": PASSWORD}
    ok(person.bearer().put("/accounts/me/password", json=change), 204)
    refused = person.login(secret).put("/accounts/me/password", json=change)
    assert_refused(refused, "refused_by_rule")
    assert person.login(wrong).get("/accounts/me").status_code == 401
    assert server.client(wrong, "x").get("/accounts/me").status_code == 401
    digests = [api_key_format.digest(each).hex() for each in (secret, new)]

    dump = server.run("audit", "list", "--json").stdout

    assert f"account/{person.id}/api-key/{key}" in dump
    for each in [*secrets, *digests, "$argon2"]:
        assert each not in dump


# --- A row and its change are one -----------------------------------------------------------------


def all_rows(installation: Installation) -> list[Any]:
    return installation.audit.page(ListQuery(limit=100_000, sort="sequence"))


def test_a_change_whose_row_cannot_be_written_does_not_happen(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = installation.accounts.get("admin")
    key = installation.api_keys.create(OPERATOR, "admin", name="a key").key
    known = len(all_rows(installation))

    def fail(*_: object) -> None:
        raise Unavailable("Injected.")

    with monkeypatch.context() as patched:
        patched.setattr(AuditStore, "add", fail)
        for change in (
            lambda: installation.grants.create_account(OPERATOR, [], username="nobody"),
            lambda: installation.accounts.change(OPERATOR, "admin", {"display_name": "X"}),
            lambda: installation.accounts.set_password(OPERATOR, "admin", NEW_PASSWORD),
            lambda: installation.api_keys.rotate(OPERATOR, "admin", key.id),
            lambda: installation.api_keys.remove(OPERATOR, "admin", key.id),
            lambda: installation.roles.create(OPERATOR, name="nothing"),
            lambda: installation.services.create(OPERATOR, name="nothing"),
            lambda: installation.grants.change(OPERATOR, "admin", add=[Grant("keyosk:audit:read")]),
        ):
            with pytest.raises(Unavailable):
                change()

    assert installation.accounts.page(ListQuery()) == [admin]
    assert installation.api_keys.page("admin", ListQuery()) == [key]
    assert installation.roles.page(ListQuery()) == []
    assert len(installation.services.page(ListQuery())) == 1
    installation.authentication.confirm_password(admin, live.ADMIN_PASSWORD)
    assert len(all_rows(installation)) == known


def test_a_row_whose_change_fails_is_not_written(installation: Installation) -> None:
    known = len(all_rows(installation))

    def fail(_: Account) -> NoReturn:
        raise Unavailable("Injected.")

    accounts = installation.accounts
    with pytest.raises(Unavailable):
        accounts.add(OPERATOR, accounts.draft(OPERATOR, username="nobody"), on_add=fail)

    assert len(all_rows(installation)) == known


# --- The chain ------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock(float(int(time.time())))


@pytest.fixture
def chain(prepared_url: str, clock: Clock) -> Iterator[Installation]:
    """An installation whose log has rows, two checkpoints, and rows after the second."""
    with installed(prepared_url, clock=clock) as installation:
        for _ in range(2):
            write_rows(installation, 5)
            installation.audit.seal()
            clock.now += 2 * DAY
        checkpoints = rows_of(installation, "SELECT count(*) FROM checkpoint")
        write_rows(installation, 2)
        installation.audit.seal()
        clock.now += 1
        assert checkpoints == [(2,)]
        assert rows_of(installation, "SELECT count(*) FROM checkpoint") == [(3,)]
        write_rows(installation, 2)
        installation.audit.seal()
        yield installation


def write_rows(installation: Installation, count: int) -> None:
    for _ in range(count):
        installation.grants.create_account(
            OPERATOR, [], username=live.unique("row"), display_name="Row"
        )


def tamper(installation: Installation, *statements: str) -> None:
    as_text = "lower(hex(hash))" if installation.database.is_sqlite else "encode(hash, 'hex')"
    with installation.database.transaction():
        for statement in statements:
            sql = statement.replace(_HEX, as_text)
            assert installation.database.raw.execute_sql(sql).rowcount > 0


def test_an_honest_log_verifies(chain: Installation) -> None:
    verdict = chain.audit_verifier.verify()

    rows = all_rows(chain)
    assert (verdict.fault, verdict.rows, verdict.checkpoints) == (None, len(rows), 3)
    assert [row.sequence for row in rows] == list(range(1, len(rows) + 1))
    previous = GENESIS
    for row in rows:
        previous = row_hash(row, previous)
        assert row.hash == previous


_COPIED = "time, actor, actor_name, credential, address, request_id, action, target, before, after"
_ADDED = f"""INSERT INTO audit_row (id, sequence, hash, outcome, {_COPIED})
  SELECT 'added', (SELECT max(sequence) + 1 FROM audit_row), hash, outcome, {_COPIED}
  FROM audit_row WHERE sequence = 4"""
#: Stands for a row's hash as checkpoints have it.
_HEX = "hex of hash"
_FIRST_POINT = "(SELECT min(sequence) FROM checkpoint)"
_LAST_POINT = "(SELECT max(sequence) FROM checkpoint)"

TAMPERING: Mapping[str, tuple[str, ...]] = {
    **{
        f"{column} changed": (f"UPDATE audit_row SET {column} = {value} WHERE sequence = 4",)
        for column, value in {
            "id": "'another'",
            "time": "time + 1",
            "actor": "'somebody'",
            "actor_name": "'somebody'",
            "credential": "'password'",
            "address": "'192.0.2.1'",
            "request_id": "'another'",
            "action": "'account.change'",
            "target": "'account/another'",
            "before": "'{}'",
            "after": "'{}'",
            "outcome": "'refused'",
            "hash": f"'{'0' * 64}'",
        }.items()
    },
    "the newest row changed": (
        "UPDATE audit_row SET outcome = 'x' WHERE sequence = (SELECT max(sequence) FROM audit_row)",
    ),
    "a row deleted": ("DELETE FROM audit_row WHERE sequence = 4",),
    "the first row deleted": ("DELETE FROM audit_row WHERE sequence = 1",),
    "all before a checkpoint deleted": (f"DELETE FROM audit_row WHERE sequence < {_FIRST_POINT}",),
    "all up to a checkpoint deleted": (f"DELETE FROM audit_row WHERE sequence <= {_FIRST_POINT}",),
    "all up to the last checkpoint deleted": (
        f"DELETE FROM audit_row WHERE sequence <= {_LAST_POINT}",
    ),
    "all up to the last checkpoint deleted, older checkpoints too": (
        f"DELETE FROM audit_row WHERE sequence <= {_LAST_POINT}",
        f"DELETE FROM checkpoint WHERE sequence < {_LAST_POINT}",
    ),
    "the tail deleted": (f"DELETE FROM audit_row WHERE sequence >= {_LAST_POINT}",),
    "all rows deleted": ("DELETE FROM audit_row",),
    "two rows swapped": (
        "UPDATE audit_row SET sequence = 1000 WHERE sequence = 4",
        "UPDATE audit_row SET sequence = 4 WHERE sequence = 5",
        "UPDATE audit_row SET sequence = 5 WHERE sequence = 1000",
    ),
    "a row moved to the end": ("UPDATE audit_row SET sequence = 1000 WHERE sequence = 4",),
    "a row added": (_ADDED,),
    "a checkpoint's hash changed": (f"UPDATE checkpoint SET hash = '{'0' * 64}'",),
    "a checkpoint moved": (
        f"UPDATE checkpoint SET sequence = sequence - 1 WHERE sequence = {_LAST_POINT}",
    ),
    "a checkpoint's signature taken from another": (
        "UPDATE checkpoint SET signature = (SELECT min(signature) FROM checkpoint)",
    ),
    "a checkpoint forged": (
        f"INSERT INTO checkpoint (sequence, hash, time, signature) SELECT 3, {_HEX}, 0, "
        "(SELECT min(signature) FROM checkpoint) FROM audit_row WHERE sequence = 3",
    ),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_tampering_is_found(chain: Installation, how: str) -> None:
    assert chain.audit_verifier.verify().fault is None
    tamper(chain, *TAMPERING[how])

    assert chain.audit_verifier.verify().fault is not None


def test_rows_of_an_import_verify_whatever_is_in_them(chain: Installation) -> None:
    texts = [
        "plain",
        'a " and a \\',
        "a tab\tand a line\n",
        "Zo\xeb",
        "a \x7f",
        "\u2028",
        "\U0001f600",
    ]
    lines = [
        Line(number=1, size=1, fields={"username": live.unique("row"), "claims": {text: text}})
        for text in texts
    ]
    by = replace(OPERATOR, username='a " and an \xeb', address="::1", request_id="a \x7f")

    (results,) = chain.bulk.import_accounts(lambda: by, lines)

    assert [each.status for each in results] == [Status.CREATED] * len(texts)
    assert chain.audit_verifier.verify().fault is None
    rows = all_rows(chain)[-len(texts) :]
    assert [row.after and row.after["claims"] for row in rows] == [{text: text} for text in texts]
    assert {(row.actor_name, row.address, row.request_id) for row in rows} == {
        (by.username, by.address, by.request_id)
    }


#: Values of types that their columns should not have.
FOREIGN: Final = ("X'FF'", "'[not JSON'", "0.5")


@pytest.mark.parametrize("value", FOREIGN)
def test_values_of_other_types_are_found(chain: Installation, value: str) -> None:
    if not chain.database.is_sqlite:
        pytest.skip("columns of PostgreSQL take values of their own type only")
    columns = [f"audit_row.{each.name}" for each in AuditRowTable._meta.sorted_fields]
    execute: Callable[[str], object] = chain.database.raw.execute_sql
    unseen = []
    for column in (*columns, "checkpoint.hash", "checkpoint.signature"):
        table, name = column.split(".")
        if name == "sequence":  # its place: whatever it is, row 1 is missing
            continue
        first = f"WHERE sequence = (SELECT min(sequence) FROM {table})"
        execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {table} {first}")
        tamper(chain, f'UPDATE {table} SET "{name}" = {value} {first}')
        if chain.audit_verifier.verify().fault is None:
            unseen.append(column)
        tamper(chain, f'UPDATE {table} SET "{name}" = (SELECT "{name}" FROM kept) {first}')
        execute("DROP TABLE kept")

    assert unseen == []
    assert chain.audit_verifier.verify().fault is None


@pytest.mark.parametrize("value", FOREIGN)
def test_the_log_goes_on_whatever_its_checkpoints_say(chain: Installation, value: str) -> None:
    if not chain.database.is_sqlite:
        pytest.skip("columns of PostgreSQL take values of their own type only")
    tamper(chain, f"UPDATE checkpoint SET time = {value}")

    write_rows(chain, 1)

    assert chain.audit_verifier.verify().fault is None


def blob(installation: Installation, text: str) -> str:
    """Bytes that are given in hexadecimal, in SQL."""
    return f"X'{text}'" if installation.database.is_sqlite else f"'\\x{text}'::bytea"


def test_a_change_is_found_even_if_all_hashes_after_it_are_made_anew(chain: Installation) -> None:
    previous = GENESIS
    for row in all_rows(chain):
        changed = replace(row, actor_name="somebody") if row.sequence == 4 else row
        previous = row_hash(changed, previous)
        tamper(
            chain,
            f"UPDATE audit_row SET actor_name = '{changed.actor_name}', "
            f"hash = {blob(chain, previous)} WHERE sequence = {row.sequence}",
        )

    fault = chain.audit_verifier.verify().fault

    assert fault is not None
    assert fault.startswith("the chain up to")


def test_a_checkpoint_that_another_signed_is_found(chain: Installation, tmp_path: Path) -> None:
    elsewhere = settings(f"sqlite:///{tmp_path / 'other.db'}")
    app.prepare(elsewhere)
    other = Installation(elsewhere)
    (place, hash_), *_ = rows_of(chain, "SELECT sequence, hash FROM checkpoint ORDER BY sequence")
    with closing(other.database):
        signature = other.documents.sign(
            {"sequence": place, "hash": hash_, "iat": 0},
            typ="keyosk-checkpoint+jwt",
            path="/audit",
        )

    tamper(chain, f"UPDATE checkpoint SET signature = '{signature}' WHERE sequence = {place}")

    assert chain.audit_verifier.verify().fault == f"checkpoint {place} is not ours"


def test_a_token_is_no_checkpoint_and_a_checkpoint_no_token(chain: Installation) -> None:
    ((signature,), *_) = rows_of(chain, "SELECT signature FROM checkpoint")
    server = app.create_app(chain).test_client()

    response = server.get("/accounts/me", headers={"Authorization": f"Bearer {signature}"})

    assert response.status_code == 401


def test_eight_writers_at_once_leave_one_unbroken_chain(prepared_url: str) -> None:
    writers, rows = 8, 8

    def work(_: int) -> None:
        with installed(prepared_url) as installation:
            for _ in range(rows):
                write_rows(installation, 1)
                installation.audit.seal_quietly()

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(work, range(writers)))

    with installed(prepared_url) as installation:
        verdict = installation.audit_verifier.verify()
        found = all_rows(installation)
        assert (verdict.fault, verdict.rows) == (None, len(found))
        assert sum(row.action == "account.create" for row in found) == writers * rows + 1
        assert [row.sequence for row in found] == list(range(1, len(found) + 1))


# --- Pruning --------------------------------------------------------------------------------------


def test_a_pruned_log_verifies_and_tells_it_was_pruned(chain: Installation, clock: Clock) -> None:
    known = all_rows(chain)

    deleted = chain.audit.prune(OPERATOR, int(clock.now) - DAY)

    left = all_rows(chain)
    assert 0 < deleted < len(known)
    assert left[: len(known) - deleted] == known[deleted:]
    assert (left[-1].action, left[-1].actor_name) == ("audit.prune", "operator")
    assert left[-1].after == {"sequence": deleted, "rows": deleted}
    verdict = chain.audit_verifier.verify()
    assert (verdict.fault, verdict.rows) == (None, len(left))

    clock.now += 3 * DAY
    write_rows(chain, 3)
    assert chain.audit.prune(OPERATOR, int(clock.now) - DAY) > 0
    assert chain.audit_verifier.verify().fault is None
    write_rows(chain, 1)
    assert chain.audit_verifier.verify().fault is None


def test_nothing_young_is_pruned(chain: Installation, clock: Clock) -> None:
    known = all_rows(chain)

    assert chain.audit.prune(OPERATOR, int(clock.now) - 30 * DAY) == 0

    assert all_rows(chain) == known


_DELETES = 'DELETE FROM "audit_row"'


def test_rows_are_pruned_part_by_part(
    chain: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_AT_ONCE", 1)
    with statements() as texts:
        deleted = chain.audit.prune(OPERATOR, int(clock.now))

    # Each part ends at a checkpoint, or the rest could not be verified.
    assert len([text for text in texts if text.startswith(_DELETES)]) == 3
    left = all_rows(chain)
    assert left[-1].after == {"sequence": deleted, "rows": deleted}
    assert [row.sequence for row in left] == list(range(deleted + 1, left[-1].sequence + 1))
    assert chain.audit_verifier.verify().fault is None


def test_an_interrupted_pruning_leaves_a_log_that_verifies(
    chain: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_AT_ONCE", 1)
    known = len(all_rows(chain))
    [(first,)] = rows_of(chain, f"SELECT {_FIRST_POINT}")
    with refused_deletes(chain, after=first), pytest.raises((KeyoskError, peewee.PeeweeException)):
        chain.audit.prune(OPERATOR, int(clock.now))

    rows = all_rows(chain)
    assert (rows[0].sequence, len(rows)) == (first + 1, known - first + 1)
    assert chain.audit_verifier.verify().fault is None

    deleted = chain.audit.prune(OPERATOR, int(clock.now))
    left = all_rows(chain)
    assert left[0].sequence == first + deleted + 1
    assert [row.action for row in left].count("audit.prune") == 2 - (deleted > known - first)
    assert chain.audit_verifier.verify().fault is None


def test_two_prunings_at_a_time_leave_a_log_that_verifies(
    chain: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_AT_ONCE", 1)
    points = [place for (place,) in rows_of(chain, "SELECT sequence FROM checkpoint ORDER BY 1")]
    [(second,)] = rows_of(chain, f"SELECT time FROM checkpoint WHERE sequence = {points[1]}")
    prune = AuditStore.prune
    places: list[int] = []

    def prune_beside(store: AuditStore, place: int, *, most: int) -> int:
        places.append(place)
        if len(places) == 1:
            chain.audit.prune(OPERATOR, second + 1)  # begins later, and ends earlier
        return prune(store, place, most=most)

    monkeypatch.setattr(AuditStore, "prune", prune_beside)
    chain.audit.prune(OPERATOR, int(clock.now))

    assert places[0] > points[1] in places
    assert all_rows(chain)[0].sequence == places[0] + 1
    assert chain.audit_verifier.verify().fault is None


def test_prunings_on_several_nodes_delete_all_that_each_was_to(
    chain: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_AT_ONCE", 1)
    points = [place for (place,) in rows_of(chain, "SELECT sequence FROM checkpoint ORDER BY 1")]
    limits = [int(clock.now), int(clock.now) - DAY] * 2

    def prune(before: int) -> None:
        with closing(chain.database):  # of this thread
            chain.audit.prune(OPERATOR, before)

    with ThreadPoolExecutor(len(limits)) as pool:
        list(pool.map(prune, limits))

    assert all_rows(chain)[0].sequence > points[-1]
    assert chain.audit_verifier.verify().fault is None


def test_rows_that_are_pruned_while_they_are_verified_are_not_missed(
    chain: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_BATCH", 3)

    class Pruning(logging.Handler):
        """Prunes as soon as the first rows were read."""

        pages = 0

        def emit(self, record: logging.LogRecord) -> None:
            assert isinstance(record.msg, tuple)
            self.pages += '"sequence" > ' in record.msg[0]
            if self.pages == 3:  # the first row by itself, the first page, and now the second
                self.pages += 1
                chain.audit.prune(OPERATOR, int(clock.now))

    handler = Pruning()
    log = logging.getLogger("peewee")
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        verdict = chain.audit_verifier.verify()
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)

    assert handler.pages > 3
    assert all_rows(chain)[-1].action == "audit.prune"
    assert verdict.fault is None


@contextmanager
def refused_deletes(installation: Installation, *, after: int) -> Iterator[None]:
    """The database refuses to delete rows of the log that come after a place."""
    if installation.database.is_sqlite:
        make = [
            f"CREATE TRIGGER refusal BEFORE DELETE ON audit_row WHEN OLD.sequence > {after}"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END"
        ]
        end = "DROP TRIGGER refusal"
    else:
        make = [
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'refused'; END $$",
            "CREATE TRIGGER refusal BEFORE DELETE ON audit_row FOR EACH ROW"
            f" WHEN (OLD.sequence > {after}) EXECUTE FUNCTION refuse()",
        ]
        end = "DROP TRIGGER refusal ON audit_row"
    for statement in make:
        installation.database.raw.execute_sql(statement)
    try:
        yield
    finally:
        installation.database.raw.execute_sql(end)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit_row WHERE sequence = (SELECT min(sequence) FROM audit_row)",
        f"DELETE FROM audit_row WHERE sequence <= {_LAST_POINT} - 2",
        "DELETE FROM audit_row WHERE action = 'audit.prune'",
        "UPDATE audit_row SET outcome = 'x' WHERE sequence = (SELECT min(sequence) FROM audit_row)",
        f"DELETE FROM checkpoint WHERE sequence = {_FIRST_POINT}",
    ],
)
def test_tampering_with_a_pruned_log_is_found(
    chain: Installation, clock: Clock, statement: str
) -> None:
    assert chain.audit.prune(OPERATOR, int(clock.now) - DAY) > 0
    assert chain.audit_verifier.verify().fault is None

    tamper(chain, statement)

    assert chain.audit_verifier.verify().fault is not None


# --- Commands -------------------------------------------------------------------------------------


def test_the_commands_list_verify_and_prune(prepared_url: str, tmp_path: Path) -> None:
    here = LiveServer(prepared_url, tmp_path)
    with installed(prepared_url) as installation:
        installation.grants.create_account(OPERATOR, [], username="alice")

    listed = here.run("audit", "list", "--json", "--action", "account.create")
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [row["after"]["username"] for row in rows] == ["admin", "alice"]
    assert {row["action"] for row in rows} == {"account.create"}

    verdict = here.run("audit", "verify", "--json")
    assert verdict.returncode == 0, verdict.stderr
    assert json.loads(verdict.stdout)["fault"] is None
    assert here.run("audit", "prune", "1").stdout == "0 rows deleted\n"

    with installed(prepared_url) as installation:
        tamper(installation, "UPDATE audit_row SET actor_name = 'somebody' WHERE sequence = 2")
    broken = here.run("audit", "verify", "--json")
    assert broken.returncode == 1
    assert json.loads(broken.stdout)["fault"] == "row 2 was changed"


def test_the_log_of_a_server_at_work_verifies(server: LiveServer) -> None:
    result = server.run("audit", "verify")

    assert result.returncode == 0, result.stdout + result.stderr


def test_a_caller_by_password_and_one_by_key_are_told_apart(installation: Installation) -> None:
    admin = installation.accounts.get("admin")
    for credential, key, shown in (
        (CredentialKind.PASSWORD, None, "password"),
        (CredentialKind.API_KEY, "the-key", "the-key"),
    ):
        by = Caller(
            account_id=admin.id,
            username="admin",
            credential=credential,
            credential_id=key,
            scopes=frozenset({ADMIN}),
            held=frozenset(),
        )
        installation.roles.create(by, name=f"made-by-{shown}")
        assert all_rows(installation)[-1].credential == shown


def test_rows_of_an_import_are_sealed_with_it_behind_what_waits(installation: Installation) -> None:
    installation.audit.seal()
    installation.grants.create_account(OPERATOR, [], username="waiting")
    grants = (Grant("keyosk:audit:read"),)
    batch = [
        Line(number=number, size=1, fields={"username": f"line-{number}"}, grants=grants)
        for number in range(1, 4)
    ]
    with statements() as texts:
        assert [len(each) for each in installation.bulk.import_accounts(lambda: OPERATOR, batch)]

    rows = rows_of(
        installation, "SELECT sequence, action FROM audit_row ORDER BY sequence DESC LIMIT 7"
    )
    actions = [*["account.create"] * 4, *["grants.change"] * 3]
    last = rows[0][0]
    assert rows[::-1] == list(zip(range(last - 6, last + 1), actions, strict=True))
    assert rows_of(installation, "SELECT count(*) FROM waiting_audit_row") == [(0,)]
    # Only what waited is written twice, and nothing is changed.
    assert len([text for text in texts if text.startswith('INSERT INTO "audit_row"')]) == 2
    assert not any(text.startswith(("UPDATE", 'INSERT INTO "waiting')) for text in texts)
    assert installation.audit_verifier.verify().fault is None


@pytest.mark.parametrize("is_mixed", [False, True])
def test_the_rows_of_an_import_tell_each_account_as_it_is(
    installation: Installation, *, is_mixed: bool
) -> None:
    # Equal to Python and other JSON; what a template would take for a place; what is escaped.
    claims: list[dict[str, Any]] = [{"a": 1}, {"a": True}, {"a": 1.0}, {"%s": "%"}, {}]
    names = ["100 %", "%s", '"\\', "\u00e9\u2028", ""]
    batch = [
        Line(
            number=number,
            size=1,
            fields={
                "username": f"line-{number:02}",
                "display_name": names[number % 5 if is_mixed else 0],
                "claims": claims[number % 5] if is_mixed else {},
                "metadata": {} if is_mixed else {"%d": ["\u00e9"]},
                "enabled": not is_mixed or number % 3 > 0,
            },
        )
        for number in range(60)
    ]
    assert [len(each) for each in installation.bulk.import_accounts(lambda: OPERATOR, batch)]

    told = [row.after for row in all_rows(installation) if row.action == "account.create"][-60:]
    written = [
        json.dumps({"kind": "person", "expires_at": None, "has_password": False, **line.fields})
        for line in batch
    ]
    assert [json.dumps(row, sort_keys=True) for row in told] == [
        json.dumps(json.loads(text), sort_keys=True) for text in written
    ]
    assert installation.audit_verifier.verify().fault is None


def test_a_dry_run_of_an_import_leaves_the_chain_alone(installation: Installation) -> None:
    installation.audit.seal()
    before = rows_of(installation, "SELECT max(sequence), count(*) FROM audit_row")
    batch = [Line(number=1, size=1, fields={"username": "nobody"})]
    assert list(installation.bulk.import_accounts(lambda: OPERATOR, batch, dry_run=True))
    assert rows_of(installation, "SELECT max(sequence), count(*) FROM audit_row") == before
