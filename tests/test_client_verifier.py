"""keyosk-client: when a verifier fetches keys and revocations, and what it does meanwhile."""

import asyncio
import gc
import gzip
import json
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from client_issuer import AUDIENCE, ISSUER, Issuer, generate, issuer, public_jwk
from installed import Clock
from keyosk_client import (
    AsyncVerifier,
    InvalidToken,
    KeysUnavailable,
    RevocationsUnavailable,
    Verifier,
    http,
    verifier,
)
from keyosk_client.flows import run
from keyosk_client.issuer import IssuerState
from keyosk_client.token import Token
from processes import execute
from waiting import until

OTHER = "o" * 43


@pytest.fixture
def keyosk() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000)


class Reader:
    """A verifier's knowledge, driven by hand with a clock of the test's own."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        given = {
            "service": "todo",
            "revocations": "best-effort",
            "poll_interval": 10,
            "max_stale": 3_600,
            **options,
        }
        self.state = IssuerState(ISSUER, clock=clock, **given)
        self.client = http.client(ISSUER, tls=None, owner=self)

    def fetch_key(self, kid: str) -> None:
        run(self.state.fetch_key(kid), self.client)

    def refresh(self) -> None:
        run(self.state.refresh(), self.client)

    def knows(self, kid: str) -> bool:
        """Return whether a token with this kid is verified; raise ``KeysUnavailable``."""
        if self.state.key(kid) is None:
            self.fetch_key(kid)
        try:
            self.state.key_or_refuse(kid)
        except InvalidToken:
            return False
        return True

    def accepts(self, claims: dict[str, Any], kid: str = "k" * 43) -> bool:
        token = Token(claims["sub"], frozenset(), claims, "")
        try:
            self.state.check_revoked(kid, token)
        except InvalidToken:
            return False
        return True


KID = "k" * 43


# --- Keys -----------------------------------------------------------------------------------------


def test_keys_are_fetched_once_and_again_before_they_expire(keyosk: Issuer, clock: Clock) -> None:
    reader = Reader(clock, revocations="off")
    assert reader.state.due_in == 0
    for _ in range(3):
        assert reader.knows(KID)
    assert (keyosk.key_fetches, len(keyosk.requests)) == (1, 2)
    assert 0 < reader.state.due_in <= 300 * 0.8
    clock.now += 239
    reader.refresh()
    assert keyosk.key_fetches == 1
    clock.now += 1
    reader.refresh()
    assert (keyosk.key_fetches, len(keyosk.requests)) == (2, 3)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("public, max-age=60", 48),
        ("max-age=60, stale-if-error=86400", 48),
        ("MAX-AGE=60", 48),
        ("public", 240),
        ("", 240),
        ("max-age=0", 1),
        ("s-max-age=60", 240),
        ("max-age=999999999", 69_120),
    ],
)
def test_the_response_says_how_long_keys_last(
    keyosk: Issuer, clock: Clock, header: str, seconds: int
) -> None:
    keyosk.cache_control = header
    reader = Reader(clock, revocations="off")
    assert reader.knows(KID)
    assert reader.state.due_in == pytest.approx(seconds)


def test_the_time_in_a_cache_counts(
    keyosk: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    respond = keyosk.respond

    def aged(request: httpx.Request) -> httpx.Response:
        response = respond(request)
        response.headers["Age"] = "100"
        return response

    monkeypatch.setitem(http.transports, ISSUER, httpx.MockTransport(aged))
    reader = Reader(clock, revocations="off")
    assert reader.knows(KID)
    assert reader.state.due_in == pytest.approx(160)


def test_it_names_itself(keyosk: Issuer) -> None:
    verifier = Verifier(ISSUER, AUDIENCE)
    verifier.verify(keyosk.token())
    other = Verifier(ISSUER, AUDIENCE, service="todo-backend")
    other.verify(keyosk.token())
    asked = [r for r in keyosk.requests if r.url.path == "/.well-known/jwks.json"]
    assert [request.url.params["service"] for request in asked] == ["todo", "todo-backend"]
    assert all(r.headers["User-Agent"].startswith("keyosk-client/") for r in keyosk.requests)
    verifier.close()
    other.close()


def test_an_unchanged_set_is_not_sent_again(
    keyosk: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    respond = keyosk.respond

    def tagged(request: httpx.Request) -> httpx.Response:
        response = respond(request)
        if request.headers.get("If-None-Match") == '"1"':
            return httpx.Response(304, headers={"Cache-Control": "max-age=10"})
        response.headers["ETag"] = '"1"'
        return response

    monkeypatch.setitem(http.transports, ISSUER, httpx.MockTransport(tagged))
    reader = Reader(clock, revocations="off")
    assert reader.knows(KID)
    clock.now += 240
    reader.refresh()
    assert reader.knows(KID)
    assert reader.state.due_in == pytest.approx(8)


def test_a_new_key_is_known_at_once(keyosk: Issuer, clock: Clock) -> None:
    reader = Reader(clock)
    assert reader.knows(KID)
    keyosk.keys.append(public_jwk(generate("ES256"), "ES256", OTHER))
    assert reader.knows(OTHER)
    assert keyosk.key_fetches == 2


@pytest.mark.attack
def test_made_up_kids_are_no_flood(keyosk: Issuer, clock: Clock) -> None:
    reader = Reader(clock)
    assert reader.knows(KID)
    for number in range(100):
        assert not reader.knows(f"made-up-{number}")
    assert keyosk.key_fetches == 2
    keyosk.keys.append(public_jwk(generate("ES256"), "ES256", OTHER))
    clock.now += 29
    assert not reader.knows(OTHER)
    clock.now += 1
    assert reader.knows(OTHER)
    assert keyosk.key_fetches == 3


def test_keys_are_used_while_keyosk_is_away_until_too_old(keyosk: Issuer, clock: Clock) -> None:
    reader = Reader(clock)
    assert reader.knows(KID)
    keyosk.away = {""}
    for _ in range(120):
        clock.now += 30
        reader.refresh()
        assert reader.knows(KID)
    clock.now += 1
    with pytest.raises(KeysUnavailable):
        reader.knows(KID)
    keyosk.away = set()
    clock.now += 5
    assert reader.knows(KID)


def test_a_token_of_an_unknown_key_is_not_bad_without_keyosk(keyosk: Issuer, clock: Clock) -> None:
    reader = Reader(clock)
    assert reader.knows(KID)
    keyosk.away = {"jwks.json"}
    with pytest.raises(KeysUnavailable, match=r"cannot be fetched: ConnectError: away\.$"):
        reader.knows(OTHER)
    assert reader.knows(KID)
    asked = keyosk.key_fetches
    with pytest.raises(KeysUnavailable) as refused:  # it asks again only after a while
        reader.knows(OTHER)
    assert refused.value.retry_after > 0
    assert keyosk.key_fetches == asked


def test_a_slash_at_the_end_is_told_by_the_issuers_own_name(
    keyosk: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    http.transports[f"{ISSUER}/"] = httpx.MockTransport(keyosk.respond)
    try:
        with pytest.raises(KeysUnavailable, match=f"it calls itself '{ISSUER}'; the issuer must"):
            Verifier(f"{ISSUER}/", AUDIENCE).verify(keyosk.token())
    finally:
        del http.transports[f"{ISSUER}/"]


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    keyosk: Issuer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Reader(clock)
    assert reader.knows(KID)
    for away in ({""}, set(), {""}):
        keyosk.away = away
        for _ in range(30):
            clock.now += 12
            reader.refresh()
    lines = [record.getMessage() for record in caplog.records]
    began = [
        f"the {what} of {ISSUER} were not fetched: ConnectError: away"
        for what in ("keys", "revocations")
    ]
    ended = [f"the {what} of {ISSUER} are fetched again" for what in ("keys", "revocations")]
    assert sorted(lines) == sorted([*began, *ended, *began])


BROKEN: dict[str, Callable[[Issuer], None]] = {
    "other issuer": lambda k: k.metadata.update(issuer="https://other.example"),
    "no issuer": lambda k: k.metadata.pop("issuer"),
    "no jwks_uri": lambda k: k.metadata.pop("jwks_uri"),
    "jwks_uri without TLS": lambda k: k.metadata.update(jwks_uri="http://login.example/keys"),
    "jwks_uri of a file": lambda k: k.metadata.update(jwks_uri="file:///etc/passwd"),
    "jwks_uri that is none": lambda k: k.metadata.update(jwks_uri="https://[broken"),
    "jwks_uri elsewhere": lambda k: k.metadata.update(jwks_uri=f"{ISSUER}/nowhere"),
    "metadata is a list": lambda k: setattr(k, "metadata", []),
    "no keys": lambda k: setattr(k, "keys", []),
    "no usable key": lambda k: setattr(k, "keys", [{"kty": "oct", "k": "AA", "kid": "k" * 43}]),
    "keys is no list": lambda k: setattr(k, "keys", {"kid": "k" * 43}),
    "too many keys": lambda k: setattr(k, "keys", k.keys * 101),
    "away": lambda k: setattr(k, "away", {""}),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_issuer_is_unavailable_and_no_reason_to_refuse_a_token(
    keyosk: Issuer, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    BROKEN[fault](keyosk)
    verifier = Verifier(ISSUER, AUDIENCE)
    with pytest.raises(KeysUnavailable):
        verifier.verify(keyosk.token())
    assert "were not fetched" in caplog.text
    verifier.close()


@pytest.mark.attack
def test_a_redirect_is_not_followed(keyosk: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/.well-known/jwks.json":
            return httpx.Response(302, headers={"Location": "https://attacker.example/keys"})
        return keyosk.respond(request)

    monkeypatch.setitem(http.transports, ISSUER, httpx.MockTransport(elsewhere))
    verifier = Verifier(ISSUER, AUDIENCE)
    with pytest.raises(KeysUnavailable):
        verifier.verify(keyosk.token())
    assert all(request.url.host == "login.example" for request in keyosk.requests)
    verifier.close()


def test_keys_survive_a_set_that_cannot_be_read(keyosk: Issuer, clock: Clock) -> None:
    reader = Reader(clock)
    assert reader.knows(KID)
    keyosk.keys = []
    clock.now += 300
    reader.refresh()
    assert keyosk.key_fetches == 2
    assert reader.knows(KID)


@pytest.mark.parametrize("threads", [30])
def test_of_many_threads_one_fetches(keyosk: Issuer, threads: int) -> None:
    verifier = Verifier(ISSUER, AUDIENCE)
    text = keyosk.token()
    with ThreadPoolExecutor(threads) as pool:
        tokens = list(pool.map(verifier.verify, [text] * 200))
    assert {token.username for token in tokens} == {"alice"}
    assert keyosk.key_fetches == 1
    verifier.close()


def test_of_many_tasks_one_fetches_and_nobody_waits_for_the_network(keyosk: Issuer) -> None:
    text = keyosk.token()
    may_go_on = asyncio.Event()

    async def slowly(request: httpx.Request) -> httpx.Response:
        await may_go_on.wait()
        return keyosk.respond(request)

    async def ask() -> None:
        http.transports[ISSUER] = httpx.MockTransport(slowly)
        verifier = AsyncVerifier(ISSUER, AUDIENCE)
        tasks = [asyncio.create_task(verifier.verify(text)) for _ in range(50)]
        for _ in range(10):  # the loop runs, whatever the network does
            await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        may_go_on.set()
        assert {(await task).username for task in tasks} == {"alice"}
        assert keyosk.key_fetches == 1
        await verifier.aclose()

    asyncio.run(ask())


# --- What a response may cost ---------------------------------------------------------------------


class _Strange(httpx.MockTransport):
    """A Keyosk whose key set is what a test says; pieces that are numbers are seconds."""

    def __init__(self, keyosk: Issuer, clock: Clock, pieces: list[bytes | float]) -> None:
        super().__init__(self._respond)
        self._keyosk, self._clock, self._pieces = keyosk, clock, pieces
        self.headers: dict[str, str] = {}
        self.sent = 0

    def _respond(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/.well-known/jwks.json":
            return self._keyosk.respond(request)
        return httpx.Response(200, headers=self.headers, content=self._content())

    def _content(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, bytes):
                self.sent += len(piece)
                yield piece
            else:
                self._clock.now += piece


@pytest.mark.parametrize(
    ("pieces", "most"),
    [([b" " * 10_000] * 1_000, 1_010_000), ([b" ", 1.0] * 1_000, 20)],
    ids=["too much", "too slow"],
)
def test_a_response_that_never_ends_holds_nobody(
    keyosk: Issuer, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes | float], most: int
) -> None:
    clock = Clock(time.monotonic())
    monkeypatch.setattr("keyosk_client.flows.time.monotonic", clock)
    strange = _Strange(keyosk, clock, pieces)
    reader = Reader(clock)
    reader.client = httpx.Client(transport=strange)
    with pytest.raises(KeysUnavailable):
        reader.knows(KID)
    assert 0 < strange.sent <= most


def test_a_response_is_measured_as_it_is_unpacked(keyosk: Issuer, clock: Clock) -> None:
    strange = _Strange(keyosk, clock, [gzip.compress(b" " * 10_000_000)])
    strange.headers = {"Content-Encoding": "gzip"}
    reader = Reader(clock)
    reader.client = httpx.Client(transport=strange)
    with pytest.raises(KeysUnavailable):
        reader.knows(KID)
    strange = _Strange(keyosk, clock, [gzip.compress(json.dumps({"keys": keyosk.keys}).encode())])
    strange.headers = {"Content-Encoding": "gzip"}
    other = Reader(clock)
    other.client = httpx.Client(transport=strange)
    assert other.knows(KID)


def test_a_response_that_does_not_begin_holds_no_task(
    keyosk: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyosk_client.flows.DEADLINE", 0.01)

    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async def ask() -> None:
        http.transports[ISSUER] = httpx.MockTransport(never)
        verifier = AsyncVerifier(ISSUER, AUDIENCE)
        with pytest.raises(KeysUnavailable):
            await verifier.verify(keyosk.token())
        await verifier.aclose()

    asyncio.run(ask())


# --- Revocations ----------------------------------------------------------------------------------


def test_each_kind_of_entry_revokes_what_it_names(keyosk: Issuer, clock: Clock) -> None:
    act = {"sub": "backend", "client_id": "backend", "act": {"sub": "earlier"}}
    claims = keyosk.claims(iat=100, act=act)
    end = int(time.time()) + 900
    entries: list[tuple[dict[str, Any], bool]] = [
        ({"jti": claims["jti"]}, False),
        ({"sub": claims["sub"], "issued_before": 101}, False),
        ({"sub": claims["sub"], "issued_before": 100}, True),
        ({"key_id": claims["key_id"], "issued_before": 101}, False),
        ({"key_id": claims["key_id"], "issued_before": 99}, True),
        ({"aud": AUDIENCE, "issued_before": 101}, False),
        ({"aud": "billing", "issued_before": 101}, True),
        ({"kid": KID}, False),
        ({"kid": OTHER}, True),
        ({"jti": claims["sub"]}, True),
        ({"sub": "backend", "issued_before": 101}, False),
        ({"sub": "backend", "issued_before": 100}, True),
        ({"sub": "earlier", "issued_before": 101}, True),
        ({"sub": claims["jti"], "issued_before": 101}, True),
    ]
    for entry, good in entries:
        keyosk.entries = [{**entry, "expires": end}]
        reader = Reader(clock)
        assert reader.knows(KID)
        assert reader.accepts(claims) is good, entry
        assert reader.accepts({**claims, "aud": ["x", AUDIENCE]}) is good, entry
        assert Reader(clock, revocations="off").accepts(claims)

    keyosk.entries = [{"jti": claims["jti"], "expires": end}]
    reader = Reader(clock)
    assert reader.knows(KID)
    assert reader.accepts({name: claims[name] for name in ("sub", "aud", "iat")})


def test_only_what_is_new_is_fetched(keyosk: Issuer, clock: Clock) -> None:
    reader = Reader(clock)
    assert reader.knows(KID)
    end = int(time.time()) + 900
    claims = keyosk.claims()
    assert reader.accepts(claims)
    clock.now += 11
    reader.refresh()  # it learns the ETag of what comes after
    clock.now += 11
    reader.refresh()
    polls = [r for r in keyosk.requests if r.url.path == "/auth/revocations"]
    assert [r.url.params["since"] for r in polls] == ["0", "1", "1"]
    assert [r.headers.get("If-None-Match") for r in polls] == [None, None, '"1-1"']

    keyosk.sequence = 2
    keyosk.entries = [{"jti": claims["jti"], "expires": end}]
    clock.now += 11
    reader.refresh()
    assert not reader.accepts(claims)
    keyosk.entries, keyosk.sequence = [], 7  # after a restore: all there is
    clock.now += 11
    reader.refresh()
    assert reader.accepts(claims)


def test_polls_are_ten_seconds_apart(keyosk: Issuer, clock: Clock) -> None:
    reader = Reader(clock)
    assert reader.knows(KID)
    for _ in range(100):
        clock.now += 1
        reader.refresh()
    assert 9 <= keyosk.polls <= 12


def test_an_entry_is_dropped_after_its_end_and_never_before(
    keyosk: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    claims = keyosk.claims()
    keyosk.entries = [
        {"jti": claims["jti"], "expires": int(now) + 5},
        {"jti": claims["jti"], "expires": int(now) + 5},
        {"sub": "a", "issued_before": 5, "expires": int(now) + 5},
        {"sub": "a", "issued_before": 3, "expires": int(now) + 900},
    ]
    reader = Reader(clock)
    assert reader.knows(KID)
    for later, held in ((0, 2), (30, 2), (40, 1), (1_000, 0)):
        monkeypatch.setattr(time, "time", lambda at=now + later: at)
        clock.now += 11
        reader.refresh()
        assert len(reader.state._revoked) == held
        assert reader.accepts(claims) is (later > 30)
        # The later end holds, and the earlier moment is not forgotten.
        assert reader.accepts({**claims, "sub": "a", "jti": "x", "iat": 4}) is (later == 1_000)


def test_a_clock_that_was_ahead_accepts_nothing_revoked_once_it_is_right(
    keyosk: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, claims = time.time(), keyosk.claims()
    keyosk.date = formatdate(now, usegmt=True)
    keyosk.entries = [{"jti": claims["jti"], "expires": int(now) + 900}]
    reader = Reader(clock)
    assert reader.knows(KID)
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    clock.now += 11
    reader.refresh()
    monkeypatch.setattr(time, "time", lambda: now)
    assert not reader.accepts(claims)


@pytest.mark.parametrize("date", ["", "today", "Mon, 99 Jan 9999 00:00:00 GMT"])
def test_a_date_that_nobody_can_read_stops_no_poll(keyosk: Issuer, clock: Clock, date: str) -> None:
    claims = keyosk.claims()
    keyosk.date = date
    keyosk.entries = [{"jti": claims["jti"], "expires": int(time.time()) + 900}]
    reader = Reader(clock)
    assert reader.knows(KID)
    assert not reader.accepts(claims)


def test_a_stolen_signing_key_is_dropped_at_once(keyosk: Issuer, clock: Clock) -> None:
    reader = Reader(clock)
    assert reader.knows(KID)
    keyosk.entries = [{"kid": KID, "expires": int(time.time()) + 900}]
    keyosk.sequence = 2
    keyosk.keys = [public_jwk(generate("ES256"), "ES256", OTHER)]
    clock.now += 11
    reader.refresh()
    assert keyosk.key_fetches == 2
    assert reader.state.key(KID) is None
    assert reader.state.key(OTHER) is not None


def test_without_revocations_it_goes_on_unless_required(keyosk: Issuer, clock: Clock) -> None:
    keyosk.away = {"/auth/revocations"}
    claims = keyosk.claims()
    relaxed, strict = Reader(clock), Reader(clock, revocations="required")
    for reader in (relaxed, strict):
        assert reader.knows(KID)
    assert relaxed.accepts(claims)
    with pytest.raises(RevocationsUnavailable):
        strict.accepts(claims)
    keyosk.away = set()
    clock.now += 11
    strict.refresh()
    assert strict.accepts(claims)

    keyosk.away = {"/auth/revocations"}
    clock.now += 60
    strict.refresh()
    assert strict.accepts(claims)
    clock.now += 1
    with pytest.raises(RevocationsUnavailable):
        strict.accepts(claims)


BROKEN_LISTS: list[Any] = [
    [],
    {"sequence": 2, "since": 0},
    {"sequence": "2", "since": 0, "entries": []},
    {"sequence": 2, "since": None, "entries": []},
    {"sequence": 2, "since": 0, "entries": {}},
    {"sequence": 2, "since": 0, "entries": ["jti"]},
    {"sequence": 2, "since": 0, "entries": [{"expires": 1}]},
    {"sequence": 2, "since": 0, "entries": [{"jti": 7, "expires": 1}]},
    {"sequence": 2, "since": 0, "entries": [{"jti": "a", "sub": "b", "expires": 1}]},
    {"sequence": 2, "since": 0, "entries": [{"jti": "a", "expires": "1"}]},
    {"sequence": 2, "since": 0, "entries": [{"jti": "a", "issued_before": "1", "expires": 1}]},
]


def test_a_list_that_cannot_be_read_changes_nothing(
    keyosk: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = keyosk.claims()
    keyosk.entries = [{"jti": claims["jti"], "expires": int(time.time()) + 900}]
    reader = Reader(clock)
    assert reader.knows(KID)

    for document in BROKEN_LISTS:
        monkeypatch.setitem(
            http.transports,
            ISSUER,
            httpx.MockTransport(lambda _, body=document: httpx.Response(200, json=body)),
        )
        reader.client = http.client(ISSUER, tls=None, owner=reader)
        clock.now += 11
        reader.refresh()
        assert not reader.accepts(claims), document
        assert reader.state._revoked.sequence == 1


def test_other_issuers_need_not_name_the_list(keyosk: Issuer, clock: Clock) -> None:
    del keyosk.metadata["revocations_endpoint"]
    assert Reader(clock).knows(KID)
    assert keyosk.polls == 1


# --- In the background ----------------------------------------------------------------------------


def test_a_thread_follows_keys_and_revocations(keyosk: Issuer) -> None:
    keyosk.cache_control = "max-age=0"
    verifier = Verifier(ISSUER, AUDIENCE, poll_interval=0.05)
    text = keyosk.token()
    verifier.verify(text)
    until(lambda: keyosk.key_fetches > 1)
    keyosk.sequence, keyosk.entries = 2, [{"kid": KID, "expires": int(time.time()) + 900}]
    keyosk.keys = [public_jwk(generate("ES256"), "ES256", OTHER)]

    def is_revoked() -> bool:
        try:
            verifier.verify(text)
        except InvalidToken:
            return True
        return False

    until(is_revoked)
    verifier.close()


def test_a_task_follows_keys_and_revocations(keyosk: Issuer) -> None:
    async def ask() -> None:
        verifier = AsyncVerifier(ISSUER, AUDIENCE, poll_interval=0.05)
        text = keyosk.token()
        await verifier.verify(text)
        keyosk.sequence = 2
        keyosk.entries = [{"sub": keyosk.claims()["sub"], "expires": int(time.time()) + 900}]
        polls = keyosk.polls
        while keyosk.polls < polls + 2:
            await asyncio.sleep(0.01)
        with pytest.raises(InvalidToken, match="revoked"):
            await verifier.verify(text)
        await verifier.aclose()
        await verifier.aclose()

    asyncio.run(asyncio.wait_for(ask(), 60))


def test_one_verifier_serves_one_event_loop_after_another(keyosk: Issuer) -> None:
    verifier = AsyncVerifier(ISSUER, AUDIENCE)
    for _ in range(3):
        assert asyncio.run(verifier.verify(keyosk.token())).username == "alice"
    assert keyosk.key_fetches == 1


def test_the_background_survives_what_nobody_thought_of(
    keyosk: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = Verifier(ISSUER, AUDIENCE, poll_interval=0.05)
    verifier.verify(keyosk.token())
    refresh = IssuerState.refresh
    failed = threading.Event()

    def fail(_: IssuerState) -> Any:
        monkeypatch.setattr(IssuerState, "refresh", refresh)
        failed.set()
        raise RuntimeError("secret")

    monkeypatch.setattr(IssuerState, "refresh", fail)
    assert failed.wait(60)
    polls = keyosk.polls
    until(lambda: keyosk.polls > polls)
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text
    verifier.close()

    async def ask() -> None:
        tasks = AsyncVerifier(ISSUER, AUDIENCE, poll_interval=0.05)
        await tasks.verify(keyosk.token())
        failed.clear()
        monkeypatch.setattr(IssuerState, "refresh", fail)
        while not failed.is_set():
            await asyncio.sleep(0.01)
        polls = keyosk.polls
        while keyosk.polls == polls:
            await asyncio.sleep(0.01)
        await tasks.aclose()

    asyncio.run(asyncio.wait_for(ask(), 60))


def threads() -> int:
    return sum(thread.name == "keyosk-client" for thread in threading.enumerate())


def test_the_thread_ends_with_its_verifier(keyosk: Issuer) -> None:
    before = threads()
    verifier = Verifier(ISSUER, AUDIENCE)
    assert threads() == before
    verifier.verify(keyosk.token())
    verifier.verify(keyosk.token())
    assert threads() == before + 1
    verifier.close()
    verifier.close()
    assert threads() == before
    verifier.verify(keyosk.token())  # it starts again
    assert threads() == before + 1
    gone = weakref.ref(verifier)
    del verifier
    until(lambda: (gc.collect(), gone())[1] is None)  # its thread holds it while it asks
    until(lambda: threads() == before)


PROGRAM = """
import os, sys, threading
sys.path.insert(0, sys.argv[1])
from client_issuer import *
with issuer() as keyosk:
    verifier = Verifier(ISSUER, AUDIENCE, poll_interval=0.05)
    verifier.verify(keyosk.token())
    {rest}
