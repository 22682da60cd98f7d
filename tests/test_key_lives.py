"""The lives of signing keys: rotation that nobody notices, and its end for stolen ones."""

import importlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import node_modules
from installed import EVERY_AUDIT_ROW, Clock, delays_noted, installed, rows_of
from keyosk import app, delays
from keyosk.errors import BadToken, Conflict, Invalid, NotFound, Unavailable
from keyosk.installation import Installation
from keyosk.keys import imported_keys, material
from keyosk.keys.signing_keys import SPREAD
from keyosk.model import (
    COMMON_ALGORITHMS,
    OPERATOR,
    OWN_SET_ALGORITHMS,
    SIGNING_ALGORITHMS,
    Grant,
    KeyState,
    Scope,
    SigningKey,
)
from keyosk.tokens.issuing import TokenRequest
from live import ADMIN_PASSWORD, Client, LiveServer, unique
from pages import enrol, logged_in
from people import make_person, ok
from tables import table

AHEAD, RETAIN, TOKEN, DAY = 900, 900, 900, 86_400


@pytest.fixture
def clock() -> Clock:
    # PyJWT has the real clock: tokens must not be from the future.
    return Clock(int(time.time()) - 400 * DAY)


@pytest.fixture
def keyosk(prepared_url: str, clock: Clock) -> Iterator[Installation]:
    with installed(prepared_url, clock=clock) as made:
        # The template's key was made by the real clock.
        began = int(clock()) - 1
        made.database.raw.execute_sql(
            f"UPDATE signing_key SET active_from = {began},"
            f" published_at = {began}, created_at = {began}"
        )
        made.signing_keys.refresh()
        yield made


@pytest.fixture
def other(keyosk: Installation, prepared_url: str, clock: Clock) -> Iterator[Installation]:
    """The same installation as another process has it."""
    with installed(prepared_url, clock=clock) as made:
        made.signing_keys.refresh()
        yield made


def states(keyosk: Installation) -> list[str]:
    return [key.state.value for key in keyosk.rotation.all()]


def published(keyosk: Installation) -> list[str]:
    document = json.loads(keyosk.signing_keys.current.document.text)
    return [key["kid"] for key in document["keys"]]


def signing(keyosk: Installation) -> str:
    with delays_noted():
        return keyosk.signing_keys.signer(None).kid


# --- One rotation ---------------------------------------------------------------------------------


def test_a_key_is_published_before_it_signs_and_after(keyosk: Installation, clock: Clock) -> None:
    old = signing(keyosk)
    new = keyosk.rotation.rotate(OPERATOR).kid
    assert published(keyosk) == [old, new]
    assert signing(keyosk) == old

    clock.now += AHEAD - 1
    assert (signing(keyosk), states(keyosk)) == (old, ["active", "next"])
    clock.now += 1
    assert (signing(keyosk), published(keyosk)) == (new, [new, old])
    assert states(keyosk) == ["retired", "active"]
    clock.now += TOKEN + RETAIN - 1
    assert published(keyosk) == [new, old]
    clock.now += 1
    assert published(keyosk) == [new]
    assert states(keyosk) == ["gone", "active"]
    # The private half is erased, the public one stays.
    (gone, _) = keyosk.rotation.all()
    assert gone.sealed == b""
    assert gone.public["kid"] == old


