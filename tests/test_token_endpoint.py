"""POST and GET /auth/token over HTTP: what goes in, what comes out, and what is refused."""

import base64
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jwt
import pytest
import requests

import live
from keyosk.times import rfc3339
from live import Client, LiveServer, soon, wait_for
from people import claims_of, ok
from tables import table
from waiting import until

PASSWORD = "a password of some length"
CHALLENGE = 'Basic realm="keyosk", charset="UTF-8"'
CLAIMS = {
    "iss", "sub", "aud", "client_id", "preferred_username", "scope", "iat", "exp", "auth_time",
    "amr", "jti",
}  # fmt: skip
#: RFC 6749 section 5.2: what error_description may consist of.
DESCRIPTION = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+")


@dataclass(frozen=True)
class Service:
    """A service with the scopes ``<name>:read`` and ``<name>:write``."""

    name: str
    audience: str

    @property
    def read(self) -> str:
        return f"{self.name}:read"

    @property
    def write(self) -> str:
        return f"{self.name}:write"


class Account:
    """An account with grants, its API key (no hash to wait for), and perhaps a password."""

    def __init__(self, server: LiveServer, admin: Client, *scopes: Any, **fields: Any) -> None:
        self.server = server
        self.admin = admin
        self.username = live.unique("alice")
        body = {"username": self.username, "grants": {"scopes": list(scopes)}, **fields}
        response = admin.post("/accounts", json=body)
        assert response.status_code == 201, response.text
        self.id: str = response.json()["id"]
        self.path = f"/accounts/{self.id}"
        self.key = self.new_key()
        self.by_key = server.client(self.username, self.key["secret"])
        self.by_password = server.client(self.username, PASSWORD)

    def new_key(self, **fields: Any) -> dict[str, Any]:
        response = self.admin.post(f"{self.path}/api-keys", json={"name": "a key", **fields})
        assert response.status_code == 201, response.text
        key: dict[str, Any] = response.json()
        return key

    def client(self, key: dict[str, Any]) -> Client:
        return self.server.client(self.username, key["secret"])

    def change(self, **fields: Any) -> None:
        assert self.admin.patch(self.path, json=fields).status_code == 200

    def change_key(self, **fields: Any) -> None:
        path = f"{self.path}/api-keys/{self.key['id']}"
        assert self.admin.patch(path, json=fields).status_code == 200

    def grant(self, *scopes: Any) -> None:
        response = self.admin.put(f"{self.path}/grants", json={"scopes": list(scopes)})
        assert response.status_code == 200, response.text


def make_service(admin: Client, **fields: Any) -> Service:
    name = live.unique("todo")
    scopes = [f"{name}:read", f"{name}:write"]
    response = admin.post("/services", json={"name": name, "scopes": scopes, **fields})
    assert response.status_code == 201, response.text
    return Service(name, response.json()["audience"])


@pytest.fixture(scope="module")
def todo(admin: Client) -> Service:
    return make_service(admin)


@pytest.fixture(scope="module")
def calendar(admin: Client) -> Service:
    return make_service(admin, audience=f"https://{live.unique('calendar')}.example/api")


@pytest.fixture(scope="module")
def archive(admin: Client) -> Service:
    return make_service(admin, on_request_only=True)


@pytest.fixture(scope="module")
def alice(server: LiveServer, admin: Client, todo: Service) -> Account:
    """Holds both scopes of todo, has a password and an API key. Tests leave her as she is."""
    return Account(server, admin, todo.read, todo.write, password=PASSWORD, claims={"team": "red"})


@pytest.fixture(scope="module")
def bob(
    server: LiveServer, admin: Client, todo: Service, calendar: Service, archive: Service
) -> Account:
    """Holds scopes of three services, of which one is only for who asks. Stays as he is."""
    return Account(server, admin, todo.read, calendar.read, archive.read)


