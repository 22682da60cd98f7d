"""Revocations: what takes rights away, how verifiers learn of it, and that Keyosk knows at once."""

import gzip
import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from installed import Clock, installed, rows_of
from keyosk import app
from keyosk.credentials.presented import candidates
from keyosk.errors import BadToken
from keyosk.installation import Installation
from keyosk.model import OPERATOR, CredentialKind, Grant, Principal
from keyosk.permissions import entitlements
from keyosk.times import rfc3339
from live import Client, LiveServer, unique
from people import (
    NEW_PASSWORD,
    PASSWORD,
    Person,
    claims_of,
    make_key,
    make_person,
    make_service,
    ok,
    token_of,
)
from tables import table

pytestmark = pytest.mark.every_database(always=True)

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/explanation/revocation.md"
SNIPPET = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


class Service:
    """A service that checks tokens offline, and polls for revocations as the docs say."""

    def __init__(self, server: LiveServer) -> None:
        names: dict[str, Any] = {}
        exec("".join(SNIPPET), names)  # noqa: S102  # as pasted
        self.revocations = names["Revocations"](f"{server.url}/auth/revocations")

    def accepts(self, text: str) -> bool:
        """Whether a token, good otherwise, is not revoked."""
        self.revocations.poll()
        token = jwt.decode_complete(text, options={"verify_signature": False})
        return not self.revocations.refuse(token["payload"], token["header"])


@pytest.fixture
def todo(admin: Client) -> str:
    return make_service(admin)


@pytest.fixture
def person(admin: Client, todo: str) -> Person:
    return make_person(admin, f"{todo}:read", "keyosk:services:read")


@pytest.fixture
def service(server: LiveServer) -> Service:
    return Service(server)


#: What takes rights away from an account: method, path below it, body.
LOSSES: Mapping[str, tuple[str, str, Any]] = {
    "disabled": ("PATCH", "", {"enabled": False}),
    "ends sooner than its tokens": ("PATCH", "", {"expires_at": "soon"}),
    "deleted": ("DELETE", "", None),
    "password changed": ("PUT", "/password", {"password": NEW_PASSWORD}),
    "password deleted": ("DELETE", "/password", None),
    "grant removed": ("PATCH", "/grants", {"remove": {"scopes": ["keyosk:services:read"]}}),
    "grants replaced": ("PUT", "/grants", {"scopes": ["keyosk:services:read"]}),
    "grant limited": (
        "PATCH",
        "/grants",
        {"add": {"scopes": [{"name": "keyosk:services:read", "with": "api_key"}]}},
    ),
    "tokens revoked": ("DELETE", "/tokens", None),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_whoever_loses_rights_loses_their_tokens_everywhere(
    server: LiveServer, admin: Client, person: Person, todo: str, service: Service, loss: str
) -> None:
    text = token_of(person)
    own = Client(server.url, token=token_of(person, audience="keyosk"))
    assert service.accepts(text)
    assert own.get("/accounts/me").status_code == 200

    method, path, body = LOSSES[loss]
    if body == {"expires_at": "soon"}:
        body = {"expires_at": rfc3339(time.time() + 600)}
    response = admin.request(method, f"{person.path}{path}", json=body)

    assert response.status_code in (200, 204), response.text
    assert not service.accepts(text)
    assert own.get("/accounts/me").status_code == 401
    # By then even a service that never asks accepts none of them.
    latest = response.headers["Effective-At-Latest"]
    assert latest >= rfc3339(claims_of(text)["exp"])
    if response.status_code == 200:
        assert response.json()["effective_at_latest"] == latest


#: What takes nothing away.
GAINS: Mapping[str, tuple[str, str, Any]] = {
    "renamed": ("PATCH", "", {"display_name": "Somebody"}),
    "ends much later": ("PATCH", "", {"expires_at": "2090-01-01T00:00:00Z"}),
    "grants said again": ("PATCH", "/grants", {"add": {"scopes": ["keyosk:services:read"]}}),
    "grant added": ("PATCH", "/grants", {"add": {"scopes": ["keyosk:audit:read"]}}),
}


@pytest.mark.parametrize("gain", GAINS)
def test_whoever_loses_nothing_keeps_their_tokens(
    admin: Client, person: Person, service: Service, gain: str
) -> None:
    text = token_of(person)
    method, path, body = GAINS[gain]
    response = admin.request(method, f"{person.path}{path}", json=body)
    assert response.status_code == 200, response.text
    assert "effective_at_latest" not in response.json()
    assert "Effective-At-Latest" not in response.headers
    assert service.accepts(text)


@pytest.mark.parametrize(
    ("method", "path", "body", "lost"),
    [
        ("DELETE", "", None, True),
        ("PATCH", "", {"enabled": False}, True),
        ("PATCH", "", {"scopes": []}, True),
        ("PATCH", "", {"networks": ["192.0.2.0/24"]}, True),
        ("PATCH", "", {"expires_at": "2020-01-01T00:00:00Z"}, True),
        ("POST", "/rotate", {"overlap": 0}, True),
        ("POST", "/rotate", {}, False),
        ("PATCH", "", {"name": "another name"}, False),
        ("PATCH", "", {"scopes": None}, False),
    ],
)
def test_a_key_that_loses_rights_takes_its_own_tokens_with_it(
    admin: Client,
    person: Person,
    service: Service,
    method: str,
    path: str,
    body: Any,
    lost: bool,
) -> None:
    key, secret = make_key(admin, person)
    by_key, by_password = token_of(person, secret), token_of(person)

    response = admin.request(method, f"{person.path}/api-keys/{key}{path}", json=body)

    assert response.status_code in (200, 201, 204), response.text
    assert service.accepts(by_key) is not lost
    assert ("Effective-At-Latest" in response.headers) is lost
    assert service.accepts(by_password)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "", {"enabled": False}),
        ("PATCH", "", {"accepts": "api_key"}),
        ("PUT", "/scopes", {"scopes": []}),
        ("DELETE", "", None),
    ],
)
def test_a_service_that_loses_something_revokes_its_tokens(
    admin: Client,
    person: Person,
    todo: str,
    service: Service,
    method: str,
    path: str,
    body: Any,
) -> None:
    text = token_of(person, audience=todo)
    response = admin.request(method, f"/services/{todo}{path}?force=true", json=body)
    assert response.status_code in (200, 204), response.text
    assert not service.accepts(text)
    # Also for verifiers that know no audiences in revocations.
    assert any(entry.get("sub") == claims_of(text)["sub"] for entry in service.revocations.entries)
    assert any(entry.get("aud") == todo for entry in service.revocations.entries)


