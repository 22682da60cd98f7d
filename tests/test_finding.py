"""Commands that find and change things, on the machine itself and from another one."""

import hashlib
import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyosk.credentials import api_key_format
from live import Client, LiveServer, unique
from people import PASSWORD, can_log_in, make_key, make_person, ok
from tables import table
from terminal import Done, keyosk
from test_remote import Terminal

Run = Callable[..., Done]
FAR = "2090-01-01T00:00:00Z"
PAST = "2020-01-01T00:00:00Z"


@pytest.fixture(params=["here", "remote"])
def run(request: pytest.FixtureRequest, server: LiveServer, tmp_path: Path) -> Run:
    """Runs a command as the operator, or as the admin from another machine."""
    if request.param == "remote":
        return Terminal(tmp_path, server.url).logged_in().run
    return lambda *arguments, text="": keyosk(
        server.environment, server.folder, *arguments, text=text
    )


def command(server: LiveServer, *arguments: str, text: str = "") -> Done:
    return keyosk(server.environment, server.folder, *arguments, text=text)


# --- api-key find ---------------------------------------------------------------------------------


def test_a_leaked_key_is_found_by_its_prefix_and_ended_as_is_said(
    run: Run, server: LiveServer, admin: Client
) -> None:
    person = make_person(admin)
    key, secret = make_key(admin, person)
    result = run("api-key", "find", secret[:12])
    assert (result.code, result.err) == (0, "")
    assert ["username", person.username] in [line.split() for line in result.out.splitlines()]
    assert secret[12:] not in result.out
    last_line = result.out.splitlines()[-1]
    ending = f"keyosk api-key delete {person.username} {key}"
    assert last_line == f"It works. To end it and its tokens now: {ending}"
    assert run(*ending.split()[1:]).code == 0
    assert not can_log_in(server, person.username, secret)
    assert run("api-key", "find", secret[:12]).refused() == (
        f"keyosk: No API key begins with {secret[:12]}: it was deleted, or is not of here.\n"
    )


@pytest.mark.parametrize("ending", ["\n", "\r\n", "", "  \nmore\n"])
def test_a_secret_on_standard_input_names_its_owner_and_is_not_shown(
    run: Run, admin: Client, ending: str
) -> None:
    person = make_person(admin)
    key, secret = make_key(admin, person)
    result = run("api-key", "find", text=secret + ending)
    assert result.code == 0, result.err
    assert person.username in result.out
    assert secret[12:] not in result.out + result.err
    assert run("api-key", "find", "--quiet", text=secret).out == f"{person.username}\n"
    assert run("api-key", "find", "-", "--quiet", text=secret).out == f"{person.username}\n"
    (item,) = run("api-key", "find", "--json", text=secret).json["items"]
    assert (item["id"], item["username"], item["works"]) == (key, person.username, True)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert ok(admin.get("/api-keys", params={"digest": digest}))["items"][0]["id"] == key


@pytest.mark.attack
def test_a_secret_that_only_begins_like_a_key_accuses_nobody_of_it(run: Run, admin: Client) -> None:
    _, secret = make_key(admin, make_person(admin))
    body = secret[:12] + "0" * 25
    forged = body + api_key_format._checksum(body)
    refusal = run("api-key", "find", text=forged).refused()
    assert "No API key has this secret" in refusal
    assert "which is another one" in refusal
    assert forged[12:] not in refusal
    assert "not a whole API key" in run("api-key", "find", text=secret[:40]).refused()
    assert "begins with kysk_" in run("api-key", "find", text="a password\n").refused()
    assert "begins with kysk_" in run("api-key", "find", text="").refused()


@pytest.mark.attack
def test_a_secret_as_an_argument_is_refused_and_goes_nowhere(run: Run, admin: Client) -> None:
    _, secret = make_key(admin, make_person(admin))
    refusal = run("api-key", "find", secret).refused()
    assert "delete that key" in refusal
    assert secret[:13] not in refusal