def issued(response: requests.Response) -> dict[str, Any]:
    """The claims of the token in a JSON response that is as it must be."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    body = response.json()
    assert body.keys() == {"access_token", "token_type", "expires_in", "scope"}
    assert body["token_type"] == "Bearer"
    claims = claims_of(body["access_token"])
    assert body["scope"] == claims["scope"]
    assert body["expires_in"] == claims["exp"] - claims["iat"]
    assert type(body["expires_in"]) is int
    return claims


def token(client: Client, **parameters: Any) -> dict[str, Any]:
    return issued(client.post("/auth/token", data=parameters))


def assert_refused(response: requests.Response, status: int, error: str) -> None:
    """An error response of RFC 6749 section 5.2, with the challenge exactly where it is due."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    body = response.json()
    assert body.keys() == {"error", "error_description"}
    assert body["error"] == error
    assert DESCRIPTION.fullmatch(body["error_description"])
    assert response.headers.get("WWW-Authenticate") == (CHALLENGE if status == 401 else None)


# --- The token ------------------------------------------------------------------------------------


def test_the_shortest_request_by_password_gets_a_token_with_exactly_these_claims(
    server: LiveServer, alice: Account, todo: Service
) -> None:
    before = int(time.time())
    response = alice.by_password.post("/auth/token")
    claims = issued(response)
    after = time.time()

    header = jwt.get_unverified_header(response.json()["access_token"])
    kids = [key["kid"] for key in server.client().get("/auth/jwks").json()["keys"]]
    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": kids[0]}
    assert claims.keys() == CLAIMS
    assert claims["iss"] == server.url
    assert claims["sub"] == alice.id
    assert claims["aud"] == todo.audience
    assert claims["client_id"] == claims["preferred_username"] == alice.username
    assert claims["scope"] == f"{todo.read} {todo.write}"
    assert claims["amr"] == ["pwd"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", claims["jti"])
    assert all(type(claims[name]) is int for name in ("iat", "exp", "auth_time"))
    assert before <= claims["iat"] <= after
    assert before <= claims["auth_time"] <= claims["iat"]
    assert claims["exp"] - claims["iat"] == 900


def test_by_api_key_the_token_says_so_and_names_the_key(alice: Account) -> None:
    claims = token(alice.by_key)

    assert claims.keys() == CLAIMS | {"key_id"}
    assert claims["amr"] == ["api_key"]
    assert claims["key_id"] == alice.key["id"]


def test_a_jti_never_repeats(alice: Account) -> None:
    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(lambda _: token(alice.by_key)["jti"], range(60)))

    assert len(set(responses)) == 60


def test_every_spelling_of_the_username_logs_in_and_the_token_has_the_one_that_is_kept(
    server: LiveServer, alice: Account
) -> None:
    client = server.client(alice.username.upper(), alice.key["secret"])

    assert token(client)["client_id"] == alice.username


def test_the_issuer_comes_from_the_configuration_only(server: LiveServer, alice: Account) -> None:
    headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil"}

    claims = issued(alice.by_key.post("/auth/token", headers=headers))

    assert claims["iss"] == server.url


@table("grant_type", ["client_credentials", ""])
def test_client_credentials_may_be_named_or_left_out(alice: Account, grant_type: str) -> None:
    assert token(alice.by_key, grant_type=grant_type)["sub"] == alice.id


@table("grant_type", ["password", "authorization_code", "Client_Credentials"])
def test_another_grant_type_is_refused(alice: Account, grant_type: str) -> None:
    response = alice.by_key.post("/auth/token", data={"grant_type": grant_type})

    assert_refused(response, 400, "unsupported_grant_type")


def test_a_password_grant_is_unsupported_and_says_how_to_log_in(alice: Account) -> None:
    form = {"grant_type": "password", "username": "alice", "password": "a password"}
    response = alice.by_key.post("/auth/token", data=form)

    assert_refused(response, 400, "unsupported_grant_type")
    assert "HTTP Basic" in response.json()["error_description"]


# --- Audience and scope ---------------------------------------------------------------------------


def test_without_an_audience_it_is_every_service_held_but_those_on_request_only(
    bob: Account, todo: Service, calendar: Service
) -> None:
    claims = token(bob.by_key)

    assert isinstance(claims["aud"], list)
    assert sorted(claims["aud"]) == sorted([todo.audience, calendar.audience])
    assert claims["scope"].split() == sorted([todo.read, calendar.read])


@table("parameter", ["audience", "resource"])
def test_an_audience_is_named_by_audience_or_by_name_and_then_is_one_string(
    bob: Account, calendar: Service, parameter: str
) -> None:
    for target in (calendar.audience, calendar.name):
        claims = token(bob.by_key, **{parameter: target})
        assert (claims["aud"], claims["scope"]) == (calendar.audience, calendar.read)


