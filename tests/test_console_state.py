"""The console's overview, sessions, revocations, audit log, attacks and settings through HTTP."""

import dataclasses
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from werkzeug.test import Client as InProcess

from installed import Clock, installed, rows_of, statements
from keyosk import app
from keyosk.console.differences import difference
from keyosk.credentials.presented import Candidate
from keyosk.ids import new_id
from keyosk.installation import Installation
from keyosk.model import OPERATOR, Grant, Kind, Node, Scope
from keyosk.storage import tables
from live import ADMIN_PASSWORD, SECRET_KEY, Client, LiveServer
from pages import Page, logged_in
from people import make_key, make_person, make_service, ok
from tables import table

pytestmark = pytest.mark.every_database

_START: Final = 1_900_000_040


@contextmanager
def console(url: str, clock: Clock | None = None) -> Iterator[tuple[Installation, InProcess]]:
    """An installation in this process, and its admin logged in to its console."""
    with installed(url, clock=clock or Clock(_START)) as keyosk:
        client = app.create_app(keyosk).test_client()
        fields = Page(client.get("/console/login")).form("/console/login").fields
        fields |= {"username": "admin", "password": ADMIN_PASSWORD}
        assert client.post("/console/login", data=fields).status_code == 303
        yield keyosk, client


def get(client: InProcess, path: str, **query: str) -> Page:
    page = Page(client.get(path, query_string=query or None))
    assert page.status == 200, page.text
    assert page.dangers() == []
    return page


def send(client: InProcess, path: str, **fields: str) -> Page:
    token = get(client, "/me").form("/console/logout").fields["csrf_token"]
    response = client.post(path, data={"csrf_token": token, **fields})
    assert response.status_code == 303, response.text
    return get(client, response.headers["Location"])


def guess(client: InProcess, name: str, number: int, address: str = "192.0.2.7") -> None:
    for attempt in range(number):
        client.post(
            "/auth/token",
            auth=(name, f"not it {attempt}"),
            environ_base={"REMOTE_ADDR": address},
        )


# --- Overview -------------------------------------------------------------------------------------


def test_the_overview_counts_the_last_day_in_charts_and_in_a_table(prepared_url: str) -> None:
    clock = Clock(_START)
    with console(prepared_url, clock) as (keyosk, client):
        for _ in range(30):
            assert client.post("/auth/token", auth=("admin", ADMIN_PASSWORD)).status_code == 200
        guess(client, "nobody", 10)
        node = Node(name="api-1:8080", version="9.9.9", started_at=_START, seen_at=_START)
        keyosk.activity.write(node)
        page = get(client, "/console")
        assert "30 in all; at most 3 per minute, now 3." in page.text
        assert "10 in all; at most 1 per minute, now 1." in page.text
        assert "2030-03-17 17:00 30 10 10" in page.text
        assert "api-1:8080 up 9.9.9 2030-03-17 17:47" in page.text
        charts = [given for tag, given in page.tags if tag == "svg"]
        assert len(charts) == 3
        ids = {given["id"] for tag, given in page.tags if tag in ("title", "desc") and given}
        for given in charts:
            assert given["role"] == "img"
            assert set((given["aria-labelledby"] or "").split()) <= ids
        drawn = [given["d"] or "" for tag, given in page.tags if tag == "path"]
        assert re.search(r"V2\.0H600\.0V100Z$", drawn[0])
        clock.now += 90_000
        _log_in_again(client)
        assert "30 in all" not in get(client, "/console").text


