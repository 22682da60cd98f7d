"""What an admin looks at through the API: sessions, failed logins, the chain, what is wrong."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from installed import Clock, installed, rows_of
from keyosk import app
from keyosk.credentials.presented import Candidate
from keyosk.installation import Installation
from keyosk.model import OPERATOR
from live import ADMIN_PASSWORD, SECRET_KEY, Client, LiveServer
from pages import logged_in
from people import PASSWORD, make_person, make_service, ok

pytestmark = pytest.mark.every_database

ADMIN = ("admin", ADMIN_PASSWORD)


def ask(installation: Installation, path: str, **query: Any) -> Any:
    response = app.create_app(installation).test_client().get(path, query_string=query, auth=ADMIN)
    assert response.status_code == 200, response.text
    return response.json


def guess(
    installation: Installation, name: str, number: int, address: str = "192.0.2.7"
) -> list[int]:
    client = app.create_app(installation).test_client()
    return [
        client.post(
            "/auth/token",
            auth=(name, f"not it {attempt}"),
            environ_base={"REMOTE_ADDR": address},
        ).status_code
        for attempt in range(number)
    ]


# --- Sessions -------------------------------------------------------------------------------------


def test_sessions_of_everybody_are_listed_meanwhile(server: LiveServer, admin: Client) -> None:
    todo = make_service(admin, refresh_allowed=True)
    alice, bob = (make_person(admin, f"{todo}:read") for _ in range(2))
    form = {"audience": todo, "scope": f"{todo}:read offline_access"}
    for person in (alice, bob, alice):
        ok(person.login().post("/auth/token", data=form))
    logged_in(server, alice.username)
    page = ok(admin.get("/refresh-sessions", params={"owner": alice.username, "limit": 1}))
    following = ok(
        admin.get(
            "/refresh-sessions",
            params={"owner": alice.username, "limit": 1, "cursor": page["next"]},
        )
    )
    listed: list[Any] = [*page["items"], *following["items"]]
    first, second = listed
    assert first["id"] < second["id"]
    assert {each["username"] for each in (first, second)} == {alice.username}
    assert ok(admin.get(f"{alice.path}/tokens"))["items"] == [
        {name: each[name] for name in each if name not in ("account_id", "username")}
        for each in (first, second)
    ]
    newest = ok(admin.get("/refresh-sessions", params={"sort": "-created_at"}))["items"]
    assert {alice.username, bob.username} <= {each["username"] for each in newest}
    (console,) = ok(admin.get("/console-sessions", params={"owner": alice.id}))["items"]
    assert (console["account_id"], console["agent"]) == (alice.id, "Mozilla/5.0")
    ok(admin.delete(f"{alice.path}/tokens"))
    for path in ("/refresh-sessions", "/console-sessions"):
        response = admin.get(path, params={"owner": alice.id, "total": "true"})
        assert (ok(response)["items"], response.headers["X-Total-Count"]) == ([], "0")
        assert ok(admin.get(path, params={"owner": "nobody"}))["items"] == []


def test_a_session_that_has_ended_is_not_listed(prepared_url: str) -> None:
    clock = Clock()
    with installed(prepared_url, clock=clock) as keyosk:
        principal = keyosk.authentication.by_secret(
            [Candidate("admin", ADMIN_PASSWORD, is_api_key=False)], address=None
        )
        keyosk.console_sessions.begin(principal, address=None, agent="x", request_id=None)
        assert len(ask(keyosk, "/console-sessions")["items"]) == 1
        clock.now += 1_801
        assert ask(keyosk, "/console-sessions")["items"] == []


# --- Failed logins --------------------------------------------------------------------------------


def test_who_is_guessed_at_is_seen_at_once_and_until_when(prepared_url: str) -> None:
    clock = Clock(1_900_000_010)
    with installed(prepared_url, clock=clock) as keyosk:
        alice = keyosk.accounts.get("admin").id
        assert set(guess(keyosk, "admin", 12)) == {401}
        failures = ask(keyosk, "/login-failures")
        assert [each["count"] for each in failures["accounts"]] == [12]
        assert failures["accounts"][0]["username"] == "admin"
        assert failures["throttled"][0]["kind"] == "account_and_source"
        assert guess(keyosk, "admin", 1) == [429]
        clock.now += 60
        assert guess(keyosk, "admin", 1) == [429]
        assert set(guess(keyosk, "admin", 6, "192.0.2.8")) == {401, 429}
        guess(keyosk, "nobody", 2, "192.0.2.8")
        failures = ask(keyosk, "/login-failures")
        throttled = {
            (each["kind"], each["username"], each["source"]): each for each in failures["throttled"]
        }
        pair = throttled["account_and_source", "admin", "192.0.2.7"]
        assert (pair["account_id"], pair["since"]) == (alice, "2030-03-17T17:46:00Z")
        assert pair["until"] == "2030-03-17T17:51:50Z"
        assert ("account", "admin", None) in throttled
        first = failures["addresses"][0]
        assert (first["address"], first["count"]) == ("192.0.2.7", 12)
        assert {each["username"] for each in failures["accounts"]} == {"admin", None}
        clock.now += 1_800
        failures = ask(keyosk, "/login-failures")
        assert (failures["throttled"], len(failures["accounts"])) == ([], 2)
        clock.now += 3_600
        assert ask(keyosk, "/login-failures")["accounts"] == []
        later = ask(keyosk, "/login-failures", since="2030-03-17T00:00:00Z")
        assert {each["username"] for each in later["accounts"]} == {"admin", None}


def test_a_source_that_tries_many_names_is_throttled_as_one(prepared_url: str) -> None:
    with installed(prepared_url, clock=Clock()) as keyosk:
        for number in range(30):
            guess(keyosk, f"name{number}", 1, "2001:db8::1")
        (found,) = ask(keyosk, "/login-failures")["throttled"]
        assert (found["kind"], found["source"]) == ("source", "2001:db8::/64")
        assert found["username"] is None


# --- The audit log --------------------------------------------------------------------------------


def test_the_log_is_exported_as_the_list_has_it(admin: Client) -> None:
    alice = make_person(admin)
    for number in range(3):
        ok(admin.patch(alice.path, json={"display_name": f"Alice {number}"}))
    for query in (
        {"target": f"account/{alice.id}"},
        {"since": "2020-01-01T00:00:00Z", "target": f"account/{alice.id}"},
        {"action": "role.create", "target": f"account/{alice.id}"},
    ):
        response = admin.get("/audit/export", params=query)
        assert response.status_code == 200, response.text
        assert response.headers["Content-Type"].startswith("application/jsonl")
        rows = [json.loads(line) for line in response.text.splitlines()]
        assert rows == ok(admin.get("/audit", params=query))["items"]
        assert (rows == []) == ("action" in query)
    assert admin.get("/audit/export", params={"limit": "1"}).status_code == 422


def test_an_export_goes_over_pages_and_ends_where_it_began(prepared_url: str) -> None:
    with installed(prepared_url) as keyosk:
        for number in range(700):
            keyosk.audit.record(OPERATOR, "account.change", f"account/{number}")
        client = app.create_app(keyosk).test_client()
        response = client.get("/audit/export", auth=ADMIN, buffered=False)
        lines: Iterator[Any] = iter(response.response)
        first = next(lines)
        keyosk.audit.record(OPERATOR, "account.change", "account/later")
        text = (first + b"".join(lines)).decode()
        response.close()
        rows = [json.loads(line) for line in text.splitlines()]
        last = rows[-1]["sequence"]
        assert [row["sequence"] for row in rows] == list(range(1, last + 1))
        assert last >= 700
        assert "account/later" not in {row["target"] for row in rows}


def test_the_state_of_the_chain_is_what_it_is(prepared_url: str) -> None:
    with installed(prepared_url) as keyosk:
        keyosk.audit.record(OPERATOR, "account.change", "account/1")
        chain = ask(keyosk, "/audit/chain")
        (last,) = rows_of(keyosk, "SELECT max(sequence) FROM audit_row")[0]
        assert (chain["first"], chain["last"], chain["verified"]) == (1, last, last)
        assert chain["fault"] is None
        assert chain["checkpoint"] <= last
        # Somebody writes into the database.
        keyosk.audit.record(OPERATOR, "account.change", "account/2")
        keyosk.audit.seal()
        keyosk.database.raw.execute_sql(
            f"UPDATE audit_row SET target = 'x' WHERE sequence = 1 + {last}"
        )
        chain = ask(keyosk, "/audit/chain")
        assert (chain["verified"], chain["fault"]) == (last, f"row {last + 1} was changed")
        keyosk.database.raw.execute_sql("UPDATE checkpoint SET signature = 'x'")
        assert "is not ours" in ask(keyosk, "/audit/chain")["fault"]


# --- What is wrong, and how it is set -------------------------------------------------------------


def test_a_server_finds_what_is_wrong_with_it(prepared_url: str, backend: str) -> None:
    with installed(prepared_url) as keyosk:
        checks = {each["part"]: each for each in ask(keyosk, "/diagnosis")["checks"]}
        assert checks["database"]["found"].lower().startswith(backend)
        assert {"settings", "encoding", "rights", "clock", "keys", "proxies"} <= checks.keys()
        assert [part for part, each in checks.items() if each["status"] == "wrong"] == []
        keyosk.database.raw.execute_sql("UPDATE signing_key SET state = 'retired'")
        parts = {each["part"]: each for each in ask(keyosk, "/diagnosis")["checks"]}
        assert parts["keys"]["status"] == "wrong"


def test_a_server_says_of_many_issuers_what_is_wrong_and_how_much_more(prepared_url: str) -> None:
    with installed(prepared_url) as keyosk:
        for number in range(25):
            keyosk.issuers.create(
                OPERATOR, name=f"ci-{number}", preset="github", audience=f"x-{number}"
            )
        checks = ask(keyosk, "/diagnosis")["checks"]
        parts = [each["part"] for each in checks if "ci-" in each["part"]]
        assert set(parts) == {f"rules of ci-{number}" for number in range(20)}
        more = [(each["status"], each["found"]) for each in checks if each["part"] == "issuers"]
        assert ("not checked", "only 20 issuers and 100 rules are looked at here") not in more
        assert more == [("not checked", "21 more findings about issuers and rules")]


def test_settings_are_shown_with_their_secrets_masked(admin: Client) -> None:
    response = admin.get("/settings")
    items = {each["name"]: each for each in ok(response)["items"]}
    assert items["KEYOSK_BIND"]["source"] == "environment"
    assert items["KEYOSK_TOKEN_LIFETIME"] == {
        "name": "KEYOSK_TOKEN_LIFETIME",
        "value": "900",
        "source": "default",
    }
    for secret in (ADMIN_PASSWORD, SECRET_KEY, PASSWORD):
        assert secret not in response.text
    reader = make_person(admin, "keyosk:audit:read", "keyosk:accounts:read")
    for path in ("/settings", "/diagnosis"):
        assert reader.login().get(path).status_code == 403