def test_audiences_may_be_repeated_in_both_spellings_and_count_once(
    bob: Account, todo: Service, calendar: Service
) -> None:
    parameters = [
        ("resource", todo.audience),
        ("resource", calendar.audience),
        ("audience", todo.name),
    ]
    claims = issued(bob.by_key.post("/auth/token", data=parameters))

    assert claims["aud"] == [todo.audience, calendar.audience]
    assert set(claims["scope"].split()) == {todo.read, calendar.read}


def test_a_service_on_request_only_is_in_a_token_that_asks_for_it(
    bob: Account, archive: Service
) -> None:
    for parameters in ({"audience": archive.name}, {"scope": archive.read}):
        claims = token(bob.by_key, **parameters)
        assert (claims["aud"], claims["scope"]) == (archive.audience, archive.read)


def test_a_scope_narrows_and_chooses_the_audience(
    bob: Account, alice: Account, todo: Service, calendar: Service
) -> None:
    assert token(alice.by_key, scope=todo.write)["scope"] == todo.write
    claims = token(bob.by_key, scope=calendar.read)
    assert (claims["aud"], claims["scope"]) == (calendar.audience, calendar.read)


def test_the_order_of_scopes_is_kept_and_repetition_is_not(alice: Account, todo: Service) -> None:
    asked = f"{todo.write} {todo.read} {todo.write}"

    assert token(alice.by_key, scope=asked)["scope"] == f"{todo.write} {todo.read}"


def test_an_audience_of_which_nothing_is_held_gives_a_token_without_scopes(
    alice: Account, calendar: Service
) -> None:
    claims = token(alice.by_key, audience=calendar.name)

    assert (claims["aud"], claims["scope"]) == (calendar.audience, "")


def test_an_account_that_holds_nothing_still_proves_who_it_is(
    server: LiveServer, admin: Client, archive: Service
) -> None:
    nobody = Account(server, admin)
    only_on_request = Account(server, admin, archive.read)

    for account in (nobody, only_on_request):
        claims = token(account.by_key)
        assert (claims["aud"], claims["scope"]) == (server.url, "")
        assert claims["sub"] == account.id


def test_keyosk_itself_is_only_in_a_token_that_asks_for_it(server: LiveServer) -> None:
    by_password = server.client("admin", live.ADMIN_PASSWORD)

    assert token(by_password)["aud"] == server.url
    asked = token(by_password, audience="keyosk")
    assert (asked["aud"], asked["scope"]) == ("keyosk", "keyosk:admin")
    implied = token(by_password, scope="keyosk:accounts:read")
    assert (implied["aud"], implied["scope"]) == ("keyosk", "keyosk:accounts:read")


@table("scope", ["no:such", "keyosk:admin"])
def test_a_scope_that_is_not_held_is_refused(alice: Account, todo: Service, scope: str) -> None:
    response = alice.by_key.post("/auth/token", data={"scope": f"{todo.read} {scope}"})

    assert_refused(response, 400, "invalid_scope")


def test_a_refusal_does_not_tell_whether_a_scope_exists(alice: Account, calendar: Service) -> None:
    absent = f"{calendar.name}:raed"
    responses = [
        alice.by_key.post("/auth/token", data={"scope": scope}) for scope in (calendar.read, absent)
    ]

    assert responses[0].text.replace(calendar.read, absent) == responses[1].text


def test_scopes_with_commas_are_refused_with_the_right_way(alice: Account, todo: Service) -> None:
    scopes = f"{todo.read},{todo.write}"
    response = alice.by_key.post("/auth/token", data={"scope": scopes})
    assert_refused(response, 400, "invalid_scope")
    assert response.json()["error_description"].endswith(
        f"{scopes}. Separate scopes by spaces, not by commas."
    )


def test_a_misspelt_scope_is_told_which_one_is_held(
    alice: Account, bob: Account, todo: Service, calendar: Service
) -> None:
    def told(by: Account, scope: str, **more: str) -> str:
        response = by.by_key.post("/auth/token", data={"scope": scope, **more})
        assert_refused(response, 400, "invalid_scope")
        return str(response.json()["error_description"])

    assert told(alice, f"{todo.read}s").endswith(f"{todo.read}s. Did you mean {todo.read}?")
    # Only what this login holds, for the audience that it asks for.
    assert "mean" not in told(alice, "something:else")
    assert f"mean {calendar.read}?" in told(bob, f"{calendar.read}s", audience=calendar.name)
    assert f"{todo.read}?" not in told(bob, f"{todo.read}s", audience=calendar.name)