def test_the_overview_says_what_needs_attention(prepared_url: str) -> None:
    clock = Clock(_START)
    with console(prepared_url, clock) as (keyosk, client):
        account = keyosk.grants.create_account(OPERATOR, [], username="robot", kind=Kind.MACHINE)
        ends = {"lasting": _START + 400 * 86_400, "ending": _START + 10 * 86_400}
        clock.now -= 10
        keyosk.api_keys.create(OPERATOR, account.id, name="ended", expires_at=_START - 5)
        clock.now += 10
        for name, end in ends.items():
            keyosk.api_keys.create(OPERATOR, account.id, name=name, expires_at=end)
        text = get(client, "/console").text
        soon, unused = text.split("API keys that nobody used")
        assert "robot : ending" in soon.replace("robot:", "robot :")
        assert "lasting" not in soon
        assert "ended" not in soon
        assert "ending" not in unused.split("Refused lately")[0]
        kind = "SQLite" if keyosk.database.is_sqlite else "PostgreSQL"
        assert f"Database {kind} " in text
        assert "Next signing key signs from 2030-03-17 18:02" in text  # the old one was overdue
        clock.now += 95 * 86_400
        _log_in_again(client)
        unused = get(client, "/console").text.split("API keys that nobody used")[1]
        assert "lasting" in unused
        keyosk.database.raw.execute_sql("UPDATE signing_key SET state = 'retired'")
        assert "keys: wrong. no key signs" in get(client, "/console").text


def _log_in_again(client: InProcess) -> None:
    fields = Page(client.get("/console/login")).form("/console/login").fields
    fields |= {"username": "admin", "password": ADMIN_PASSWORD}
    assert client.post("/console/login", data=fields).status_code == 303


def test_the_overview_says_when_keys_rotate_by_schedule(prepared_url: str) -> None:
    with console(prepared_url, Clock(time.time())) as (_, client):
        assert re.search(
            r"Next rotation \d{4}-\d\d-\d\d \d\d:\d\d in (?:89|90) days", _text(client)
        )


def _text(client: InProcess) -> str:
    return get(client, "/console").text


# --- Sessions and revocations ---------------------------------------------------------------------


def test_an_admin_sees_and_ends_sessions_of_everybody(server: LiveServer, admin: Client) -> None:
    todo = make_service(admin, refresh_allowed=True)
    alice = make_person(admin, f"{todo}:read")
    form = {"audience": todo, "scope": f"{todo}:read offline_access"}
    token = ok(alice.login().post("/auth/token", data=form))
    hers = logged_in(server, alice.username)
    root = logged_in(server, make_person(admin, "keyosk:admin").username)
    page = root.get("/console/sessions", params={"owner": alice.username})
    assert re.search(rf"{alice.username} {todo}:read by password 127\.", page.text)
    assert re.search(rf"{alice.username} Mozilla/5.0 127\.", page.text)
    forms = [form for form in page.forms if form.action.endswith("/sessions/end")]
    assert {form.fields["kind"] for form in forms} == {"refresh", "console"}
    for each in forms:
        response = root.client.post("/console/sessions/end", data=each.fields)
        assert "The session was ended." in root.get(response.headers["Location"]).text
    assert not hers.is_logged_in()
    refresh = {"grant_type": "refresh_token", "refresh_token": token["refresh_token"]}
    assert server.client().post("/auth/token", data=refresh).status_code == 400
    rows = ok(admin.get("/audit", params={"target": f"account/{alice.id}"}))["items"]
    assert {("session.end", "console"), ("console_session.end", "console")} <= {
        (row["action"], row["via"]) for row in rows
    }
    page = root.get("/console/sessions", params={"owner": alice.username})
    assert [form for form in page.forms if form.action.endswith("/sessions/end")] == []


def test_each_of_two_lists_goes_on_by_itself(prepared_url: str) -> None:
    with console(prepared_url) as (keyosk, client):
        login = keyosk.authentication.by_secret(
            [Candidate("admin", ADMIN_PASSWORD, is_api_key=False)], address=None
        )
        for number in range(30):
            keyosk.console_sessions.begin(
                login, address=None, agent=f"agent{number:02}", request_id=None
            )
        page = get(client, "/console/sessions")
        (more,) = [given["href"] or "" for _, given in page.tags if given.get("rel") == "next"]
        assert "console=" in more
        text = page.text + get(client, more).text
        assert all(text.count(f"agent{number:02}") == 1 for number in range(30))


