"""POST /auth/explain and keyosk token: which token a login would get, and why not another."""

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from installed import Clock, installed, rows_of
from keyosk.credentials.presented import candidates
from keyosk.errors import InvalidRequest, InvalidScope, InvalidTarget
from keyosk.installation import Installation
from keyosk.model import OPERATOR, CredentialKind, Grant, Scope
from keyosk.tokens.issuing import TokenRequest
from live import Client, LiveServer, soon, unique, wait_for
from people import PASSWORD, Person, claims_of, make_key, make_person, make_service, ok, token_of

PAST = "2020-01-01T00:00:00Z"
#: In a table of cases: an end that has passed once the case is set up.
SOON = "soon"


@pytest.fixture
def todo(admin: Client) -> str:
    return make_service(admin, "read", "write", "admin")


@pytest.fixture
def alice(admin: Client, todo: str) -> Person:
    return make_person(admin, f"{todo}:read")


def in_time(fields: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
    """The fields with a real moment for SOON, and what waits until it has passed."""
    if SOON not in fields.values():
        return fields, lambda: None
    end = soon()
    text = datetime.fromtimestamp(end, UTC).isoformat()
    return (
        {name: text if value == SOON else value for name, value in fields.items()},
        lambda: wait_for(end),
    )


def explain(client: Client, **body: Any) -> dict[str, Any]:
    response = client.post("/auth/explain", json=body)
    assert response.headers["Cache-Control"] == "no-store"
    explanation: dict[str, Any] = ok(response)
    return explanation


def reasons(explanation: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in explanation["missing"]}


def test_it_tells_what_the_token_would_be(admin: Client, alice: Person, todo: str) -> None:
    explanation = explain(admin, account=alice.username)
    token = token_of(alice)

    claims = claims_of(token)
    assert explanation["granted"] is True
    assert explanation["claims"].keys() == claims.keys() - {"jti"}
    for name in ("iss", "sub", "aud", "scope", "client_id", "amr"):
        assert explanation["claims"][name] == claims[name]
    assert explanation["size"] == len(token)
    assert explanation["scopes"] == [{"name": f"{todo}:read", "through": "grant", "until": None}]
    assert explanation["missing"] == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"grant": None}, "not_granted"),
        ({"grant": {"with": "password"}}, "password_only"),
        ({"grant": {"until": SOON}}, "expired"),
        ({"grant": {}, "key": {"scopes": []}}, "key_limited"),
        ({"grant": {}, "service": {"enabled": False}}, "service_disabled"),
        ({"grant": {}, "service": {"accepts": "password"}}, "credential_not_accepted"),
        ({"grant": {}, "audience": "keyosk"}, "other_audience"),
    ],
)
def test_it_tells_why_a_scope_is_missing(
    admin: Client, alice: Person, todo: str, change: dict[str, Any], reason: str
) -> None:
    name = f"{todo}:write"
    key, secret = make_key(admin, alice, **change.get("key", {}))
    if change["grant"] is not None:
        grant, wait = in_time(change["grant"])
        ok(admin.patch(f"{alice.path}/grants", json={"add": {"scopes": [{"name": name, **grant}]}}))
        wait()
    ok(admin.patch(f"/services/{todo}", json=change.get("service", {})))
    audience = [change["audience"]] if "audience" in change else []

    body = {"account": alice.username, "credential": "api_key", "api_key": key}
    explanation = explain(admin, **body, scope=name, audience=audience)

    assert (explanation["granted"], explanation["error"]) == (False, "invalid_scope")
    assert reasons(explanation) == {name: reason}
    data = {"scope": name, "audience": audience}
    response = alice.login(secret).post("/auth/token", data=data)
    assert response.json()["error"] == explanation["error"]
    assert response.json()["error_description"] == explanation["error_description"]


