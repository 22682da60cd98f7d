"""The ways in which a client logs in besides a Basic pair: in a form body, and by a key alone."""

import base64
from typing import Any
from urllib.parse import urlencode

import pytest

import live
from live import Client, LiveServer
from people import PASSWORD, Person, make_key, make_person, make_service, ok
from tables import table
from waiting import until

CHALLENGE = 'Basic realm="keyosk", charset="UTF-8"'
OAUTH = ("/auth/token", "/auth/introspect", "/auth/revoke")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def todo(admin: Client) -> str:
    return make_service(admin)


@pytest.fixture(scope="module")
def alice(admin: Client, todo: str) -> Person:
    return make_person(admin, f"{todo}:read")


@pytest.fixture(scope="module")
def key(admin: Client, alice: Person) -> str:
    return make_key(admin, alice)[1]


@pytest.fixture
def nobody(server: LiveServer) -> Client:
    """A client that sends no login by itself."""
    return server.client()


def posted(person: Person, secret: str = PASSWORD, **more: str) -> dict[str, str]:
    return {"client_id": person.username, "client_secret": secret, **more}


def refusal(response: Any, status: int, error: str) -> str:
    assert (response.status_code, response.json().get("error")) == (status, error), response.text
    assert response.headers["Cache-Control"] == "no-store"
    sentence: str = response.json()["error_description"]
    return sentence


# --- client_secret_post ---------------------------------------------------------------------------


def test_a_secret_in_a_form_body_was_refused_at_all_three_addresses(
    nobody: Client, alice: Person, key: str, todo: str
) -> None:
    for secret in (PASSWORD, key):
        tokens = ok(nobody.post("/auth/token", data=posted(alice, secret)))
        assert tokens["scope"] == f"{todo}:read"
        seen = posted(alice, secret, token=tokens["access_token"])
        assert ok(nobody.post("/auth/introspect", data=seen))["active"] is True
        assert nobody.post("/auth/revoke", data=seen).status_code == 200
        assert ok(nobody.post("/auth/introspect", data=seen)) == {"active": False}


def test_every_spelling_of_the_username_is_the_same_client(nobody: Client, alice: Person) -> None:
    body = {"client_id": alice.username.upper(), "client_secret": PASSWORD}
    assert nobody.post("/auth/token", data=body).status_code == 200


def test_a_secret_in_the_body_is_decoded_once(admin: Client, nobody: Client) -> None:
    name, password = live.unique("person"), "50% + 20%41 + \u00fc are some"
    ok(admin.post("/accounts", json={"username": name, "password": password}), 201)
    body = {"client_id": name, "client_secret": password}
    assert nobody.post("/auth/token", data=body).status_code == 200
    body["client_secret"] = "50%   20A   \u00fc are some"
    refusal(nobody.post("/auth/token", data=body), 401, "invalid_client")


@pytest.mark.parametrize("path", OAUTH)
def test_a_wrong_secret_in_the_body_is_answered_as_one_in_the_header(
    nobody: Client, alice: Person, admin: Client, path: str
) -> None:
    other = live.unique("nobody")
    sent = [
        nobody.post(path, data=posted(alice, "not it", token="a token")),
        nobody.post(path, data={"client_id": other, "client_secret": PASSWORD, "token": "x"}),
        nobody.post(path, data={"token": "x"}, auth=(alice.username, "not it")),
    ]
    assert len({response.content for response in sent}) == 1
    for response in sent:
        refusal(response, 401, "invalid_client")
        assert response.headers["WWW-Authenticate"] == CHALLENGE


def test_secrets_in_a_body_count_with_those_in_a_header(server: LiveServer, admin: Client) -> None:
    person = make_person(admin)
    client = server.client()
    codes = []
    for number in range(14):
        if number % 2:
            response = client.post("/auth/token", auth=(person.username, f"wrong {number}"))
        else:
            response = client.post("/auth/token", data=posted(person, f"wrong {number}"))
        codes.append(response.status_code)
    assert codes == [401] * 12 + [429] * 2


