"""Do other people's libraries take our tokens and our keys, and refuse what is no token of ours."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwk as jose_jwk
from joserfc import jwt as jose_jwt
from joserfc.errors import JoseError

import live
from keyosk import config
from keyosk.installation import Installation
from keyosk.permissions.entitlements import TokenGrant
from live import Client, LiveServer
from people import ok
from values import principal

JWKS = "/auth/jwks"
WELL_KNOWN = "/.well-known/jwks.json"

#: Gives the claims of a token for an audience, or raises what its library raises.
Verifier = Callable[[LiveServer, str, str, str], dict[str, Any]]


def pyjwt(server: LiveServer, token: str, audience: str, algorithm: str) -> dict[str, Any]:
    key = jwt.PyJWKClient(server.url + JWKS).get_signing_key_from_jwt(token)
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        algorithms=[algorithm],
        audience=audience,
        issuer=server.url,
        options={"require": ["exp", "iat", "iss", "aud", "sub"]},
    )
    return claims


def joserfc(server: LiveServer, token: str, audience: str, algorithm: str) -> dict[str, Any]:
    keys = jose_jwk.KeySet.import_key_set(server.client().get(WELL_KNOWN).json())
    decoded = jose_jwt.decode(token, keys, algorithms=[algorithm])
    jose_jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": server.url},
        aud={"essential": True, "value": audience},
        sub={"essential": True},
        exp={"essential": True},
        iat={"essential": True},
    ).validate(decoded.claims)
    return decoded.claims


REFUSALS = (jwt.PyJWTError, JoseError, ValueError)


@pytest.fixture(params=[pyjwt, joserfc], ids=["pyjwt", "joserfc"])
def verify(request: pytest.FixtureRequest) -> Verifier:
    verifier: Verifier = request.param
    return verifier


@dataclass(frozen=True)
class Caller:
    """An account with a scope of each of two services, and its API key."""

    id: str
    username: str
    audiences: tuple[str, str]
    scopes: tuple[str, str]
    client: Client

    def token(self, **parameters: Any) -> str:
        response = self.client.post("/auth/token", data={"format": "token", **parameters})
        assert response.status_code == 200, response.text
        return response.text.strip()


def make_caller(admin: Client) -> Caller:
    names = live.unique("todo"), live.unique("calendar")
    scopes = (f"{names[0]}:read", f"{names[1]}:read")
    for name, scope in zip(names, scopes, strict=True):
        ok(admin.post("/services", json={"name": name, "scopes": [scope]}), 201)
    username = live.unique("alice")
    body = {"username": username, "grants": {"scopes": list(scopes)}}
    account = admin.post("/accounts", json=body).json()
    key = admin.post(f"/accounts/{username}/api-keys", json={"name": "k"}).json()
    return Caller(
        account["id"], username, names, scopes, Client(admin.url, auth=(username, key["secret"]))
    )


@pytest.fixture(scope="module")
def caller(admin: Client) -> Caller:
    return make_caller(admin)


# --- Tokens ---------------------------------------------------------------------------------------


def test_tokens_for_one_audience_pass(server: LiveServer, caller: Caller, verify: Verifier) -> None:
    token = caller.token(audience=caller.audiences[0])

    claims = verify(server, token, caller.audiences[0], "ES256")

    assert claims["aud"] == caller.audiences[0]
    assert (claims["sub"], claims["scope"]) == (caller.id, caller.scopes[0])


def test_a_token_for_two_audiences_verifies_for_each(
    server: LiveServer, caller: Caller, verify: Verifier
) -> None:
    token = caller.token()

    for audience in caller.audiences:
        claims = verify(server, token, audience, "ES256")
        assert sorted(claims["aud"]) == sorted(caller.audiences)
        assert claims["scope"].split() == sorted(caller.scopes)


def test_a_token_that_only_proves_who_it_is_verifies_for_the_issuer(
    server: LiveServer, admin: Client, verify: Verifier
) -> None:
    username = live.unique("nobody")
    ok(admin.post("/accounts", json={"username": username}), 201)
    key = admin.post(f"/accounts/{username}/api-keys", json={"name": "k"}).json()
    client = server.client(username, key["secret"])
    token = client.post("/auth/token", data={"format": "token"}).text.strip()

    claims = verify(server, token, server.url, "ES256")

    assert (claims["aud"], claims["scope"], claims["client_id"]) == (server.url, "", username)


def test_another_audience_is_refused(server: LiveServer, caller: Caller, verify: Verifier) -> None:
    token = caller.token(audience=caller.audiences[0])
    assert verify(server, token, caller.audiences[0], "ES256")

    for audience in (caller.audiences[1], server.url, "keyosk"):
        with pytest.raises(REFUSALS):
            verify(server, token, audience, "ES256")


def encode(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def decode(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def forgeries(server: LiveServer, token: str) -> Iterator[tuple[str, str]]:
    """What an attacker makes of a good token, by how."""
    header, payload, signature = token.split(".")
    claims, head = decode(payload), decode(header)
    wider = encode({**claims, "scope": "keyosk:admin"})
    later = encode({**claims, "exp": claims["exp"] + 86_400})
    yield "other claims", f"{header}.{wider}.{signature}"
    yield "a later end", f"{header}.{later}.{signature}"
    middle = "B" if signature[40] != "B" else "C"
    yield "one character", f"{header}.{payload}.{signature[:40]}{middle}{signature[41:]}"
    yield "no signature", f"{header}.{payload}."
    for none in ("none", "None", "NONE"):
        yield f"alg {none}", f"{encode({**head, 'alg': none})}.{payload}."
    yield "alg none with a signature", f"{encode({**head, 'alg': 'none'})}.{payload}.{signature}"
    own = ec.generate_private_key(ec.SECP256R1())
    for name, kid in (("own key, our kid", head["kid"]), ("own key, own kid", "x" * 43)):
        yield name, jwt.encode(claims, own, algorithm="ES256", headers={**head, "kid": kid})
    # RFC 8725 section 2.1: the public key taken for an HMAC secret.
    pem = server.client().get(f"/auth/keys/{head['kid']}.pem").content
    signer = jwt.get_algorithm_by_name("HS256")
    text = f"{encode({**head, 'alg': 'HS256'})}.{wider}"
    mac = base64.urlsafe_b64encode(signer.sign(text.encode(), pem)).rstrip(b"=").decode()
    yield "the public key as a secret", f"{text}.{mac}"


def test_forged_tokens_are_refused_by_them_and_by_us(server: LiveServer, verify: Verifier) -> None:
    basic = server.client("admin", live.ADMIN_PASSWORD)
    token = basic.post("/auth/token", data={"audience": "keyosk", "format": "token"}).text.strip()
    assert verify(server, token, "keyosk", "ES256")["scope"] == "keyosk:admin"
    assert Client(server.url, token=token).get("/accounts/me").status_code == 200

    found = dict(forgeries(server, token))
    assert len(found) == 11
    for forged in found.values():
        with pytest.raises(REFUSALS):
            verify(server, forged, "keyosk", "ES256")
        assert Client(server.url, token=forged).get("/accounts/me").status_code == 401


@pytest.fixture(scope="module")
def past(server: LiveServer) -> Iterator[Installation]:
    """The same installation, in this process and two hours ago."""
    settings = config.load(server.environment)
    installation = Installation(settings, clock=lambda: time.time() - 7200)
    yield installation
    installation.database.close()


def test_an_expired_token_is_refused_by_them_and_by_us(
    server: LiveServer, past: Installation, verify: Verifier
) -> None:
    admin_id = server.client("admin", live.ADMIN_PASSWORD).get("/accounts/me").json()["id"]
    admin = principal(account_id=admin_id, username="admin", authenticated_at=int(past.clock()))

    def issued(seconds: int) -> str:
        policy = TokenGrant(
            audiences=("keyosk",),
            scopes=("keyosk:admin",),
            roles=(),
            lifetimes=frozenset({seconds}),
            expires_at=None,
            algorithm=None,
            typ=None,
            claims=(),
            refresh_lifetimes=frozenset(),
        )
        return past.tokens.issue(admin, policy).text

    good = issued(7200 + 600)
    assert verify(server, good, "keyosk", "ES256")["sub"] == admin_id
    assert Client(server.url, token=good).get("/accounts/me").status_code == 200

    expired = issued(7200 - 1)
    with pytest.raises(REFUSALS):
        verify(server, expired, "keyosk", "ES256")
    assert Client(server.url, token=expired).get("/accounts/me").status_code == 401


# --- Keys -----------------------------------------------------------------------------------------


def published(server: LiveServer) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = server.client().get(JWKS).json()["keys"]
    return keys


def assert_good_key(server: LiveServer, key: dict[str, Any], algorithm: str) -> None:
    """A key as the set publishes it: its members, its name, its PEM."""
    numbers = {
        "EC": {"crv", "x", "y"},
        "RSA": {"n", "e"},
        "OKP": {"crv", "x"},
    }[key["kty"]]
    # So there is no d or other private number, and no key_ops.
    assert key.keys() == {"kty", "kid", "use", "alg"} | numbers
    assert (key["use"], key["alg"]) == ("sig", algorithm)
    imported = jose_jwk.import_key({name: key[name] for name in {"kty", *numbers}})
    assert key["kid"] == imported.thumbprint()

    response = server.client().get(f"/auth/keys/{key['kid']}.pem")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/x-pem-file"
    assert response.text.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert response.text.endswith("-----END PUBLIC KEY-----\n")
    assert _der(serialization.load_pem_public_key(response.content)) == _der(jwt.PyJWK(key).key)


def _der(key: Any) -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    der: bytes = key.public_bytes(encoding, form)
    return der


def test_the_key_set_has_public_keys_and_nothing_else(server: LiveServer, caller: Caller) -> None:
    response = server.client().get(JWKS)

    assert response.headers["Content-Type"] == "application/json"
    assert response.json().keys() == {"keys"}
    keys = response.json()["keys"]
    # Other tests of this server may have asked for tokens of other algorithms.
    for key in keys:
        assert_good_key(server, key, key["alg"])
    assert len({key["alg"] for key in keys}) == len(keys)
    assert keys[0]["alg"] == "ES256"
    assert (keys[0]["kty"], keys[0]["crv"]) == ("EC", "P-256")
    # The signing key stands first.
    assert jwt.get_unverified_header(caller.token())["kid"] == keys[0]["kid"]


def test_both_addresses_of_the_key_set_give_the_same_bytes(server: LiveServer) -> None:
    first, second = (server.client().get(path) for path in (JWKS, WELL_KNOWN))

    assert first.content == second.content
    assert first.headers["ETag"] == second.headers["ETag"]


def max_age(response: requests.Response) -> int:
    directives = response.headers["Cache-Control"].split(", ")
    (age,) = [item for item in directives if item.startswith("max-age=")]
    return int(age.removeprefix("max-age="))


@pytest.mark.parametrize("path", [JWKS, WELL_KNOWN, "/auth/keys/{kid}.pem"])
def test_keys_are_cached_for_minutes_then_asked_for_by_tag(server: LiveServer, path: str) -> None:
    path = path.format(kid=published(server)[0]["kid"])
    client = server.client()
    first = client.get(path)
    tag = first.headers["ETag"]

    assert tag.startswith('"')
    assert "public" in first.headers["Cache-Control"]
    assert 0 < max_age(first) <= 300
    assert client.get(path).headers["ETag"] == tag

    known = client.get(path, headers={"If-None-Match": tag})
    assert (known.status_code, known.content) == (304, b"")
    assert known.headers["ETag"] == tag
    assert 0 < max_age(known) <= 300
    assert client.get(path, headers={"If-None-Match": f'"other", {tag}'}).status_code == 304
    other = client.get(path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize("kid", ["x" * 43, "x", "..", "%00", "%2e%2e%2fetc%2fpasswd"])
def test_a_key_that_is_not_published_is_not_found(server: LiveServer, kid: str) -> None:
    response = server.client().get(f"/auth/keys/{kid}.pem")

    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


# --- Algorithms -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["RS256", "PS256", "EdDSA"])
def other_algorithm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, LiveServer]]:
    """A Keyosk that signs in another way than by default. The database does not matter here."""
    folder = tmp_path_factory.mktemp(request.param)
    url = f"sqlite:///{folder / 'keyosk.db'}"
    with LiveServer(url, folder, signing_algorithm=request.param) as server:
        yield request.param, server


# RFC 9864 has other names for it, which nearly nobody reads yet.
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated:joserfc.errors.SecurityWarning")
def test_another_algorithm_works(other_algorithm: tuple[str, LiveServer], verify: Verifier) -> None:
    algorithm, server = other_algorithm
    caller = make_caller(server.admin())
    token = caller.token()

    (key,) = published(server)
    assert_good_key(server, key, algorithm)
    assert jwt.get_unverified_header(token) == {
        "alg": algorithm,
        "kid": key["kid"],
        "typ": "at+jwt",
    }
    for audience in caller.audiences:
        assert verify(server, token, audience, algorithm)["sub"] == caller.id
    header, payload, signature = token.split(".")
    claims = decode(payload)
    forged = f"{header}.{encode({**claims, 'sub': 'admin'})}.{signature}"
    with pytest.raises(REFUSALS):
        verify(server, forged, caller.audiences[0], algorithm)
    # Keyosk takes its own, too.
    bearer = Client(server.url, token=caller.token(audience="keyosk"))
    assert bearer.get("/accounts/me").json()["id"] == caller.id
