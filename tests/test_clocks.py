"""A clock that is wrong, or was: what it has stored binds nobody once the clock is right again.

Each test runs with clocks that were ahead or behind by a second to ten years. ``two`` is a second
node on the same database, whose clock is another.
"""

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from installed import Clock, delays_noted, installed, rows_of, settings, with_todo
from keyosk import app
from keyosk.credentials.presented import candidates
from keyosk.errors import BadCredentials, BadToken, InvalidGrant, Throttled
from keyosk.installation import Installation
from keyosk.model import KEYOSK, OPERATOR, Grant, KeyState
from keyosk.storage.shared_clock import SharedClock
from keyosk.tokens.issuing import TokenRequest
from live import ADMIN_PASSWORD
from people import PASSWORD, claims_of
from waiting import until

pytestmark = pytest.mark.every_database

HERE, THERE = "192.0.2.1", "198.51.100.7"
DAY, YEAR = 86_400, 365 * 86_400
JUMPS = [1, 3_600, DAY, 10 * YEAR]
# An hour is beyond all windows of throttling as a day is, and short of all that lasts for longer.
both_ways = pytest.mark.parametrize("jump", [1, DAY, 10 * YEAR, -1, -DAY, -10 * YEAR])
ahead = pytest.mark.parametrize("jump", JUMPS)
far_ahead = pytest.mark.parametrize("jump", JUMPS[1:])
_keys = itertools.count()


@pytest.fixture
def clock() -> Clock:
    return Clock(int(time.time()) - 60)  # PyJWT has the real clock


@pytest.fixture
def keyosk(prepared_url: str, clock: Clock) -> Iterator[Installation]:
    with with_todo(prepared_url, clock) as made:
        made.grants.create_account(
            OPERATOR,
            [Grant("todo:read"), Grant("keyosk:services:read")],
            username="alice",
            password=PASSWORD,
        )
        yield made


@pytest.fixture
def two(keyosk: Installation, prepared_url: str, clock: Clock) -> Iterator[Installation]:
    """Another node, whose clock is the same until the test sets it."""
    with installed(prepared_url, clock=Clock(clock.now)) as made:
        yield made


def attempt(keyosk: Installation, secret: str = PASSWORD, *, address: str = HERE) -> str:
    """How a login of alice's ends."""
    try:
        keyosk.authentication.by_secret(candidates([("alice", secret)]), address=address)
    except BadCredentials:
        return "wrong"
    except Throttled:
        return "throttled"
    return "in"


def token(keyosk: Installation, *, audience: str = KEYOSK) -> str:
    login = keyosk.authentication.by_secret(candidates([("alice", PASSWORD)]), address=HERE)
    return keyosk.token_issuer.by_login(login, TokenRequest(targets=(audience,))).token.text


def is_taken(keyosk: Installation, text: str) -> bool:
    """Whether Keyosk's own API takes a token."""
    try:
        keyosk.authentication.by_token(keyosk.tokens.verify(text, audience=KEYOSK), audience=KEYOSK)
    except BadToken:
        return False
    return True


def id_of(keyosk: Installation, username: str = "alice") -> str:
    return keyosk.accounts.get(username).id


# --- Throttling -----------------------------------------------------------------------------------