@pytest.mark.parametrize("path", OAUTH)
@pytest.mark.parametrize("scheme", ["right Basic", "wrong Basic", "Bearer", "key"])
def test_a_secret_beside_an_authorization_header_is_refused(
    nobody: Client, alice: Person, key: str, path: str, scheme: str
) -> None:
    headers = {"Bearer": {"Authorization": "Bearer x"}, "key": {"Authorization": f"Bearer {key}"}}
    auth = {"right Basic": PASSWORD, "wrong Basic": "not it"}.get(scheme)
    response = nobody.post(
        path,
        data=posted(alice, token="x"),
        headers=headers.get(scheme),
        auth=None if auth is None else (alice.username, auth),
    )
    refusal(response, 400, "invalid_request")


@pytest.mark.parametrize("path", OAUTH)
def test_a_secret_in_the_query_or_in_json_is_refused_and_not_logged(
    server: LiveServer, nobody: Client, alice: Person, key: str, path: str
) -> None:
    query = urlencode(posted(alice, key))
    form = {"client_id": alice.username, "token": "x"}
    refusal(nobody.post(f"{path}?{query}"), 400, "invalid_request")
    refusal(nobody.post(f"{path}?client_secret={key}", data=form), 400, "invalid_request")
    refusal(nobody.post(path, json=posted(alice, key, token="x")), 400, "invalid_request")
    # Both halves stand in the body (RFC 6749 section 2.3.1).
    split = nobody.post(
        f"{path}?client_id={alice.username}", data={"client_secret": key, "token": "x"}
    )
    refusal(split, 400, "invalid_request")
    if path == "/auth/token":
        refusal(nobody.get(f"{path}?{query}"), 400, "invalid_request")
    assert key[:12] not in server.log.read_text()


@table("path", OAUTH)
@table(
    ("body", "status", "error"),
    [
        ("client_secret={key}&token=x", 400, "invalid_request"),
        ("client_id=&client_secret={key}&token=x", 400, "invalid_request"),
        ("client_id={name}&token=x", 401, "invalid_client"),
        ("client_id={name}&client_secret=&token=x", 401, "invalid_client"),
        (
            "client_id={name}&client_secret={key}&client_secret={key}&token=x",
            400,
            "invalid_request",
        ),
        ("client_id={name}&client_secret={key}&client_secret=&token=x", 400, "invalid_request"),
        ("client_id={name}&client_id={name}&client_secret={key}&token=x", 400, "invalid_request"),
        ("client_id={name}&client_secret=%ff%fe&token=x", 400, "invalid_request"),
        ("client_id={name}&client_secret=a%00b&token=x", 400, "invalid_request"),
        ("client_id={name}&client_assertion=e30&token=x", 400, "invalid_request"),
    ],
)
def test_half_a_login_or_one_too_many_is_refused(
    server: LiveServer, alice: Person, key: str, path: str, body: str, status: int, error: str
) -> None:
    text = body.format(name=alice.username, key=key)
    refusal(server.client().post(path, data=text, headers=FORM), status, error)


def test_what_another_site_posts_is_refused_unread(nobody: Client, alice: Person) -> None:
    """Else a page could have its visitors guess passwords."""
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert nobody.post("/auth/token", data=posted(alice), headers=headers).status_code == 403


def test_refresh_and_exchange_take_a_secret_in_the_body(admin: Client, nobody: Client) -> None:
    front, back = (make_service(admin, refresh_allowed=True) for _ in range(2))
    person = make_person(admin, f"{front}:read", f"{back}:read")
    acting = make_person(admin)
    change = {"account": acting.username, "exchanges": [{"service": back, "scopes": []}]}
    ok(admin.patch(f"/services/{front}", json=change))
    scope = f"{front}:read offline_access"
    tokens = ok(nobody.post("/auth/token", data=posted(person, scope=scope)))
    body = posted(person, grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    tokens = ok(nobody.post("/auth/token", data=body))
    refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    refusal(nobody.post("/auth/token", data=posted(acting, **refresh)), 400, "invalid_grant")
    refusal(nobody.post("/auth/token", data=posted(person, "no", **refresh)), 401, "invalid_client")
    # A public client says who it is, in whatever spelling.
    refresh["client_id"] = person.username.upper()
    tokens = ok(nobody.post("/auth/token", data=refresh))
    exchange = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "audience": back,
    }
    body = posted(acting, subject_token=f"\r\n{tokens['access_token']} \n", **exchange)
    ok(nobody.post("/auth/token", data=body))


