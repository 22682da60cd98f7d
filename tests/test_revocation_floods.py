"""One account that revokes a great many of its own tokens: it fills no list, and none comes back.

Nobody who polls may miss a revocation because another entry took its place.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from installed import Clock, installed, rows_of, statements_with_values, with_todo
from keyosk.credentials.authentication import caller_of
from keyosk.credentials.presented import candidates
from keyosk.errors import BadToken, InvalidGrant
from keyosk.installation import Installation
from keyosk.model import KEYOSK, OPERATOR, Grant, ListQuery, Scope
from keyosk.revocations import MOST_KEYS, MOST_TOKENS
from keyosk.times import rfc3339
from keyosk.tokens.issuing import TokenRequest
from live import Client, LiveServer
from people import PASSWORD, Person, claims_of, make_key, make_person, make_service, ok

pytestmark = pytest.mark.every_database

#: Besides single tokens an account may have one entry for all that came before them.
BOUND = MOST_TOKENS + 1
_names = (f"person-{number}" for number in itertools.count())


class Follower:
    """Who polls: as docs/explanation/revocation.md says, or for the whole list each time."""

    def __init__(self, keyosk: Installation, *, whole: bool = False) -> None:
        self.keyosk = keyosk
        self.whole = whole
        self.sequence = 0
        self.entries: list[Any] = []

    def poll(self) -> None:
        told = self.keyosk.revocation_list.published(0 if self.whole else self.sequence)
        known = self.entries if told.since == self.sequence else []
        self.entries, self.sequence = [*known, *told.revocations], told.sequence

    def refuses(self, text: str) -> bool:
        claims = claims_of(text)
        return any(
            claims.get(entry.claim.value) == entry.value
            and (entry.issued_before is None or claims["iat"] < entry.issued_before)
            for entry in self.entries
        )


@pytest.fixture
def clock() -> Clock:
    return Clock(int(time.time()) - 600)  # PyJWT has the real clock


@pytest.fixture
def keyosk(prepared_url: str, clock: Clock) -> Iterator[Installation]:
    with with_todo(prepared_url, clock) as made:
        yield made


@pytest.fixture
def alice(keyosk: Installation) -> str:
    return made_account(keyosk)


def made_account(keyosk: Installation) -> str:
    grants = [Grant("todo:read"), Grant("keyosk:audit:read")]
    name = next(_names)
    return keyosk.grants.create_account(OPERATOR, grants, username=name, password=PASSWORD).id


def minted(keyosk: Installation, account: str, *, audience: str = KEYOSK) -> str:
    login = keyosk.authentication.preview_login(account, None)
    clock = keyosk.clock
    assert isinstance(clock, Clock)
    clock.now = max(clock.now, login.tokens_from)  # else it would wait by the real clock
    return keyosk.token_issuer.by_login(login, TokenRequest(targets=(audience,))).token.text


def revoke(keyosk: Installation, account: str, text: str) -> None:
    login = keyosk.authentication.preview_login(account, None)
    keyosk.inspection.revoke(caller_of(login), text)


def session_of(keyosk: Installation, account: str) -> tuple[str, str]:
    """A new session: its access token and its refresh token."""
    minted(keyosk, account)  # the clock is where it can have one
    name = keyosk.accounts.get(account).username
    login = keyosk.authentication.by_secret(candidates([(name, PASSWORD)]), address="192.0.2.1")
    issued = keyosk.token_issuer.by_login(
        login, TokenRequest(scopes=("todo:read", "offline_access"))
    )
    assert issued.refresh_token is not None
    return issued.token.text, issued.refresh_token


def is_taken(keyosk: Installation, text: str, audience: str = KEYOSK) -> bool:
    try:
        claims = keyosk.tokens.verify(text, audience=audience)
        keyosk.authentication.by_token(claims, audience=audience)
    except BadToken:
        return False
    return True


def entries_of(keyosk: Installation) -> int:
    return len(keyosk.revocation_list.published().revocations)


@pytest.mark.slow
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.tuples(
            st.floats(0, 1.5),
            st.sampled_from(["revoke some", "revoke many", "end a session", "revoke all", "keep"]),
            st.booleans(),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_whoever_polls_refuses_each_token_that_was_revoked(
    keyosk: Installation, prepared_url: str, clock: Clock, steps: list[tuple[float, str, bool]]
) -> None:
    account = made_account(keyosk)
    clock.now = int(time.time()) - 600
    often, sometimes, once = Follower(keyosk), Follower(keyosk), Follower(keyosk)
    whole = Follower(keyosk, whole=True)
    revoked: list[str] = []
    good: list[str] = []
    before = entries_of(keyosk)
    once.poll()
    for pause, step, polls in steps:
        clock.now += pause
        if step == "keep":
            good.append(minted(keyosk, account))
        elif step == "end a session":
            text, refresh_token = session_of(keyosk, account)
            revoked.append(text)
            keyosk.sessions.end(OPERATOR, account, keyosk.sessions.find(refresh_token).session.id)
        elif step == "revoke all":
            keyosk.accounts.revoke_tokens(OPERATOR, account)
            revoked += good
            good = []
        else:
            for _ in range(7 if step == "revoke some" else MOST_TOKENS + 5):
                text = minted(keyosk, account)
                revoke(keyosk, account, text)
                revoked.append(text)
                assert not is_taken(keyosk, text)
        often.poll()
        if polls:
            sometimes.poll()
        # What this process knows from before and what another reads anew are the same.
        with installed(prepared_url, clock=clock) as another:
            assert another.revocation_list.published() == keyosk.revocation_list.published()
    for follower in (often, sometimes, once, whole):
        follower.poll()
        assert all(follower.refuses(text) for text in revoked)
    # Keyosk and its readers agree of the others too.
    for text in good:
        assert len({follower.refuses(text) for follower in (often, sometimes, once, whole)}) == 1
        assert whole.refuses(text) != is_taken(keyosk, text)
    assert entries_of(keyosk) - before <= BOUND
    fresh = minted(keyosk, account)
    assert is_taken(keyosk, fresh)
    assert not any(each.refuses(fresh) for each in (often, sometimes, once, whole))


def test_an_account_that_floods_adds_one_entry_a_second_and_hides_none_of_others(
    keyosk: Installation, clock: Clock, alice: str
) -> None:
    bob = made_account(keyosk)
    his = minted(keyosk, bob)
    revoke(keyosk, bob, his)
    added = 0
    for _ in range(10):
        clock.now += 1
        texts = [minted(keyosk, alice) for _ in range(20)]
        before = keyosk.revocation_list.published().sequence
        for text in texts:
            revoke(keyosk, alice, text)
        first = max(before + 1, int(clock.now * 1000))  # the number of the first in this second
        added = keyosk.revocation_list.published().sequence - first + 1
        assert entries_of(keyosk) <= BOUND + 1
    assert added == 1
    follower = Follower(keyosk, whole=True)
    follower.poll()
    assert follower.refuses(his)
    # Where it has stopped, its tokens are revoked one by one again.
    clock.now += 901
    kept, text = minted(keyosk, alice), minted(keyosk, alice)
    revoke(keyosk, alice, text)
    assert (is_taken(keyosk, kept), is_taken(keyosk, text)) == (True, False)


def test_an_account_that_revokes_all_its_tokens_again_and_again_has_one_entry(
    keyosk: Installation, clock: Clock, alice: str
) -> None:
    follower = Follower(keyosk)
    for _ in range(5):
        text = minted(keyosk, alice)
        keyosk.accounts.revoke_tokens(OPERATOR, alice)
        follower.poll()
        assert follower.refuses(text)
        clock.now += 2
    assert entries_of(keyosk) == 1


def test_a_session_is_revoked_by_one_entry(keyosk: Installation, clock: Clock, alice: str) -> None:
    text, first = session_of(keyosk, alice)
    texts, token = [text], first
    for _ in range(MOST_TOKENS + 20):
        issued = keyosk.token_issuer.by_refresh_token(token, TokenRequest())
        assert issued.refresh_token is not None
        token = issued.refresh_token
        texts.append(issued.token.text)
    # Nor does its own row grow with each use.
    (session,) = keyosk.sessions.page(alice, ListQuery())
    assert len(session.tokens) == BOUND
    clock.now += 20
    with pytest.raises(InvalidGrant):  # used before: whoever has it may have stolen it
        keyosk.token_issuer.by_refresh_token(first, TokenRequest())
    follower = Follower(keyosk)
    follower.poll()
    assert len(follower.entries) == 1
    assert all(follower.refuses(text) for text in texts)
    assert not any(is_taken(keyosk, text, "todo") for text in texts)


def keys_of(keyosk: Installation, account: str, count: int) -> list[str]:
    api_keys = [keyosk.api_keys.create(OPERATOR, account, name="one of many") for _ in range(count)]
    return [each.key.id for each in api_keys]


def minted_by(keyosk: Installation, account: str, key: str) -> str:
    minted(keyosk, account)  # the clock is where it can have one
    login = keyosk.authentication.preview_login(account, key)
    return keyosk.token_issuer.by_login(login, TokenRequest(targets=(KEYOSK,))).token.text


def test_an_account_with_a_great_many_keys_has_one_entry_for_all_of_them(
    keyosk: Installation, clock: Clock, alice: str
) -> None:
    his = minted(keyosk, made_account(keyosk))
    keys = keys_of(keyosk, alice, MOST_KEYS + 20)
    texts = [minted_by(keyosk, alice, key) for key in keys[::40]]
    (kept,) = keys_of(keyosk, alice, 1)
    before, after = Follower(keyosk), Follower(keyosk, whole=True)
    for place, key in enumerate(keys):
        if place == MOST_KEYS:  # so many are told of one by one, and end nothing else
            assert entries_of(keyosk) == MOST_KEYS
            assert is_taken(keyosk, minted_by(keyosk, alice, kept))
            before.poll()
        keyosk.api_keys.remove(OPERATOR, alice, key)
    clock.now += 2
    (entry,) = keyosk.revocation_list.published().revocations
    assert (entry.claim, entry.value) == ("sub", alice)
    for follower in (before, after):
        follower.poll()
        assert all(follower.refuses(text) for text in texts)
        assert not follower.refuses(his)
        assert not follower.refuses(minted_by(keyosk, alice, kept))
    assert not any(is_taken(keyosk, text) for text in texts)


def test_only_changes_of_a_list_are_read(keyosk: Installation, clock: Clock, alice: str) -> None:
    others = [made_account(keyosk) for _ in range(20)]
    for each in others:
        keyosk.accounts.revoke_tokens(OPERATOR, each)
    assert entries_of(keyosk) == 20
    clock.now += 2
    for step in (lambda: keyosk.accounts.revoke_tokens(OPERATOR, alice), lambda: None):
        step()
        with statements_with_values() as sent:
            assert entries_of(keyosk) == 21
        begins = [tuple(values) for sql, values in sent if "ORDER BY" in sql]
        assert all(values[0] >= 20 for values in begins), sent
    # Nor when some expire, which in a long list some do at each moment.
    clock.now = keyosk.revocation_list.published().revocations[-1].expires - 30
    keyosk.accounts.revoke_tokens(OPERATOR, others[0])
    assert entries_of(keyosk) == 21
    clock.now += 31
    with statements_with_values() as sent:
        assert [each.value for each in keyosk.revocation_list.published().revocations] == [
            others[0]
        ]
    begins = [tuple(values) for sql, values in sent if "ORDER BY" in sql]
    assert all(values[0] >= 20 for values in begins), sent


class Ending(Clock):
    """A clock that somebody uses to end a session as it is asked for the ``left``-th time."""

    def __call__(self) -> float:
        if self.armed is not None and not self.keyosk.database.raw.in_transaction():
            self.left -= 1
            if self.left == 0:
                account, self.armed = self.armed, None
                (session,) = self.keyosk.sessions.page(account, ListQuery())
                self.keyosk.sessions.end(OPERATOR, account, session.id)
                self.now += 1
        return self.now

    armed: str | None = None
    left = 0
    keyosk: Installation


def test_no_token_of_a_session_is_given_out_after_its_account_lost_all(prepared_url: str) -> None:
    clock = Ending(int(time.time()) - 600)
    with installed(prepared_url, clock=clock) as keyosk:
        keyosk.services.create(
            OPERATOR, name="todo", scopes=[Scope("todo:read")], refresh_allowed=True
        )
        account = made_account(keyosk)
        for text in [minted(keyosk, account) for _ in range(BOUND)]:
            revoke(keyosk, account, text)
        clock.now += 2
        clock.keyosk = keyosk
        for moment in range(1, 100):
            _, refresh_token = session_of(keyosk, account)
            clock.armed, clock.left = account, moment
            try:
                keyosk.token_issuer.by_refresh_token(refresh_token, TokenRequest())
            except InvalidGrant:
                assert clock.left == 0
                continue
            break
        assert clock.left > 0  # the clock is asked no more often
        assert moment > 3


def test_a_token_by_a_node_that_is_ahead_stays_revoked(
    keyosk: Installation, prepared_url: str, clock: Clock, alice: str
) -> None:
    with installed(prepared_url, clock=Clock(clock.now + 2)) as two:
        ahead = minted(two, alice)
        revoke(keyosk, alice, ahead)
        follower = Follower(keyosk)
        follower.poll()
        for text in [minted(keyosk, alice) for _ in range(BOUND)]:
            revoke(keyosk, alice, text)
        another = minted(two, alice)
        revoke(keyosk, alice, another)
    whole = Follower(keyosk, whole=True)
    for each in (follower, whole):
        each.poll()
        assert each.refuses(ahead)
        assert each.refuses(another)
    assert not is_taken(keyosk, ahead)


def test_old_entries_without_account_stay(keyosk: Installation, clock: Clock, alice: str) -> None:
    revoke(keyosk, alice, minted(keyosk, alice))
    keyosk.database.raw.execute_sql("UPDATE revocation SET account = NULL, issued_at = NULL")
    for text in [minted(keyosk, alice) for _ in range(BOUND)]:
        revoke(keyosk, alice, text)
    assert rows_of(keyosk, "SELECT claim FROM revocation ORDER BY sequence") == [("jti",), ("sub",)]


@pytest.fixture
def person(admin: Client) -> Person:
    name = make_service(admin)
    return make_person(admin, f"{name}:read", "keyosk:audit:read")


@pytest.mark.attack
def test_one_who_mints_and_revokes_tokens_does_not_fill_the_list(
    server: LiveServer, admin: Client, person: Person
) -> None:
    _, secret = make_key(admin, person)
    login, anybody = person.login(secret), server.client()
    start = ok(anybody.get("/auth/revocations"))["sequence"]
    form = {"audience": "keyosk"}
    texts = [ok(login.post("/auth/token", data=form))["access_token"] for _ in range(BOUND + 7)]
    expires = [claims_of(each)["exp"] for each in texts]
    for text, end in zip(texts, expires, strict=True):
        response = login.post("/auth/revoke", data={"token": text})
        assert response.status_code == 200
        by = rfc3339(end)
        assert response.headers["Effective-At-Latest"] >= by
    told = ok(anybody.get("/auth/revocations"))
    mine = [entry for entry in told["entries"] if entry.get("sub") == person.id]
    ids = {claims_of(each)["jti"] for each in texts}
    singles = [entry for entry in told["entries"] if entry.get("jti") in ids]
    assert (len(mine), singles) == (1, [])
    assert mine[0].keys() == {"sub", "issued_before", "expires"}
    assert mine[0]["expires"] >= max(expires)
    assert told["sequence"] > start
    for text in texts[:: len(texts) // 3]:
        assert Client(server.url, token=text).get("/accounts/me").status_code == 401
    # A token of afterwards is good; who asks within the same second may be told to come again.
    response = login.post("/auth/token", data=form)
    for _ in range(5):
        if response.status_code == 200:
            break
        assert response.headers["Retry-After"] == "1"
        time.sleep(1)
        response = login.post("/auth/token", data=form)
    fresh = Client(server.url, token=ok(response)["access_token"])
    assert fresh.get("/accounts/me").status_code == 200