def test_a_scope_of_another_audience_than_the_one_asked_for_is_refused(
    bob: Account, todo: Service, calendar: Service
) -> None:
    parameters = {"audience": todo.name, "scope": calendar.read}

    assert_refused(bob.by_key.post("/auth/token", data=parameters), 400, "invalid_scope")


@table("scope", [" ", "  a", "a\tb", 'a"b', "a\\b", "\u00e9", "x" * 201])
def test_a_malformed_scope_is_refused(alice: Account, scope: str) -> None:
    assert_refused(alice.by_key.post("/auth/token", data={"scope": scope}), 400, "invalid_scope")


@table("target", ["no-such-service", "\u00e9", "a b", "x" * 300])
def test_an_audience_that_does_not_exist_is_refused(
    alice: Account, todo: Service, target: str
) -> None:
    for parameters in ({"audience": target}, {"resource": [todo.audience, target]}):
        assert_refused(alice.by_key.post("/auth/token", data=parameters), 400, "invalid_target")


def test_a_disabled_service_gets_no_tokens_meanwhile(server: LiveServer, admin: Client) -> None:
    service = make_service(admin)
    account = Account(server, admin, service.read)

    ok(admin.patch(f"/services/{service.name}", json={"enabled": False}))
    assert token(account.by_key)["aud"] == server.url
    by_scope = account.by_key.post("/auth/token", data={"scope": service.read})
    assert_refused(by_scope, 400, "invalid_scope")
    by_audience = account.by_key.post("/auth/token", data={"audience": service.audience})
    assert_refused(by_audience, 400, "invalid_target")

    ok(admin.patch(f"/services/{service.name}", json={"enabled": True}))
    assert token(account.by_key)["aud"] == service.audience


# --- What is held at this moment ------------------------------------------------------------------


def test_a_key_gives_the_scopes_that_it_is_limited_to_and_that_are_held_now(
    server: LiveServer, admin: Client, todo: Service, calendar: Service
) -> None:
    account = Account(server, admin, todo.read, todo.write)
    limited = account.client(account.new_key(scopes=[todo.read, calendar.read]))
    nothing = account.client(account.new_key(scopes=[]))

    assert token(limited)["scope"] == todo.read
    assert token(nothing)["scope"] == ""
    assert_refused(limited.post("/auth/token", data={"scope": todo.write}), 400, "invalid_scope")

    account.grant(todo.write)
    assert token(limited)["scope"] == ""
    assert token(account.by_key)["scope"] == todo.write
    account.grant(todo.read, calendar.read)
    assert set(token(limited)["scope"].split()) == {todo.read, calendar.read}


def test_a_key_limited_to_a_part_of_keyosk_has_only_that(server: LiveServer, admin: Client) -> None:
    account = Account(server, admin, "keyosk:admin")
    limited = account.client(account.new_key(scopes=["keyosk:accounts:read"]))

    assert token(limited, audience="keyosk")["scope"] == "keyosk:accounts:read"
    for scope in ("keyosk:admin", "keyosk:accounts:write"):
        assert_refused(limited.post("/auth/token", data={"scope": scope}), 400, "invalid_scope")


def test_a_grant_with_one_kind_of_credential_counts_for_no_other(
    server: LiveServer, admin: Client, todo: Service
) -> None:
    account = Account(
        server,
        admin,
        {"name": todo.read, "with": "password"},
        {"name": todo.write, "with": "api_key"},
        password=PASSWORD,
    )

    assert token(account.by_password)["scope"] == todo.read
    assert token(account.by_key)["scope"] == todo.write


def test_an_ended_grant_is_not_held(server: LiveServer, admin: Client, todo: Service) -> None:
    end = soon()
    account = Account(server, admin, {"name": todo.read, "until": rfc3339(end)}, todo.write)
    wait_for(end)

    assert token(account.by_key)["scope"] == todo.write
    response = account.by_key.post("/auth/token", data={"scope": todo.read})
    assert_refused(response, 400, "invalid_scope")


