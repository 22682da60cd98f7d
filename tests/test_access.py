"""Who may do what: every route and method with no, a bad, a weak and a sufficient credential."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec
from flask import Flask, g, request
from werkzeug.exceptions import MethodNotAllowed

import live
import people
from keyosk import app, config
from keyosk.errors import BadCredentials
from keyosk.installation import Installation
from keyosk.model import ADMIN, KEYOSK_SCOPES
from keyosk.times import rfc3339
from keyosk.web.access import ANYONE, Access, Gate, scope
from keyosk.web.route import Route
from keyosk.web.routes import ROUTES
from live import Client, LiveServer, soon, wait_for
from people import claims_of, make_key, ok
from tables import table, walking

pytestmark = pytest.mark.in_process

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
RULE = "refused_by_rule"
BASIC_CHALLENGE = 'Basic realm="keyosk", charset="UTF-8"'
LOGIN_CHALLENGES = f'{BASIC_CHALLENGE}, Bearer realm="keyosk"'
TOKEN_CHALLENGE = 'Bearer realm="keyosk", error="invalid_token", error_description="{}"'
FOREIGN = "The token is for another audience. Ask for one with audience=keyosk."

WALK = [(route, method) for route in ROUTES for method in METHODS]
#: Each route with each method that has an access decision of its own.
DECIDED = [(route, method) for route in ROUTES for method in route.access]


def answering(route: Route, method: str) -> Route:
    """The route that answers at the address of ``route``: ``import`` may be an account's name."""
    method = "GET" if method == "HEAD" else method
    if method not in route.access and route.path in ("/accounts/import", "/accounts/export"):
        return next(other for other in ROUTES if other.path == "/accounts/<account>")
    if method not in route.access and route.path in (
        "/signing-keys/rotate",
        "/signing-keys/import",
    ):
        return next(other for other in ROUTES if other.path == "/signing-keys/<kid>")
    return route


#: It is open to all and gives nothing to anybody.
REFUSING = "/auth/authorize"


def is_open(route: Route, method: str) -> bool:
    access = decision(route, method)
    return access is not None and access.anyone


def decision(route: Route, method: str) -> Access | None:
    return answering(route, method).access.get("GET" if method == "HEAD" else method)


@dataclass(frozen=True)
class Person(people.Person):
    """Has an API key besides."""

    key_id: str
    secret: str

    @property
    def by_key(self) -> Client:
        return self.login(self.secret)


def make_person(admin: Client, *scopes: Any) -> Person:
    person = people.make_person(admin, *scopes)
    return Person(person.url, person.id, person.username, *make_key(admin, person))


@pytest.fixture(scope="module")
def alice(admin: Client) -> Person:
    """The account that the others try to get at."""
    return make_person(admin)


@pytest.fixture(scope="module")
def weak(admin: Client) -> Person:
    """Holds nothing."""
    return make_person(admin)


@pytest.fixture(scope="module")
def anybody(server: LiveServer) -> Client:
    """A client without a login."""
    return server.client()


@pytest.fixture(scope="module")
def service(admin: Client) -> str:
    name = live.unique("todo")
    response = admin.post("/services", json={"name": name, "scopes": [f"{name}:read"]})
    assert response.status_code == 201
    return name


@pytest.fixture(scope="module")
def existing(server: LiveServer, admin: Client, alice: Person, service: str) -> Mapping[str, str]:
    """What stands in the place of each variable of a path: things that exist."""
    kid = server.client().get("/auth/jwks").json()["keys"][0]["kid"]
    role, issuer = live.unique("role"), live.unique("ci")
    ok(admin.post("/roles", json={"name": role}), 201)
    ci = {"name": issuer, "issuer": f"https://{issuer}.example.com"}
    ok(admin.post("/issuers", json=ci), 201)
    machine = {"username": live.unique("deployer"), "kind": "machine"}
    ok(admin.post("/accounts", json=machine), 201)
    rule = {"name": "deploy", "claims": {"sub": "x"}, "account": machine["username"]}
    ok(admin.post(f"/issuers/{issuer}/rules", json=rule), 201)
    verification = {"url": "http://127.0.0.1/", "passed": True, "verdict": "Passed.", "failed": []}
    ok(admin.put(f"/services/{service}/verification", json=verification))
    return {
        "account": alice.id,
        "key": alice.key_id,
        "session": ABSENT["session"],
        "factor": ABSENT["factor"],
        "service": service,
        "role": role,
        "issuer": issuer,
        "rule": "deploy",
        "kid": kid,
        "file": "start.js",
    }