def test_grants_missing_in_the_token_are_told_too(admin: Client, alice: Person, todo: str) -> None:
    scopes = [{"name": f"{todo}:write", "with": "api_key"}, "keyosk:audit:read"]
    ok(admin.patch(f"{alice.path}/grants", json={"add": {"scopes": scopes}}))
    assert reasons(explain(admin, account=alice.id)) == {
        f"{todo}:write": "api_key_only",
        "keyosk:audit:read": "on_request_only",
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"enabled": False}, "account_disabled"),
        ({"expires_at": SOON}, "account_expired"),
        ({"key": {"enabled": False}}, "key_disabled"),
        ({"key": {"expires_at": PAST}}, "key_expired"),
        ({"password": None}, "no_password"),
    ],
)
def test_it_tells_why_the_login_is_refused(
    admin: Client, alice: Person, change: dict[str, Any], reason: str
) -> None:
    body: dict[str, Any] = {"account": alice.username}
    if "key" in change:
        key, _ = make_key(admin, alice)
        ok(admin.patch(f"{alice.path}/api-keys/{key}", json=change["key"]))
        body |= {"credential": "api_key", "api_key": key}
    elif "password" in change:
        ok(admin.delete(f"{alice.path}/password"), 204)
    else:
        fields, wait = in_time(change)
        ok(admin.patch(alice.path, json=fields))
        wait()
    explanation = explain(admin, **body)
    assert (explanation["granted"], explanation["error"], explanation["reason"]) == (
        False,
        "invalid_client",
        reason,
    )


def test_everybody_asks_about_themselves_and_few_about_others(admin: Client, alice: Person) -> None:
    assert explain(alice.login())["claims"]["sub"] == alice.id
    stranger = make_person(admin)
    for name in (alice.username, "nobody-of-this-name"):
        refusal = stranger.login().post("/auth/explain", json={"account": name})
        assert (refusal.status_code, refusal.json()["code"]) == (403, "insufficient_scope")
    reader = make_person(admin, "keyosk:accounts:read")
    assert explain(reader.login(), account=alice.username)["granted"]
    # Which scopes exist is for those who may see services.
    unknown = {"account": alice.username, "scope": "no:such"}
    assert reasons(explain(reader.login(), **unknown)) == {"no:such": "not_granted"}
    assert reasons(explain(admin, **unknown)) == {"no:such": "unknown_scope"}
    assert admin.post("/auth/explain", json={"account": "nobody"}).status_code == 404


def test_it_makes_and_writes_nothing(installation: Installation) -> None:
    installation.grants.create_account(OPERATOR, [], username="alice", password=PASSWORD)
    before = {
        name: rows_of(installation, f'SELECT * FROM "{name}"')
        for name in installation.database.raw.get_tables()
    }
    installation.explainer.explain("alice", TokenRequest(("offline_access",)))
    for name, rows in before.items():
        assert rows_of(installation, f'SELECT * FROM "{name}"') == rows


def test_the_size_is_known_before_there_is_any_key(installation: Installation) -> None:
    for number, algorithm in enumerate(("EdDSA", "RS256", "PS256")):
        name = f"s{number}"
        scopes = [Scope(f"{name}:read")]
        installation.services.create(
            OPERATOR, name=name, scopes=scopes, signing_algorithm=algorithm, typ="JWT"
        )
        account = installation.grants.create_account(
            OPERATOR, [Grant(f"{name}:read")], username=f"p{number}", password=PASSWORD
        )
        keys = installation.signing_keys.all()

        told = installation.explainer.explain(account.id, TokenRequest())

        assert installation.signing_keys.all() == keys
        login = installation.authentication.preview_login(account.id, None)
        issued = installation.token_issuer.by_login(login, TokenRequest())
        assert told.preview is not None
        assert told.preview.size == len(issued.token.text)


def test_a_held_scope_is_not_missing_for_another(admin: Client, alice: Person, todo: str) -> None:
    explanation = explain(admin, account=alice.id, scope=f"{todo}:read {todo}:write")
    assert explanation["error"] == "invalid_scope"
    assert reasons(explanation) == {f"{todo}:write": "not_granted"}


def test_what_keyosk_admin_stands_for_is_missing_for_the_same_reasons(admin: Client) -> None:
    person = make_person(admin, {"name": "keyosk:admin", "with": "password"})
    key, _ = make_key(admin, person)
    small, _ = make_key(admin, person, scopes=[])
    asked = {"account": person.id, "scope": "keyosk:audit:read"}
    by_key = {"credential": "api_key", "api_key": key}
    assert reasons(explain(admin, **asked, **by_key)) == {"keyosk:audit:read": "password_only"}
    ok(admin.put(f"{person.path}/grants", json={"scopes": ["keyosk:admin"]}))
    by_key["api_key"] = small
    assert reasons(explain(admin, **asked, **by_key)) == {"keyosk:audit:read": "key_limited"}
    # Who has keyosk:admin lacks nothing of what it stands for.
    assert reasons(explain(admin, account=person.id, audience=["keyosk"])) == {}