def test_every_process_changes_over_at_the_same_moment_without_reading_anything(
    keyosk: Installation, other: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = keyosk.rotation.rotate(OPERATOR).kid
    clock.now += 2
    assert signing(other) != new
    clock.now += AHEAD - 3
    monkeypatch.setattr(other.signing_keys, "refresh", lambda: None)  # it hears of nothing now
    assert signing(other) != new
    clock.now += 1
    assert signing(other) == signing(keyosk) == new


def test_the_set_may_be_kept_until_it_changes_again(keyosk: Installation, clock: Clock) -> None:
    client = app.create_app(keyosk).test_client()

    def age() -> str:
        return client.get("/auth/jwks").headers["Cache-Control"]

    assert age() == "public, max-age=300, stale-if-error=86400"
    keyosk.rotation.rotate(OPERATOR)
    clock.now += AHEAD - 100
    assert age() == "public, max-age=100, stale-if-error=86400"
    tag = client.get("/auth/jwks").headers["ETag"]
    assert client.get("/auth/jwks", headers={"If-None-Match": tag}).status_code == 304
    clock.now += 100
    assert client.get("/auth/jwks", headers={"If-None-Match": tag}).status_code == 200


def test_one_rotation_at_a_time_and_five_keys_at_most(keyosk: Installation, clock: Clock) -> None:
    keyosk.rotation.rotate(OPERATOR)
    with pytest.raises(Conflict):
        keyosk.rotation.rotate(OPERATOR)
    for _ in range(4):
        keyosk.rotation.rotate(OPERATOR, now=True)
        clock.now += SPREAD
        assert signing(keyosk)
    with pytest.raises(Conflict, match="5 keys of ES256"):
        keyosk.rotation.rotate(OPERATOR, now=True)
    assert len(published(keyosk)) == 5
    keyosk.rotation.rotate(OPERATOR, "RS256")
    assert len(published(keyosk)) == 6
    with pytest.raises(Invalid):
        keyosk.rotation.rotate(OPERATOR, "HS256")


def test_keys_of_every_algorithm_rotate_together(keyosk: Installation, clock: Clock) -> None:
    algorithms = SIGNING_ALGORITHMS
    for algorithm in algorithms[1:]:
        keyosk.rotation.rotate(OPERATOR, algorithm)
    clock.now += AHEAD
    keyosk.key_schedule.advance()
    old = {key.algorithm: key.kid for key in keyosk.rotation.all()}
    assert len(old) == len(algorithms)

    clock.now += 90 * DAY - AHEAD  # their schedule
    keyosk.key_schedule.advance()

    def kids(algorithm: str) -> tuple[str, ...]:
        return keyosk.signing_keys.current.document_of(algorithm).kids

    new = {key.algorithm: key.kid for key in keyosk.rotation.all()}
    assert not set(new.values()) & set(old.values())
    for algorithm in algorithms:
        assert {old[algorithm], new[algorithm]} <= set(kids(algorithm)), algorithm
    clock.now += AHEAD
    keyosk.key_schedule.advance()
    for algorithm in algorithms:  # there may be tokens of both
        assert {old[algorithm], new[algorithm]} <= set(kids(algorithm)), algorithm


def test_now_waits_only_for_the_other_processes(keyosk: Installation, clock: Clock) -> None:
    old = signing(keyosk)
    new = keyosk.rotation.rotate(OPERATOR, now=True).kid
    assert signing(keyosk) == old
    clock.now += 2
    assert signing(keyosk) == new
    # Also for a rotation that is under way.
    third = keyosk.rotation.rotate(OPERATOR).kid
    assert keyosk.rotation.rotate(OPERATOR, now=True).kid == third
    clock.now += 2
    assert signing(keyosk) == third


def test_a_key_that_never_signed_can_be_taken_back_and_the_signing_one_cannot(
    keyosk: Installation, clock: Clock
) -> None:
    with pytest.raises(Conflict):
        keyosk.rotation.retire(OPERATOR, signing(keyosk))
    new = keyosk.rotation.rotate(OPERATOR)
    assert keyosk.rotation.retire(OPERATOR, new.kid).state is KeyState.GONE
    assert len(published(keyosk)) == 1
    with pytest.raises(Conflict):
        keyosk.rotation.retire(OPERATOR, new.kid)
    with pytest.raises(NotFound):
        keyosk.rotation.retire(OPERATOR, "unknown")
    rsa_key = keyosk.rotation.rotate(OPERATOR, "RS256", now=True).kid
    clock.now += 2
    keyosk.key_schedule.advance()
    assert keyosk.rotation.retire(OPERATOR, rsa_key).state is KeyState.RETIRED


# --- By schedule ----------------------------------------------------------------------------------


def advance(keyosk: Installation) -> None:
    keyosk.key_schedule.advance()
    keyosk.database.close()  # the thread's own connection


def test_it_rotates_by_itself_once(keyosk: Installation, other: Installation, clock: Clock) -> None:
    clock.now += 90 * DAY - AHEAD - 2
    keyosk.key_schedule.advance()
    assert states(keyosk) == ["active"]
    clock.now += 1
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(advance, [keyosk, other] * 8))
    assert states(keyosk) == ["active", "next"]
    clock.now += AHEAD
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(advance, [keyosk, other] * 8))
    assert states(keyosk) == ["retired", "active"]
    assert signing(keyosk) == signing(other)
    sql = f"SELECT count(*) FROM {EVERY_AUDIT_ROW} WHERE action = ?"
    rows = rows_of(keyosk, sql, "signing_key.rotate")
    assert rows == [(1,)]


def test_rotations_never_leave_two_that_sign_or_none(keyosk: Installation, clock: Clock) -> None:
    for _ in range(6):
        clock.now += 90 * DAY
        keyosk.key_schedule.advance()
        clock.now += AHEAD
        keyosk.key_schedule.advance()
        assert states(keyosk).count("active") == 1
        assert len(published(keyosk)) <= 5


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.parametrize("step", range(4))
def test_a_kill_at_any_step_leaves_what_a_start_carries_on(prepared_url: str, step: int) -> None:
    """The process is killed at its n-th write to the keys, of a rotation and of a change-over."""
    past = int(time.time()) - 80 * DAY
    with installed(prepared_url) as keyosk:
        keyosk.database.raw.execute_sql(
            f"UPDATE signing_key SET active_from = {past - 90 * DAY}, published_at = {past}"
        )
    for moment in (past, past + AHEAD):
        process = multiprocessing.get_context("spawn").Process(
            target=_die_at, args=(prepared_url, moment, step)
        )
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        with installed(prepared_url, clock=Clock(moment)) as again:
            again.key_schedule.advance()
            after = states(again)
            assert after.count("active") == 1
            assert after.count("next") + after.count("retired") == 1
            assert signing(again) in published(again)