#: What a caller who gets through can do no harm to.
ABSENT: Mapping[str, str] = {
    "account": "nobody-at-all",
    "key": "00000000-0000-7000-8000-000000000000",
    "session": "00000000-0000-7000-8000-000000000001",
    "factor": "00000000-0000-7000-8000-000000000001",
    "service": "no-such-service",
    "role": "no-such-role",
    "issuer": "no-such-issuer",
    "rule": "no-such-rule",
    "file": "no-such-file",
    "kid": "x" * 43,
}


def path_of(route: Route, names: Mapping[str, str]) -> str:
    path = route.path
    for variable, name in names.items():
        path = path.replace(f"<{variable}>", name)
    assert "<" not in path, f"the test has nothing to put into {path}"
    return path


def assert_problem(response: requests.Response, status: int, code: str) -> None:
    """Refused in the shape of everything outside OAuth."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    if response.request.method != "HEAD":
        assert response.json()["code"] == code


def assert_not_declared(response: requests.Response, route: Route) -> None:
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == declared(route)


def is_for_proxies(route: Route) -> bool:
    """Whether every method, OPTIONS too, needs a login that the resource itself looks at."""
    return route.path.startswith("/auth/forward")


def declared(route: Route) -> set[str]:
    """The methods that the address of a route answers."""
    return {method for method in METHODS if decision(route, method)} | {"OPTIONS"}


def own(route: Route) -> set[str]:
    """The methods that a route itself answers."""
    head = {"HEAD"} if "GET" in route.access else set()
    return {*route.access, *head, "OPTIONS"}


# --- The table ------------------------------------------------------------------------------------


def test_every_method_of_every_resource_has_a_decision_and_nothing_else_has() -> None:
    for route in ROUTES:
        assert set(route.resource.methods or ()) == set(route.access), route.path


def test_only_these_addresses_are_open_to_all() -> None:
    """A new one has to be added here, by somebody who thought about it."""
    public = {(method, route.path) for route, method in DECIDED if is_open(route, method)}

    assert public == {
        ("GET", "/auth/token"),
        ("POST", "/auth/token"),
        ("GET", "/auth/authorize"),
        ("POST", "/auth/authorize"),
        ("POST", "/auth/introspect"),
        ("POST", "/auth/revoke"),
        ("GET", "/auth/revocations"),
        ("GET", "/auth/forward"),
        ("GET", "/auth/forward/<service>"),
        ("GET", "/auth/jwks"),
        ("GET", "/.well-known/jwks.json"),
        ("GET", "/.well-known/oauth-authorization-server"),
        ("GET", "/.well-known/openid-configuration"),
        ("GET", "/auth/keys/<kid>.pem"),
        ("GET", "/services/<service>/jwks"),
        ("GET", "/"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/docs/<file>"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
    }


#: What each scope is for, stated once more: a slip in the table of routes must not go unseen.
SCOPES = {
    "keyosk:accounts:read": {
        "GET /accounts",
        "GET /accounts/export",
        "GET /accounts/<account>",
        "GET /accounts/<account>/api-keys",
        "GET /accounts/<account>/api-keys/<key>",
        "GET /accounts/<account>/grants",
        "GET /accounts/<account>/scopes",
        "GET /unused-scopes",
        "GET /accounts/<account>/tokens",
        "GET /refresh-sessions",
        "GET /console-sessions",
        "GET /api-keys",
        "POST /api-keys/find",
        "GET /accounts/<account>/console-sessions",
        "GET /accounts/<account>/second-factors",
    },
    "keyosk:accounts:write": {
        "POST /accounts",
        "POST /accounts/import",
        "PATCH /accounts/<account>",
        "DELETE /accounts/<account>",
        "PUT /accounts/<account>/password",
        "DELETE /accounts/<account>/password",
        "POST /accounts/<account>/api-keys",
        "PATCH /accounts/<account>/api-keys/<key>",
        "DELETE /accounts/<account>/api-keys/<key>",
        "POST /accounts/<account>/api-keys/<key>/rotate",
        "DELETE /accounts/<account>/tokens",
        "DELETE /accounts/<account>/tokens/<session>",
        "DELETE /accounts/<account>/console-sessions/<session>",
        "DELETE /accounts/<account>/second-factors/<factor>",
    },
    "keyosk:grants:write": {
        "PUT /accounts/<account>/grants",
        "PATCH /accounts/<account>/grants",
    },
    "keyosk:services:read": {
        "GET /services",
        "GET /services/<service>",
        "GET /services/<service>/scopes",
        "GET /services/<service>/verification",
        "GET /roles",
        "GET /roles/<role>",
        "GET /issuers",
        "GET /issuers/<issuer>",
        "POST /issuers/<issuer>/test",
        "GET /issuers/<issuer>/rules",
        "GET /issuers/<issuer>/rules/<rule>",
    },
    "keyosk:services:write": {
        "POST /services",
        "PATCH /services/<service>",
        "DELETE /services/<service>",
        "PUT /services/<service>/scopes",
        "PUT /services/<service>/verification",
        "POST /roles",
        "PATCH /roles/<role>",
        "DELETE /roles/<role>",
        "POST /issuers",
        "PATCH /issuers/<issuer>",
        "DELETE /issuers/<issuer>",
        "POST /issuers/<issuer>/rules",
        "PATCH /issuers/<issuer>/rules/<rule>",
        "DELETE /issuers/<issuer>/rules/<rule>",
    },
    "keyosk:admin": {"GET /diagnosis", "GET /settings"},
    "keyosk:audit:read": {
        "GET /audit",
        "GET /audit/chain",
        "GET /audit/export",
        "GET /login-failures",
        "GET /activity",
        "GET /nodes",
    },
    "keyosk:keys:read": {"GET /signing-keys", "GET /signing-keys/<kid>"},
    "keyosk:keys:write": {
        "POST /signing-keys/rotate",
        "POST /signing-keys/import",
        "POST /signing-keys/<kid>/compromise",
        "DELETE /signing-keys/<kid>",
    },
}
#: What an account may do to itself without any scope.
ITSELF = {
    "GET /accounts/<account>",
    "GET /accounts/<account>/api-keys",
    "GET /accounts/<account>/api-keys/<key>",
    "GET /accounts/<account>/grants",
    "GET /accounts/<account>/scopes",
    "PUT /accounts/<account>/password",
    "DELETE /accounts/<account>/password",
    "POST /accounts/<account>/api-keys",
    "PATCH /accounts/<account>/api-keys/<key>",
    "DELETE /accounts/<account>/api-keys/<key>",
    "POST /accounts/<account>/api-keys/<key>/rotate",
    "GET /accounts/<account>/tokens",
    "DELETE /accounts/<account>/tokens",
    "DELETE /accounts/<account>/tokens/<session>",
    "GET /accounts/<account>/console-sessions",
    "DELETE /accounts/<account>/console-sessions/<session>",
    "GET /accounts/<account>/second-factors",
    "DELETE /accounts/<account>/second-factors/<factor>",
}


def test_every_other_decision_needs_the_scope_that_is_for_it() -> None:
    scopes: dict[str | None, set[str]] = {}
    for route, method in DECIDED:
        if not is_open(route, method) and not route.access[method].any_caller:
            scopes.setdefault(route.access[method].scope, set()).add(f"{method} {route.path}")

    assert scopes == SCOPES
    assert SCOPES.keys() <= KEYOSK_SCOPES.keys()


def test_whoever_is_logged_in_may_use_these_addresses_and_no_others() -> None:
    """There the resource looks at what is asked for: see its own tests."""
    anybody = {f"{m} {route.path}" for route, m in DECIDED if route.access[m].any_caller}
    assert anybody == {"POST /auth/explain", "POST /apply"}


def test_an_account_may_do_this_to_itself_and_nothing_else() -> None:
    assert {f"{m} {route.path}" for route, m in DECIDED if route.access[m].itself} == ITSELF


# --- Without, with a bad and with a weak credential -----------------------------------------------


OBVIOUSLY_BAD = ("garbage as Basic", "garbage as Bearer", "signed by somebody else")


@pytest.fixture(scope="module")
def bad(server: LiveServer, alice: Person, service: str) -> Mapping[str, str]:
    """Authorization headers that open nothing, by what is wrong with them."""
    other_audience = alice.by_key.post("/auth/token", data={"audience": service}).json()
    identity = alice.by_key.post("/auth/token").json()
    good = alice.by_key.post("/auth/token", data={"audience": "keyosk"}).json()["access_token"]
    assert Client(server.url, token=good).get("/accounts/me").status_code == 200
    claims = claims_of(good)
    foreign = jwt.encode(
        {**claims, "scope": ADMIN},
        ec.generate_private_key(ec.SECP256R1()),
        algorithm="ES256",
        headers=jwt.get_unverified_header(good),
    )
    return {
        "garbage as Basic": "Basic Z2FyYmFnZQ==",
        "no base64 as Basic": "Basic ***",
        "an unknown scheme": "Digest username=admin",
        "garbage as Bearer": "Bearer garbage",
        "nothing as Bearer": "Bearer",
        "signed by somebody else": f"Bearer {foreign}",
        "for another audience": f"Bearer {other_audience['access_token']}",
        "for no audience": f"Bearer {identity['access_token']}",
    }


def test_without_a_credential_only_what_is_open_to_all_answers(
    anybody: Client, existing: Mapping[str, str]
) -> None:
    for route, method in WALK:
        with walking(f"{method} {route.path}"):
            response = anybody.request(method, path_of(route, existing))

            if is_for_proxies(route):
                assert response.status_code == 401
            elif method == "OPTIONS":
                assert (response.status_code, response.content) == (204, b"")
                assert set(response.headers["Allow"].split(", ")) == own(route)
            elif method not in declared(route):
                assert_not_declared(response, route)
            elif route.path == REFUSING:
                assert (response.status_code, "WWW-Authenticate" in response.headers) == (
                    400,
                    False,
                )
            elif route.oauth:
                assert response.status_code == 401
                assert response.headers["WWW-Authenticate"] == BASIC_CHALLENGE
            elif is_open(route, method):
                assert response.status_code == 200
            else:
                assert_problem(response, 401, "bad_credentials")
                assert response.headers["WWW-Authenticate"] == LOGIN_CHALLENGES


def assert_opens_nothing(response: requests.Response, header: str, said: str) -> None:
    if header.startswith("Bearer"):
        assert_problem(response, 401, "invalid_token")
        assert response.headers["WWW-Authenticate"] == TOKEN_CHALLENGE.format(said)
    else:
        assert_problem(response, 401, "bad_credentials")
        assert response.headers["WWW-Authenticate"] == LOGIN_CHALLENGES


def test_a_bad_credential_opens_nothing(
    server: LiveServer,
    admin: Client,
    existing: Mapping[str, str],
    bad: Mapping[str, str],
) -> None:
    anybody, name = server.client(), make_person(admin).username
    for number, (route, method) in enumerate(WALK, 1):
        if number % 10 == 0:
            # Few guesses at a name and from an address are let through, and these are to be.
            anybody, name = server.client(), make_person(admin).username
        protected = decision(route, method) is not None and not is_open(route, method)
        # Where nobody looks at a credential, a few are enough, and one where nobody answers.
        few = OBVIOUSLY_BAD if is_open(route, method) else (OBVIOUSLY_BAD[number % 3],)
        tried = dict(bad) if protected else {wrong: bad[wrong] for wrong in few}
        if protected:
            tried["a wrong password"] = requests.auth._basic_auth_str(name, "not the password")
        for wrong, header in tried.items():
            with walking(f"{method} {route.path}: {wrong}"):
                headers = {"Authorization": header}
                response = anybody.request(method, path_of(route, existing), headers=headers)
                if is_for_proxies(route):
                    assert response.status_code == 401
                elif method == "OPTIONS":
                    assert response.status_code == 204
                elif method not in declared(route):
                    assert_not_declared(response, route)
                elif route.path == REFUSING:
                    assert response.status_code == 400
                elif route.oauth:
                    assert response.status_code == 401
                    assert response.headers["WWW-Authenticate"] == BASIC_CHALLENGE
                elif not protected:
                    assert response.status_code == 200
                else:
                    foreign = wrong.startswith("for ")
                    said = FOREIGN if foreign else "The token is not valid."
                    assert_opens_nothing(response, header, said)


@pytest.fixture(scope="module")
def weak_callers(weak: Person) -> Mapping[str, Client]:
    return {
        "password": weak.login(),
        "API key": weak.by_key,
        "token by password": weak.bearer(),
        "token by API key": weak.bearer(weak.secret),
    }


def test_who_holds_nothing_is_refused_by_name_of_the_scope(
    existing: Mapping[str, str],
    weak_callers: Mapping[str, Client],
) -> None:
    for route, method in WALK:
        access = decision(route, method)
        if access is None or access.anyone or access.any_caller:
            continue
        for kind, client in weak_callers.items():
            with walking(f"{method} {route.path} by {kind}"):
                response = client.request(method, path_of(route, existing))
                assert_problem(response, 403, "insufficient_scope")
                if kind.startswith("token"):
                    challenge = (
                        f'Bearer realm="keyosk", error="insufficient_scope", scope="{access.scope}"'
                    )
                    assert response.headers["WWW-Authenticate"] == challenge
                else:
                    assert "WWW-Authenticate" not in response.headers
                if method != "HEAD":
                    assert access.scope in response.json()["detail"]


def test_what_was_tried_above_changed_nothing(admin: Client, alice: Person, service: str) -> None:
    assert alice.by_key.get("/accounts/me").json()["enabled"] is True
    assert alice.login().get("/accounts/me").status_code == 200
    assert len(admin.get(f"/services/{service}").json()["scopes"]) == 1


# --- A scope opens exactly its addresses ----------------------------------------------------------


@pytest.fixture(scope="module")
def holders(admin: Client) -> Mapping[str, Person]:
    """An account for each scope of Keyosk that holds this one and no other."""
    return {name: make_person(admin, name) for name in KEYOSK_SCOPES}


def refused(response: requests.Response) -> bool:
    return response.status_code in (401, 403)


#: Whoever is let in there rotates the keys that other tests sign with; test_rules asks it wrongly.
ROTATE = "/signing-keys/rotate"


@table("name", KEYOSK_SCOPES)
def test_a_scope_opens_exactly_its_addresses(holders: Mapping[str, Person], name: str) -> None:
    client = holders[name].bearer()
    opened = {
        (method, route.path)
        for route, method in DECIDED
        if not route.oauth
        and not is_for_proxies(route)
        and route.path != ROTATE
        and not refused(client.request(method, path_of(route, ABSENT)))
    }

    assert opened == {
        (method, route.path)
        for route, method in DECIDED
        if not route.oauth
        and not is_for_proxies(route)
        and route.path != ROTATE
        and (
            is_open(route, method)
            or route.access[method].any_caller
            or name in (route.access[method].scope, ADMIN)
        )
    }


def test_an_api_key_opens_nothing_that_touches_credentials(holders: Mapping[str, Person]) -> None:
    closed = {(method, route.path) for route, method in DECIDED if route.access[method].no_api_key}
    assert closed == {
        ("PUT", "/accounts/<account>/password"),
        ("DELETE", "/accounts/<account>/password"),
        ("POST", "/accounts/<account>/api-keys"),
        ("PATCH", "/accounts/<account>/api-keys/<key>"),
        ("DELETE", "/accounts/<account>/api-keys/<key>"),
        ("POST", "/accounts/<account>/api-keys/<key>/rotate"),
        ("DELETE", "/accounts/<account>/second-factors/<factor>"),
        ("POST", "/signing-keys/rotate"),
        ("POST", "/signing-keys/import"),
        ("POST", "/signing-keys/<kid>/compromise"),
        ("DELETE", "/signing-keys/<kid>"),
        ("POST", "/issuers"),
        ("PATCH", "/issuers/<issuer>"),
        ("DELETE", "/issuers/<issuer>"),
        ("POST", "/issuers/<issuer>/rules"),
        ("PATCH", "/issuers/<issuer>/rules/<rule>"),
        ("DELETE", "/issuers/<issuer>/rules/<rule>"),
    }
    person = holders[ADMIN]
    for client in (person.by_key, person.bearer(person.secret)):
        for route, method in DECIDED:
            if route.oauth or is_for_proxies(route) or route.path == ROTATE:
                continue
            response = client.request(method, path_of(route, ABSENT))
            assert refused(response) == ((method, route.path) in closed), response.text
            if refused(response):
                assert_problem(response, 403, RULE)


def test_a_token_opens_no_more_than_it_was_narrowed_to(holders: Mapping[str, Person]) -> None:
    narrow = holders[ADMIN].bearer(scope="keyosk:accounts:read")

    assert narrow.get("/accounts").status_code == 200
    assert_problem(narrow.delete(f"/accounts/{ABSENT['account']}"), 403, "insufficient_scope")
    assert_problem(narrow.get("/services"), 403, "insufficient_scope")


def test_a_key_limited_to_other_scopes_leaves_an_admin_nothing_of_keyosk(
    server: LiveServer, admin: Client, holders: Mapping[str, Person], service: str
) -> None:
    person = holders[ADMIN]
    for scopes, status in (
        ([f"{service}:read"], 403),
        ([], 403),
        (["keyosk:services:read"], 403),
        (["keyosk:accounts:read"], 200),
        ([ADMIN], 200),
    ):
        response = admin.post(f"{person.path}/api-keys", json={"name": "k", "scopes": scopes})
        client = server.client(person.username, response.json()["secret"])
        assert client.get("/accounts").status_code == status


@table("route", [route for route in ROUTES if "GET" in route.access], ids=lambda route: route.path)
def test_head_is_answered_as_get(admin: Client, existing: Mapping[str, str], route: Route) -> None:
    path = path_of(route, existing)

    head, get = admin.request("HEAD", path), admin.get(path)

    assert head.content == b""
    assert head.status_code == get.status_code
    for name in ("Content-Type", "ETag", "Cache-Control", "WWW-Authenticate", "Content-Length"):
        assert head.headers.get(name) == get.headers.get(name)


# --- The account itself ---------------------------------------------------------------------------


def test_an_account_reads_itself_by_any_of_its_names_alone(weak: Person, alice: Person) -> None:
    for client in (weak.by_key, weak.bearer(), weak.bearer(weak.secret)):
        for below in ("", "/api-keys", "/grants", f"/api-keys/{weak.key_id}"):
            for name in ("me", weak.id, weak.username, weak.username.upper()):
                assert client.get(f"/accounts/{name}{below}").status_code == 200
            for name in (alice.id, alice.username, "admin", "nobody-at-all"):
                assert_problem(client.get(f"/accounts/{name}{below}"), 403, "insufficient_scope")


def test_an_answer_about_another_does_not_tell_if_it_exists(weak: Person, alice: Person) -> None:
    responses = [weak.by_key.get(f"/accounts/{name}") for name in (alice.username, "nobody-at-all")]
    details = [{**response.json(), "request_id": ""} for response in responses]

    assert details[0] == details[1]


# --- At once --------------------------------------------------------------------------------------


@pytest.fixture
def operator(admin: Client) -> Person:
    return make_person(admin, "keyosk:accounts:read")


@pytest.fixture
def clients(operator: Person) -> Mapping[str, Client]:
    """The operator by token and by login, each of which may list the accounts at first."""
    found = {
        "token": operator.bearer(),
        "token by key": operator.bearer(operator.secret),
        "key": operator.by_key,
        "password": operator.login(),
    }
    assert statuses(found) == dict.fromkeys(found, 200)
    return found


def statuses(clients: Mapping[str, Client]) -> dict[str, int]:
    return {kind: client.get("/accounts?limit=1").status_code for kind, client in clients.items()}


@pytest.mark.parametrize("field", ["enabled", "expires_at"])
def test_a_disabled_or_expired_account_loses_its_power_at_once_and_gets_it_back(
    admin: Client, operator: Person, clients: Mapping[str, Client], field: str
) -> None:
    end = soon()
    value = False if field == "enabled" else rfc3339(end)

    ok(admin.patch(operator.path, json={field: value}))
    if field == "expires_at":
        wait_for(end)
    assert statuses(clients) == dict.fromkeys(clients, 401)
    refusal = clients["token"].get("/accounts")
    assert 'Bearer realm="keyosk", error="invalid_token"' in refusal.headers["WWW-Authenticate"]

    # Its logins work again; the tokens of before are revoked for good.
    ok(admin.patch(operator.path, json={field: None}))
    assert statuses(clients) == {"token": 401, "token by key": 401, "key": 200, "password": 200}
    assert operator.bearer().get("/accounts?limit=1").status_code == 200


@pytest.mark.parametrize("how", ["removed", "ended"])
def test_a_grant_that_is_taken_away_is_gone_at_once(
    admin: Client, operator: Person, clients: Mapping[str, Client], how: str
) -> None:
    end = soon()
    ended = {"name": "keyosk:accounts:read", "until": rfc3339(end)}
    scopes = [] if how == "removed" else [ended]

    ok(admin.put(f"{operator.path}/grants", json={"scopes": scopes}))
    if how == "ended":
        wait_for(end)

    assert statuses(clients) == {"token": 401, "token by key": 401, "key": 403, "password": 403}
    assert operator.bearer().get("/accounts/me").status_code == 200


def test_a_grant_for_one_kind_of_credential_counts_for_tokens_by_that_kind_only(
    admin: Client, operator: Person, clients: Mapping[str, Client]
) -> None:
    grant = {"name": "keyosk:accounts:read", "with": "password"}

    ok(admin.put(f"{operator.path}/grants", json={"scopes": [grant]}))

    assert statuses(clients) == {"token": 401, "token by key": 401, "key": 403, "password": 200}
    assert operator.bearer().get("/accounts?limit=1").status_code == 200


def test_an_old_token_does_not_gain_what_is_granted_later(
    admin: Client, operator: Person, clients: Mapping[str, Client]
) -> None:
    add = {"add": {"scopes": [ADMIN]}}
    ok(admin.patch(f"{operator.path}/grants", json=add))

    assert clients["token"].get("/services").status_code == 403
    assert operator.bearer().get("/services").status_code == 200


@pytest.mark.parametrize("how", ["deleted", "disabled", "expired", "limited"])
def test_a_key_loses_its_power_at_once_and_the_tokens_that_came_from_it_too(
    admin: Client, operator: Person, clients: Mapping[str, Client], how: str
) -> None:
    path = f"{operator.path}/api-keys/{operator.key_id}"
    changes = {
        "disabled": {"enabled": False},
        "expired": {"expires_at": rfc3339(time.time() - 1)},
        "limited": {"scopes": []},
    }
    if how == "deleted":
        ok(admin.delete(path), 204)
    else:
        ok(admin.patch(path, json=changes[how]))

    status = 403 if how == "limited" else 401
    assert statuses(clients) == {
        "token": 200,
        "token by key": 401,
        "key": status,
        "password": 200,
    }


# --- Closed when in doubt -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One in this process, to try what no address of the real one can show."""
    folder = tmp_path_factory.mktemp("access")
    settings = config.load(
        {
            "KEYOSK_DATABASE_URL": f"sqlite:///{folder / 'keyosk.db'}",
            "KEYOSK_SECRET_KEY": live.SECRET_KEY,
            "KEYOSK_ADMIN_PASSWORD": live.ADMIN_PASSWORD,
            "KEYOSK_CONFIG": str(_empty(folder)),
        }
    )
    app.prepare(settings)
    built = Installation(settings)
    yield built
    built.database.close()


