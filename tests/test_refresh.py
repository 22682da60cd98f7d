"""Refresh tokens: used once, the same again for a lost response, and never more than was begun."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from installed import EVERY_AUDIT_ROW, Clock, rows_of, with_todo
from keyosk.credentials.presented import candidates
from keyosk.errors import InvalidGrant, Unavailable
from keyosk.ids import new_id
from keyosk.installation import Installation
from keyosk.keys.material import Safe
from keyosk.model import OPERATOR, Grant, ListQuery
from keyosk.permissions import entitlements
from keyosk.storage import outage, tables
from keyosk.storage.database import Database
from keyosk.tokens import refresh_token_format
from keyosk.tokens.access_tokens import Token
from keyosk.tokens.issuing import IssuedToken, TokenRequest
from live import Client, LiveServer, unique
from people import NEW_PASSWORD, PASSWORD, Person, claims_of, make_key, make_person, ok
from waiting import until

pytestmark = pytest.mark.every_database

GRANT = "refresh_token"


@pytest.fixture
def todo(admin: Client) -> str:
    return make_service(admin)


def make_service(admin: Client, **fields: Any) -> str:
    name = unique("todo")
    scopes = [f"{name}:read", f"{name}:write"]
    body = {"name": name, "scopes": scopes, "refresh_allowed": True, **fields}
    ok(admin.post("/services", json=body), 201)
    return name


@pytest.fixture
def alice(admin: Client, todo: str) -> Person:
    return make_person(admin, f"{todo}:read", f"{todo}:write")


def begin(person: Person, secret: str = PASSWORD, **parameters: str) -> dict[str, Any]:
    asked = {"scope": "offline_access", **parameters}
    response: dict[str, Any] = ok(person.login(secret).post("/auth/token", data=asked))
    return response


def refresh(client: Client, token: str, **parameters: str) -> requests.Response:
    data = {"grant_type": GRANT, "refresh_token": token, **parameters}
    return client.post("/auth/token", data=data)


def refused(response: requests.Response, error: str = "invalid_grant") -> None:
    assert (response.status_code, response.json()["error"]) == (400, error), response.text
    assert response.headers["Cache-Control"] == "no-store"


def claims(body: dict[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = claims_of(body["access_token"])
    return decoded


def entries(server: LiveServer) -> list[dict[str, Any]]:
    published: list[dict[str, Any]] = ok(server.client().get("/auth/revocations"))["entries"]
    return published


# --- When there is one ----------------------------------------------------------------------------


def test_a_refresh_token_is_given_where_asked_for_and_allowed(alice: Person, todo: str) -> None:
    body = begin(alice)
    assert body["refresh_token"].startswith("kysr_")
    assert set(body["scope"].split()) == {f"{todo}:read", f"{todo}:write", "offline_access"}
    assert claims(body)["scope"] == body["scope"]
    assert "refresh_token" not in ok(alice.login().post("/auth/token"))


def test_no_refresh_token_where_a_service_allows_none(admin: Client, todo: str) -> None:
    strict = make_service(admin, refresh_allowed=False)
    person = make_person(admin, f"{todo}:read", f"{strict}:read")
    body = begin(person)
    assert "refresh_token" not in body
    assert "offline_access" not in body["scope"]
    assert "refresh_token" in begin(person, audience=todo)


def test_somebody_without_an_audience_gets_none(admin: Client) -> None:
    assert "refresh_token" not in begin(make_person(admin))


# --- Use ------------------------------------------------------------------------------------------


def test_each_use_gives_a_token_of_the_login(server: LiveServer, alice: Person, todo: str) -> None:
    first = begin(alice, scope=f"offline_access {todo}:read")
    anybody = server.client()  # its secret is needed no more
    bodies = [first]
    for _ in range(3):
        bodies.append(ok(refresh(anybody, bodies[-1]["refresh_token"])))
    assert len({body["refresh_token"] for body in bodies}) == 4
    assert len({claims(body)["jti"] for body in bodies}) == 4
    assert {body["scope"] for body in bodies} == {f"{todo}:read offline_access"}
    assert len({(claims(body)["auth_time"], claims(body)["amr"][0]) for body in bodies}) == 1
    assert bodies[-1]["expires_in"] == 900


def test_a_lost_answer_gets_the_same_successor_again(server: LiveServer, alice: Person) -> None:
    first = begin(alice)["refresh_token"]
    anybody = server.client()
    responses = [ok(refresh(anybody, first)) for _ in range(3)]
    assert len({response["refresh_token"] for response in responses}) == 1
    assert len({claims(response)["jti"] for response in responses}) == 3
    ok(refresh(anybody, responses[0]["refresh_token"]))


def test_an_old_token_ends_the_session_and_what_followed(server: LiveServer, alice: Person) -> None:
    anybody = server.client()
    bodies = [begin(alice)]
    for _ in range(2):
        bodies.append(ok(refresh(anybody, bodies[-1]["refresh_token"])))
    other = begin(alice)

    refused(refresh(anybody, bodies[0]["refresh_token"]))

    refused(refresh(anybody, bodies[-1]["refresh_token"]))
    revoked = {entry.get("jti") for entry in entries(server)}
    assert {claims(body)["jti"] for body in bodies} <= revoked
    assert claims(other)["jti"] not in revoked
    ok(refresh(anybody, other["refresh_token"]))


def test_twenty_at_once_get_one_successor(server: LiveServer, alice: Person) -> None:
    first = begin(alice)["refresh_token"]
    clients = [server.client() for _ in range(20)]
    start = threading.Barrier(20)

    def use(client: Client) -> requests.Response:
        start.wait(timeout=60)
        return refresh(client, first)

    with ThreadPoolExecutor(20) as threads:
        responses = list(threads.map(use, clients))

    assert Counter(response.status_code for response in responses) == {200: 20}
    (successor,) = {response.json()["refresh_token"] for response in responses}
    assert ok(refresh(server.client(), successor))["refresh_token"] != successor


@pytest.mark.slow
def test_twenty_at_once_over_two_servers_and_a_restart(database_url: str, tmp_path: Path) -> None:
    with LiveServer(database_url, tmp_path) as one, LiveServer(database_url, tmp_path) as other:
        admin = one.admin()
        todo = make_service(admin)
        first = begin(make_person(admin, f"{todo}:read"))["refresh_token"]
        clients = [(one, other)[number % 2].client() for number in range(20)]
        with ThreadPoolExecutor(20) as threads:
            responses = list(threads.map(lambda client: refresh(client, first), clients))
        assert Counter(response.status_code for response in responses) == {200: 20}
        (successor,) = {response.json()["refresh_token"] for response in responses}
        one.kill()
        one.start()
        following = ok(refresh(one.client(), successor))["refresh_token"]
        ok(refresh(other.client(), following))


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_server_has_stored_every_refresh_that_it_answered(
    database_url: str, tmp_path: Path
) -> None:
    with LiveServer(database_url, tmp_path, workers="2") as server:
        alice = make_person(server.admin(), f"{make_service(server.admin())}:read")
        sessions = [[str(begin(alice)["refresh_token"])] for _ in range(12)]

        def go_on(tokens: list[str]) -> None:
            client = server.client()
            with suppress(requests.ConnectionError):
                while True:
                    tokens.append(ok(refresh(client, tokens[-1]))["refresh_token"])

        with ThreadPoolExecutor(len(sessions)) as threads:
            going = [threads.submit(go_on, tokens) for tokens in sessions]
            until(lambda: min(map(len, sessions)) > 20)
            server.kill()
            for each in going:
                each.result()
    database = Database(database_url)
    stored = {bytes(row["digest"]) for row in database.rows(tables.Session.select())}
    database.close()
    earlier = {digest(token) for tokens in sessions for token in tokens[:-1]}
    assert stored.isdisjoint(earlier)
    assert len(stored) == len(sessions)


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


# --- Bounds ---------------------------------------------------------------------------------------


def test_scope_and_audience_narrow_one_token_and_never_widen(
    server: LiveServer, admin: Client, todo: str
) -> None:
    bill = make_service(admin)
    person = make_person(admin, *[f"{todo}:read", f"{todo}:write", f"{bill}:read"])
    asked = f"offline_access {todo}:read {bill}:read"
    token = begin(person, scope=asked)["refresh_token"]
    anybody = server.client()

    narrow = ok(refresh(anybody, token, scope=f"{todo}:read", audience=todo))
    assert (narrow["scope"], claims(narrow)["aud"]) == (f"{todo}:read", todo)
    token = narrow["refresh_token"]
    wide = ok(refresh(anybody, token))
    assert set(wide["scope"].split()) == set(asked.split())
    token = wide["refresh_token"]
    refused(refresh(anybody, token, scope=f"{todo}:write"), "invalid_scope")
    refused(refresh(anybody, token, audience="keyosk"), "invalid_target")
    # What was refused used nothing up.
    ok(refresh(anybody, token))


def test_scopes_that_were_lost_are_gone_and_new_ones_are_not_added(
    server: LiveServer, admin: Client, alice: Person, todo: str
) -> None:
    token = begin(alice, scope=f"offline_access {todo}:read {todo}:write")["refresh_token"]
    taken = {"remove": {"scopes": [f"{todo}:write"]}, "add": {"scopes": ["keyosk:audit:read"]}}
    ok(admin.patch(f"{alice.path}/grants", json=taken))
    body = ok(refresh(server.client(), token))
    assert set(body["scope"].split()) == {f"{todo}:read", "offline_access"}
    assert claims(body)["aud"] == todo


def test_a_session_without_grants_goes_on_without_scopes_as_a_login_does(
    server: LiveServer, admin: Client, alice: Person, todo: str
) -> None:
    """It ends with its login (RFC 6749 section 6). Grants that lapse for a while log nobody out."""
    scopes = [f"{todo}:read", f"{todo}:write"]
    token = begin(alice, scope=f"offline_access {scopes[0]}")["refresh_token"]
    ok(admin.patch(f"{alice.path}/grants", json={"remove": {"scopes": scopes}}))

    body = ok(refresh(server.client(), token))
    login = begin(alice, audience=todo)
    for each in (body, login):
        assert (each["scope"], claims(each)["scope"]) == ("offline_access", "offline_access")
        assert (claims(each)["aud"], claims(each)["sub"]) == (todo, alice.id)
    token = body["refresh_token"]
    # What is lost is refused by name, and uses nothing up.
    refused(refresh(server.client(), token, scope=scopes[0]), "invalid_scope")

    ok(admin.patch(f"{alice.path}/grants", json={"add": {"scopes": scopes}}))
    body = ok(refresh(server.client(), token))
    assert set(body["scope"].split()) == {scopes[0], "offline_access"}


@pytest.mark.parametrize(
    "loss", ["disabled", "deleted", "password", "no password", "tokens", "session", "refreshing"]
)
def test_a_session_ends_with_its_login(
    server: LiveServer, admin: Client, alice: Person, todo: str, loss: str
) -> None:
    token = begin(alice)["refresh_token"]
    (session,) = ok(admin.get(f"{alice.path}/tokens"))["items"]
    request = {
        "disabled": ("PATCH", alice.path, {"enabled": False}),
        "deleted": ("DELETE", alice.path, None),
        "password": ("PUT", f"{alice.path}/password", {"password": NEW_PASSWORD}),
        "no password": ("DELETE", f"{alice.path}/password", None),
        "tokens": ("DELETE", f"{alice.path}/tokens", None),
        "session": ("DELETE", f"{alice.path}/tokens/{session['id']}", None),
        "refreshing": ("PATCH", f"/services/{todo}", {"refresh_allowed": False}),
    }[loss]
    assert admin.request(*request[:2], json=request[2]).status_code in (200, 204)
    refused(refresh(server.client(), token))
    if loss == "disabled":
        ok(admin.patch(alice.path, json={"enabled": True}))
        refused(refresh(server.client(), token))


@pytest.mark.parametrize("loss", ["deleted", "another audience"])
def test_a_session_ends_with_its_service_and_does_not_begin_anew_with_the_next_one(
    server: LiveServer, admin: Client, loss: str
) -> None:
    # "_" and "%" stand for anything in a pattern: no other service is meant.
    audience = unique("urn:to_o%")
    gone = make_service(admin, audience=audience)
    other = make_service(admin, audience=audience.replace("_", "-"))
    person = make_person(admin, f"{gone}:read", f"{other}:read")
    both = begin(person)["refresh_token"]
    alone = begin(person, scope=f"offline_access {gone}:read")["refresh_token"]
    kept = begin(person, scope=f"offline_access {other}:read")["refresh_token"]
    path = f"/services/{gone}"
    if loss == "deleted":
        assert admin.delete(f"{path}?force=true").status_code in (200, 204)
    else:
        ok(admin.patch(path, json={"audience": unique("urn:other")}))
    assert len(ok(admin.get(f"{person.path}/tokens"))["items"]) == 1
    if loss == "deleted":
        body = {"name": gone, "scopes": [f"{gone}:read"]}
        ok(
            admin.post("/services", json={**body, "audience": audience, "refresh_allowed": True}),
            201,
        )
        ok(admin.patch(f"{person.path}/grants", json={"add": {"scopes": [f"{gone}:read"]}}))
    refused(refresh(server.client(), both))
    refused(refresh(server.client(), alone))
    ok(refresh(server.client(), kept))


@pytest.mark.parametrize("loss", ["deleted", "disabled", "ended", "elsewhere"])
def test_a_session_ends_with_the_key_that_began_it(
    server: LiveServer, admin: Client, alice: Person, loss: str
) -> None:
    key, secret = make_key(admin, alice)
    token = begin(alice, secret)["refresh_token"]
    path = f"{alice.path}/api-keys/{key}"
    ok(admin.put(f"{alice.path}/password", json={"password": NEW_PASSWORD}), 204)
    token = ok(refresh(server.client(), token))["refresh_token"]
    changes: dict[str, dict[str, Any]] = {
        "disabled": {"enabled": False},
        "ended": {"expires_at": "2020-01-01T00:00:00Z"},
        "elsewhere": {"networks": ["192.0.2.0/24"]},
    }
    if loss == "deleted":
        ok(admin.delete(path), 204)
    else:
        ok(admin.patch(path, json=changes[loss]))
    refused(refresh(server.client(), token))


def test_a_login_that_is_shown_as_well_must_be_the_same(
    server: LiveServer, admin: Client, alice: Person
) -> None:
    token = begin(alice)["refresh_token"]
    bob = make_person(admin)
    refused(refresh(bob.login(), token))
    refused(refresh(server.client(), token, client_id=bob.username))
    wrong = refresh(server.client(alice.username, "not the password"), token)
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    ok(refresh(alice.login(), token, client_id=alice.username))


@pytest.mark.parametrize("what", ["", "garbage", "kysr_", "tampered", "longer", "jwt", "key"])
def test_what_is_no_refresh_token_is_refused(
    server: LiveServer, admin: Client, alice: Person, what: str
) -> None:
    good = begin(alice)
    token = good["refresh_token"]
    wrong = {
        "tampered": token[:-1] + ("A" if token[-1] != "A" else "B"),
        "longer": token + "A",
        "jwt": good["access_token"],
        "key": make_key(admin, alice)[1],
    }.get(what, what)
    refused(refresh(server.client(), wrong), "invalid_grant" if wrong else "invalid_request")
    ok(refresh(server.client(), token))


def test_a_refresh_token_opens_nothing_else(server: LiveServer, alice: Person) -> None:
    token = begin(alice)["refresh_token"]
    assert Client(server.url, token=token).get("/accounts/me").status_code == 401
    assert server.client(alice.username, token).post("/auth/token").status_code == 401
    in_query = server.client().get(f"/auth/token?grant_type={GRANT}&refresh_token={token}")
    refused(in_query, "invalid_request")


# --- Lists, introspection, revocation -------------------------------------------------------------


def test_sessions_are_listed_and_ended_one_by_one(
    server: LiveServer, admin: Client, alice: Person, todo: str
) -> None:
    one, other = begin(alice), begin(alice, scope=f"offline_access {todo}:read")
    items = ok(alice.login().get("/accounts/me/tokens"))["items"]
    assert [item["scopes"] for item in items] == [
        [f"{todo}:read", f"{todo}:write"],
        [f"{todo}:read"],
    ]
    assert items[0]["audiences"] == [todo]
    assert items[0]["credential"] == "password"
    assert items[0]["expires_at"] > items[0]["created_at"] == items[0]["last_used_at"]
    assert "kysr_" not in str(items)

    stranger = make_person(admin)
    path = f"/accounts/{alice.username}/tokens/{items[0]['id']}"
    assert stranger.login().delete(path).status_code == 403
    assert admin.delete(f"{stranger.path}/tokens/{items[0]['id']}").status_code == 404
    assert admin.delete(f"{alice.path}/tokens/nothing").status_code == 404
    assert alice.login().delete(path).status_code == 204

    refused(refresh(server.client(), one["refresh_token"]))
    assert claims(one)["jti"] in {entry.get("jti") for entry in entries(server)}
    ok(refresh(server.client(), other["refresh_token"]))


def test_a_refresh_token_is_introspected_and_revoked(
    server: LiveServer, admin: Client, alice: Person, todo: str
) -> None:
    body = begin(alice)
    login, token = alice.login(), {"token": body["refresh_token"]}
    document = ok(login.post("/auth/introspect", data=token))
    assert (document["active"], document["sub"], document["aud"]) == (True, alice.id, [todo])
    bob = make_person(admin).login()
    assert ok(bob.post("/auth/introspect", data=token)) == {"active": False}
    refused(bob.post("/auth/revoke", data=token))

    assert login.post("/auth/revoke", data=token).status_code == 200

    assert ok(login.post("/auth/introspect", data=token)) == {"active": False}
    refused(refresh(server.client(), body["refresh_token"]))
    access = {"token": body["access_token"]}
    assert ok(login.post("/auth/introspect", data=access)) == {"active": False}


# --- Time -----------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock(int(time.time()) - 90 * 86_400)


@pytest.fixture
def timed(prepared_url: str, clock: Clock) -> Iterator[Installation]:
    with with_todo(prepared_url, clock) as made:
        made.grants.create_account(
            OPERATOR, [Grant("todo:read")], username="alice", password=PASSWORD
        )
        yield made


def begun(keyosk: Installation) -> IssuedToken:
    login = keyosk.authentication.by_secret(candidates([("alice", PASSWORD)]))
    return keyosk.token_issuer.by_login(
        login, TokenRequest(entitlements.parse_scope("offline_access"))
    )


def used(keyosk: Installation, token: str | None) -> str:
    following = keyosk.token_issuer.by_refresh_token(token or "", TokenRequest()).refresh_token
    assert following is not None
    return following


def test_the_same_successor_is_given_for_ten_seconds(timed: Installation, clock: Clock) -> None:
    first = begun(timed).refresh_token
    second = used(timed, first)
    clock.now += 10
    assert used(timed, first) == second
    clock.now += 1
    with pytest.raises(InvalidGrant):
        used(timed, first)
    with pytest.raises(InvalidGrant):
        used(timed, second)
    sql = f"SELECT after FROM {EVERY_AUDIT_ROW} WHERE action = ?"
    (action,) = rows_of(timed, sql, "session.reuse")
    assert "kysr_" not in str(action)


def test_while_the_database_is_away_no_lost_response_gets_too_old(
    timed: Installation, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "time", SimpleNamespace(monotonic=lambda: clock.now))
    log = timed.database._log
    first = begun(timed).refresh_token
    second = used(timed, first)  # whose response is lost
    log.begin(Unavailable("The database is not available.", reason="away"), reads=True)
    clock.now += 100
    log.end(reads=True)
    clock.now += 10
    assert used(timed, first) == second
    clock.now += 1
    with pytest.raises(InvalidGrant):
        used(timed, first)


def test_a_session_ends_however_often_it_is_used(timed: Installation, clock: Clock) -> None:
    timed.services.change(OPERATOR, "todo", {"refresh_lifetime": 3_600})
    issued = begun(timed)
    for _ in range(5):
        clock.now += 600
        issued = timed.token_issuer.by_refresh_token(issued.refresh_token or "", TokenRequest())
    assert issued.token.expires_in == 600  # and its tokens do not outlive it
    clock.now += 600
    with pytest.raises(InvalidGrant):
        used(timed, issued.refresh_token or "")
    clock.now += 86_400  # it is kept for a day: a clock that is ahead for a moment ends none
    begun(timed)
    assert rows_of(timed, "SELECT count(*) FROM session") == [(1,)]


@pytest.mark.parametrize("end", ["session", "all", "account", "password"])
def test_no_token_is_given_out_where_its_session_ends_as_it_is_issued(
    timed: Installation, end: str
) -> None:
    use = timed.sessions.find(begun(timed).refresh_token or "")

    def issue() -> Token:
        if end == "session":
            timed.sessions.end(OPERATOR, "alice", use.session.id)
        elif end == "all":
            timed.accounts.revoke_tokens(OPERATOR, "alice")
        elif end == "account":
            timed.accounts.remove(OPERATOR, "alice")
        else:
            timed.accounts.set_password(OPERATOR, "alice", NEW_PASSWORD)
        return Token("never seen", 900, "", new_id(), int(time.time()))

    with pytest.raises(InvalidGrant):
        timed.sessions.rotate(use, issue)


def test_uses_at_one_moment_all_write_down_their_tokens(timed: Installation, clock: Clock) -> None:
    first = begun(timed)
    text = first.refresh_token or ""
    inner: list[IssuedToken] = []

    def issue() -> Token:
        inner.append(timed.token_issuer.by_refresh_token(text, TokenRequest()))
        return Token("of the outer use", 900, "", new_id(), int(clock.now))

    issued, following = timed.sessions.rotate(timed.sessions.find(text), issue)
    assert following == inner[0].refresh_token  # it reads as a lost response
    (session,) = timed.sessions.page("alice", ListQuery())
    assert set(session.tokens) == {first.token.id, inner[0].token.id, issued.id}


def test_a_token_used_twice_meanwhile_ends_its_session(timed: Installation, clock: Clock) -> None:
    text = begun(timed).refresh_token or ""

    def issue() -> Token:
        used(timed, used(timed, text))
        return Token("of the outer use", 900, "", new_id(), int(clock.now))

    with pytest.raises(InvalidGrant, match="already used"):
        timed.sessions.rotate(timed.sessions.find(text), issue)
    assert timed.sessions.page("alice", ListQuery()) == []


def test_a_session_does_not_outlive_the_account(timed: Installation, clock: Clock) -> None:
    timed.accounts.change(OPERATOR, "alice", {"expires_at": int(clock.now) + 86_400})
    begun(timed)
    (session,) = timed.sessions.page("alice", ListQuery())
    assert session.expires_at == int(clock.now) + 86_400


def test_the_database_has_no_refresh_token(timed: Installation) -> None:
    token = begun(timed).refresh_token
    assert token is not None
    for (table,) in [(name,) for name in timed.database.raw.get_tables()]:
        rows = str(rows_of(timed, f'SELECT * FROM "{table}"'))
        assert token not in rows
        assert token[5:] not in rows


def test_a_new_secret_key_in_front_ends_no_session() -> None:
    old, new = "o" * 43, "n" * 43
    session_id = new_id()
    token = refresh_token_format.first(Safe([old]), session_id)
    both = Safe([new, old])
    assert refresh_token_format.read(both, token.text) == token
    following = refresh_token_format.successors(both, token)
    assert refresh_token_format.read(Safe([new]), following[0].text) == following[0]
    # A retry finds the successor that was made before the change, too.
    assert refresh_token_format.successors(Safe([old]), token)[0] in following
    assert refresh_token_format.read(Safe([new]), token.text) is None
    assert token.text not in repr(token)