def test_a_login_that_is_refused_gets_none_of_its_scopes_for_that_reason(
    admin: Client, alice: Person, todo: str
) -> None:
    ok(admin.patch(alice.path, json={"enabled": False}))
    explanation = explain(admin, account=alice.id)
    assert reasons(explanation) == {f"{todo}:read": "account_disabled"}
    # As the token endpoint says it, which does not tell why; ``reason`` does.
    response = alice.login().post("/auth/token").json()
    assert {name: explanation[name] for name in response} == response


@pytest.mark.parametrize("asked", [{"scope": "two  spaces"}, {"audience": [""]}])
def test_odd_parameters_end_as_at_the_token_endpoint(
    admin: Client, alice: Person, asked: dict[str, Any]
) -> None:
    response = alice.login().post("/auth/token", json=asked)
    explanation = explain(admin, account=alice.id, **asked)
    assert explanation["granted"] is (response.status_code == 200)
    if not explanation["granted"]:
        assert {name: explanation[name] for name in response.json()} == response.json()


def test_the_document_names_the_scope_that_questions_about_others_need(admin: Client) -> None:
    described = admin.get("/openapi.json").json()["paths"]["/auth/explain"]["post"]
    assert "x-required-scope" not in described
    assert "keyosk:admin" not in described["description"]
    assert "`keyosk:accounts:read`" in described["description"]


# --- It says what happens -------------------------------------------------------------------------


@pytest.fixture
def timed(prepared_url: str) -> Iterator[Installation]:
    with installed(prepared_url, clock=Clock(time.time() - 3000)) as made:
        yield made


_numbers = itertools.count()
_until = st.sampled_from([None, None, 10, 10_000])
_kinds = st.sampled_from([None, CredentialKind.API_KEY, CredentialKind.PASSWORD])


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_it_and_the_token_endpoint_agree(timed: Installation, data: st.DataObject) -> None:
    number = next(_numbers)
    now = int(timed.clock())
    names = [f"s{number}a", f"s{number}b"]
    scopes = [f"{name}:{verb}" for name in names for verb in ("r", "w")]
    for name in names:
        accepts = data.draw(st.sampled_from([set(CredentialKind), {CredentialKind.PASSWORD}]))
        timed.services.create(
            OPERATOR,
            name=name,
            scopes=[Scope(f"{name}:r"), Scope(f"{name}:w")],
            enabled=data.draw(st.booleans()),
            on_request_only=data.draw(st.booleans()),
            refresh_allowed=data.draw(st.booleans()),
            accepts=frozenset(accepts),
        )
    grants = []
    for scope in data.draw(st.lists(st.sampled_from(scopes), unique=True)):
        until = data.draw(_until)
        end = None if until is None else now + until
        grants.append(Grant(scope, credential=data.draw(_kinds), until=end))
    account = timed.grants.create_account(OPERATOR, grants, username=f"p{number}")
    limit = data.draw(st.none() | st.lists(st.sampled_from(scopes), unique=True))
    key = timed.api_keys.create(OPERATOR, account.id, name="k", scopes=limit)
    wanted = st.lists(st.sampled_from([*scopes, "offline_access", "no:such"]), unique=True)
    asked = TokenRequest(
        scopes=data.draw(st.none() | wanted.map(tuple)),
        targets=tuple(data.draw(st.lists(st.sampled_from([*names, "nowhere"]), max_size=2))),
        lifetime=data.draw(st.sampled_from([None, 60])),
    )

    assert isinstance(timed.clock, Clock)
    timed.clock.now += 20  # past the earlier of the ends

    told = timed.explainer.explain(account.id, asked, api_key_id=key.key.id)
    issued, refusal = None, None
    try:
        login = timed.authentication.by_secret(candidates([(account.username, key.secret)]))
        issued = timed.token_issuer.by_login(login, asked)
    except (InvalidRequest, InvalidScope, InvalidTarget) as error:
        refusal = error
    assert (type(told.error), str(told.error)) == (type(refusal), str(refusal))
    if issued is None:
        assert told.preview is None
        return
    assert told.preview is not None
    claims = claims_of(issued.token.text)
    claims.pop("jti")
    assert told.preview.claims == claims
    assert told.preview.size == len(issued.token.text)
    given_scopes = {each.scope for each in told.granted}
    assert given_scopes == set(claims["scope"].split()) - {"offline_access"}
    assert not given_scopes & told.missing.keys()
    if asked.scopes is None:
        assert given_scopes | told.missing.keys() == {grant.scope for grant in grants}