@pytest.mark.parametrize("how", ["narrowed", "deleted"])
def test_a_role_that_loses_scopes_revokes_the_tokens_of_its_holders(
    admin: Client, todo: str, service: Service, how: str
) -> None:
    role = unique("role")
    ok(admin.post("/roles", json={"name": role, "scopes": [f"{todo}:read"]}), 201)
    holder = make_person(admin, roles=(role,))
    other = make_person(admin, f"{todo}:read")
    text, others = token_of(holder), token_of(other)
    if how == "narrowed":
        assert admin.patch(f"/roles/{role}", json={"scopes": []}).json()["effective_at_latest"]
    else:
        assert admin.delete(f"/roles/{role}?force=true").headers["Effective-At-Latest"]
    assert not service.accepts(text)
    assert service.accepts(others)


def test_a_login_right_after_gets_a_token_that_nothing_touches(
    server: LiveServer, admin: Client, person: Person, service: Service
) -> None:
    for number in range(3):
        password = f"{NEW_PASSWORD} {number}"
        ok(admin.put(f"{person.path}/password", json={"password": password}), 204)
        text = token_of(person, password, audience="keyosk")
        assert service.accepts(text)
        assert Client(server.url, token=text).get("/accounts/me").status_code == 200
        assert claims_of(text)["iat"] <= time.time()


# --- The document ---------------------------------------------------------------------------------


def test_the_document_is_tagged_and_tells_what_is_new(
    server: LiveServer, admin: Client, person: Person
) -> None:
    anybody = server.client()
    before = ok(anybody.get("/auth/revocations"))
    assert before["since"] == 0

    began = time.time()
    admin.delete(f"{person.path}/tokens")
    response = anybody.get("/auth/revocations", params={"since": before["sequence"]})

    body = ok(response)
    assert body["since"] == before["sequence"]
    assert body["sequence"] > before["sequence"]
    (entry,) = [each for each in body["entries"] if each.get("sub") == person.id]
    assert entry.keys() == {"sub", "issued_before", "expires"}
    assert began - 1 <= entry["issued_before"] <= time.time() + 1
    assert response.headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": response.headers["ETag"]}
    again = anybody.get("/auth/revocations", params={"since": before["sequence"]}, headers=known)
    assert again.status_code in (200, 304)  # other tests may have revoked something
    whole = ok(anybody.get("/auth/revocations", params={"since": 10**15}))
    assert (whole["since"], len(whole["entries"]) >= 1) == (0, True)


