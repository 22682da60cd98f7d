"""What is refused is in the audit log, and nobody can flood the log with it."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from installed import Clock, installed, rows_of
from keyosk import app, delays
from keyosk.credentials import api_key_format
from keyosk.credentials.presented import candidates
from keyosk.errors import BadCredentials, InvalidGrant, Unavailable
from keyosk.installation import Installation
from keyosk.model import ADMIN, OPERATOR, Grant, Scope
from keyosk.tokens.issuing import TokenRequest

pytestmark = pytest.mark.every_database

MINUTE = 60


@pytest.fixture
def clock() -> Clock:
    now = int(time.time()) - 3_600
    return Clock(now - now % MINUTE)


@pytest.fixture
def keyosk(prepared_url: str, clock: Clock) -> Iterator[Installation]:
    with installed(prepared_url, clock=clock) as made:
        made.services.create(
            OPERATOR, name="todo", scopes=[Scope("todo:read")], refresh_allowed=True
        )
        made.grants.create_account(OPERATOR, [Grant(ADMIN), Grant("todo:read")], username="alice")
        yield made


@pytest.fixture
def client(keyosk: Installation) -> FlaskClient:
    return app.create_app(keyosk).test_client()


@pytest.fixture
def unhurried() -> Iterator[None]:
    """No response waits for the end of a second: the clock of these tests stands still."""
    before = delays.hold.set(lambda _: None)
    yield
    delays.hold.reset(before)


def key_of(keyosk: Installation) -> str:
    return keyosk.api_keys.create(OPERATOR, "alice", name="k").secret


def refused(client: FlaskClient, key: str, number: int = 0) -> Any:
    """A request that a rule refuses; each to a place of its own."""
    response = client.patch("/accounts/me", json={"enabled": False}, auth=("alice", key))
    assert response.status_code == 403, response.get_data()
    return response


def rows(keyosk: Installation, action: str) -> list[dict[str, Any]]:
    """The ``after`` of each row."""
    keyosk.audit.seal()
    sql = "SELECT after FROM audit_row WHERE action = ? ORDER BY sequence"
    return [json.loads(after) for (after,) in rows_of(keyosk, sql, action)]


def counted(found: list[dict[str, Any]]) -> int:
    return sum(after.get("count", 1) for after in found)


def test_what_a_rule_refuses_a_hundred_times_is_a_handful_of_rows(
    keyosk: Installation, client: FlaskClient, clock: Clock
) -> None:
    key = key_of(keyosk)
    for number in range(100):
        if number == 50:
            clock.now += MINUTE
        refused(client, key)
    clock.now += MINUTE
    refusals = rows(keyosk, "rule.refused")
    assert len(refusals) == 2 * (10 + 1)
    assert counted(refusals) == 100
    assert refusals[0]["reason"]
    (last,) = rows_of(
        keyosk,
        "SELECT actor_name, outcome, target FROM audit_row WHERE action = ? AND request_id IS NULL"
        " ORDER BY sequence DESC LIMIT 1",
        "rule.refused",
    )
    assert last == ("alice", "refused", None)
    assert keyosk.audit_verifier.verify().fault is None
    assert rows_of(keyosk, "SELECT count(*) FROM refusal") == [(0,)]


def test_many_keys_of_one_account_have_no_more_rows_but_one_each(
    keyosk: Installation, client: FlaskClient, clock: Clock
) -> None:
    keys = [key_of(keyosk) for _ in range(5)]
    for _ in range(10):
        for key in keys:
            refused(client, key)
    clock.now += MINUTE
    refusals = rows(keyosk, "rule.refused")
    assert len(refusals) == 10 + len(keys)
    assert counted(refusals) == 50


@pytest.mark.usefixtures("unhurried")
def test_refresh_tokens_that_come_back_are_few_rows(keyosk: Installation, clock: Clock) -> None:
    login = keyosk.authentication.by_secret(candidates([("alice", key_of(keyosk))]))
    for _ in range(30):
        asked = TokenRequest(scopes=("todo:read", "offline_access"))
        first = keyosk.token_issuer.by_login(login, asked).refresh_token or ""
        refresh = keyosk.token_issuer.by_refresh_token
        second = refresh(first, TokenRequest()).refresh_token or ""
        refresh(second, TokenRequest())
        with pytest.raises(InvalidGrant):
            refresh(first, TokenRequest())
    clock.now += MINUTE
    reuses = rows(keyosk, "session.reuse")
    assert (len(reuses), counted(reuses)) == (11, 30)


def test_failed_logins_from_a_thousand_addresses_are_a_handful_of_rows(
    keyosk: Installation, clock: Clock
) -> None:
    unknown = api_key_format.generate()
    for number in range(300):
        with pytest.raises(BadCredentials):
            keyosk.authentication.by_secret(
                candidates([("alice", unknown)]), address=f"2001:db8::{number:x}"
            )
    clock.now += MINUTE
    failures = rows(keyosk, "login.failed")
    assert counted(failures) == 300
    assert len(failures) <= 51


def test_what_cannot_be_noted_is_refused_all_the_same(
    keyosk: Installation, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of(keyosk)

    def away(*_: Any, **__: Any) -> None:
        raise Unavailable("The database is not available.")

    monkeypatch.setattr(keyosk.audit, "refuse", away)
    refused(client, key)