# --- An API key alone -----------------------------------------------------------------------------


def test_an_api_key_alone_gets_a_token(nobody: Client, alice: Person, key: str, todo: str) -> None:
    for header in (f"Bearer {key}", f"bearer   {key} "):
        for method in ("GET", "POST"):
            response = nobody.request(method, "/auth/token", headers={"Authorization": header})
            assert ok(response)["scope"] == f"{todo}:read"
    ok(nobody.post("/auth/token", auth=("", key)))
    passed = nobody.get(f"/auth/forward/{todo}", headers={"Authorization": f"Bearer {key}"})
    assert passed.headers["X-Keyosk-Account"] == alice.username
    assert nobody.get(f"/auth/forward/{todo}", auth=("", key)).status_code == 200


def test_an_api_key_with_a_username_needs_the_right_one(
    server: LiveServer, admin: Client, alice: Person, key: str, todo: str
) -> None:
    other = make_person(admin)
    for name in (other.username, live.unique("nobody"), " "):
        for path in ("/auth/token", f"/auth/forward/{todo}"):
            assert server.client(name, key).get(path).status_code == 401


def test_an_api_key_alone_keeps_its_limits(server: LiveServer, admin: Client, todo: str) -> None:
    person = make_person(admin, f"{todo}:read", {"name": f"{todo}:write", "with": "password"})
    nobody = server.client()

    def get(secret: str) -> Any:
        return nobody.post("/auth/token", headers={"Authorization": f"Bearer {secret}"})

    key_id, secret = make_key(admin, person)
    assert ok(get(secret))["scope"] == f"{todo}:read"
    ok(admin.patch(f"{person.path}/api-keys/{key_id}", json={"enabled": False}))
    plain = get(secret)
    refusal(plain, 401, "invalid_client")
    elsewhere = make_key(admin, person, networks=["192.0.2.0/24"])[1]
    changed = ("A" if secret[10] != "A" else "B").join((secret[:10], secret[11:]))
    for wrong in (elsewhere, changed, "kysk_", "kysk_x y", "eyJ.e30.x"):
        assert get(wrong).content == plain.content
    _, secret = make_key(admin, person)
    ok(admin.patch(person.path, json={"enabled": False}))
    assert get(secret).content == plain.content


def test_an_api_key_by_bearer_elsewhere_is_told_what_to_do(nobody: Client, key: str) -> None:
    header = {"Authorization": f"Bearer {key}"}
    for path in ("/accounts/me", "/services", "/audit"):
        response = nobody.get(path, headers=header)
        assert (response.status_code, response.json()["code"]) == (401, "invalid_token")
        assert "/auth/token" in response.json()["detail"]
        challenge = response.headers["WWW-Authenticate"]
        assert 'error="invalid_token", error_description="' in challenge
        assert "/auth/token" in challenge
        assert key[5:] not in response.text + challenge
    for path in ("/auth/introspect", "/auth/revoke"):
        sentence = refusal(
            nobody.post(path, data={"token": "x"}, headers=header), 401, "invalid_client"
        )
        assert "/auth/token" in sentence
    response = nobody.get("/accounts/me", auth=("", key))
    assert (response.status_code, response.json()["code"]) == (401, "bad_credentials")
    assert "username" in response.json()["detail"]


def test_an_api_key_in_the_place_of_the_username_is_told_so(nobody: Client, key: str) -> None:
    for secret in ("", "x"):
        response = nobody.post("/auth/token", auth=(key, secret))
        assert "password" in refusal(response, 401, "invalid_client")
        assert key[5:] not in response.text