def _die_at(url: str, moment: int, step: int) -> None:
    with installed(url, clock=Clock(moment)) as keyosk:
        store: Any = keyosk.rotation._store
        writes = 0

        def deadly(method: Callable[..., None]) -> Callable[..., None]:
            def write(*arguments: Any, **options: Any) -> None:
                nonlocal writes
                if writes // 2 == step and writes % 2 == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                method(*arguments, **options)
                writes += 1
                if writes // 2 == step and writes % 2 == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                writes += 1

            return write

        for name in ("add", "change"):
            setattr(store, name, deadly(getattr(store, name)))
        keyosk.key_schedule.advance()


# --- Stolen keys ----------------------------------------------------------------------------------


def token(keyosk: Installation, name: str = "admin") -> str:
    login = keyosk.authentication.preview_login(keyosk.accounts.get(name).id, None)
    with delays_noted():
        return keyosk.token_issuer.by_login(login, TokenRequest(targets=("keyosk",))).token.text


@pytest.fixture
def present(prepared_url: str) -> Iterator[Installation]:
    with installed(prepared_url) as made:
        yield made


def accepted(keyosk: Installation, text: str) -> bool:
    try:
        claims = keyosk.tokens.verify(text, audience="keyosk")
        keyosk.authentication.by_token(claims, audience="keyosk")
    except BadToken:
        return False
    return True


def test_a_stolen_key_is_out_at_once_everywhere(present: Installation, prepared_url: str) -> None:
    with installed(prepared_url) as other:
        other.signing_keys.refresh()
        other.signing_keys._in_background = True  # it reads nothing by itself now
        stolen = present.signing_keys.current.default.kid
        text = token(present)
        assert accepted(other, text)

        assert present.rotation.compromise(OPERATOR, stolen).state is KeyState.COMPROMISED

        assert not accepted(present, text)
        assert not accepted(other, text)
        assert stolen not in published(present)
        # The other process hears of it with the next login.
        fresh = token(other)
        assert jwt.get_unverified_header(fresh)["kid"] != stolen
        assert stolen not in published(other)
        assert accepted(present, fresh)
        entries = present.revocation_list.published().revocations
        assert [(each.claim.value, each.value) for each in entries] == [("kid", stolen)]
        with pytest.raises(Conflict):
            present.rotation.compromise(OPERATOR, stolen)


def test_an_entry_of_a_stolen_key_holds_for_later_dates(keyosk: Installation, clock: Clock) -> None:
    stolen = signing(keyosk)
    keyosk.rotation.compromise(OPERATOR, stolen)
    client = app.create_app(keyosk).test_client()
    (entry,) = client.get("/auth/revocations").get_json()["entries"]
    # issued_before would let through whatever the thief signs from now on.
    assert entry == {"kid": stolen, "expires": clock.now + 7 * DAY}
    assert keyosk.revocations.is_revoked("any", stolen, "any", issued_at=int(clock.now) + 3_600)
    clock.now += 7 * DAY - 1
    assert client.get("/auth/revocations").get_json()["entries"] == [entry]
    clock.now += 1
    assert client.get("/auth/revocations").get_json()["entries"] == []


@pytest.mark.parametrize("path", ["/auth/jwks", "/.well-known/jwks.json", "/services/keyosk/jwks"])
def test_no_process_publishes_a_stolen_key_after_its_end(
    present: Installation, prepared_url: str, path: str
) -> None:
    with installed(prepared_url) as other:
        other.signing_keys.refresh()
        other.signing_keys._in_background = True  # it reads nothing by itself now
        client = app.create_app(other).test_client()
        stolen = present.signing_keys.current.default.kid
        assert client.get(f"/auth/keys/{stolen}.pem").status_code == 200

        present.rotation.compromise(OPERATOR, stolen)

        assert stolen not in client.get(path).get_data(as_text=True)
        assert client.get(f"/auth/keys/{stolen}.pem").status_code == 404