def test_revocations_say_who_made_them(prepared_url: str) -> None:
    with console(prepared_url) as (keyosk, client):
        alice = keyosk.grants.create_account(OPERATOR, [], username="alice")
        bob = keyosk.grants.create_account(OPERATOR, [], username="bob")
        key = keyosk.api_keys.create(OPERATOR, bob.id, name="ci").key
        send(client, f"/console/accounts/{alice.id}/end-tokens")
        keyosk.api_keys.remove(OPERATOR, bob.id, key.id)
        text = get(client, "/console/revocations").text
        assert f"account {alice.id} admin by the console tokens.revoke" in text
        assert re.search(rf"key_id {key.id} \S+ api_key.delete 2030-03-17 17:47", text)


def test_nobody_is_said_to_have_revoked_what_they_only_changed(prepared_url: str) -> None:
    with console(prepared_url) as (keyosk, client):
        alice, root = (
            keyosk.grants.create_account(OPERATOR, [], username=name) for name in ("alice", "root")
        )
        bob = keyosk.grants.create_account(OPERATOR, [], username="bob")
        by = dataclasses.replace(OPERATOR, account_id=root.id, username="root")
        keyosk.services.create(OPERATOR, name="todo", scopes=[Scope("todo:read")])
        keyosk.roles.create(OPERATOR, name="staff", scopes=["todo:read"])
        carol = keyosk.grants.create_account(OPERATOR, [Grant(role="staff")], username="carol")
        keyosk.accounts.revoke_tokens(OPERATOR, alice.id)
        keyosk.accounts.change(by, alice.id, {"display_name": "Alice"})
        # A role takes a scope from whom the row does not name.
        keyosk.roles.change(by, "staff", {"scopes": []})
        # Each of the two may be who published the newer of their entries.
        keyosk.accounts.revoke_tokens(OPERATOR, bob.id)
        keyosk.accounts.change(by, bob.id, {"enabled": False})
        text = get(client, "/console/revocations").text
        assert re.search(rf"account {alice.id} operator tokens\.revoke 20", text)
        assert re.search(rf"account {carol.id} root role\.change 20", text)
        either = r"(operator tokens\.revoke|root account\.change)"
        assert re.search(rf"account {bob.id} {either} or {either} 20", text)


# --- The audit log --------------------------------------------------------------------------------


def test_a_change_is_shown_by_what_went_and_what_came(prepared_url: str) -> None:
    with console(prepared_url) as (keyosk, client):
        scopes = [Scope("todo:read"), Scope("todo:write"), Scope("todo:do")]
        keyosk.services.create(OPERATOR, name="todo", scopes=scopes)
        role = keyosk.roles.create(OPERATOR, name="r", scopes=["todo:read", "todo:do"])
        keyosk.roles.change(OPERATOR, "r", {"scopes": ["todo:read", "todo:write"]}, version=None)
        page = get(client, "/console/audit", target=f"role/{role.id}", action="role.change")
        if "role.change" not in page.text:
            page = get(client, "/console/audit", action="role.change")
        assert 'scopes: − "todo:do" + "todo:write" 1 unchanged' in page.text
        tags = [tag for tag, _ in page.tags]
        assert (tags.count("del"), tags.count("ins")) == (1, 1)


@table(
    "before, after, expected",
    [
        ({"a": 1}, {"a": 2}, [("a", ("1",), ("2",), 0, 0)]),
        (None, {"a": None}, [("a", (), ("null",), 0, 0)]),
        ({"a": [1, 2]}, {"a": [2, 3]}, [("a", ("1",), ("3",), 1, 0)]),
        ({"a": []}, {"a": [1]}, [("a", ("[]",), ("1",), 0, 0)]),
        ({}, {"a": [*range(13)]}, [("a", (), tuple("0123456789"), 0, 3)]),
        ({"a": "x" * 200}, None, [("a", ('"' + "x" * 159 + "…",), (), 0, 0)]),
    ],
)
def test_a_difference_is_as_short_as_it_can_be(before: Any, after: Any, expected: Any) -> None:
    assert [dataclasses.astuple(each) for each in difference(before, after)] == expected