"""
IMPORTS = "from keyosk_client import AsyncVerifier, TokenSource, Verifier\n"


def run_program(rest: str) -> subprocess.CompletedProcess[str]:
    folder = os.path.dirname(__file__)  # noqa: PTH120 - an argument
    program = IMPORTS + PROGRAM.format(rest=rest.replace("\n", "\n    "))
    return execute([sys.executable, "-c", program, folder])


def test_a_process_ends_without_waiting_for_the_thread() -> None:
    result = run_program("print('end')")
    assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")


@pytest.mark.slow
def test_a_fork_keeps_the_keys_and_follows_by_itself() -> None:
    """As gunicorn does with --preload."""
    result = run_program(
        """
fetched = keyosk.key_fetches
child = os.fork()
if child == 0:
    assert [t.name for t in threading.enumerate()] == ["MainThread"]
    verifier.verify(keyosk.token())
    assert keyosk.key_fetches == fetched
    polls = keyosk.polls
    while keyosk.polls == polls:
        pass
    assert threading.active_count() == 2
    sys.exit(7)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
verifier.verify(keyosk.token())
"""
    )
    assert (result.returncode, result.stdout) == (0, "7\n"), result.stderr


# --- What happens rarely --------------------------------------------------------------------------


def test_two_threads_that_begin_at_once_start_one_thread(keyosk: Issuer) -> None:
    before = threads()
    reader = Verifier(ISSUER, AUDIENCE)
    reader._follow()
    reader._follow()
    assert threads() == before + 1
    reader.close()


def test_threads_and_tasks_whose_verifier_is_gone_end() -> None:
    class Gone:
        """Whatever dies at once."""

    gone: Any = weakref.ref(Gone())
    verifier._follow(gone, threading.Event())  # it returns
    # What ends a verifier may run in its own thread, which cannot wait for itself.
    ended = threading.Event()
    verifier._end(ended, threading.current_thread())
    assert ended.is_set()
    loop: Any = None
    asyncio.run(verifier._follow_async(gone, loop))


def test_after_a_fork_and_a_reset_each_verifier_begins_anew() -> None:
    with issuer() as keyosk:
        ours, others = Verifier(ISSUER, AUDIENCE), Verifier("https://other.example", AUDIENCE)
        ours.verify(keyosk.token())
        others._state._keys_at = 1.0
        client = ours._client
        verifier._after_fork()
        assert ours._client is None
        ours.verify(keyosk.token())
        assert keyosk.key_fetches == 1  # the keys are kept
        assert ours._client is not client
        verifier.reset(ISSUER)
        ours.verify(keyosk.token())
        assert keyosk.key_fetches == 2
        assert others._state._keys_at == 1.0
        ours.close()