def test_why_a_found_key_does_not_work_is_said(run: Run, admin: Client) -> None:
    person = make_person(admin)
    key, secret = make_key(admin, person)
    ok(admin.patch(f"{person.path}/api-keys/{key}", json={"enabled": False, "expires_at": PAST}))
    ok(admin.patch(person.path, json={"enabled": False}))
    last_line = run("api-key", "find", secret[:12]).out.splitlines()[-1]
    assert last_line.startswith(
        f"It does not work: the key is disabled, the key expired at {PAST}, the account is "
        "disabled. To delete it for good: keyosk api-key delete "
    )


@pytest.mark.attack
def test_nobody_without_the_scope_finds_a_key(server: LiveServer, admin: Client) -> None:
    person = make_person(admin)
    _, secret = make_key(admin, person)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    other = make_person(admin, "keyosk:services:write")
    for client in (person.bearer(), other.bearer(), person.login(secret), server.client()):
        for query in ({}, {"prefix": secret[:12]}, {"digest": digest}, {"owner": person.username}):
            response = client.get("/api-keys", params=query)
            assert response.status_code in (401, 403)
            assert person.username not in response.text


# --- Commands that were missing -------------------------------------------------------------------


def test_an_account_is_changed_by_the_options_that_are_given(run: Run, admin: Client) -> None:
    name, new = unique("before"), unique("after")
    run("account", "create", name, "--display-name", "Ann")
    changed = run(
        *("account", "set", name, "--username", new, "--expires-at", "2090-01-01"),
        *("--claims", '{"team": "blue", "n": 1}', "--metadata", '{"ticket": 7}', "--json"),
    ).json
    assert (changed["username"], changed["expires_at"]) == (new, FAR)
    assert changed["display_name"] == "Ann"
    assert changed == admin.get(f"/accounts/{new}").json()
    again = run(
        *("account", "set", new, "--claims", '{"n": null}', "--display-name", ""),
        *("--reset", "expires_at", "--json"),
    ).json
    assert (again["claims"], again["display_name"]) == ({"team": "blue"}, "")
    assert (again["expires_at"], again["metadata"]) == (None, {"ticket": 7})
    assert "nothing to change" in run("account", "set", new).err
    for wrong in ("[]", "{", "1", '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 50_000):
        assert run("account", "set", new, "--claims", wrong).code == 2


def test_a_key_is_shown_changed_disabled_and_enabled(run: Run, server: LiveServer) -> None:
    name = unique("keys")
    run("account", "create", name)
    created = run("api-key", "create", name, "laptop", "--json").json
    assert run("api-key", "show", name, created["id"], "--json").json == {
        field: value for field, value in created.items() if field != "secret"
    }
    changed = run(
        *("api-key", "set", name, created["id"], "--name", "desk", "--network", "10.0.0.0/8"),
        *("--expires-at", "2090-01-01", "--json"),
    ).json
    assert (changed["name"], changed["networks"]) == ("desk", ["10.0.0.0/8"])
    assert changed["expires_at"] == FAR
    reset = ("--reset", "networks", "--reset", "expires_at")
    again = run("api-key", "set", name, created["id"], *reset, "--json").json
    assert (again["networks"], again["expires_at"]) == (None, None)
    assert run("api-key", "disable", name, created["id"]).code == 0
    assert not can_log_in(server, name, created["secret"])
    assert run("api-key", "enable", name, created["id"]).code == 0
    assert can_log_in(server, name, created["secret"])


def test_a_role_is_shown_and_changed(run: Run, admin: Client) -> None:
    name, new = unique("role"), unique("role")
    run("role", "create", name)
    changed = run("role", "set", name, "--name", new, "--description", "Reads.", "--json").json
    assert (changed["name"], changed["description"]) == (new, "Reads.")
    assert run("role", "show", new, "--json").json == changed == admin.get(f"/roles/{new}").json()
    assert run("role", "show", name).refused() == f"keyosk: {name}: no such role\n"


def test_sessions_are_listed_and_revoked_one_by_one(run: Run, admin: Client) -> None:
    person = make_person(admin)
    for _ in range(2):
        form = {"audience": "keyosk", "scope": "offline_access"}
        ok(person.login().post("/auth/token", data=form))
    first, second = run("session", "list", person.username, "--quiet").out.split()
    assert first == run("session", "list", person.username, "--limit", "1", "--quiet").out.strip()
    assert run("session", "revoke", person.username, first).code == 0
    assert run("session", "list", person.username, "--quiet").out.split() == [second]
    assert run("session", "revoke", person.username, first).refused() == (
        f"keyosk: {first}: no such session of {person.username}\n"
    )


# --- Filters, limits and what scripts read --------------------------------------------------------


def test_lists_filter_and_stop_at_a_limit(run: Run, server: LiveServer) -> None:
    names = sorted(unique("filtered") for _ in range(3))
    for name in names:
        run("account", "create", name, "--kind", "machine")
    run("account", "disable", names[0])
    mine = ("account", "list", "--query", "filtered-", "--sort", "username", "--quiet")
    assert set(names) <= set(run(*mine).out.split())
    assert names[0] in run(*mine, "--disabled").out.split()
    assert names[0] not in run(*mine, "--enabled", "--kind", "machine").out.split()
    assert run(*mine, "--kind", "person").out == ""
    assert len(run(*mine, "--limit", "2").out.split()) == 2
    assert len(run("account", "list", "--limit", "1", "--json").json["items"]) == 1
    assert run(*mine, "--limit", "0").code == 2
    key = run("api-key", "create", names[1], "k", "--expires-at", "2090-01-01", "--json").json
    of_one = ("api-key", "list", names[1], "--quiet")
    assert run(*of_one, "--expires-before", "2091-01-01").out == f"{key['id']}\n"
    assert run(*of_one, "--networks", "limited").out == ""
    of_all = run("api-key", "list", "--unused-since", "2099-01-01", "--json").json["items"]
    assert (key["id"], names[1]) in [(item["id"], item["username"]) for item in of_all]


def test_quiet_prints_the_one_value_that_a_script_needs(run: Run, server: LiveServer) -> None:
    name = unique("quiet")
    account_id = run("account", "create", name, "--quiet").out
    assert account_id.strip() == run("account", "show", name, "--json").json["id"]
    secret = run("api-key", "create", name, "k", "-q").out
    assert can_log_in(server, name, secret.strip())
    assert secret.count("\n") == 1
    both = run("account", "list", "--quiet", "--json")
    assert (both.code, both.out) == (2, "")


def test_the_audit_log_is_filtered_by_credential_and_from_its_end(run: Run, admin: Client) -> None:
    person = make_person(admin, "keyosk:accounts:write", "keyosk:accounts:read")
    key, secret = make_key(admin, person)
    name = unique("by-key")
    ok(person.login(secret).post("/accounts", json={"username": name}), 201)
    rows = [
        json.loads(line)
        for line in run("audit", "list", "--credential", key, "--json").out.splitlines()
    ]
    assert "account.create" in {row["action"] for row in rows}
    assert {row["credential"] for row in rows} == {key}
    newest = run("audit", "list", "--newest", "--limit", "1", "--json").out
    assert json.loads(newest)["sequence"] >= rows[-1]["sequence"]


# --- Messages -------------------------------------------------------------------------------------


@table(
    ("arguments", "message"),
    [
        (("account", "show", "zoe"), "zoe: no such account"),
        (("account", "delete", "zoe"), "zoe: no such account"),
        (("grant", "list", "zoe"), "zoe: no such account"),
        (("api-key", "show", "zoe", "k"), "zoe: no such account"),
        (
            ("api-key", "show", "admin", "k"),
            "k: no such API key of admin; see keyosk api-key list admin",
        ),
        (("session", "revoke", "admin", "s"), "s: no such session of admin"),
        (("service", "show", "shop"), "shop: no such service"),
        (("role", "delete", "boss"), "boss: no such role"),
        (("account", "show", "a/b"), "a/b: no such account"),
        (("account", "show", ""), "'': no such account"),
        (("signing-key", "retire", "x"), "x: no such signing key"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_message_names_what_is_not_there(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    assert run(*arguments).refused() == f"keyosk: {message}\n"


def test_force_says_before_what_it_would_take_away_and_from_whom(run: Run, admin: Client) -> None:
    role, holder = unique("role"), unique("holder")
    run("role", "create", role)
    run("account", "create", holder)
    run("grant", "add", holder, role, "--role")
    assert run("role", "delete", role).refused() == (
        f"keyosk: The role {role} is still granted to 1 account ({holder}). "
        "Repeat with --force to remove it.\n"
    )
    assert run("role", "delete", role, "--force").code == 0


@pytest.mark.attack
def test_who_may_not_see_accounts_is_not_told_who_holds_a_scope(admin: Client) -> None:
    writer = make_person(admin, "keyosk:services:write")
    role, holder = unique("role"), unique("holder")
    ok(admin.post("/roles", json={"name": role, "scopes": []}), 201)
    ok(admin.post("/accounts", json={"username": holder, "grants": {"roles": [role]}}), 201)
    refused = writer.bearer().delete(f"/roles/{role}")
    assert refused.json()["detail"] == f"The role {role} is still granted to 1 account."
    assert holder in admin.delete(f"/roles/{role}").json()["detail"]


def test_a_command_used_wrongly_has_the_prefix_of_all_errors(tmp_path: Path) -> None:
    for arguments in (("nonsense",), ("account", "create"), ("account", "list", "--nonsense")):
        result = keyosk({}, tmp_path, *arguments)
        assert result.code == 2
        assert result.err.splitlines()[-1].startswith("keyosk: ")
        assert "Error: " not in result.err


# --- On a terminal --------------------------------------------------------------------------------


def on_terminal(server: LiveServer, *arguments: str, typed: str) -> tuple[int, str]:
    """Run a command whose three streams are a terminal; returns its exit code and what it shows."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "keyosk", *arguments],
        cwd=server.folder,
        env={"PATH": os.environ["PATH"], "TERM": "xterm", **server.environment},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    output, answered = b"", False
    try:
        while select.select([controller], [], [], 60)[0]:
            try:
                piece = os.read(controller, 4096)
            except OSError:  # the other end was closed
                break
            output += piece
            if typed and not answered and b"[y/N]" in output:
                os.write(controller, typed.encode())
                answered = True
        return process.wait(60), output.decode()
    finally:
        process.kill()
        process.wait()
        os.close(controller)


@pytest.mark.slow
def test_what_cannot_be_undone_is_asked_at_a_terminal(server: LiveServer, admin: Client) -> None:
    name = unique("asked")
    ok(admin.post("/accounts", json={"username": name}), 201)
    code, shown = on_terminal(server, "account", "delete", name, typed="n\n")
    assert code == 1
    assert f"Delete the account {name} with its password, API keys and grants? [y/N]" in shown
    assert "keyosk: Nothing was changed." in shown
    assert admin.get(f"/accounts/{name}").status_code == 200
    code, _ = on_terminal(server, "account", "delete", name, typed="y\n")
    assert code == 0
    assert admin.get(f"/accounts/{name}").status_code == 404


@pytest.mark.slow
def test_yes_answers_before_and_a_script_is_not_asked(server: LiveServer, admin: Client) -> None:
    first, second = unique("asked"), unique("asked")
    for name in (first, second):
        ok(admin.post("/accounts", json={"username": name}), 201)
    code, shown = on_terminal(server, "account", "delete", first, "--yes", typed="")
    assert (code, "[y/N]" in shown) == (0, False)
    assert command(server, "account", "delete", second).code == 0
    for name in (first, second):
        assert admin.get(f"/accounts/{name}").status_code == 404


def test_a_person_with_a_password_changes_their_own_key_with_its_proof(
    server: LiveServer, admin: Client, tmp_path: Path
) -> None:
    person = make_person(admin)
    key, secret = make_key(admin, person)
    remote = Terminal(tmp_path, server.url).logged_in(person.username, PASSWORD)
    result: Any = remote.run("api-key", "set", "me", key, "--name", "mine", text=f"{PASSWORD}\n")
    assert result.code == 0, result.err
    assert ok(admin.get(f"{person.path}/api-keys/{key}"))["name"] == "mine"
    # Whose a key is, is for those who may see accounts.
    assert "keyosk:accounts:read" in remote.run("api-key", "find", secret[:12]).refused()