# --- Lifetime -------------------------------------------------------------------------------------


def test_a_lifetime_shortens_and_never_lengthens(alice: Account) -> None:
    for asked, given in ((60, 60), (1, 1), (900, 900), (901, 900), (9_999_999_999, 900)):
        claims = token(alice.by_key, lifetime=asked)
        assert claims["exp"] - claims["iat"] == given


@table("lifetime", ["0", "-1", "1.5", "1e3", "+60", " 60", "soon", "\u0666", "9" * 30])
def test_a_lifetime_of_no_whole_number_above_0_is_refused(alice: Account, lifetime: str) -> None:
    response = alice.by_key.post("/auth/token", data={"lifetime": lifetime})

    assert_refused(response, 400, "invalid_request")


def test_the_shortest_lifetime_counts(server: LiveServer, admin: Client, todo: Service) -> None:
    short, long = make_service(admin, token_lifetime=60), make_service(admin, token_lifetime=3600)
    account = Account(server, admin, short.read, long.read, todo.read)

    def seconds(**parameters: Any) -> int:
        claims = token(account.by_key, **parameters)
        lifetime: int = claims["exp"] - claims["iat"]
        return lifetime

    assert seconds(audience=short.name) == 60
    assert seconds(audience=long.name) == 3600
    assert seconds(audience=long.name, lifetime=1000) == 1000
    assert seconds(audience=[short.name, long.name]) == 60
    # A service without a lifetime of its own has the installation's, which is 900.
    assert seconds(audience=[long.name, todo.name]) == 900
    assert seconds() == 60


@table("bound", ["account", "key", "grant"])
def test_no_token_outlives_its_account_its_key_or_its_grant(
    server: LiveServer, admin: Client, todo: Service, bound: str
) -> None:
    end = int(time.time()) + 200
    account = Account(server, admin, todo.read)
    assert token(account.by_key)["exp"] > end
    if bound == "account":
        account.change(expires_at=rfc3339(end))
    elif bound == "key":
        account.change_key(expires_at=rfc3339(end))
    else:
        account.grant({"name": todo.read, "until": rfc3339(end)})

    assert token(account.by_key)["exp"] == end
    claims = token(account.by_key, lifetime=30)
    assert claims["exp"] - claims["iat"] == 30


# --- Ways to ask ----------------------------------------------------------------------------------


def test_get_takes_the_same_in_the_query(bob: Account, todo: Service, calendar: Service) -> None:
    resources = [todo.audience, calendar.audience]
    claims = issued(bob.by_key.get("/auth/token", params={"resource": resources, "lifetime": 60}))
    assert claims["aud"] == resources
    assert claims["exp"] - claims["iat"] == 60
    narrowed = issued(bob.by_key.get("/auth/token", params={"scope": calendar.read}))
    assert narrowed["scope"] == calendar.read
    assert issued(bob.by_key.get("/auth/token"))["scope"]


def test_a_json_body_is_taken_too(bob: Account, todo: Service, calendar: Service) -> None:
    body = {
        "grant_type": "client_credentials",
        "resource": [todo.audience, calendar.audience],
        "scope": todo.read,
        "lifetime": 60,
    }
    claims = issued(bob.by_key.post("/auth/token", json=body))

    assert claims["aud"] == body["resource"]
    assert claims["scope"] == todo.read
    assert claims["exp"] - claims["iat"] == 60
    assert issued(bob.by_key.post("/auth/token", json={"lifetime": "61"}))["scope"]


def test_a_post_may_have_parameters_in_its_query(alice: Account, todo: Service) -> None:
    claims = issued(alice.by_key.post(f"/auth/token?scope={todo.write}", data={"lifetime": "60"}))
    assert claims["scope"] == todo.write
    assert claims["exp"] - claims["iat"] == 60


def test_the_format_token_is_the_bare_token_and_a_line_end(alice: Account) -> None:
    for response in (
        alice.by_key.post("/auth/token", data={"format": "token"}),
        alice.by_key.get("/auth/token?format=token"),
        alice.by_key.post("/auth/token", headers={"Accept": "application/jwt"}),
    ):
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/jwt"
        assert response.headers["Cache-Control"] == "no-store"
        assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", response.text)
        assert claims_of(response.text.strip())["sub"] == alice.id