# --- Commands -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_commands_make_look_into_and_explain_tokens(
    server: LiveServer, admin: Client, alice: Person, todo: str
) -> None:
    created = server.run("token", "issue", alice.username, "--scope", f"{todo}:read")
    assert created.returncode == 0, created.stderr
    looked = server.run("token", "inspect", text=created.stdout)
    assert looked.returncode == 0, looked.stderr
    assert json.loads(looked.stdout)["claims"]["sub"] == alice.id
    header = f"Authorization: Bearer {created.stdout}"  # as format=header gives it
    assert server.run("token", "inspect", text=header).stdout == looked.stdout
    rows = ok(admin.get(f"/audit?action=token.issue&target=account/{alice.id}"))["items"]
    assert len(rows) == 1
    assert created.stdout.strip() not in str(rows)
    # Enough to find it, and to end it.
    assert rows[0]["after"]["jti"] == json.loads(looked.stdout)["claims"]["jti"]
    assert rows[0]["after"]["audiences"] == [todo]
    assert server.run("token", "issue", alice.id, "--scope", "offline_access").returncode == 1

    admin.delete(f"{alice.path}/tokens")
    assert server.run("token", "inspect", text=created.stdout).returncode == 1
    assert server.run("token", "inspect", text="garbage\n").returncode == 1

    told = server.run("token", "explain", alice.username, "--scope", f"{todo}:write", "--json")
    assert reasons(json.loads(told.stdout)) == {f"{todo}:write": "not_granted"}
    assert (
        "not_granted"
        in server.run("token", "explain", alice.username, "--scope", f"{todo}:write").stdout
    )
    ok(admin.delete(f"{alice.path}/password"), 204)
    told = server.run("token", "explain", alice.username)
    assert "no_password" in told.stdout
    assert f"add --api-key ID; the ids: keyosk api-key list {alice.username}" in told.stderr
    ok(admin.patch(alice.path, json={"enabled": False}))
    assert server.run("token", "issue", alice.username).returncode == 1


def test_a_token_that_is_refused_is_told_why(server: LiveServer, admin: Client) -> None:
    kid = admin.get("/auth/jwks").json()["keys"][0]["kid"]
    now = int(time.time())

    def told(**changed: Any) -> str:
        claims = {"iss": server.url, "iat": now, "exp": now + 60, **changed}
        headers = {"kid": changed.get("kid", kid)}
        text = jwt.encode(claims, "k" * 32, algorithm="HS256", headers=headers)
        seen = server.run("token", "inspect", text=text)
        assert (seen.returncode, json.loads(seen.stdout)["claims"]["iat"]) == (1, claims["iat"])
        return seen.stderr

    assert f"its issuer is not {server.url}." in told(iss=f"{server.url}/")
    assert "its signing key is not in the key set" in told(kid="x")
    assert re.search(r"it expired \d+ seconds ago", told(exp=now - 10))
    assert "a clock is wrong" in told(iat=now + 3_600, exp=now + 7_200)
    assert "it was changed, or forged" in told()


def test_a_token_that_anybody_wrote_cannot_write_to_the_terminal(server: LiveServer) -> None:
    text = jwt.encode({"sub": "\x1b[2J\x9b2J", "\x9b0;": 1}, "k" * 32, algorithm="HS256")
    seen = server.run("token", "inspect", text=text)
    assert seen.returncode == 1
    assert not {"\x1b", "\x9b"} & set(seen.stdout)


def test_a_token_that_servers_would_cut_is_refused_with_what_makes_it_so(admin: Client) -> None:
    name = unique("big")
    scopes = [f"{name}:{number:03}:{'x' * 60}" for number in range(90)]
    ok(admin.post("/services", json={"name": name, "scopes": scopes}), 201)
    person = make_person(admin, *scopes)

    response = person.login().post("/auth/token")

    assert (response.status_code, response.json()["error"]) == (400, "invalid_scope")
    assert f"{name}:..." in response.json()["error_description"]
    told = explain(admin, account=person.username)
    assert told["error_description"] == response.json()["error_description"]
    fewer = ok(person.login().post("/auth/token", data={"scope": " ".join(scopes[:10])}))
    assert len(fewer["access_token"]) < 6_144