def test_the_log_goes_on_where_none_of_the_rows_looked_at_matches(
    prepared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with console(prepared_url) as (keyosk, client):
        keyosk.roles.create(OPERATOR, name="first")
        for number in range(8):
            keyosk.roles.create(OPERATOR, name=f"role-{number}")
        # As if they were too many to be sorted.
        monkeypatch.setattr("keyosk.storage.listing.FEW", 0)
        monkeypatch.setattr("keyosk.audit.LOOKED_AT", 5)
        keyosk.audit.seal()
        role = "role/first"
        asked = {"since": "2020-01-01T00:00:00Z", "target": role}
        page = get(client, "/console/audit", **asked)
        assert "No row matches so far." in page.text
        while role not in page.text:
            (following,) = [given["href"] for _, given in page.tags if given.get("rel") == "next"]
            page = get(client, following or "")


def test_the_log_is_filtered_by_credential_and_exported(prepared_url: str) -> None:
    with console(prepared_url) as (keyosk, client):
        keyosk.grants.create_account(OPERATOR, [], username="alice")
        send(client, "/console/accounts", username="bob")
        page = get(client, "/console/audit", credential="password", action="account.create")
        bob = keyosk.accounts.get("bob").id
        assert f"account/{bob}" in page.text
        assert f"account/{keyosk.accounts.get('alice').id}" not in page.text
        (link,) = [given["href"] or "" for _, given in page.tags if "download" in given]
        response = client.get(link)
        assert response.headers["Content-Type"].startswith("application/jsonl")
        assert "attachment" in response.headers["Content-Disposition"]
        rows = [json.loads(line) for line in response.text.splitlines()]
        assert [row["target"] for row in rows] == [f"account/{bob}"]
        assert client.get("/console/audit/export?since=yesterday").status_code == 422


def test_the_audit_page_says_how_sound_the_chain_is(prepared_url: str) -> None:
    with console(prepared_url) as (keyosk, client):
        text = get(client, "/console/audit").text
        ((last,),) = rows_of(keyosk, "SELECT max(sequence) FROM audit_row")
        assert f"{last} rows are sealed" in text
        assert f"verified since then up to {last}" in text
        keyosk.database.raw.execute_sql("UPDATE checkpoint SET signature = 'x'")
        assert "The chain is broken" in get(client, "/console/audit").text


# --- Under attack ---------------------------------------------------------------------------------


def test_an_attack_is_seen_while_it_goes_on(prepared_url: str) -> None:
    clock = Clock(_START)
    with console(prepared_url, clock) as (keyosk, client):
        assert "Throttled now: nobody." in get(client, "/console/attack").text
        keyosk.grants.create_account(OPERATOR, [], username="alice")
        guess(client, "alice", 14)
        guess(client, "nobody", 2, "192.0.2.8")
        keyosk.activity.write()
        text = get(client, "/console/attack").text
        assert "alice password 192.0.2.7 2030-03-17 17:47" in text
        assert "alice 12 0 2030-03-17 17:47" in text
        assert "names that no account has 2 0" in text
        assert "192.0.2.8 2 0 2030-03-17 17:47" in text
        assert "login wrong 14" in text
        assert "login throttled 2" in text
        clock.now += 2 * 3_600
        _log_in_again(client)
        assert "alice" not in get(client, "/console/attack").text
        assert "alice 12 0" in get(client, "/console/attack", back="day").text


def test_the_live_page_asks_for_itself_until_paused_or_nobody_says_go_on(prepared_url: str) -> None:
    with console(prepared_url) as (_, client):

        def polled(**query: str) -> str | None:
            page = get(client, "/console/attack", **query)
            (given,) = [given for _, given in page.tags if given.get("id") == "live"]
            return given.get("hx-get")

        assert polled() == "/console/attack?back=hour&look=2"
        assert polled(back="day", look="119") == "/console/attack?back=day&look=120"
        assert polled(look="120") is None
        for nonsense in ("0", "x", "-1", "9" * 50, "<b>"):
            assert polled(look=nonsense, back=nonsense) is None
        page = get(client, "/console/attack", look="0")
        assert "Paused." in page.text
        assert "/console/attack?back=hour" in {given.get("href") for _, given in page.tags}


# --- Settings -------------------------------------------------------------------------------------


def test_settings_are_shown_as_they_are_with_no_secret(prepared_url: str) -> None:
    with console(prepared_url) as (_, client):
        response = client.get("/console/settings")
        text = Page(response).text
        assert "KEYOSK_KEY_PUBLISH_AHEAD 900 environment" in text
        assert "KEYOSK_TOKEN_LIFETIME 900 default" in text
        assert "encoding ok" in text
        for secret in (ADMIN_PASSWORD, SECRET_KEY):
            assert secret not in response.text


def test_who_may_not_see_something_is_not_led_to_it(server: LiveServer, admin: Client) -> None:
    reader = make_person(admin, "keyosk:audit:read")
    make_key(admin, reader)
    browser = logged_in(server, reader.username)
    page = browser.get("/console")
    assert "Tokens issued per minute" in page.text
    assert "API keys that end" not in page.text
    assert "Database" not in page.text
    links = {given.get("href") for _, given in page.tags}
    assert "/console/attack" in links
    assert links.isdisjoint({"/console/settings", "/console/sessions"})
    for path in ("/console/settings", "/console/sessions"):
        assert browser.get(path).status == 403


# --- What a page costs ----------------------------------------------------------------------------


@pytest.mark.attack
@pytest.mark.slow
def test_a_page_costs_as_many_statements_however_much_there_is(prepared_url: str) -> None:
    with console(prepared_url) as (keyosk, client):

        def cost() -> dict[str, int]:
            found = {}
            for path in (
                *("/console", "/console/sessions", "/console/revocations", "/console/audit"),
                *("/console/attack", "/console/settings"),
            ):
                get(client, path)  # what is cached, and what is due
                with statements() as texts:
                    get(client, path)
                found[path] = len(texts)
            return found

        _fill(keyosk, client, "first")
        before = cost()
        assert max(before.values()) <= 60, before
        _fill(keyosk, client, "more")
        assert cost() == before


def _fill(keyosk: Installation, client: InProcess, stem: str) -> None:
    """Make more of everything than a page shows."""
    now = int(keyosk.clock())
    names = [f"{stem}{number}" for number in range(110)]
    accounts = [keyosk.grants.create_account(OPERATOR, [], username=name) for name in names]
    for account in accounts:
        keyosk.api_keys.create(OPERATOR, account.id, name="a", expires_at=now + 86_400)
        keyosk.accounts.revoke_tokens(OPERATOR, account.id)
    guess(client, names[0], 14)
    rows = [(now // 60 * 60 - 60 * number, f"{stem} x") for number in range(1_440)]
    keyosk.database.insert_all(
        tables.Activity,
        [{"minute": minute, "kind": kind, "count": 1} for minute, kind in rows],
    )
    keyosk.database.insert_all(tables.Session, [_session(each.id, now) for each in accounts])


def _session(account_id: str, now: int) -> dict[str, Any]:
    return {
        "id": new_id(),
        "account": account_id,
        "password_id": new_id(),
        "api_key": None,
        "audiences": "[]",
        "scopes": "[]",
        "digest": b"0" * 32,
        "tokens": "{}",
        "address": None,
        "authenticated_at": now,
        "created_at": now,
        "rotated_at": now,
        "expires_at": now + 86_400,
    }