def test_the_format_header_is_a_header_for_curl(server: LiveServer, alice: Account) -> None:
    response = alice.by_key.post("/auth/token", data={"format": "header", "audience": "keyosk"})

    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain")
    assert response.headers["Cache-Control"] == "no-store"
    assert response.text.endswith("\n")
    name, _, value = response.text.rstrip("\n").partition(": ")
    assert name == "Authorization"
    assert server.client().get("/accounts/me", headers={name: value}).json()["id"] == alice.id


def test_a_format_that_is_asked_for_outweighs_the_accept_header(alice: Account) -> None:
    issued(
        alice.by_key.post(
            "/auth/token", data={"format": "json"}, headers={"Accept": "application/jwt"}
        )
    )


def test_an_unknown_format_is_refused(alice: Account) -> None:
    assert_refused(alice.by_key.post("/auth/token", data={"format": "xml"}), 400, "invalid_request")


def test_head_is_answered_as_get_without_a_body(alice: Account) -> None:
    response = alice.by_key.request("HEAD", "/auth/token")

    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert response.content == b""


def test_parameters_that_nobody_knows_are_ignored(alice: Account, todo: Service) -> None:
    known = {"scope": todo.read}
    unknown = {"username": "someone else", "sub": "admin", "iss": "https://evil.example"}

    claims = token(alice.by_key, **known, **unknown)

    assert (claims["sub"], claims["scope"]) == (alice.id, todo.read)
    assert issued(alice.by_key.post("/auth/token", json={"color": "red"}))["sub"] == alice.id


def test_a_parameter_without_a_value_counts_as_absent(alice: Account, todo: Service) -> None:
    names = ("grant_type", "scope", "audience", "resource", "lifetime", "format")

    claims = token(alice.by_key, **dict.fromkeys(names, ""))

    assert claims["aud"] == todo.audience
    assert claims["scope"] == f"{todo.read} {todo.write}"


@table(
    ("name", "value"),
    [
        ("grant_type", "client_credentials"),
        ("scope", "x:y"),
        ("lifetime", "60"),
        ("format", "json"),
    ],
)
def test_a_parameter_given_twice_is_refused(alice: Account, name: str, value: str) -> None:
    for response in (
        alice.by_key.post("/auth/token", data=[(name, value), (name, value)]),
        alice.by_key.get("/auth/token", params={name: [value, value]}),
        alice.by_key.post("/auth/token", params={name: value}, data={name: value}),
        alice.by_key.post("/auth/token", json={name: [value, value]}),
    ):
        assert_refused(response, 400, "invalid_request")
        assert "twice" in response.json()["error_description"]


@table("name", ['a"b', "a\\b", "é", "李", "a\nb", "a\x7f", "\U0001f511"])
def test_no_description_has_a_character_that_rfc_6749_forbids(alice: Account, name: str) -> None:
    form = [(name, "x"), (name, "x")]
    for path in ("/auth/token", "/auth/introspect", "/auth/revoke"):
        response = alice.by_key.post(path, data=form)
        assert_refused(response, 400, "invalid_request")
        assert "twice" in response.json()["error_description"]
    assert_refused(alice.by_key.get("/auth/token", params=form), 400, "invalid_request")


@table(
    ("content_type", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"\xff"),
        ("application/json", b"[]"),
        ("application/json", b"1"),
        ("application/json", b"null"),
        ("application/json", b'"scope"'),
        ("application/json", b'{"scope": null}'),
        ("application/json", b'{"scope": 1}'),
        ("application/json", b'{"scope": {}}'),
        ("application/json", b'{"lifetime": true}'),
        ("application/json", b'{"lifetime": 1.5}'),
        ("application/json", b'{"lifetime": NaN}'),
        ("application/json", b'{"format": "json", "format": "json"}'),
        ("application/json", b'{"\\ud800": 1}'),
        ("application/json", '{"a \\"quoted\\" \u00e9": 1}'.encode()),
        ("application/json", b"[" * 30_000),
        ("text/plain", b"scope=x"),
        ("multipart/form-data; boundary=x", b"--x--"),
        ("application/xml", b"<x/>"),
        ("", b"scope=x"),
    ],
)
def test_a_malformed_body_is_refused(alice: Account, content_type: str, body: bytes) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = alice.by_key.post("/auth/token", data=body, headers=headers)

    assert_refused(response, 400, "invalid_request")


