"""What is said of a Bearer token that is refused: of ours the reason, of any other nothing."""

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from live import Client, LiveServer, wait_for
from people import Person, claims_of, make_person, make_service, ok, token_of

AUDIENCE = "The token is for another audience. Ask for one with audience=keyosk."
EXPIRED = "The token has expired."
REVOKED = "The token was revoked."
UNKNOWN = "The token is not valid."


@pytest.fixture
def alice(admin: Client) -> Person:
    return make_person(admin, "keyosk:accounts:read")


def said(server: LiveServer, text: str, path: str = "/accounts/me") -> str:
    response = Client(server.url, token=text).get(path)
    assert (response.status_code, response.json()["code"]) == (401, "invalid_token")
    sentence: str = response.json()["detail"]
    challenge = f'Bearer realm="keyosk", error="invalid_token", error_description="{sentence}"'
    assert response.headers["WWW-Authenticate"] == challenge
    return sentence


def test_the_line_of_the_first_start_got_a_token_the_api_refused(own_server: LiveServer) -> None:
    del own_server.environment["KEYOSK_ADMIN_PASSWORD"]
    own_server.start()
    line = next(line for line in own_server.log.read_text().splitlines() if "curl -u" in line)
    words = line.split()
    username, _, password = words[words.index("-u") + 1].partition(":")
    address = next(word for word in words if word.startswith("http://"))
    sent = words[words.index("-d") + 1]
    response = own_server.client(username, password).post(
        address.removeprefix(own_server.url),
        data=sent,
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    admin = Client(own_server.url, token=ok(response)["access_token"])
    assert ok(admin.get("/accounts"))["items"]


@pytest.mark.parametrize("typ", ["at+jwt", "JWT"])
def test_a_token_for_another_audience_was_only_called_not_valid(
    server: LiveServer, admin: Client, alice: Person, typ: str
) -> None:
    todo, other = (make_service(admin, typ=typ) for _ in range(2))
    grants = {"scopes": ["keyosk:accounts:read", f"{todo}:read"]}
    ok(admin.put(f"{alice.path}/grants", json=grants))
    text = token_of(alice, audience=todo)
    assert said(server, text) == AUDIENCE
    assert said(server, text, f"/auth/forward/{other}") == AUDIENCE.replace("keyosk", other)


def test_a_token_for_no_audience_is_told_which_it_needs(server: LiveServer, alice: Person) -> None:
    assert said(server, token_of(alice)) == AUDIENCE


def test_a_token_that_has_expired_or_was_revoked_is_told_so(
    server: LiveServer, admin: Client, alice: Person
) -> None:
    short = token_of(alice, audience="keyosk", lifetime="1")
    wait_for(claims_of(short)["exp"])
    assert said(server, short) == EXPIRED
    text = token_of(alice, audience="keyosk")
    ok(alice.login().post("/auth/revoke", data={"token": text}))
    assert said(server, text) == REVOKED
    text = token_of(alice, audience="keyosk")
    ok(admin.patch(alice.path, json={"enabled": False}))
    assert "disabled" in said(server, text)


def test_nothing_is_said_of_a_token_that_is_not_ours(server: LiveServer, alice: Person) -> None:
    text = token_of(alice, audience="keyosk")
    header = jwt.get_unverified_header(text)
    claims = claims_of(text)
    stranger = ec.generate_private_key(ec.SECP256R1())
    for change in ({"exp": 1}, {"aud": "elsewhere"}, {"sub": "nobody"}):
        forged = jwt.encode({**claims, **change}, stranger, algorithm="ES256", headers=header)
        assert said(server, forged) == UNKNOWN
    assert said(server, text[:-6] + "AAAAAA") == UNKNOWN


def test_no_login_at_all_is_a_challenge_without_an_error(server: LiveServer) -> None:
    for headers in ({}, {"Authorization": ""}):
        response = server.client().get("/accounts/me", headers=headers)
        assert response.status_code == 401
        assert "error" not in response.headers["WWW-Authenticate"]
        assert response.json()["detail"] == "This requires a login; the request has none."
    response = server.client().post("/auth/token")
    assert response.json()["error"] == "invalid_client"
    assert "has none" in response.json()["error_description"]
