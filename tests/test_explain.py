"""POST /auth/explain: which token an account would get, held against the one that it does get."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from installed import Clock, installed, rows_of
from keyosk import app
from keyosk.installation import Installation
from keyosk.model import OPERATOR, CredentialKind, Grant, Scope
from keyosk.on_behalf import MESSAGES
from keyosk.permissions import Reason
from live import ADMIN_PASSWORD, Client, LiveServer, unique
from people import PASSWORD, Person, assert_refused, done, make_key, make_person, make_role
from people import make_service as new_service

EXPLAIN: Final = "/auth/explain"
FAR: Final = "2090-01-01T00:00:00Z"


def rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def explained(client: Client, **asked: Any) -> dict[str, Any]:
    found: dict[str, Any] = done(client.post(EXPLAIN, json=asked))
    return found


def reasons(explanation: dict[str, Any]) -> dict[str, str]:
    for each in explanation["missing"]:
        assert each["message"] == MESSAGES[Reason(each["reason"])]
    return {each["name"]: each["reason"] for each in explanation["missing"]}


def made_since(before: float, explanation: dict[str, Any]) -> dict[str, Any]:
    """The claims but for the times, which are those of now."""
    claims = dict(explanation["claims"])
    for name in ("iat", "auth_time"):
        assert before - 1 <= claims.pop(name) <= time.time()
    claims.pop("exp")
    return claims


@pytest.fixture(scope="module")
def todo(admin: Client) -> str:
    return new_service(admin)


@pytest.fixture(scope="module")
def alice(server: LiveServer, admin: Client, todo: str) -> Person:
    """Holds one scope by itself and the other by a role, until a time."""
    role = {"name": make_role(admin, f"{todo}:write"), "until": FAR}
    return make_person(server, admin, f"{todo}:read", roles=(role,))


# --- What it tells --------------------------------------------------------------------------------


def test_it_previews_the_token_that_the_same_request_gets(
    alice: Person, admin: Client, todo: str
) -> None:
    key, secret = make_key(admin, alice)
    before = time.time()
    for login, asked in (
        (alice.login(), {"credential": "password"}),
        (alice.login(secret), {"credential": "api_key", "api_key": key}),
    ):
        wish = {"audience": [todo], "scope": f"{todo}:read {todo}:write", "lifetime": 120}
        token = done(login.post("/auth/token", json=wish))["access_token"]

        explanation = explained(admin, account=alice.username, **asked, **wish)

        claims = jwt.decode(token, options={"verify_signature": False})
        assert explanation["claims"]["exp"] - explanation["claims"]["iat"] == 120
        for name in ("jti", "iat", "exp", "auth_time"):
            claims.pop(name)
        assert made_since(before, explanation) == claims
        assert explanation["size"] == len(token)
        assert (explanation["granted"], explanation["error"]) == (True, None)


def test_it_tells_through_what_and_until_when_each_scope_is_held(
    alice: Person, admin: Client, todo: str
) -> None:
    roles = done(admin.get(f"{alice.path}/grants"))["roles"]
    assert explained(admin, account=alice.id)["scopes"] == [
        {"name": f"{todo}:read", "through": "grant", "until": None},
        {"name": f"{todo}:write", "through": roles[0]["name"], "until": FAR},
    ]


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
def test_it_knows_the_size_whatever_the_algorithm_and_makes_no_key_for_it(
    server: LiveServer, admin: Client, algorithm: str
) -> None:
    service = new_service(admin, signing_algorithm=algorithm, typ="JWT")
    person = make_person(server, admin, f"{service}:read")
    explanation = explained(admin, account=person.id)
    token = done(person.login().post("/auth/token"))["access_token"]
    assert explanation["size"] == len(token)


def test_a_token_that_would_be_too_long_is_refused_and_its_size_told(
    server: LiveServer, admin: Client
) -> None:
    name = unique("wide")
    scopes = [f"{name}:{number:03}:{'x' * 60}" for number in range(90)]
    done(admin.post("/services", json={"name": name, "scopes": scopes}), 201)
    person = make_person(server, admin, *scopes)
    answer = person.login().post("/auth/token")

    explanation = explained(admin, account=person.id)

    assert not explanation["granted"]
    assert explanation["size"] > 6_144
    assert {name: explanation[name] for name in answer.json()} == answer.json()


# --- Why not --------------------------------------------------------------------------------------


def test_each_reason_for_which_a_scope_is_missing_has_its_code(
    server: LiveServer, admin: Client
) -> None:
    plain, off, by_key_only, asked_for = (
        new_service(admin),
        new_service(admin),
        new_service(admin, accepts="api_key"),
        new_service(admin, on_request_only=True),
    )
    soon = {"name": f"{plain}:write", "until": rfc3339(time.time() + 1)}
    person = make_person(
        server,
        admin,
        {"name": f"{plain}:read", "with": "api_key"},
        soon,
        f"{off}:read",
        f"{by_key_only}:read",
        {"name": f"{asked_for}:read", "with": "password"},
    )
    key, _ = make_key(admin, person, scopes=[f"{plain}:read", f"{asked_for}:read"])
    done(admin.patch(f"/services/{off}", json={"enabled": False}))
    while rfc3339(time.time()) < soon["until"]:
        time.sleep(0.1)

    by_password = explained(admin, account=person.id)
    assert by_password["granted"]
    assert by_password["scopes"] == []
    assert reasons(by_password) == {
        f"{plain}:read": "api_key_only",
        f"{plain}:write": "expired",
        f"{off}:read": "service_disabled",
        f"{by_key_only}:read": "credential_not_accepted",
        f"{asked_for}:read": "on_request_only",
    }
    assert reasons(explained(admin, account=person.id, api_key=key)) == {
        f"{plain}:write": "expired",
        f"{off}:read": "service_disabled",
        f"{by_key_only}:read": "key_limited",
        f"{asked_for}:read": "password_only",
    }
    named = explained(admin, account=person.id, api_key=key, audience=[asked_for])
    assert reasons(named) == {
        f"{plain}:read": "other_audience",
        f"{plain}:write": "expired",
        f"{off}:read": "service_disabled",
        f"{by_key_only}:read": "key_limited",
        f"{asked_for}:read": "password_only",
        f"{asked_for}:write": "not_granted",
    }
    asked = f"{plain}:read {plain}:write nobody:has"
    refused = explained(admin, account=person.id, scope=asked)
    assert (refused["granted"], refused["error"], refused["claims"]) == (
        False,
        "invalid_scope",
        None,
    )
    assert reasons(refused) == {
        f"{plain}:read": "api_key_only",
        f"{plain}:write": "expired",
        "nobody:has": "unknown_scope",
    }


@pytest.mark.parametrize(
    "reason",
    ["account_disabled", "account_expired", "key_disabled", "key_expired", "no_password"],
)
def test_a_login_that_would_be_refused_has_its_reason(
    server: LiveServer, admin: Client, todo: str, reason: str
) -> None:
    person = make_person(server, admin, f"{todo}:read")
    key, secret = make_key(admin, person)
    past = "2020-01-01T00:00:00Z"
    path, change = {
        "account_disabled": (person.path, {"enabled": False}),
        "account_expired": (person.path, {"expires_at": past}),
        "key_disabled": (f"{person.path}/api-keys/{key}", {"enabled": False}),
        "key_expired": (f"{person.path}/api-keys/{key}", {"expires_at": past}),
        "no_password": (f"{person.path}/password", None),
    }[reason]
    if change is None:
        done(admin.delete(path), 204)
    else:
        done(admin.patch(path, json=change))
    asked = {"api_key": key} if reason.startswith("key") else {"credential": "password"}
    login = person.login(secret if "api_key" in asked else PASSWORD)
    answer = login.post("/auth/token")

    explanation = explained(admin, account=person.username, **asked)

    assert explanation["reason"] == reason
    assert {name: explanation[name] for name in answer.json()} == answer.json()
    assert reasons(explanation) == {f"{todo}:read": reason}


def test_a_refresh_token_that_no_service_allows_is_told_of(alice: Person, admin: Client) -> None:
    explanation = explained(admin, account=alice.id, scope="offline_access")
    assert explanation["granted"]
    assert reasons(explanation) == {"offline_access": "refresh_not_allowed"}


# --- Who may ask ----------------------------------------------------------------------------------


def test_an_account_asks_about_itself_without_any_scope_and_by_default(
    alice: Person, admin: Client, todo: str
) -> None:
    key, secret = make_key(admin, alice, scopes=[f"{todo}:read"])
    for account in ({}, {"account": "me"}, {"account": alice.username.upper()}):
        found = explained(alice.login(), **account)
        assert found["claims"]["amr"] == ["pwd"]
        # A caller who names no credential means the one that it came by.
        assert explained(alice.login(secret), **account)["claims"]["key_id"] == key
    assert explained(alice.bearer(secret))["claims"]["key_id"] == key


def test_about_others_only_who_may_read_accounts_asks(
    server: LiveServer, admin: Client, alice: Person
) -> None:
    nosy = make_person(server, admin, "keyosk:accounts:write")
    for account in (alice.id, alice.username, "nobody-at-all"):
        answer = nosy.login().post(EXPLAIN, json={"account": account})
        assert_refused(answer, "insufficient_scope")
    reader = make_person(server, admin, "keyosk:accounts:read")
    assert explained(reader.bearer(), account=alice.id)["granted"]
    assert_refused(admin.post(EXPLAIN, json={"account": "nobody-at-all"}), "not_found", 404)


def test_which_scopes_exist_is_told_only_to_who_may_read_services(
    server: LiveServer, admin: Client, todo: str
) -> None:
    curious = make_person(server, admin)
    asked = {"scope": f"{todo}:read nobody:has", "audience": [todo]}
    expected = {f"{todo}:read": "not_granted", "nobody:has": "not_granted"}
    assert reasons(explained(curious.login(), **asked)) == expected
    assert explained(curious.login(), audience=[todo])["missing"] == []
    knowing = make_person(server, admin, "keyosk:services:read")
    assert reasons(explained(knowing.login(), **asked)) == {
        **expected,
        "nobody:has": "unknown_scope",
    }


def test_a_key_of_another_account_is_not_found(
    server: LiveServer, admin: Client, alice: Person
) -> None:
    other, _ = make_key(admin, make_person(server, admin))
    for key in (other, "nonsense"):
        asked = {"account": alice.id, "api_key": key}
        assert_refused(admin.post(EXPLAIN, json=asked), "not_found", 404)


@pytest.mark.parametrize(
    "wrong",
    [
        {"credential": "api_key"},
        {"credential": "password", "api_key": "x"},
        {"credential": "token"},
        {"lifetime": 0},
        {"audience": "todo"},
        {"secret": "x"},
    ],
)
def test_a_question_that_makes_no_sense_is_refused(admin: Client, wrong: dict[str, Any]) -> None:
    assert_refused(admin.post(EXPLAIN, json=wrong), "invalid", 422)


# --- What it does not do --------------------------------------------------------------------------


def test_nothing_is_written_and_no_key_made(installation: Installation) -> None:
    server = app.create_app(installation).test_client()
    basic = ("admin", ADMIN_PASSWORD)
    body = {"name": "eddy", "scopes": ["eddy:read"], "signing_algorithm": "EdDSA"}
    assert server.post("/services", json=body, auth=basic).status_code == 201
    token = server.post("/auth/token", data={"audience": "keyosk"}, auth=basic).json
    assert token is not None
    headers = {"Authorization": f"Bearer {token['access_token']}", "Idempotency-Key": "once"}
    before = everything(installation)

    answer = server.post(EXPLAIN, json={"audience": ["eddy"]}, headers=headers)

    assert answer.json is not None
    assert answer.json["granted"]
    assert "jti" not in answer.json["claims"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert everything(installation) == before


def everything(installation: Installation) -> dict[str, list[Any]]:
    names = installation.database.raw.get_tables()
    return {
        name: sorted(map(str, rows_of(installation, f'SELECT * FROM "{name}"'))) for name in names
    }


# --- It agrees with the token endpoint ------------------------------------------------------------

SERVICES: Final = ("todo", "mail", "bank")
SCOPES: Final = tuple(f"{service}:{verb}" for service in SERVICES for verb in ("read", "write"))
NOW: Final = 1_900_000_000
FAR_OFF: Final = 3_000_000_000


@dataclass(frozen=True)
class World:
    """An installation whose services, account and key each example sets anew."""

    installation: Installation
    client: FlaskClient
    clock: Clock
    key_id: str
    secret: str
    admin: tuple[str, str]


@pytest.fixture
def world(prepared_url: str, tmp_path: Path) -> Iterator[World]:
    clock = Clock(NOW)
    with installed(prepared_url, clock=clock) as installation:
        for name in SERVICES:
            scopes = [Scope(scope) for scope in SCOPES if scope.startswith(name)]
            installation.services.create(OPERATOR, name=name, scopes=scopes)
        installation.roles.create(OPERATOR, name="mixed", scopes=("todo:read", "mail:write"))
        installation.accounts.create(OPERATOR, username="alice", password=PASSWORD)
        made = installation.api_keys.create(OPERATOR, "alice", name="key")
        client = app.create_app(installation).test_client()
        # A key spares a password hash for each question.
        admin = ("admin", installation.api_keys.create(OPERATOR, "admin", name="key").secret)
        yield World(installation, client, clock, made.key.id, made.secret, admin)


kinds = st.sampled_from([None, None, *CredentialKind])
untils = st.sampled_from([None, None, NOW - 5, FAR_OFF])
scope_sets = st.lists(st.sampled_from(SCOPES), unique=True, max_size=4)


@st.composite
def grants(draw: st.DrawFn) -> list[Grant]:
    names = draw(st.lists(st.sampled_from(SCOPES), unique=True))
    found = [Grant(name, draw(kinds), draw(untils)) for name in names]
    role = draw(st.booleans())
    return [*found, Grant(credential=draw(kinds), until=draw(untils), role="mixed")][
        : None if role else -1
    ]


service_changes = st.fixed_dictionaries(
    {
        "enabled": st.sampled_from([True, True, True, False]),
        "accepts": st.sampled_from([None, None, *(frozenset({kind}) for kind in CredentialKind)]),
        "on_request_only": st.booleans(),
        "refresh_allowed": st.booleans(),
        "signing_algorithm": st.sampled_from([None, None, "ES256", "EdDSA"]),
        "token_lifetime": st.sampled_from([None, 60]),
    }
)
ends = st.sampled_from([None, None, None, NOW - 5, FAR_OFF])
switches = st.sampled_from([True, True, True, True, False])
credentials_off = st.fixed_dictionaries({"enabled": switches, "expires_at": ends})
requests_ = st.fixed_dictionaries(
    {},
    optional={
        "audience": st.lists(st.sampled_from([*SERVICES, "nowhere", ""]), max_size=2),
        "scope": st.one_of(
            st.lists(
                st.sampled_from([*SCOPES, *SCOPES, "nobody:has", "offline_access"]), max_size=3
            ).map(" ".join),
            st.just("two  spaces"),
        ),
        "lifetime": st.sampled_from([1, 100, 100_000]),
    },
)


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(*(service_changes for _ in SERVICES)),
    grants(),
    credentials_off,
    st.tuples(credentials_off, st.none() | scope_sets),
    requests_,
)
def test_it_says_what_the_token_endpoint_does(
    world: World,
    services: tuple[dict[str, Any], ...],
    granted: list[Grant],
    account: dict[str, Any],
    key: tuple[dict[str, Any], list[str] | None],
    asked: dict[str, Any],
) -> None:
    keyosk = world.installation
    for name, changes in zip(SERVICES, services, strict=True):
        keyosk.services.change(OPERATOR, name, changes)
    keyosk.grants.replace(OPERATOR, "alice", granted)
    keyosk.accounts.change(OPERATOR, "alice", account)
    limits = {**key[0], "scopes": key[1]}
    keyosk.api_keys.change(OPERATOR, "alice", world.key_id, limits)
    world.clock.now += 86_400  # what was revoked is over, and refused guesses are forgiven

    for secret, key_id in ((PASSWORD, None), (world.secret, world.key_id)):
        answer = world.client.post("/auth/token", json=asked, auth=("alice", secret))
        told = world.client.post(
            EXPLAIN,
            json={"account": "alice", **asked, **({"api_key": key_id} if key_id else {})},
            auth=world.admin,
        )
        assert told.status_code == 200, told.text
        assert answer.json is not None
        assert told.json is not None
        assert told.json["granted"] == (answer.status_code == 200)
        if answer.status_code == 200:
            token = answer.json["access_token"]
            claims = jwt.decode(token, options={"verify_signature": False})
            claims.pop("jti")
            assert told.json["claims"] == claims
            assert told.json["size"] == len(token)
            names = {each["name"] for each in told.json["scopes"]}
            assert names == set(claims["scope"].split()) - {"offline_access"}
        else:
            assert {name: told.json[name] for name in answer.json} == answer.json
        missing = {each["name"] for each in told.json["missing"]}
        assert not missing & {each["name"] for each in told.json["scopes"]}
        if answer.json.get("error") == "invalid_scope" and "  " not in asked["scope"]:
            assert missing