# --- White space ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"), [("", "\n"), ("", "\r\n"), (" \t", " "), ("\ufeff", "\n")]
)
def test_white_space_around_a_token_hid_it_from_revocation(
    nobody: Client, alice: Person, key: str, before: str, after: str
) -> None:
    alone = alice.login(key)
    token = alone.post("/auth/token", data={"format": "token"}).text.strip()
    sent = {"token": f"{before}{token}{after}"}
    assert ok(alone.post("/auth/introspect", data=sent))["active"] is True
    assert ok(alone.post("/auth/introspect", json=sent))["active"] is True
    assert alone.post("/auth/revoke", data=sent).status_code == 200
    assert ok(alone.post("/auth/introspect", data={"token": token})) == {"active": False}


def test_a_secret_from_a_file_was_refused_for_its_line_end(
    nobody: Client, alice: Person, key: str
) -> None:
    spaced = (f" {key} ", f"\ufeff{key}\r\n")
    for sent in (f"{PASSWORD}\n", f"{PASSWORD}\r\n", f"{key}\n", *spaced):
        assert nobody.post("/auth/token", data=posted(alice, sent)).status_code == 200
        pair = base64.b64encode(f"{alice.username}:{sent}".encode()).decode()
        headers = {"Authorization": f"Basic {pair}"}
        assert nobody.post("/auth/token", headers=headers).status_code == 200
    for wrong in (f" {PASSWORD}", f"{PASSWORD} ", f"\n{PASSWORD}", f"{key} {key}"):
        response = nobody.post("/auth/token", data=posted(alice, wrong))
        assert refusal(response, 401, "invalid_client"), wrong


def test_space_around_a_refresh_token_is_no_part_of_it(server: LiveServer, admin: Client) -> None:
    name = make_service(admin, refresh_allowed=True)
    person = make_person(admin, f"{name}:read")
    begun = person.login().post("/auth/token", data={"scope": f"{name}:read offline_access"})
    text = ok(begun)["refresh_token"]
    nobody = server.client()
    turned = {"grant_type": "refresh_token", "refresh_token": f" {text}\r\n"}
    text = ok(nobody.post("/auth/token", data=turned))["refresh_token"]
    assert person.login().post("/auth/revoke", data={"token": f"{text}\n"}).status_code == 200
    turned["refresh_token"] = text
    refusal(nobody.post("/auth/token", data=turned), 400, "invalid_grant")


def test_white_space_inside_a_token_makes_it_none(alice: Person, key: str) -> None:
    alone = alice.login(key)
    token = ok(alone.post("/auth/token"))["access_token"]
    for split in (f"{token[:9]} {token[9:]}", f"{token[:-4]}\n{token[-4:]}"):
        assert ok(alone.post("/auth/introspect", data={"token": split})) == {"active": False}
    assert ok(alone.post("/auth/introspect", data={"token": token}))["active"] is True


# --- What counts as use ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/auth/introspect", "/auth/revoke", "refresh"])
def test_a_key_that_was_used_only_here_never_counted_as_used(admin: Client, path: str) -> None:
    person = make_person(admin)
    key_id, secret = make_key(admin, person)
    if path == "refresh":
        data = {"grant_type": "refresh_token", "refresh_token": "kysr_x"}
        refusal(person.login(secret).post("/auth/token", data=data), 400, "invalid_grant")
    else:
        person.login(secret).post(path, data={"token": "x"})
    address = f"{person.path}/api-keys/{key_id}"
    until(lambda: ok(admin.get(address))["last_used_at"] is not None)


# --- Guesses --------------------------------------------------------------------------------------


def test_a_header_of_three_passwords_is_three_guesses(server: LiveServer, admin: Client) -> None:
    client = server.client(make_person(admin).username, "a%2Bwrong%FCone+")
    codes = [client.post("/auth/token").status_code for _ in range(8)]
    # Two of its readings are passwords: as sent, and form-decoded in ISO-8859-1.
    assert codes == [401] * 6 + [429] * 2


def test_a_right_reading_gives_back_those_tried_before(server: LiveServer, admin: Client) -> None:
    name, password = live.unique("person"), "a right one & \u00fc"
    ok(admin.post("/accounts", json={"username": name, "password": password}), 201)
    client = server.client(name, "a+right+one+%26+%FC")
    assert {client.post("/auth/token").status_code for _ in range(15)} == {200}