def _empty(folder: Path) -> Path:
    path = folder / "keyosk.toml"
    path.write_text("")
    return path


@table("decisions", [{}, {"page": {}}, {"page": {"POST": ANYONE}}, {"": {"GET": ANYONE}}])
def test_a_method_without_a_decision_is_refused(
    installation: Installation, decisions: Mapping[str, Mapping[str, Access]]
) -> None:
    flask = Flask("test", static_folder=None)
    flask.add_url_rule("/page", "page", lambda: "open")
    credentials = ("admin", live.ADMIN_PASSWORD)

    for method in ("GET", "HEAD"):
        with flask.test_request_context("/page", method=method, auth=credentials):
            g.address, g.request_id = None, ""  # as the pipeline has set them by then
            with pytest.raises(MethodNotAllowed):
                Gate(installation, decisions).check(request)
            # The same request passes where it is decided.
            Gate(installation, {"page": {"GET": scope(ADMIN)}}).check(request)


def test_an_address_added_past_the_table_is_refused_to_an_admin(installation: Installation) -> None:
    flask = app.create_app(installation)
    flask.add_url_rule("/backdoor", "backdoor", lambda: "open", methods=["GET", "POST"])
    client = flask.test_client()

    for method in ("GET", "POST"):
        response = client.open("/backdoor", method=method, auth=("admin", live.ADMIN_PASSWORD))
        assert response.status_code == 405
        assert b"open" not in response.data
    assert client.get("/accounts", auth=("admin", live.ADMIN_PASSWORD)).status_code == 200


def test_a_decision_that_says_nothing_lets_in_nobody_anonymous(installation: Installation) -> None:
    flask = Flask("test", static_folder=None)
    flask.add_url_rule("/page", "page", lambda: "open")
    gate = Gate(installation, {"page": {"GET": Access()}})

    with flask.test_request_context("/page"), pytest.raises(BadCredentials):
        gate.check(request)