@table("name", ["scope", "audience", "resource", "client_id", "lifetime"])
@table("text", ["\\ud800", "\\u0000", "a\\u0000b"])
def test_text_that_no_database_holds_is_refused(alice: Account, name: str, text: str) -> None:
    body = f'{{"{name}": "{text}"}}'
    headers = {"Content-Type": "application/json"}
    response = alice.by_key.post("/auth/token", data=body, headers=headers)

    assert_refused(response, 400, "invalid_request")


def test_another_method_is_refused_in_the_shape_of_this_address(alice: Account) -> None:
    response = alice.by_key.put("/auth/token")

    assert_refused(response, 405, "invalid_request")
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}


# --- Who is refused -------------------------------------------------------------------------------


@table("name", ["client_secret", "password", "refresh_token", "client_assertion", "subject_token"])
def test_a_credential_in_the_query_is_refused(alice: Account, name: str) -> None:
    for method in ("GET", "POST"):
        response = alice.by_key.request(method, "/auth/token", params={name: "hunter2-and-more"})
        assert_refused(response, 400, "invalid_request")
        assert "hunter2" not in response.text


def test_a_bearer_token_gets_no_token(server: LiveServer, alice: Account) -> None:
    bearer = alice.by_key.post("/auth/token", data={"audience": "keyosk"}).json()["access_token"]
    client = Client(server.url, token=bearer)

    assert client.get("/accounts/me").status_code == 200
    assert_refused(client.post("/auth/token"), 401, "invalid_client")


@pytest.fixture(scope="module")
def refusals(server: LiveServer, admin: Client, alice: Account) -> dict[str, tuple[str, str]]:
    """A login for every reason to refuse one. Where it can be, the secret is the right one."""
    disabled = Account(server, admin, password=PASSWORD)
    disabled.change(enabled=False)
    expired = Account(server, admin, password=PASSWORD)
    end = soon()
    expired.change(expires_at=rfc3339(end))
    without_password = Account(server, admin)
    disabled_key = Account(server, admin)
    disabled_key.change_key(enabled=False)
    expired_key = Account(server, admin)
    expired_key.change_key(expires_at=rfc3339(time.time() - 1))
    deleted_key = Account(server, admin)
    ok(admin.delete(f"{deleted_key.path}/api-keys/{deleted_key.key['id']}"), 204)
    deleted = Account(server, admin, password=PASSWORD)
    ok(admin.delete(deleted.path), 204)
    secret = alice.key["secret"]
    wait_for(end)
    return {
        "unknown user": (live.unique("nobody"), PASSWORD),
        "no username": ("", PASSWORD),
        "impossible username": ("a b/c", PASSWORD),
        "wrong password": (alice.username, f"{PASSWORD}!"),
        "empty password": (alice.username, ""),
        "very long password": (alice.username, "x" * 5000),
        "disabled account": (disabled.username, PASSWORD),
        "expired account": (expired.username, PASSWORD),
        "deleted account": (deleted.username, PASSWORD),
        "account without password": (without_password.username, PASSWORD),
        "unknown user with a key": (live.unique("nobody"), secret),
        "key of another account": (without_password.username, secret),
        "key with a wrong checksum": (
            alice.username,
            _with_another_end(secret),
        ),
        "key cut short": (alice.username, secret[:-1]),
        "key of a disabled account": (disabled.username, disabled.key["secret"]),
        "key of an expired account": (expired.username, expired.key["secret"]),
        "key of a deleted account": (deleted.username, deleted.key["secret"]),
        "disabled key": (disabled_key.username, disabled_key.key["secret"]),
        "expired key": (expired_key.username, expired_key.key["secret"]),
        "deleted key": (deleted_key.username, deleted_key.key["secret"]),
    }


def _with_another_end(secret: str) -> str:
    return secret[:-1] + ("0" if secret[-1] != "0" else "1")


def _bytes(response: requests.Response, *, problem: bool = False) -> tuple[Any, ...]:
    """All of a response but what differs from one to the next anyway."""
    headers = {k: v for k, v in response.headers.items() if k not in ("Date", "X-Request-Id")}
    content = response.content
    if problem:
        content = content.replace(response.json()["request_id"].encode(), b"")
    return response.status_code, headers, content