@both_ways
def test_a_right_login_by_a_wrong_clock_locks_nobody_out(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    clock.now += jump
    assert attempt(keyosk) == "in"
    clock.now -= jump
    assert [attempt(keyosk) for _ in range(15)] == ["in"] * 15
    assert attempt(keyosk, address=THERE) == "in"


@both_ways
def test_wrong_guesses_by_wrong_clocks_count(keyosk: Installation, clock: Clock, jump: int) -> None:
    clock.now += jump
    assert [attempt(keyosk, "not it") for _ in range(5)] == ["wrong"] * 5
    clock.now -= jump
    assert attempt(keyosk) == "in"
    ended = [attempt(keyosk, "not it") for _ in range(12)]
    # Of twelve at once five are used up, unless the clock that was behind says it was long ago.
    assert ended.count("wrong") == (7 if jump > -1_500 else 12)
    clock.now += 301
    assert attempt(keyosk) == "in"


@far_ahead
def test_who_was_refused_by_a_clock_ahead_waits_no_longer_than_usual(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    clock.now += jump
    assert attempt(keyosk, "not it") == "wrong"
    while attempt(keyosk, "not it") == "wrong":
        pass
    clock.now -= jump
    with pytest.raises(Throttled) as refused:
        keyosk.authentication.by_secret(candidates([("alice", PASSWORD)]), address=HERE)
    assert refused.value.retry_after <= 300
    clock.now += 300
    assert attempt(keyosk) == "in"


@pytest.mark.slow
@both_ways
def test_two_nodes_whose_clocks_differ_give_no_more_guesses_than_twice(
    keyosk: Installation, two: Installation, clock: Clock, jump: int
) -> None:
    two.clock.now += jump  # type: ignore[attr-defined]
    ended = []
    for _ in range(60):
        ended += [attempt(keyosk, "not it"), attempt(two, "not it")]
        for each in (clock, two.clock):
            each.now += 1  # type: ignore[attr-defined]
    assert ended.count("wrong") <= 13


@pytest.mark.slow
@both_ways
def test_two_nodes_whose_clocks_differ_lock_nobody_out(
    keyosk: Installation, two: Installation, clock: Clock, jump: int
) -> None:
    two.clock.now += jump  # type: ignore[attr-defined]
    assert [attempt(each) for _ in range(12) for each in (keyosk, two)] == ["in"] * 24


@far_ahead
def test_places_that_a_clock_ahead_has_noted_do_not_drive_out_those_after_them(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    clock.now += jump
    for number in range(20):
        assert attempt(keyosk, address=f"203.0.113.{number}") == "in"
    clock.now -= jump
    assert attempt(keyosk, address=THERE) == "in"
    for _ in range(3):  # the account's own allowance is used up from elsewhere
        for number in range(1, 15):
            attempt(keyosk, "not it", address=f"198.51.100.{100 + number}")
    assert attempt(keyosk, address=THERE) == "in"


@pytest.fixture
def slept() -> Iterator[list[float]]:
    """For how long responses were to wait, not for how long a busy machine has them wait."""
    with delays_noted() as times:
        yield times


# --- Tokens and revocations -----------------------------------------------------------------------


@far_ahead
def test_an_account_that_was_revoked_by_a_clock_ahead_gets_tokens_of_now(
    keyosk: Installation, clock: Clock, slept: list[float], jump: int
) -> None:
    before = token(keyosk)
    assert is_taken(keyosk, before)
    clock.now += jump
    keyosk.accounts.revoke_tokens(OPERATOR, "alice")
    clock.now -= jump
    clock.now += 1

    after = token(keyosk)
    assert sum(slept) < 1.5
    assert claims_of(after)["iat"] == int(clock.now)
    assert claims_of(after)["exp"] == int(clock.now) + 900
    assert (is_taken(keyosk, before), is_taken(keyosk, after)) == (False, True)


@far_ahead
def test_an_operator_gets_a_token_of_now_and_an_explanation_changes_nothing(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    clock.now += jump
    keyosk.accounts.revoke_tokens(OPERATOR, "alice")
    clock.now -= jump
    clock.now += 1
    account = id_of(keyosk)
    stored = "SELECT tokens_from FROM account WHERE id = ?"
    wrong = rows_of(keyosk, stored, account)

    asked = TokenRequest(targets=(KEYOSK,))
    told = keyosk.explainer.explain(account, asked)
    assert told.preview is not None
    assert told.preview.claims["iat"] == int(clock.now)
    assert keyosk.authentication.preview_login(account, None).tokens_from == int(clock.now)
    assert rows_of(keyosk, stored, account) == wrong

    login = keyosk.authentication.preview_login(account, None, to_issue=True)
    text = keyosk.token_issuer.by_operator(OPERATOR, login, asked).token.text
    assert claims_of(text)["iat"] == int(clock.now)
    assert is_taken(keyosk, text)


@far_ahead
def test_an_api_key_that_was_touched_by_a_clock_ahead_gets_tokens_of_now(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    api_key = keyosk.api_keys.create(OPERATOR, "alice", name="k")
    clock.now += jump
    keyosk.api_keys.change(OPERATOR, "alice", api_key.key.id, {"scopes": ["todo:read"]})
    clock.now -= jump
    login = keyosk.authentication.by_secret(candidates([("alice", api_key.secret)]), address=HERE)
    issued = keyosk.token_issuer.by_login(login, TokenRequest()).token
    assert claims_of(issued.text)["iat"] == int(clock.now)


@far_ahead
def test_entries_of_a_clock_ahead_do_not_revoke_what_is_issued_after_them(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    client = app.create_app(keyosk).test_client()
    clock.now += jump
    keyosk.accounts.revoke_tokens(OPERATOR, "alice")
    seen = feed(client)
    clock.now -= jump
    clock.now += 1
    (entry,) = of(feed(client), id_of(keyosk))
    assert entry["issued_before"] <= int(clock.now)
    assert entry["expires"] <= int(clock.now) + 900
    # Whoever polls by number and had the wrong one is told to forget it.
    later = feed(client, seen["sequence"])
    assert later["since"] == 0
    assert of(later, id_of(keyosk)) == [entry]
    again = feed(client, later["sequence"])
    assert (again["since"], again["entries"]) == (later["sequence"], [])


@far_ahead
def test_keyosk_takes_tokens_after_its_audience_was_revoked_by_a_clock_ahead(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    clock.now += jump
    with keyosk.database.transaction():
        keyosk.revocations.revoke_audiences([KEYOSK])
    clock.now -= jump
    clock.now += 1
    assert is_taken(keyosk, token(keyosk))


@pytest.mark.parametrize("jump", [1, 3_000])
def test_a_clock_ahead_for_a_moment_ends_no_revocation(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    client = app.create_app(keyosk).test_client()
    keyosk.accounts.revoke_tokens(OPERATOR, "alice")
    keyosk.grants.create_account(OPERATOR, [], username="bob")
    clock.now += jump
    keyosk.accounts.revoke_tokens(OPERATOR, "bob")
    clock.now -= jump
    assert of(feed(client), id_of(keyosk))


def feed(client: FlaskClient, since: int = 0) -> dict[str, Any]:
    response: dict[str, Any] = client.get(f"/auth/revocations?since={since}").get_json()
    return response


def of(document: dict[str, Any], account: str) -> list[dict[str, Any]]:
    return [entry for entry in document["entries"] if entry.get("sub") == account]


@pytest.mark.parametrize("jump", [1, 2])
def test_a_token_of_a_node_that_is_a_little_ahead_is_taken(
    keyosk: Installation, two: Installation, jump: int
) -> None:
    two.clock.now += jump  # type: ignore[attr-defined]
    assert is_taken(keyosk, token(two))


@far_ahead
def test_a_token_of_a_clock_far_ahead_is_not_taken(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    clock.now += jump
    text = token(keyosk)
    clock.now -= jump
    assert not is_taken(keyosk, text)


# --- Sessions, repeated requests ------------------------------------------------------------------


def begin(keyosk: Installation) -> str:
    login = keyosk.authentication.by_secret(candidates([("alice", PASSWORD)]), address=HERE)
    asked = TokenRequest(scopes=("todo:read", "offline_access"))
    text = keyosk.token_issuer.by_login(login, asked).refresh_token
    assert text is not None
    return text


def refreshed(keyosk: Installation, text: str) -> str:
    """The refresh token that follows another."""
    following = keyosk.token_issuer.by_refresh_token(text, TokenRequest()).refresh_token
    assert following is not None
    return following


@far_ahead
def test_a_refresh_token_used_by_a_clock_ahead_is_not_good_twice_until_then(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    first = begin(keyosk)
    clock.now += min(jump, 29 * DAY)
    second = refreshed(keyosk, first)
    clock.now -= min(jump, 29 * DAY)
    with pytest.raises(InvalidGrant):
        refreshed(keyosk, first)
    with pytest.raises(InvalidGrant):
        refreshed(keyosk, second)


@pytest.mark.parametrize("jump", [1, -1])
def test_a_lost_answer_is_given_again_by_a_node_whose_clock_differs(
    keyosk: Installation, two: Installation, jump: int
) -> None:
    two.clock.now += jump  # type: ignore[attr-defined]
    first = begin(keyosk)
    assert refreshed(keyosk, first) == refreshed(two, first)


@far_ahead
def test_a_session_that_a_clock_ahead_began_lasts_no_longer_than_others(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    clock.now += jump
    text = begin(keyosk)
    clock.now -= jump
    text = refreshed(keyosk, text)
    clock.now += 30 * DAY - 1
    text = refreshed(keyosk, text)
    clock.now += 1
    with pytest.raises(InvalidGrant):
        refreshed(keyosk, text)


def test_a_clock_ahead_for_a_moment_ends_no_session(keyosk: Installation, clock: Clock) -> None:
    text = begin(keyosk)
    clock.now += 30 * DAY + 3_600
    begin(keyosk)
    clock.now -= 30 * DAY + 3_600
    assert refreshed(keyosk, text)


@far_ahead
def test_a_secret_that_a_clock_ahead_kept_is_repeated_no_longer_than_others(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    client = app.create_app(keyosk).test_client()
    number = next(_keys)

    def post(key: str) -> Any:
        login = ("admin", ADMIN_PASSWORD)
        headers = {"Idempotency-Key": key}
        body = {"name": "k"}
        path = f"/accounts/{id_of(keyosk)}/api-keys"
        return client.post(path, json=body, headers=headers, auth=login).get_json()

    clock.now += jump
    first = post(f"k{number}")
    clock.now -= jump
    assert post(f"k{number}") == first
    clock.now += 601
    later = post(f"k{number}")
    assert (later["id"], later.get("secret")) == (first["id"], None)
    clock.now += DAY
    assert post(f"k{number}")["id"] != first["id"]


# --- Signing keys ---------------------------------------------------------------------------------


def settle(keyosk: Installation, clock: Clock) -> None:
    """Have the key of the template, which the real clock made, be a day old by this one."""
    began = int(clock.now) - DAY
    keyosk.database.raw.execute_sql(
        f"UPDATE signing_key SET active_from = {began},"
        f" published_at = {began}, created_at = {began}"
    )
    keyosk.signing_keys.refresh()


@far_ahead
def test_a_key_that_a_clock_ahead_made_signs_without_a_wait(
    keyosk: Installation, clock: Clock, slept: list[float], jump: int
) -> None:
    settle(keyosk, clock)
    clock.now += jump
    keyosk.rotation.compromise(OPERATOR, keyosk.signing_keys.current.default.kid)
    clock.now -= jump
    for _ in range(3):
        keyosk.signing_keys.signer(None)
    assert sum(slept) < 1.5


@ahead
def test_keys_of_a_clock_ahead_go_in_time(keyosk: Installation, clock: Clock, jump: int) -> None:
    """By at most two days later than if the clock had been right."""
    settle(keyosk, clock)
    plan = keyosk.rotation.policy
    clock.now += jump
    keyosk.rotation.rotate(OPERATOR, now=True)
    clock.now += 3
    keyosk.key_schedule.advance()
    clock.now -= jump
    keyosk.key_schedule.advance()
    clock.now += 2 * DAY + plan.retain + 900
    assert [key.state for key in keyosk.rotation.all()] == [KeyState.GONE, KeyState.ACTIVE]
    clock.now += plan.rotate_every + plan.publish_ahead
    keyosk.key_schedule.advance()
    clock.now += plan.publish_ahead + 1
    states = [key.state for key in keyosk.rotation.all()]
    assert states[0] is KeyState.GONE
    assert sorted(states[1:]) == [KeyState.ACTIVE, KeyState.RETIRED]


def test_a_key_announced_by_a_clock_ahead_signs(keyosk: Installation, clock: Clock) -> None:
    settle(keyosk, clock)
    clock.now += 10 * YEAR
    keyosk.key_schedule.advance()  # the key is old then
    (_, new) = (key.kid for key in keyosk.rotation.all())
    clock.now -= 10 * YEAR
    keyosk.key_schedule.advance()
    clock.now += keyosk.rotation.policy.publish_ahead + 1
    keyosk.key_schedule.advance()
    assert keyosk.signing_keys.signer(None).kid == new


@both_ways
def test_a_clock_that_was_wrong_leaves_a_key_that_signs(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    settle(keyosk, clock)
    clock.now += jump
    keyosk.key_schedule.advance()
    keyosk.signing_keys.signer(None)
    clock.now -= jump
    keyosk.key_schedule.advance()
    published = json.loads(keyosk.signing_keys.current.document.text)["keys"]
    assert keyosk.signing_keys.signer(None).kid in [key["kid"] for key in published]


# --- What is noted --------------------------------------------------------------------------------


@far_ahead
def test_uses_are_noted_again_once_the_clock_is_right(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    clock.now += jump
    keyosk.authentication.record_use(
        keyosk.authentication.by_secret(candidates([("alice", PASSWORD)]))
    )
    clock.now -= jump
    keyosk.authentication.record_use(
        keyosk.authentication.by_secret(candidates([("alice", PASSWORD)]))
    )
    assert keyosk.accounts.get("alice").last_login_at == int(clock.now)


@pytest.mark.parametrize("jump", [DAY, 10 * YEAR])
def test_failed_logins_of_a_clock_ahead_come_into_the_log(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    clock.now += jump
    attempt(keyosk, "not it")
    clock.now -= jump
    keyosk.audit.seal()
    assert rows_of(keyosk, "SELECT count(*) FROM audit_row WHERE action = 'login.failed'") == [(1,)]


@pytest.mark.parametrize("jump", [DAY, 10 * YEAR])
def test_checkpoints_go_on_after_one_of_a_clock_ahead(
    keyosk: Installation, clock: Clock, jump: int
) -> None:
    clock.now += jump
    keyosk.audit.seal()
    clock.now -= jump
    keyosk.accounts.revoke_tokens(OPERATOR, "alice")
    keyosk.audit.seal()
    (newest,) = rows_of(keyosk, "SELECT time FROM checkpoint ORDER BY sequence DESC LIMIT 1")
    assert newest == (int(clock.now),)
    assert keyosk.audit_verifier.verify().fault is None


def test_a_node_with_a_wrong_clock_sets_up_and_rotates_by_postgresqls(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old key stays until the last token that it signed has expired, by the right clock."""
    right = time.time()
    monkeypatch.setattr(time, "time", lambda: right - 3_600)
    app.prepare(settings(postgresql_url))
    clock = SharedClock()
    with installed(postgresql_url, clock=clock) as keyosk:
        clock.start(keyosk.database)
        (first,) = keyosk.rotation.all()
        assert right - 1 <= first.published_at < right + 600
        keyosk.rotation.rotate(OPERATOR, now=True)
        until(lambda: keyosk.rotation.get(first.kid).state is KeyState.RETIRED)
        gone_at = keyosk.rotation.get(first.kid).gone_at
        assert gone_at is not None
        assert gone_at > right + keyosk.revocations.longest_lifetime()
