"""keyosk-client: which tokens a verifier accepts (RFC 9068 section 4, RFC 8725, RFC 7515)."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client_issuer import AUDIENCE, ISSUER, KID, Issuer, b64, generate, issuer, part, public_jwk
from keyosk_client import AsyncVerifier, InsufficientScope, InvalidToken, NoToken, Token, Verifier
from keyosk_client.challenges import refusal

Verify = Callable[..., Token]


@pytest.fixture
def keyosk() -> Iterator[Issuer]:
    with issuer() as made:
        yield made


def by_thread(text: str, **options: Any) -> Token:
    verifier = Verifier(ISSUER, AUDIENCE, **options)
    try:
        return verifier.verify(text)
    finally:
        verifier.close()


def by_task(text: str, **options: Any) -> Token:
    async def verify() -> Token:
        verifier = AsyncVerifier(ISSUER, AUDIENCE, **options)
        try:
            return await verifier.verify(text)
        finally:
            await verifier.aclose()

    return asyncio.run(verify())


@pytest.fixture(params=[by_thread, by_task])
def verify(request: pytest.FixtureRequest) -> Verify:
    found: Verify = request.param
    return found


def is_accepted(verify: Verify, text: str, **options: Any) -> bool:
    try:
        verify(text, **options)
    except InvalidToken:
        return False
    return True


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "PS256", "EdDSA"])
def test_a_good_token_is_a_value(algorithm: str, verify: Verify) -> None:
    with issuer(algorithm) as keyosk:
        text = keyosk.token(act={"sub": "backend"})
        token = verify(text)
    assert token.subject == "00000000-0000-7000-8000-000000000001"
    assert token.scopes == {"todo:read", "todo:write"}
    assert (token.username, token.act) == ("alice", {"sub": "backend"})
    assert token.claims["aud"] == AUDIENCE
    assert token.expires_at == token.claims["exp"]
    assert token.text == text
    assert text.rpartition(".")[2] not in repr(token)
    with pytest.raises(TypeError):
        token.claims["sub"] = "somebody else"  # type: ignore[index]


def test_scopes_are_whole_words(keyosk: Issuer) -> None:
    token = by_thread(keyosk.token(scope="todo:reader xtodo:read todo:write"))
    token.require("todo:write", "todo:reader")
    token.require()
    for scope in ("todo:read", "todo", "Todo:write", "todo:write todo:reader", ""):
        with pytest.raises(InsufficientScope) as refused:
            token.require("todo:write", scope)
        assert refused.value.scope == f"todo:write {scope}"


def test_a_token_without_scopes_has_none(keyosk: Issuer) -> None:
    for scope in ("", None):
        token = by_thread(keyosk.token(scope=scope))
        assert token.scopes == frozenset()
        with pytest.raises(InsufficientScope):
            token.require("")
    assert by_thread(keyosk.token(preferred_username=7)).username is None
    assert by_thread(keyosk.token(act="backend")).act is None


NOW = int(time.time())
DAY = 86_400  # longer than any run of the tests
#: What is changed in the claims; None takes a claim away.
BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "expired": {"exp": NOW - 11},
    "from the future": {"iat": NOW + DAY, "exp": NOW + 2 * DAY},
    "not yet valid": {"nbf": NOW + DAY},
    "no exp": {"exp": None},
    "no iat": {"iat": None},
    "no iss": {"iss": None},
    "no aud": {"aud": None},
    "no sub": {"sub": None},
    "empty sub": {"sub": ""},
    "number as sub": {"sub": 7},
    "text as exp": {"exp": "tomorrow"},
    "digits as exp": {"exp": str(NOW + DAY)},
    "fraction as exp": {"exp": NOW + DAY + 0.5},
    "truth as iat": {"iat": True},
    "digits as iat": {"iat": str(NOW)},
    "infinite exp": {"exp": float("inf")},
    "no number as exp": {"exp": float("nan")},
    "list as exp": {"exp": [NOW + DAY]},
    "other audience": {"aud": "billing"},
    "longer audience": {"aud": "todo-admin"},
    "audience in capitals": {"aud": "TODO"},
    "no audience in the list": {"aud": []},
    "other audiences": {"aud": ["billing", "todo "]},
    "object as audience": {"aud": {"todo": True}},
    "other issuer": {"iss": "https://login.example.attacker.example"},
    "issuer with a slash": {"iss": f"{ISSUER}/"},
    "list of issuers": {"iss": [ISSUER]},
    "list of scopes": {"scope": ["todo:read"]},
    "number as scope": {"scope": 7},
}


@pytest.mark.attack
def test_bad_claims_are_refused_and_those_without_the_fault_are_not(keyosk: Issuer) -> None:
    verifier = Verifier(ISSUER, AUDIENCE)
    verifier.verify(keyosk.token())
    verifier.verify(keyosk.token(exp=NOW + DAY, aud=["billing", "todo"]))
    accepted = [
        name
        for name, changes in BAD_CLAIMS.items()
        if is_accepted(verifier.verify, keyosk.token(**changes))
    ]
    assert accepted == []
    verifier.close()


def test_clocks_may_differ_by_the_leeway(keyosk: Issuer, verify: Verify) -> None:
    now = int(time.time())
    late = keyosk.token(iat=now - DAY, exp=now - 30)
    early = keyosk.token(iat=now + 30, exp=now + DAY)
    for text in (late, early):
        assert not is_accepted(verify, text)
        assert is_accepted(verify, text, leeway=60)


#: What is changed in the header.
BAD_HEADERS: dict[str, dict[str, Any]] = {
    "no typ": {"typ": None},
    "plain JWT": {"typ": "JWT"},
    "revocations": {"typ": "revocations+jwt"},
    "number as typ": {"typ": 7},
    "no kid": {"kid": None},
    "number as kid": {"kid": 7},
    "other kid": {"kid": "x" * 43},
    "path as kid": {"kid": "../../../../dev/null"},
    "no alg": {"alg": None},
    "alg none": {"alg": "none"},
    "alg of the same family": {"alg": "ES384"},
    "alg HMAC": {"alg": "HS256"},
    "alg in small letters": {"alg": "es256"},
    "list of algs": {"alg": ["ES256"]},
    "unknown extension": {"crit": ["unheard-of"], "unheard-of": True},
    "empty crit": {"crit": []},
    "unencoded payload": {"b64": False, "crit": ["b64"]},
    "b64 alone": {"b64": True},
}


@pytest.mark.attack
def test_bad_headers_are_refused(keyosk: Issuer) -> None:
    verifier = Verifier(ISSUER, AUDIENCE)
    for typ in ("at+jwt", "AT+JWT", "application/at+jwt"):
        verifier.verify(keyosk.token(keyosk.header(typ=typ)))
    accepted = [
        name
        for name, changes in BAD_HEADERS.items()
        if is_accepted(verifier.verify, keyosk.token(keyosk.header(**changes)))
    ]
    assert accepted == []
    twice = b64(b'{"alg":"ES256","typ":"JWT","typ":"at+jwt","kid":"%s"}' % KID.encode())
    for header in (twice, b64(b"[]"), b64(b"null"), b64(b"\xff"), b64(b"[" * 5_000), "e30"):
        assert not is_accepted(verifier.verify, keyosk.signed(header, "e30"))
    verifier.close()


@pytest.mark.attack
def test_a_key_that_the_token_brings_is_not_used(keyosk: Issuer) -> None:
    foreign = generate("ES256")
    stranger = public_jwk(foreign, "ES256")
    ours, keyosk.key = keyosk.key, foreign
    for more in ({}, {"jwk": stranger}, {"jku": f"{ISSUER}/keys"}, {"x5u": f"{ISSUER}/x5u"}):
        for kid in (KID, "x" * 43):
            assert not is_accepted(by_thread, keyosk.token(keyosk.header(kid=kid, **more)))
    keyosk.key = ours
    assert not any("keys" in request.url.path for request in keyosk.requests)


@pytest.mark.attack
def test_the_public_key_is_no_secret(keyosk: Issuer) -> None:
    public = keyosk.key.public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for secret in (pem, json.dumps(keyosk.keys[0]).encode(), b""):
        content = f"{part(keyosk.header(alg='HS256'))}.{part(keyosk.claims())}"
        mac = hmac.digest(secret, content.encode(), hashlib.sha256)
        assert not is_accepted(by_thread, f"{content}.{b64(mac)}")


@pytest.mark.attack
def test_a_token_has_one_text(keyosk: Issuer) -> None:
    """Whoever lists tokens by their text must not be passed by with another of the same token."""
    text = keyosk.token()
    header, payload, signature = text.split(".")
    assert len(signature) % 4 == 2
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    turned = alphabet[alphabet.index(signature[-1]) + 1]
    others = [
        f"{header}.{payload}.{signature[:-1]}{turned}",
        f"{text}==",
        f"{header}=.{payload}.{signature}",
        f"{text}.",
        f".{text}",
        f"{text}\n",
        f" {text}",
        f"{header}.{payload}",
        f"{header}.{payload}.",
        f"{header}..{signature}",
        f"{header}.{payload}.{signature}.{signature}",
        f"{header}.{payload}.{signature}A",
        text.replace("-", "+").replace("_", "/") + "+",
        "",
        "..",
        "x" * 100_000,
        text + "\N{FULLWIDTH LATIN SMALL LETTER A}",
    ]
    for other in others:
        assert not is_accepted(by_thread, other), other
    assert is_accepted(by_thread, text)


@pytest.mark.attack
def test_a_token_is_bounded(keyosk: Issuer) -> None:
    assert is_accepted(by_thread, keyosk.token(note="x" * 4_000))
    assert not is_accepted(by_thread, keyosk.token(note="x" * 8_000))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_change_of_a_character_is_accepted(keyosk: Issuer, data: st.DataObject) -> None:
    if not hasattr(keyosk, "verifier"):
        keyosk.verifier = Verifier(ISSUER, AUDIENCE)  # type: ignore[attr-defined]
    text = keyosk.token()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters()) + text[at + data.draw(st.integers(0, 1)) :]
    if changed != text:
        assert not is_accepted(keyosk.verifier.verify, changed)  # type: ignore[attr-defined]


def test_a_service_may_have_a_type_of_its_own(keyosk: Issuer, verify: Verify) -> None:
    text = keyosk.token(keyosk.header(typ="JWT"))
    assert not is_accepted(verify, text)
    assert is_accepted(verify, text, typ="JWT")
    assert not is_accepted(verify, keyosk.token(), typ="JWT")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW - DAY}, "it has expired"),
        ({"iat": NOW + DAY, "exp": NOW + 2 * DAY}, "compare this machine's clock with Keyosk's"),
        ({"aud": "billing"}, "its audience is not todo"),
        ({"iss": "https://other.example"}, f"its issuer is not {ISSUER}"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_log_of_a_service_says_what_is_wrong_and_its_response_does_not(
    keyosk: Issuer, changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "keyosk_client")
    text = keyosk.token(**changes)
    with pytest.raises(InvalidToken) as raised:
        by_thread(text)
    response = refusal(raised.value, realm="todo")
    assert reason in caplog.text
    assert response.content["error_description"] == "The token is not valid."
    assert not any(each in caplog.text for each in text.split("."))


def test_whoever_sends_an_api_key_is_told_to_get_a_token(keyosk: Issuer) -> None:
    with pytest.raises(InvalidToken) as raised:
        Verifier(ISSUER, AUDIENCE).authorize("Bearer kysk_" + "a" * 38)
    response = refusal(raised.value, realm="todo")
    assert (response.status, response.content["error"]) == (401, "invalid_token")
    assert response.content["error_description"].startswith("This is an API key.")
    assert keyosk.requests == []


def test_a_service_may_have_several_audiences(keyosk: Issuer) -> None:
    verifier = Verifier(ISSUER, ("todo", "todo-admin"))
    verifier.verify(keyosk.token(aud="todo-admin"))
    verifier.verify(keyosk.token(aud=["billing", "todo"]))
    with pytest.raises(InvalidToken):
        verifier.verify(keyosk.token(aud=["billing"]))
    verifier.close()


@pytest.mark.parametrize(
    "arguments",
    [
        (ISSUER, ""),
        (ISSUER, []),
        (ISSUER, ["todo", ""]),
        ("login.example", "todo"),
        ("file:///etc/passwd", "todo"),
        ("https://", "todo"),
    ],
)
def test_wrong_arguments_are_told_at_once(arguments: tuple[str, Any]) -> None:
    for kind in (Verifier, AsyncVerifier):
        with pytest.raises(ValueError, match=r"issuer|audience"):
            kind(*arguments)
    with pytest.raises(ValueError, match="revocations"):
        Verifier(ISSUER, "todo", revocations="sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "bearer", "Token x"]
)
def test_no_token_is_not_a_bad_token(keyosk: Issuer, header: str | None) -> None:
    verifier = Verifier(ISSUER, AUDIENCE)
    with pytest.raises(NoToken):
        verifier.authorize(header)

    async def ask() -> None:
        with pytest.raises(NoToken):
            await AsyncVerifier(ISSUER, AUDIENCE).authorize(header)

    asyncio.run(ask())
    assert keyosk.requests == []


def test_the_scheme_has_any_case(keyosk: Issuer) -> None:
    verifier = Verifier(ISSUER, AUDIENCE)
    for scheme in ("Bearer", "bearer", "BEARER", "Bearer "):
        assert verifier.authorize(f"{scheme} {keyosk.token()}", "todo:read").username == "alice"
    with pytest.raises(InsufficientScope):
        verifier.authorize(f"Bearer {keyosk.token()}", "todo:delete")
    with pytest.raises(InvalidToken):
        verifier.authorize(f"Bearer {keyosk.token()}, Bearer x")
    verifier.close()

    async def ask() -> Token:
        verifier = AsyncVerifier(ISSUER, AUDIENCE)
        return await verifier.authorize(f"Bearer {keyosk.token()}", "todo:read")

    assert asyncio.run(ask()).username == "alice"
    assert repr(verifier) == f"Verifier('{ISSUER}', 'todo')"


def test_keys_that_cannot_sign_tokens_are_left_out(keyosk: Issuer) -> None:
    """RFC 7517 section 5: a set may have keys that a reader does not know."""
    secret = {"kty": "oct", "k": "AAAA", "kid": "secret", "alg": "HS256"}
    short = jwt.get_algorithm_by_name("RS256").to_jwk(_short_rsa().public_key())
    others: list[Any] = [
        secret,
        {"kty": "AKP", "kid": "new", "alg": "ML-DSA-44", "pub": "AAAA"},
        {**keyosk.keys[0], "kid": "encryption", "use": "enc"},
        {**keyosk.keys[0], "kid": ""},
        {**keyosk.keys[0], "kid": "broken", "x": "AAAA"},
        {**keyosk.keys[0], "kid": "no-algorithm", "alg": None},
        {**json.loads(short), "kid": "short", "alg": "RS256"},
        "no key at all",
    ]
    keyosk.keys = [*others, *keyosk.keys]
    verifier = Verifier(ISSUER, AUDIENCE)
    verifier.verify(keyosk.token())
    assert list(verifier._state._keys) == [KID]
    for each in others[:-1]:
        with pytest.raises(InvalidToken):
            verifier.verify(keyosk.token(keyosk.header(kid=each["kid"])))
    verifier.close()


def _short_rsa() -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(65537, 1024)  # noqa: S505 - it must be refused