@pytest.mark.attack
def test_keys_that_were_read_before_do_not_replace_those_read_after(
    present: Installation, prepared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow reader of before would bring a stolen key back, to publish and to sign with."""
    with installed(prepared_url) as other:
        stolen = other.signing_keys.current.default.kid
        other.signing_keys._in_background = True  # it reads nothing by itself now
        were_read, may_go_on = threading.Event(), threading.Event()
        read = other.signing_keys._store.all

        def read_slowly() -> tuple[SigningKey, ...]:
            rows = read()
            if not were_read.is_set():
                were_read.set()
                assert may_go_on.wait(30)
            return rows

        monkeypatch.setattr(other.signing_keys._store, "all", read_slowly)
        with ThreadPoolExecutor(2) as threads:
            slow = threads.submit(_closing(other, other.signing_keys.refresh))
            assert were_read.wait(30)
            present.rotation.compromise(OPERATOR, stolen)
            quick = threads.submit(_closing(other, other.signing_keys.confirmed))
            wait([quick], timeout=0.5)  # it may have to wait for the slow one
            may_go_on.set()
            slow.result()
            assert quick.result()[1] is True
        assert stolen not in published(other)
        assert signing(other) != stolen


def test_who_asks_for_keys_while_another_opens_the_new_one_waits_for_it(
    present: Installation, prepared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a key takes longer, on a busy machine, than a database may be waited for."""
    with installed(prepared_url) as other:
        stolen = other.signing_keys.current.default.kid
        other.signing_keys._in_background = True  # it reads nothing by itself now
        opening, may_go_on = threading.Event(), threading.Event()
        opened = other.signing_keys._private_keys.open

        def open_slowly(*of: Any) -> Any:
            opening.set()
            assert may_go_on.wait(30)
            return opened(*of)

        monkeypatch.setattr(other.signing_keys._private_keys, "open", open_slowly)
        present.rotation.compromise(OPERATOR, stolen)
        with ThreadPoolExecutor(2) as threads:
            first = threads.submit(_closing(other, other.signing_keys.confirmed))
            assert opening.wait(30)
            second = threads.submit(_closing(other, other.signing_keys.confirmed))
            wait([second], timeout=0.5)
            may_go_on.set()
            for asked in (first, second):
                keys, confirmed = asked.result()
                assert confirmed
                assert stolen not in keys.document.kids
        assert stolen not in published(other)


def test_the_last_moment_of_a_second_is_no_shorter_than_its_first(
    prepared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is published at a whole second: what it is younger than, its tokens wait for."""
    waited: list[float] = []
    monkeypatch.setattr(delays, "delay_response", waited.append)
    # The second after the template's key was made, at least: for the very first key nobody waits.
    clock = Clock(int(time.time()) + 1.9)
    with installed(prepared_url, clock=clock) as keyosk:
        keyosk.rotation.compromise(OPERATOR, keyosk.signing_keys.current.default.kid)
        token(keyosk)
        assert waited[0] >= SPREAD
        clock.now += SPREAD
        token(keyosk)
        assert 0 < waited[1] <= 0.2
        clock.now += 0.2
        token(keyosk)
        assert len(waited) == 2


def _closing(keyosk: Installation, task: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        try:
            return task()
        finally:
            keyosk.database.close()  # this thread's own connection

    return run


def test_a_set_that_the_database_did_not_confirm_is_kept_for_a_second(
    present: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = app.create_app(present).test_client()
    kid = present.signing_keys.current.default.kid

    def ages() -> list[str]:
        paths = ("/auth/jwks", "/services/keyosk/jwks", f"/auth/keys/{kid}.pem")
        responses = [client.get(path) for path in paths]
        assert [response.status_code for response in responses] == [200] * 3
        return [response.headers["Cache-Control"] for response in responses]

    def away() -> int:
        raise Unavailable("The database is not available.")

    # Instead of an error it is kept as long as any other: what a cache has otherwise is older.
    until_error = "stale-if-error=86400"
    confirmed = f"public, max-age=300, {until_error}"
    assert ages() == [confirmed, confirmed, "public, max-age=300"]
    monkeypatch.setattr(present.signing_keys._compromised, "_read", away)
    unconfirmed = f"public, max-age=1, {until_error}"
    assert ages() == [unconfirmed, unconfirmed, "public, max-age=1"]
    monkeypatch.undo()
    assert ages() == [confirmed, confirmed, "public, max-age=300"]


def test_entries_from_before_lose_their_date_and_are_told_of_again(present: Installation) -> None:
    stolen = present.signing_keys.current.default.kid
    present.rotation.compromise(OPERATOR, stolen)
    before = present.revocation_list.published()
    now = int(time.time())
    raw = present.database.raw
    raw.execute_sql(f"UPDATE revocation SET issued_before = {now}, expires = {now + 900}")
    importlib.import_module("keyosk.storage.migrations.0010_stolen_keys").up(None, raw)
    (entry,) = present.revocation_list.published(before.sequence).revocations
    assert (entry.value, entry.issued_before) == (stolen, None)
    assert entry.expires > now + 6 * DAY
    assert rows_of(present, "SELECT count(*) FROM revocation") == [(1,)]


def test_after_a_stolen_key_the_next_one_signs(present: Installation) -> None:
    new = present.rotation.rotate(OPERATOR).kid
    present.rotation.compromise(OPERATOR, present.signing_keys.current.default.kid)
    assert signing(present) == new
    assert sorted(states(present)) == ["active", "compromised"]


def test_the_audit_log_is_proven_with_keys_that_are_gone_or_stolen(present: Installation) -> None:
    present.grants.create_account(OPERATOR, [], username="somebody")
    present.audit.seal()
    present.rotation.compromise(OPERATOR, present.signing_keys.current.default.kid)
    verdict = present.audit_verifier.verify()
    assert (verdict.fault, verdict.checkpoints > 0) == (None, True)


# --- Evidence -------------------------------------------------------------------------------------


def fetch(client: Any, path: str) -> None:
    with client.get(path) as response:  # what is noted is noted after the response
        assert response.status_code == 200


def test_a_rotation_waits_until_services_have_the_key(keyosk: Installation, clock: Clock) -> None:
    client = app.create_app(keyosk).test_client()
    for name in ("todo", "bill"):
        keyosk.services.create(OPERATOR, name=name)
        fetch(client, f"/auth/jwks?service={name}")
    old = signing(keyosk)
    key = keyosk.rotation.rotate(OPERATOR, when_seen=True, limit=DAY)
    assert keyosk.key_fetches.services_without(key) == ["bill", "todo"]

    fetch(client, "/auth/jwks?service=todo")
    assert keyosk.key_fetches.services_without(key) == ["bill"]
    clock.now += AHEAD * 4
    keyosk.key_schedule.advance()
    assert signing(keyosk) == old
    fetch(client, "/services/bill/jwks")
    assert keyosk.key_fetches.services_without(key) == []
    keyosk.key_schedule.advance()
    clock.now += 2
    assert signing(keyosk) == key.kid


@pytest.mark.parametrize("scheme", ["Basic", "Bearer", "wrong", "malformed"])
def test_who_logs_in_to_fetch_is_known_by_its_service(present: Installation, scheme: str) -> None:
    client = app.create_app(present).test_client()
    bot = present.grants.create_account(OPERATOR, [], username="todo-bot")
    present.services.create(OPERATOR, name="todo", account="todo-bot")
    secret = present.api_keys.create(OPERATOR, bot.id, name="key").secret
    fetch(client, "/auth/jwks?service=todo")
    key = present.rotation.rotate(OPERATOR)
    assert present.key_fetches.services_without(key) == ["todo"]
    token = client.post("/auth/token", auth=("todo-bot", secret)).get_json()["access_token"]
    logins: dict[str, dict[str, Any]] = {
        "Basic": {"auth": ("todo-bot", secret)},
        "Bearer": {"headers": {"Authorization": f"Bearer {token}"}},
        "wrong": {"auth": ("todo-bot", "a password that it never had")},
        "malformed": {"headers": {"Authorization": "Basic !"}},
    }
    # Whatever the login is worth, the keys are for everybody.
    assert client.get("/auth/jwks", **logins[scheme]).status_code == 200
    known = scheme in ("Basic", "Bearer")
    assert present.key_fetches.services_without(key) == ([] if known else ["todo"])


def test_a_key_set_does_not_wait_for_the_login_that_it_was_fetched_with(
    present: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = app.create_app(present).test_client()
    bot = present.grants.create_account(OPERATOR, [], username="todo-bot")
    secret = present.api_keys.create(OPERATOR, bot.id, name="key").secret
    tried: list[Any] = []

    def by_secret(candidates: Any, **_: Any) -> Any:
        tried.append(candidates)
        raise Unavailable("The database is not available.")

    monkeypatch.setattr(present.authentication, "by_secret", by_secret)
    for _ in range(200):
        assert client.get("/auth/jwks", auth=("todo-bot", secret)).status_code == 200
    assert tried == []
    present.key_schedule.advance()
    assert len(tried) == 50
    present.key_schedule.advance()
    assert len(tried) == 50


def test_nobody_has_a_password_hashed_by_fetching_a_key_set(
    present: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = app.create_app(present).test_client()
    monkeypatch.setattr(present.authentication, "by_secret", None)
    assert client.get("/auth/jwks", auth=("admin", "a password")).status_code == 200
    present.key_schedule.advance()


def test_a_rotation_waits_no_longer_than_its_limit(keyosk: Installation, clock: Clock) -> None:
    client = app.create_app(keyosk).test_client()
    keyosk.services.create(OPERATOR, name="todo")
    fetch(client, "/auth/jwks?service=todo")
    key = keyosk.rotation.rotate(OPERATOR, when_seen=True, limit=DAY)
    clock.now += DAY
    assert signing(keyosk) == key.kid
    # Whoever is unknown changes nothing.
    fetch(client, "/auth/jwks?service=nobody")


# --- Algorithms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", OWN_SET_ALGORITHMS)
def test_ml_dsa_is_only_in_the_set_that_asks(present: Installation, algorithm: str) -> None:
    present.services.create(
        OPERATOR, name="todo", signing_algorithm=algorithm, scopes=[Scope("todo:read")]
    )
    account = present.grants.create_account(OPERATOR, [Grant("todo:read")], username="alice")
    login = present.authentication.preview_login(account.id, None)
    with delays_noted():
        issued = present.token_issuer.by_login(login, TokenRequest(targets=("todo",))).token
    header = jwt.get_unverified_header(issued.text)
    assert header["alg"] == algorithm
    assert header["kid"] not in published(present)
    (key,) = app.create_app(present).test_client().get("/services/todo/jwks").get_json()["keys"]
    assert (key["kid"], key["kty"], key["alg"]) == (header["kid"], "AKP", algorithm)
    assert key["kid"] == material.thumbprint(key)
    assert present.tokens.verify(issued.text, audience="todo").scopes == {"todo:read"}
    head, body, signature = issued.text.split(".")
    wrong = f"{head}.{body}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    with pytest.raises(BadToken):
        present.tokens.verify(wrong, audience="todo")


def test_the_key_set_of_a_service_begins_with_its_own_algorithm(present: Installation) -> None:
    client = app.create_app(present).test_client()
    for algorithm in ("RS256", "EdDSA"):
        name = algorithm.lower()
        scopes = [Scope(f"{name}:read")]
        present.services.create(OPERATOR, name=name, signing_algorithm=algorithm, scopes=scopes)
        account = present.grants.create_account(
            OPERATOR, [Grant(f"{name}:read")], username=f"a-{name}"
        )
        login = present.authentication.preview_login(account.id, None)
        # Its first key is made when it is needed.
        with delays_noted():
            present.token_issuer.by_login(login, TokenRequest(targets=(name,)))
        keys = client.get(f"/services/{name}/jwks").get_json()["keys"]
        common = client.get("/auth/jwks").get_json()["keys"]
        assert keys[0]["alg"] == algorithm
        assert sorted(key["kid"] for key in keys) == sorted(key["kid"] for key in common)
        assert common[0]["alg"] == "ES256"


def test_another_algorithm_of_a_service_is_a_rotation(keyosk: Installation, clock: Clock) -> None:
    keyosk.services.create(OPERATOR, name="todo")
    old = signing(keyosk)
    keyosk.services.change(OPERATOR, "todo", {"signing_algorithm": "EdDSA"})
    assert len(published(keyosk)) == 2
    assert keyosk.signing_keys.signer("EdDSA").kid == old
    clock.now += AHEAD
    assert keyosk.signing_keys.signer("EdDSA").algorithm == "EdDSA"
    assert signing(keyosk) == old


# --- From and to elsewhere ------------------------------------------------------------------------


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def test_a_key_from_elsewhere_signs_next(keyosk: Installation, clock: Clock) -> None:
    key, algorithm = imported_keys.read(pem(ec.generate_private_key(ec.SECP256R1())), None)
    brought = keyosk.rotation.import_key(OPERATOR, key, algorithm)
    assert brought.state is KeyState.NEXT
    clock.now += AHEAD
    assert signing(keyosk) == brought.kid
    with pytest.raises(Conflict):
        keyosk.rotation.import_key(OPERATOR, key, algorithm)


@table(
    "make",
    [
        lambda: pem(ec.generate_private_key(ec.SECP384R1())),
        lambda: pem(rsa.generate_private_key(65537, 1024)),  # noqa: S505  # that is the point
        lambda: "-----BEGIN PRIVATE KEY-----\nMFkw\n-----END PRIVATE KEY-----\n",
        lambda: '{"kty": "oct", "k": "c2VjcmV0"}',
        lambda: '{"kty": "EC"}',
        lambda: "{",
        lambda: "\ud800",
        lambda: "",
    ],
    ids=["P-384", "RSA-1024", "cut off", "oct", "no numbers", "no JSON", "surrogate", "empty"],
)
def test_weak_and_broken_keys_are_refused_without_repeating_them(make: Callable[[], str]) -> None:
    text = make()
    with pytest.raises(Invalid) as refusal:
        imported_keys.read(text, None)
    assert len(text) < 3 or text not in str(refusal.value)
    assert refusal.value.__context__ is None


@table("algorithm", COMMON_ALGORITHMS)
def test_keys_come_back_from_jwk_and_pem(algorithm: str) -> None:
    key = material.generate(algorithm)
    read, found = imported_keys.read(pem(key), algorithm)
    assert found == algorithm
    assert material.public_jwk(read, found) == material.public_jwk(key, algorithm)
    name = "ES256" if algorithm == "ES256" else "EdDSA" if algorithm == "EdDSA" else "RS256"
    text = jwt.algorithms.get_default_algorithms()[name].to_jwk(key)
    read, _ = imported_keys.read(text, algorithm)
    assert material.public_jwk(read, algorithm) == material.public_jwk(key, algorithm)


@pytest.mark.slow
def test_the_public_key_is_exported_for_who_reads_files(server: LiveServer, admin: Client) -> None:
    (first, *_) = admin.get("/auth/jwks").json()["keys"]
    text = server.run("signing-key", "export").stdout
    assert text == admin.get(f"/auth/keys/{first['kid']}.pem").text
    assert text == admin.get("/auth/jwks?format=pem").text
    assert json.loads(server.run("signing-key", "export", "--jwk").stdout) == first
    certificate = x509.load_pem_x509_certificate(
        server.run("signing-key", "export", "--x5c").stdout.encode()
    )
    jwk = material.public_jwk(certificate.public_key(), "ES256")  # type: ignore[arg-type]
    assert jwk["kid"] == first["kid"]
    docker = server.run("signing-key", "export", "--docker").stdout.strip()
    assert len(docker) == 59
    assert [len(part) for part in docker.split(":")] == [4] * 12
    assert server.run("signing-key", "export", "nothing").returncode == 1


# --- At rest --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_everything_moves_to_the_first_secret_key(own_server: LiveServer) -> None:
    own_server.start()
    admin = own_server.admin()
    keyed = {"Idempotency-Key": "once"}
    body = {"name": "x", "current_password": ADMIN_PASSWORD}
    ok(admin.post("/accounts/admin/api-keys", json=body, headers=keyed), 201)
    enrol(logged_in(own_server, "admin", ADMIN_PASSWORD), ADMIN_PASSWORD)
    own_server.stop()
    old, new = own_server.environment["KEYOSK_SECRET_KEY"], "n" * 43
    own_server.environment["KEYOSK_SECRET_KEY"] = f"{new},{old}"
    result = own_server.run("database", "rewrap")
    moved = "1 private key, 1 second factor and 1 stored response are"
    assert result.stdout.startswith(moved), result.stdout + result.stderr
    own_server.environment["KEYOSK_SECRET_KEY"] = new
    own_server.start()
    assert own_server.admin().get("/accounts/me").status_code == 200
    own_server.stop()
    own_server.environment["KEYOSK_SECRET_KEY"] = old
    result = own_server.run("serve")
    assert result.returncode == 1
    assert "KEYOSK_SECRET_KEY" in result.stderr
    assert "Traceback" not in result.stderr


# --- Verifiers that cache -------------------------------------------------------------------------


class Strict:
    """A verifier that keeps the set as long as it may, and never looks for an unknown kid."""

    def __init__(self, url: str) -> None:
        self.client = Client(url)
        self.until, self.keys = 0.0, {}  # type: ignore[var-annotated]

    def accepts(self, text: str) -> bool:
        now = time.monotonic()
        if now >= self.until:
            response = self.client.get("/auth/jwks")
            age = int(response.headers["Cache-Control"].split("max-age=")[1].split(",")[0])
            self.until = now + age  # from the request on, as the response may be late
            self.keys = {key["kid"]: jwt.PyJWK(key) for key in response.json()["keys"]}
        key = self.keys.get(jwt.get_unverified_header(text)["kid"])
        if key is None:
            return False
        jwt.decode(text, key.key, algorithms=["ES256"], options={"verify_aud": False})
        return True


@pytest.mark.slow
def test_ten_rotations_under_load_are_noticed_by_nobody(database_url: str, tmp_path: Path) -> None:
    """Two nodes of two processes each on one database, with short times in place of long ones."""
    times = {"key_publish_ahead": "5", "key_retain": "3", "token_lifetime": "30", "workers": "2"}
    with (
        LiveServer(database_url, tmp_path, **times) as one,
        LiveServer(database_url, tmp_path, **times) as two,
    ):
        admin = one.admin()
        name = unique("svc")
        ok(admin.post("/services", json={"name": name, "scopes": [f"{name}:r"]}), 201)
        person = make_person(admin, f"{name}:r")
        secret = ok(admin.post(f"{person.path}/api-keys", json={"name": "k"}), 201)["secret"]
        by_password = one.client("admin", ADMIN_PASSWORD)  # its tokens last 30 seconds only
        refused: list[str] = []
        kids: set[str] = set()
        stop = threading.Event()
        # Each keeps a set for max-age, which never reaches beyond the next change.
        verifiers = [Strict(one.url), Strict(two.url)]
        lazy = jwt.PyJWKClient(f"{two.url}/auth/jwks", lifespan=1)

        def load(server: LiveServer) -> None:
            client = server.client(person.username, secret)
            while not stop.is_set():
                text = client.post("/auth/token").json()["access_token"]
                kids.add(jwt.get_unverified_header(text)["kid"])
                refused.extend("strict" for each in verifiers if not each.accepts(text))
                try:
                    lazy.get_signing_key_from_jwt(text)
                except jwt.PyJWKClientError:
                    refused.append("lazy")

        threads = [threading.Thread(target=load, args=(server,)) for server in (one, two)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                assert rotated(by_password)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert refused == []
        assert len(kids) == 11


@pytest.mark.slow
def test_ten_rotations_are_not_noticed_by_jose_and_what_is_gone_it_refuses(tmp_path: Path) -> None:
    """The most used verifier of Node.js, which does not look again for a key it does not know."""
    times = {"key_publish_ahead": "5", "key_retain": "3", "token_lifetime": "30", "workers": "2"}
    with LiveServer(f"sqlite:///{tmp_path / 'keyosk.db'}", tmp_path, **times) as server:
        admin = server.client("admin", ADMIN_PASSWORD)
        secret = ok(admin.post("/accounts/me/api-keys", json={"name": "k"}), 201)["secret"]
        client = server.client("admin", secret)
        # 10 minutes by default, where a key is published 15 ahead; here in the same proportion.
        given = {"jwks": f"{server.url}/auth/jwks", "issuer": server.url, "cacheMaxAge": 3_300}
        verdicts: Counter[str] = Counter()
        stop = threading.Event()
        with node_modules.conversation("verifier.mjs", given) as jose:
            first = client.post("/auth/token").json()["access_token"]
            assert jose(first) == "ok"

            def load() -> None:
                while not stop.is_set():
                    verdicts[jose(client.post("/auth/token").json()["access_token"])] += 1

            loading = threading.Thread(target=load)
            loading.start()
            try:
                assert all(rotated(admin) for _ in range(10))
            finally:
                stop.set()
                loading.join()
            assert set(verdicts) == {"ok"}
            assert jose(first) == "ERR_JWKS_NO_MATCHING_KEY"


def rotated(admin: Client) -> bool:
    """Rotate as soon as there is room in the set, and wait until the new key signs."""
    deadline = time.monotonic() + 90
    kid = None
    while time.monotonic() < deadline:
        if kid is None:
            response = admin.post("/signing-keys/rotate")
            if response.status_code == 201:
                kid = response.json()["kid"]
        elif admin.get(f"/signing-keys/{kid}").json()["state"] == "active":
            return True
        time.sleep(0.3)
    return False


@pytest.mark.slow
def test_every_process_knows_the_key_after_a_stolen_one(database_url: str, tmp_path: Path) -> None:
    with LiveServer(database_url, tmp_path, workers="4") as server:
        login = server.client("admin", ADMIN_PASSWORD)

        def issue() -> str:
            response = login.post("/auth/token", data={"audience": "keyosk"})
            return str(ok(response)["access_token"])

        token = issue()
        for _ in range(3):
            # Of the token: a worker that could not ask the database in time has the last set.
            stolen = jwt.get_unverified_header(token)["kid"]
            assert server.run("signing-key", "compromise", stolen).returncode == 0
            token = issue()
            # A connection each, so that each worker gets some.
            asked = [Client(server.url, token=token).get("/accounts/me") for _ in range(16)]
            assert [each.status_code for each in asked] == [200] * 16


@pytest.mark.slow
def test_no_request_of_a_thousand_uses_a_stolen_key(database_url: str, tmp_path: Path) -> None:
    with LiveServer(database_url, tmp_path, workers="4") as server:
        admin = server.admin()
        person = make_person(admin, "keyosk:services:read")
        secret = ok(admin.post(f"{person.path}/api-keys", json={"name": "k"}), 201)["secret"]
        login = server.client(person.username, secret)
        form = {"audience": "keyosk"}
        old = ok(login.post("/auth/token", data=form))["access_token"]
        stolen = jwt.get_unverified_header(old)["kid"]

        assert server.run("signing-key", "compromise", stolen).returncode == 0

        clients = [server.client(person.username, secret) for _ in range(8)]
        bearer = {"Authorization": f"Bearer {old}"}

        def ask(number: int) -> tuple[int, bool]:
            client = clients[number % 8]
            let_in = client.get("/services", headers=bearer, auth=_nobody).status_code
            # Until every process has the new key, a token may have to wait for it.
            while (response := client.post("/auth/token", data=form)).status_code == 503:
                time.sleep(float(response.headers["Retry-After"]))
            kid = jwt.get_unverified_header(ok(response)["access_token"])["kid"]
            known = [key["kid"] for key in client.get("/auth/jwks").json()["keys"]]
            return let_in, kid != stolen and kid in known

        with ThreadPoolExecutor(8) as threads:
            responses = list(threads.map(ask, range(1000)))
        assert set(responses) == {(401, True)}


def _nobody(request: Any) -> Any:
    return request
