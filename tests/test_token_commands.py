"""keyosk token: what operators see and make of tokens."""

import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from live import Client, LiveServer
from people import Person, done, make_key, make_person, make_service
from test_commands import Done, keyosk

Run = Callable[..., Done]


@pytest.fixture
def run(server: LiveServer) -> Run:
    """Runs a command on the installation that the shared server serves."""
    return lambda *arguments, text="": keyosk(
        server.environment, server.folder, *arguments, text=text
    )


@pytest.fixture(scope="module")
def todo(admin: Client) -> str:
    return make_service(admin)


@pytest.fixture
def alice(server: LiveServer, admin: Client, todo: str) -> Person:
    return make_person(server, admin, f"{todo}:read")


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


# --- issue ----------------------------------------------------------------------------------------


def test_an_operator_makes_a_token_that_keyosk_takes(
    run: Run, server: LiveServer, admin: Client
) -> None:
    person = make_person(server, admin, "keyosk:audit:read")
    made = run("token", "issue", person.username, "--audience", "keyosk", "--lifetime", "60")
    assert made.code == 0
    assert Client(server.url, token=made.out.strip()).get("/audit").status_code == 200
    assert claims_of(made.out.strip())["exp"] - claims_of(made.out.strip())["iat"] == 60


def test_the_audit_log_tells_of_it_and_has_no_token(
    run: Run, admin: Client, alice: Person, todo: str
) -> None:
    key, _ = make_key(admin, alice)
    made = run("token", "issue", alice.id, "--api-key", key, "--json").json
    assert made["token_type"] == "Bearer"
    assert claims_of(made["access_token"])["key_id"] == key
    target = f"account/{alice.id}"
    found = done(admin.get(f"/audit?action=token.issue&target={target}"))["items"]
    (row,) = found
    assert row["actor_name"] == "operator"
    assert row["after"] == {
        "jti": claims_of(made["access_token"])["jti"],
        "audiences": [todo],
        "scopes": [f"{todo}:read"],
        "expires_in": made["expires_in"],
        "api_key": key,
    }
    assert made["access_token"] not in json.dumps(found)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--scope", "nobody:has"), "does not hold"),
        (("--audience", "nowhere"), "does not exist"),
        (("--scope", "offline_access"), "No refresh token"),
        (("--api-key", "nonsense"), "no such API key"),
    ],
)
def test_no_token_is_made_that_the_account_would_not_get(
    run: Run, alice: Person, options: tuple[str, ...], reason: str
) -> None:
    assert reason in run("token", "issue", alice.id, *options).refused()


def test_no_token_is_made_for_a_disabled_account(run: Run, admin: Client, alice: Person) -> None:
    done(admin.patch(alice.path, json={"enabled": False}))
    run("token", "issue", alice.id).refused()
    rows = done(admin.get(f"/audit?action=token.issue&target=account/{alice.id}"))["items"]
    assert rows == []


# --- inspect --------------------------------------------------------------------------------------


def test_a_token_is_shown_with_its_verdict(run: Run, admin: Client, alice: Person) -> None:
    text = run("token", "issue", alice.id).out
    seen = run("token", "inspect", "--json", text=text).json
    assert seen["verdict"] == "active"
    assert seen["claims"] == claims_of(text.strip())
    assert seen["header"] == jwt.get_unverified_header(text.strip())
    assert "verdict" in run("token", "inspect", text=text).out

    done(admin.delete(f"{alice.path}/tokens"))
    assert run("token", "inspect", "--json", text=text).json["verdict"] == "revoked"

    head, payload, _ = text.split(".")
    forged = f"{head}.{payload}.{'A' * 86}"
    assert run("token", "inspect", "--json", text=forged).json["verdict"] == "not_valid"


def test_a_token_cannot_write_to_the_terminal(run: Run) -> None:
    text = jwt.encode({"sub": "\x1b[2J\x9b2J", "\x1b]0;": 1}, "k" * 32, algorithm="HS256")
    seen = run("token", "inspect", text=text).out
    assert "not_valid" in seen
    assert not {"\x1b", "\x9b"} & set(seen)


@pytest.mark.parametrize("text", ["", "nonsense", "a.b.c"])
def test_what_is_no_token_is_said_to_be_none(run: Run, text: str) -> None:
    assert run("token", "inspect", text=text).refused() == "keyosk: This is no JWT.\n"


# --- explain --------------------------------------------------------------------------------------


def test_explain_says_what_the_api_says(run: Run, admin: Client, alice: Person, todo: str) -> None:
    key, _ = make_key(admin, alice)
    asked = {"audience": [todo], "scope": f"{todo}:read {todo}:write", "lifetime": 60}
    options = ("--audience", todo, "--scope", str(asked["scope"]), "--lifetime", "60")
    by_command = run("token", "explain", alice.username, "--api-key", key, *options, "--json").json
    body = {"account": alice.id, "api_key": key, **asked}
    assert by_command == done(admin.post("/auth/explain", json=body))

    seen = run("token", "explain", alice.username, *options).out
    assert f"{todo}:write  not_granted" in seen
    assert "invalid_scope" in seen
    assert f"{todo}:read  grant" in run("token", "explain", alice.username).out