@pytest.mark.slow
def test_an_unchanged_document_is_not_sent_again(own_server: LiveServer) -> None:
    own_server.start()
    anybody = own_server.client()

    def twice(accept: str) -> tuple[int, int, bytes]:
        first = anybody.get("/auth/revocations", headers={"Accept": accept})
        known = {"Accept": accept, "If-None-Match": first.headers["ETag"]}
        second = anybody.get("/auth/revocations", headers=known)
        return first.status_code, second.status_code, second.content

    assert twice("application/json") == (200, 304, b"")
    # The signed form is another in another minute, which may begin in between.
    assert (200, 304, b"") in [twice("application/jwt") for _ in range(2)]


def test_the_signed_form_is_sent_again_long_before_it_expires(prepared_url: str) -> None:
    clock = Clock()
    with installed(prepared_url, clock=clock) as keyosk:
        client = app.create_app(keyosk).test_client()

        def polled(accept: str, tag: str = "") -> TestResponse:
            headers = {"Accept": accept, **({"If-None-Match": tag} if tag else {})}
            return client.get("/auth/revocations", headers=headers)

        def end_of(response: TestResponse) -> int:
            claims = jwt.decode(response.text.strip(), options={"verify_signature": False})
            return int(claims["exp"])

        plain, signed = polled("application/json"), polled("application/jwt")
        end = end_of(signed)
        for _ in range(40):
            clock.now += 10
            again = polled("application/jwt", signed.headers["ETag"])
            if again.status_code == 200:
                signed, end = again, end_of(again)
            assert clock.now + 200 < end
        # What is not signed does not expire.
        tag = plain.headers["ETag"]
        assert polled("application/json", tag).status_code == 304


def test_the_signed_form_is_no_token(server: LiveServer, admin: Client, person: Person) -> None:
    anybody = server.client()
    known = {"since": ok(anybody.get("/auth/revocations"))["sequence"]}
    admin.delete(f"{person.path}/tokens")
    response = anybody.get("/auth/revocations", headers={"Accept": "application/jwt"}, params=known)
    assert response.headers["Content-Type"].startswith("application/jwt")
    text = response.text.strip()
    keys = jwt.PyJWKClient(f"{server.url}/auth/jwks")
    claims = jwt.decode(
        text,
        keys.get_signing_key_from_jwt(text).key,
        algorithms=["ES256"],
        audience=f"{server.url}/auth/revocations",
    )
    assert claims["iss"] == server.url
    assert claims["exp"] == claims["iat"] + 300
    assert any(entry.get("sub") == person.id for entry in claims["entries"])
    assert jwt.get_unverified_header(text)["typ"] == "revocations+jwt"
    assert Client(server.url, token=text).get("/accounts/me").status_code == 401


