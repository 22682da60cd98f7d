"""Which scopes an account holds without using them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from installed import Clock, installed, rows_of
from keyosk import app
from keyosk.errors import KeyoskError
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Scope
from live import ADMIN_PASSWORD, Client
from people import make_person, ok
from waiting import until

pytestmark = pytest.mark.every_database

DAY = 86_400
ALICE = ("alice", "the password of alice")
ADMIN = ("admin", ADMIN_PASSWORD)
_READ, _WRITE = "todo:read", "todo:write"


@contextmanager
def shop(url: str, clock: Clock) -> Iterator[tuple[Installation, Any]]:
    """A Keyosk with a service, and alice, who may read and write there."""
    with installed(url, clock=clock) as keyosk:
        keyosk.services.create(OPERATOR, name="todo", scopes=[Scope(_READ), Scope(_WRITE)])
        keyosk.grants.create_account(
            OPERATOR,
            [Grant(scope=_READ), Grant(scope=_WRITE)],
            username=ALICE[0],
            password=ALICE[1],
        )
        yield keyosk, app.create_app(keyosk).test_client()


def token(client: Any, login: tuple[str, str] = ALICE, **form: str) -> None:
    response = client.post("/auth/token", auth=login, data=form)
    assert response.status_code == 200, response.text


def get(client: Any, path: str, **query: Any) -> Any:
    response = client.get(path, query_string=query, auth=ADMIN)
    assert response.status_code == 200, response.text
    return response.json


def uses(client: Any, account: str = "alice") -> dict[str, tuple[str | None, str | None]]:
    items = get(client, f"/accounts/{account}/scopes")["items"]
    return {each["name"]: (each["last_issued_on"], each["last_named_on"]) for each in items}


def unused(client: Any, **query: Any) -> dict[str, list[str]]:
    items = get(client, "/unused-scopes", **query)["items"]
    return {each["username"]: [scope["name"] for scope in each["scopes"]] for each in items}


def test_the_last_days_with_a_token_and_with_a_request_that_named_it(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)  # 2030-03-17
    with shop(prepared_url, clock) as (keyosk, client):
        assert uses(client) == {_READ: (None, None), _WRITE: (None, None)}
        token(client)
        keyosk.scope_uses.write()
        assert uses(client) == {_READ: ("2030-03-17", None), _WRITE: ("2030-03-17", None)}
        clock.now += DAY
        token(client, scope=_READ)
        keyosk.scope_uses.write()
        assert uses(client)[_READ] == ("2030-03-18", "2030-03-18")
        assert uses(client)[_WRITE] == ("2030-03-17", None)
        clock.now += DAY
        token(client, audience="todo")
        keyosk.scope_uses.write()
        assert uses(client)[_READ] == ("2030-03-19", "2030-03-18")
        held = get(client, "/accounts/alice/scopes")["items"][0]
        assert held == {
            "name": _READ,
            "service": "todo",
            "is_granted": True,
            "roles": [],
            "held_since": "2030-03-17T17:46:40Z",
            "last_issued_on": "2030-03-19",
            "last_named_on": "2030-03-18",
        }


def test_what_was_held_and_not_used_for_days_is_listed(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        clock.now += 60 * DAY
        token(client, scope=_READ)
        keyosk.scope_uses.write()
        clock.now += 31 * DAY
        assert unused(client)["alice"] == [_WRITE]
        assert unused(client, days=30)["alice"] == [_READ, _WRITE]
        assert "alice" not in unused(client, days=92)  # she does not hold it for so long
        assert unused(client, scope=_READ, days=30) == {"alice": [_READ]}
        assert unused(client, service="keyosk").keys() & {"alice"} == set()
        token(client)
        keyosk.scope_uses.write()
        assert "alice" not in unused(client)
        assert unused(client, use="named")["alice"] == [_WRITE]
        keyosk.accounts.change(OPERATOR, "alice", {"enabled": False})
        assert "alice" not in unused(client, use="named")


def test_a_grant_counts_from_its_making_and_so_does_a_scope_of_a_role(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        keyosk.roles.create(OPERATOR, name="editor", scopes=[_READ])
        grants = [Grant(role="editor"), Grant(scope="keyosk:audit:read")]
        keyosk.grants.create_account(OPERATOR, grants, username="bob")
        clock.now += 91 * DAY
        keyosk.grants.change(OPERATOR, "alice", remove=[Grant(scope=_READ)])
        keyosk.grants.change(OPERATOR, "alice", add=[Grant(scope=_READ)])
        keyosk.roles.change(OPERATOR, "editor", {"scopes": [_READ, _WRITE]})
        unused_scopes = unused(client)
        assert (unused_scopes["alice"], unused_scopes["bob"]) == (
            [_WRITE],
            ["keyosk:audit:read", _READ],
        )
        items = get(client, "/accounts/bob/scopes")["items"]
        held = {each["name"]: (each["is_granted"], each["roles"]) for each in items}
        assert held[_WRITE] == (False, ["editor"])
        clock.now += 91 * DAY
        assert unused(client)["alice"] == [_READ, _WRITE]
        assert unused(client)["bob"] == ["keyosk:audit:read", _READ, _WRITE]


def test_an_ended_grant_is_not_held(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        until = int(clock.now) + DAY
        keyosk.grants.change(OPERATOR, "alice", add=[Grant(scope=_READ, until=until)])
        clock.now += 91 * DAY
        assert unused(client)["alice"] == [_WRITE]
        assert uses(client).keys() == {_WRITE}


def test_admin_is_used_by_whatever_it_stands_for(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        clock.now += 91 * DAY
        keyosk.grants.create_account(OPERATOR, [Grant(scope="keyosk:admin")], username="idle")
        own = uses(client, "admin")
        assert own == {"keyosk:admin": (None, None)}  # to see oneself takes no scope
        get(client, "/services")
        keyosk.scope_uses.write()
        assert uses(client, "admin") == {"keyosk:admin": ("2030-06-16", "2030-06-16")}
        clock.now += 91 * DAY
        get(client, "/services")
        keyosk.scope_uses.write()
        unused_scopes = unused(client)
        assert "admin" not in unused_scopes
        assert unused_scopes["idle"] == ["keyosk:admin"]


def test_introspection_uses_its_scope(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        grants = [Grant(scope="keyosk:tokens:introspect")]
        bob = ("bob", "the password of bob")
        keyosk.grants.create_account(OPERATOR, grants, username=bob[0], password=bob[1])
        text = client.post("/auth/token", auth=ALICE).json["access_token"]
        assert client.post("/auth/introspect", auth=bob, data={"token": text}).json["active"]
        keyosk.scope_uses.write()
        assert uses(client, "bob") == {"keyosk:tokens:introspect": ("2030-03-17", "2030-03-17")}


def test_nodes_and_processes_add_up_whoever_writes_last(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (one, client), installed(prepared_url, clock=clock) as two:
        other = app.create_app(two).test_client()
        token(other, scope=_WRITE)
        clock.now += DAY
        token(client)
        one.scope_uses.write()
        clock.now -= DAY
        two.scope_uses.write()  # what it noted a day ago
        assert uses(client)[_WRITE] == ("2030-03-18", "2030-03-17")
        clock.now += 2 * DAY
        token(other, scope=_READ)
        two.scope_uses.write()
        assert uses(client)[_READ] == ("2030-03-19", "2030-03-19")
        assert uses(client)[_WRITE] == ("2030-03-18", "2030-03-17")


def test_a_clock_that_was_ahead_is_put_right(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        clock.now += 1_000 * DAY
        token(client)
        keyosk.scope_uses.write()
        clock.now -= 1_000 * DAY
        keyosk.scope_uses.write()  # another day
        token(client)
        keyosk.scope_uses.write()
        assert uses(client)[_READ] == ("2030-03-17", None)


def test_uses_wait_while_the_database_cannot_be_written(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        token(client, scope=_READ)
        raw = keyosk.database.raw
        raw.execute_sql("ALTER TABLE scope_use RENAME TO away")
        with pytest.raises(KeyoskError):
            keyosk.scope_uses.write()
        raw.execute_sql("ALTER TABLE away RENAME TO scope_use")
        clock.now += DAY
        keyosk.scope_uses.write()
        assert uses(client)[_READ] == ("2030-03-18", "2030-03-18")


def test_what_was_deleted_meanwhile_keeps_nothing_else_unwritten(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        bob = ("bob", "the password of bob")
        keyosk.grants.create_account(
            OPERATOR, [Grant(scope=_READ)], username=bob[0], password=bob[1]
        )
        token(client, bob)
        token(client)
        keyosk.accounts.remove(OPERATOR, "bob")
        keyosk.services.change(OPERATOR, "todo", {"scopes": [Scope(_READ)]}, force=True)
        keyosk.scope_uses.write()
        assert uses(client) == {_READ: ("2030-03-17", None)}
        keyosk.accounts.remove(OPERATOR, "alice")
        assert rows_of(keyosk, "SELECT * FROM scope_use WHERE scope_id = 'todo:read'") == []


def test_many_threads_note_and_one_writes(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        alice = get(client, "/accounts/alice")["id"]
        scopes = [f"todo:{number}" for number in range(300)]
        keyosk.services.change(
            OPERATOR, "todo", {"scopes": [Scope(each) for each in scopes]}, force=True
        )
        began = threading.Barrier(5)

        def note(part: int) -> None:
            began.wait()
            for each in scopes[part::4]:
                keyosk.scope_uses.note(alice, [each], named=False)

        threads = [threading.Thread(target=note, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        began.wait()
        while any(thread.is_alive() for thread in threads):
            keyosk.scope_uses.write()
        keyosk.scope_uses.write()
        rows = rows_of(keyosk, "SELECT 1 FROM scope_use WHERE scope_id LIKE ?", "todo:%")
        assert len(rows) == len(scopes)


def test_a_token_that_is_known_already_writes_nothing(prepared_url: str) -> None:
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        token(client)
        keyosk.scope_uses.write()
        keyosk.database.raw.execute_sql("DELETE FROM scope_use")
        token(client)
        keyosk.scope_uses.write()
        assert uses(client)[_READ] == (None, None)
        clock.now += DAY
        keyosk.scope_uses.write()
        token(client)
        keyosk.scope_uses.write()
        assert uses(client)[_READ] == ("2030-03-18", None)


def test_pages_end_although_most_accounts_use_all_that_they_hold(
    prepared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyosk.scope_uses.LOOKED_AT", 4)
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):
        for number in range(9):
            keyosk.grants.create_account(
                OPERATOR, [Grant(scope=_READ)] if number in (7, 8) else [], username=f"p{number}"
            )
        clock.now += 91 * DAY
        pages: list[list[str]] = []
        query: dict[str, Any] = {"limit": 1, "scope": _READ}
        while True:
            page = get(client, "/unused-scopes", **query)
            pages.append([each["username"] for each in page["items"]])
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert sorted(name for page in pages for name in page) == ["alice", "p7", "p8"]
        assert [] in pages


def test_an_account_that_fills_a_page_hides_nobody_after_it(
    prepared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyosk.storage.scope_uses._MOST", 2)
    clock = Clock(1_900_000_000)
    with shop(prepared_url, clock) as (keyosk, client):  # alice holds two
        for name in ("bob", "carol"):
            keyosk.grants.create_account(OPERATOR, [Grant(scope=_READ)], username=name)
        clock.now += 91 * DAY
        usernames: list[str] = []
        query = {"service": "todo"}
        while query.get("cursor", "") is not None:
            page = get(client, "/unused-scopes", **query)
            usernames += [each["username"] for each in page["items"]]
            query["cursor"] = page["next"]
        assert usernames == ["alice", "bob", "carol"]


@pytest.mark.parametrize(
    "query",
    [
        {"days": "0"},
        {"days": "x"},
        {"use": "both"},
        {"limit": "201"},
        {"cursor": "x"},
        {"more": "1"},
    ],
)
def test_a_wrong_parameter_is_named(admin: Client, query: dict[str, str]) -> None:
    response = admin.get("/unused-scopes", params=query)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == next(iter(query))


@pytest.mark.attack
def test_only_a_reader_of_accounts_sees_the_scopes_of_others(admin: Client) -> None:
    alice, bob = make_person(admin), make_person(admin)
    own = alice.login()
    assert own.get("/accounts/me/scopes").status_code == 200
    assert own.get(f"{bob.path}/scopes").status_code == 403
    assert own.get("/unused-scopes").status_code == 403


def test_a_server_writes_by_itself(admin: Client) -> None:
    alice = make_person(admin, "keyosk:audit:read")
    assert alice.login().get("/audit").status_code == 200

    def written() -> Any:
        (held,) = ok(admin.get(f"{alice.path}/scopes"))["items"]
        return held["last_named_on"]

    until(lambda: written() is not None, pause=0.2)