def test_all_refused_logins_get_the_same_bytes(
    server: LiveServer, refusals: dict[str, tuple[str, str]]
) -> None:
    responses = {
        reason: server.client(*login).post("/auth/token") for reason, login in refusals.items()
    }

    assert_refused(responses["unknown user"], 401, "invalid_client")
    expected = _bytes(responses["unknown user"])
    assert {
        reason for reason, response in responses.items() if _bytes(response) != expected
    } == set()


def test_all_refused_logins_get_the_same_bytes_at_the_other_addresses_too(
    server: LiveServer, refusals: dict[str, tuple[str, str]]
) -> None:
    responses = {
        reason: server.client(*login).get("/accounts/me") for reason, login in refusals.items()
    }

    assert responses["unknown user"].status_code == 401
    expected = _bytes(responses["unknown user"], problem=True)
    different = {
        reason
        for reason, response in responses.items()
        if _bytes(response, problem=True) != expected
    }
    assert different == set()


def test_the_same_logins_pass_where_nothing_is_wrong(server: LiveServer, admin: Client) -> None:
    """Or the two tests above would pass on a server that refuses everybody."""
    account = Account(server, admin, password=PASSWORD)
    account.change(enabled=False)
    account.change(enabled=True, expires_at=rfc3339(time.time() + 60))
    account.change_key(enabled=False)
    account.change_key(enabled=True, expires_at=rfc3339(time.time() + 60))

    assert token(account.by_password)["sub"] == account.id
    assert token(account.by_key)["sub"] == account.id


@table(
    "header",
    [
        None,
        "",
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"nul:\0").decode(),
        "Negotiate abcd",
        "Bearer abcd",
    ],
)
def test_what_is_no_login_is_refused(server: LiveServer, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}

    assert_refused(server.client().post("/auth/token", headers=headers), 401, "invalid_client")


@pytest.mark.parametrize("path", ["/auth/token", "/accounts"])
def test_a_token_without_the_word_before_it_is_told_so(server: LiveServer, path: str) -> None:
    text = server.client("admin", live.ADMIN_PASSWORD).post("/auth/token").json()["access_token"]
    for header in (text, f"Token {text}"):
        method = "POST" if path == "/auth/token" else "GET"
        response = server.client().request(method, path, headers={"Authorization": header})
        assert response.status_code == 401
        assert "must begin with Basic or Bearer" in response.text
        assert text not in response.text


def test_an_unknown_user_costs_the_work_of_a_wrong_password(
    server: LiveServer, alice: Account
) -> None:
    clients = [server.client(name, "not the right password") for name in ("nobody", alice.username)]
    rounds = [
        [client.post("/auth/token").elapsed.total_seconds() for client in clients] for _ in range(8)
    ]

    # Taken in turns and the fastest of each, as the machine has other work as well. A hash is 20 ms
    # and everything else 3 ms.
    nobody, known = (min(times) for times in zip(*rounds, strict=True))
    assert nobody > 0.4 * known


# --- What is remembered ---------------------------------------------------------------------------


def test_the_use_of_a_key_and_a_password_is_noted_soon(server: LiveServer, admin: Client) -> None:
    account = Account(server, admin, password=PASSWORD)
    key_path = f"{account.path}/api-keys/{account.key['id']}"

    def last_used() -> Any:
        return admin.get(key_path).json()["last_used_at"]

    def last_login() -> Any:
        return admin.get(account.path).json()["last_login_at"]

    assert (last_used(), last_login()) == (None, None)
    before = admin.get(account.path).headers["ETag"], admin.get(key_path).headers["ETag"]
    start = int(time.time())
    token(account.by_key)
    used = until(last_used)
    assert last_login() is None
    token(account.by_password)
    logged_in = until(last_login)

    for moment in (used, logged_in):
        assert start <= datetime.fromisoformat(moment).timestamp() <= time.time()
    # To be seen is no change of the object.
    assert (admin.get(account.path).headers["ETag"], admin.get(key_path).headers["ETag"]) == before


def test_a_refused_login_is_not_noted(server: LiveServer, admin: Client) -> None:
    account = Account(server, admin, password=PASSWORD)

    server.client(account.username, "not the password").post("/auth/token")
    time.sleep(0.2)

    assert admin.get(account.path).json()["last_login_at"] is None