def test_readers_between_two_changes_cost_one_reading(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = installation.revocations._store
    read = store.since
    readings = []

    def counted(sequence: int, now: int) -> Any:
        readings.append(sequence)
        return read(sequence, now)

    monkeypatch.setattr(store, "since", counted)
    client = app.create_app(installation).test_client()
    installation.grants.create_account(OPERATOR, [], username="alice")
    sequence = 0
    for revoked in range(3):
        for _ in range(5):
            for accept in ("application/json", "application/jwt"):
                response = client.get("/auth/revocations?since=0", headers={"Accept": accept})
                tag = {"Accept": accept, "If-None-Match": response.headers["ETag"]}
                assert client.get("/auth/revocations?since=0", headers=tag).status_code == 304
        assert len(readings) <= 2 * (revoked + 1)  # a second one where the second just ended
        # What is revoked is there for the very next reader.
        installation.accounts.revoke_tokens(OPERATOR, "alice")
        before, sequence = sequence, client.get("/auth/revocations").get_json()["sequence"]
        assert sequence > before


def test_the_document_is_compressed_for_who_takes_that(installation: Installation) -> None:
    installation.grants.create_account(OPERATOR, [], username="alice")
    installation.accounts.revoke_tokens(OPERATOR, "alice")
    client = app.create_app(installation).test_client()
    plain = client.get("/auth/revocations")
    zipped = client.get("/auth/revocations", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(zipped.get_data()) == plain.get_data()
    assert zipped.headers["ETag"] != plain.headers["ETag"]
    assert "Accept-Encoding" in zipped.headers["Vary"]
    refused = client.get("/auth/revocations", headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused.headers


@table("query", ["since=-1", "since=x", "since=1&since=2", "until=1", "since="])
def test_a_bad_query_is_refused(server: LiveServer, query: str) -> None:
    assert server.client().get(f"/auth/revocations?{query}").status_code == 422


def test_entries_live_as_long_as_the_tokens_that_they_touch(prepared_url: str) -> None:
    clock = Clock()
    with installed(prepared_url, clock=clock) as keyosk:
        keyosk.revocations.note_lifetimes()
        service = keyosk.services.create(OPERATOR, name="slow", token_lifetime=3_600)
        account = keyosk.grants.create_account(OPERATOR, [], username="alice")
        keyosk.services.change(OPERATOR, service.name, {"token_lifetime": None})
        clock.now += 60
        # The last of the hour-long tokens was issued a minute ago.
        assert keyosk.accounts.revoke_tokens(OPERATOR, "alice") == clock.now + 3_600
        clock.now += 3_599
        assert [each.value for each in keyosk.revocation_list.published().revocations] == [
            account.id
        ]
        clock.now += 1
        assert keyosk.revocation_list.published().revocations == ()
        number = keyosk.revocation_list.published().sequence
        clock.now += 3_600  # kept where nobody sees it: the clock may be ahead for a moment
        assert keyosk.accounts.revoke_tokens(OPERATOR, "alice") == clock.now + 900
        # The number goes on although the entry that had it is gone.
        assert keyosk.revocation_list.published().sequence > number
        assert rows_of(keyosk, "SELECT count(*) FROM revocation") == [(1,)]


def test_nothing_is_published_of_what_does_not_happen(installation: Installation) -> None:
    installation.grants.create_account(OPERATOR, [], username="alice")

    def fail() -> None:
        with installation.database.transaction():
            installation.accounts.revoke_tokens(OPERATOR, "alice")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert installation.revocation_list.published().sequence == 0
    installation.accounts.revoke_tokens(OPERATOR, "alice")
    assert installation.revocation_list.published().sequence > 0


# --- A database that was set back -----------------------------------------------------------------

COLUMNS = "sequence, claim, value, issued_before, expires, account, issued_at"


def test_a_reader_misses_nothing_of_a_database_that_was_set_back(prepared_url: str) -> None:
    """By a restore, or by a standby that was behind: no number is given a second time."""
    clock = Clock()
    names = [f"a{number}" for number in range(6)]
    with installed(prepared_url, clock=clock) as keyosk:
        ids = {name: keyosk.grants.create_account(OPERATOR, [], username=name).id for name in names}
        keyosk.accounts.revoke_tokens(OPERATOR, "a0")
        backup = rows_of(keyosk, f"SELECT {COLUMNS} FROM revocation")
        clock.now += 1
        for name in ("a1", "a2"):
            keyosk.accounts.revoke_tokens(OPERATOR, name)
        known = keyosk.revocation_list.published()
        with keyosk.database.raw.atomic():
            keyosk.database.raw.execute_sql("DELETE FROM revocation")
            for row in backup:
                marks = ", ".join([keyosk.database.raw.param] * len(row))
                keyosk.database.raw.execute_sql(
                    f"INSERT INTO revocation ({COLUMNS}) VALUES ({marks})", row
                )
    with installed(prepared_url, clock=clock) as keyosk:
        clock.now += 1
        for name in ("a3", "a4", "a5"):  # more than were lost
            keyosk.accounts.revoke_tokens(OPERATOR, name)
        told = keyosk.revocation_list.published(known.sequence)

    assert {ids[name] for name in ("a3", "a4", "a5")} <= {each.value for each in told.revocations}


# --- Time -----------------------------------------------------------------------------------------


@pytest.fixture
def timed(prepared_url: str) -> Iterator[Installation]:
    # PyJWT has the real clock.
    with installed(prepared_url, clock=Clock(time.time() - 600)) as made:
        yield made


_names = (f"person-{number}" for number in itertools.count())


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.tuples(st.floats(0, 1.5), st.booleans()), min_size=2, max_size=6))
def test_a_revocation_touches_all_tokens_before_it_and_none_after(
    timed: Installation, steps: list[tuple[float, bool]]
) -> None:
    clock = timed.clock
    assert isinstance(clock, Clock)
    name = next(_names)
    timed.grants.create_account(OPERATOR, [], username=name, password=PASSWORD)
    timed.grants.replace(OPERATOR, name, [Grant(scope="keyosk:audit:read")])
    good: list[str] = []
    bad: list[str] = []
    for pause, revoke in steps:
        clock.now += pause
        if revoke:
            timed.accounts.revoke_tokens(OPERATOR, name)
            bad += good
            good = []
        else:
            good.append(_issued(timed, name, clock))
    # What was issued in the second of a revocation has the time of its end.
    clock.now += 2
    for text in good:
        claims = timed.tokens.verify(text, audience="keyosk")
        timed.authentication.by_token(claims, audience="keyosk")
    for text in bad:
        claims = timed.tokens.verify(text, audience="keyosk")
        with pytest.raises(BadToken):
            timed.authentication.by_token(claims, audience="keyosk")


def _issued(keyosk: Installation, name: str, clock: Clock) -> str:
    login: Principal = keyosk.authentication.by_secret(
        candidates([(name, PASSWORD)]), address="192.0.2.1"
    )
    assert login.credential is CredentialKind.PASSWORD
    if login.tokens_from > clock.now:
        clock.now = login.tokens_from  # as the wait would
    entitled = entitlements.token_grant(
        login, now=int(clock()), targets=["keyosk"], find_policy=keyosk.services.policy_for
    )
    return keyosk.tokens.issue(login, entitled).text


# --- Everywhere, and for good ---------------------------------------------------------------------


@pytest.mark.slow
def test_every_process_and_every_later_one_knows_at_once(database_url: str, tmp_path: Path) -> None:
    with LiveServer(database_url, tmp_path) as one, LiveServer(database_url, tmp_path) as other:
        admin = one.admin()
        # One installation, so one issuer.
        person = make_person(admin)
        text = ok(person.login(PASSWORD).post("/auth/token", data={"audience": "keyosk"}))[
            "access_token"
        ]
        assert Client(one.url, token=text).get("/accounts/me").status_code == 200
        ok(one.client(person.username, PASSWORD).post("/auth/revoke", data={"token": text}), 200)
        elsewhere = ok(other.client().get("/auth/revocations"))
        assert [each["jti"] for each in elsewhere["entries"]] == [claims_of(text)["jti"]]
        for _ in range(20):  # whichever worker answers
            assert Client(one.url, token=text).get("/accounts/me").status_code == 401
        one.kill()
        one.start()
        assert Client(one.url, token=text).get("/accounts/me").status_code == 401


def test_an_import_tells_by_when_what_it_took_away_is_gone_everywhere(
    admin: Client, person: Person, service: Service
) -> None:
    text = token_of(person)
    # Far into the lines: the headers of the response were sent long before.
    body = (
        b'{"username":":"}\n' * 1_200
        + json.dumps({"username": person.username, "enabled": False}).encode()
    )

    response = admin.post(
        "/accounts/import?on_conflict=update",
        data=body,
        headers={"Content-Type": "application/jsonl"},
    )

    assert not service.accepts(text)
    summary = json.loads(response.text.splitlines()[-1])["summary"]
    assert summary["updated"] == 1
    expired = rfc3339(claims_of(text)["exp"])
    assert summary["effective_at_latest"] >= expired


@pytest.mark.parametrize("query", ["?on_conflict=update&dry_run=true", "?on_conflict=update"])
def test_an_import_that_takes_nothing_away_names_no_moment(
    admin: Client, person: Person, service: Service, query: str
) -> None:
    text = token_of(person)
    is_trial = "dry_run" in query
    line = {"username": person.username} | (
        {"enabled": False} if is_trial else {"display_name": "X"}
    )

    response = admin.post(
        f"/accounts/import{query}",
        data=json.dumps(line),
        headers={"Content-Type": "application/jsonl"},
    )

    summary = json.loads(response.text.splitlines()[-1])["summary"]
    assert summary["updated"] == 1
    assert "effective_at_latest" not in summary
    assert "Effective-At-Latest" not in response.headers
    assert service.accepts(text)
