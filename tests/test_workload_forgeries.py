"""Tokens that no workload was given, and issuers that misbehave (RFC 8725, SSRF)."""

import base64
import hashlib
import hmac
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from keyosk.model import WorkloadRule
from keyosk.workloads import claims as matching
from keyosk.workloads import fetching
from keyosk.workloads.assertions import LONGEST
from keyosk.workloads.documents import FetchFailed
from keyosk.workloads.presets import PRESETS
from live import Client, LiveServer, unique
from people import claims_of, ok
from platforms import AUDIENCE, KEYS, METADATA, Platform, base64url, generate, platform, send
from shops import Shop
from tables import table

pytestmark = pytest.mark.attack

#: What fits the rule of each preset.
IDENTITIES: dict[str, dict[str, Any]] = {
    "github": {"repository_id": "842913401"},
    "gitlab": {"project_id": "20"},
    "buildkite": {"organization_id": "8a1f", "pipeline_id": "77c2"},
    "kubernetes": {"kubernetes.io": {"serviceaccount": {"uid": "b0c9e6a4"}}},
    "google": {"sub": "112010400000000710080"},
    "azure": {"tid": "72f988bf", "oid": "3cf65d5e"},
    "spiffe": {"sub": "spiffe://example.org/shop"},
}


class Target:
    """An issuer of one preset with a rule."""

    def __init__(self, server: LiveServer, admin: Client, ci: Platform, preset: str) -> None:
        self.ci, self.preset, self.identity = ci, preset, IDENTITIES[preset]
        known = PRESETS[preset].fields
        self.shop = Shop(
            server,
            admin,
            ci,
            claims={name: matching.value(self.identity, name) for name in known["required_claims"]},
            preset=preset,
            algorithms=list(known["algorithms"]),
        )

    def token(self, **claims: Any) -> str:
        return self.ci.token(**{**self.identity, **claims})


@pytest.fixture(scope="module")
def ci() -> Iterator[Platform]:
    with platform() as made:
        yield made


@pytest.fixture(scope="module", params=sorted(PRESETS))
def target(request: pytest.FixtureRequest, server: LiveServer, admin: Client) -> Iterator[Target]:
    with platform() as ci:
        prepared = Target(server, admin, ci, request.param)
        assert prepared.shop.present(prepared.token()).status_code == 200
        yield prepared


def forgeries(ci: Platform, good: str) -> dict[str, str]:
    """By name: each way that RFC 8725 and known faults of libraries tell of."""
    header, payload, signature = good.split(".")
    claims = claims_of(good)
    kid = {"kid": ci.kid}
    stranger = generate("RS256")
    own_jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(stranger.public_key()))
    pem = ci.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )

    def by_stranger(**headers: Any) -> str:
        return jwt.encode(claims, stranger, algorithm="RS256", headers={**kid, **headers})

    def with_header(**members: Any) -> str:
        return f"{part({**kid, **members})}.{payload}.{signature}"

    def part(members: Any) -> str:
        return base64url(json.dumps(members).encode())

    def hmac_by(key: bytes) -> str:
        content = f"{part({'alg': 'HS256', 'typ': 'JWT', **kid})}.{payload}"
        digest = hmac.new(key, content.encode(), hashlib.sha256).digest()
        return f"{content}.{base64url(digest)}"

    padded = base64.urlsafe_b64encode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    text = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    return {
        "none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{payload}.",
        "None": f"{part({'alg': 'None', **kid})}.{payload}.",
        "none with a signature": with_header(alg="none"),
        "no signature": f"{header}.{payload}.",
        "no third part": f"{header}.{payload}",
        "four parts": f"{good}.AAAA",
        "hmac by the PEM": hmac_by(pem),
        "hmac by the JWK": hmac_by(json.dumps(ci.keys[0]).encode()),
        "hmac by nothing": hmac_by(b""),
        "a stranger's key": by_stranger(),
        "a stranger's key in jwk": by_stranger(jwk=own_jwk),
        "a stranger's key by jku": by_stranger(jku=f"{ci.issuer}{KEYS}"),
        "a stranger's key by x5u": by_stranger(x5u="https://evil.example/cert"),
        "a stranger's key in x5c": by_stranger(x5c=["MIIB"]),
        "a kid that is a path": by_stranger(kid="../../../dev/null"),
        "a kid that is SQL": by_stranger(kid="' UNION SELECT 'k"),
        "an empty kid": by_stranger(kid=""),
        "another algorithm of the key": with_header(alg="RS512"),
        "PSS of the key": with_header(alg="PS256"),
        "another type of key": with_header(alg="ES256"),
        "zeroes for a signature": f"{header}.{payload}.{base64url(bytes(256))}",
        "a shorter signature": f"{header}.{payload}.{signature[:-4]}",
        "another payload": f"{header}.{part({**claims, 'sub': 'evil'})}.{signature}",
        "padding": f"{header}.{padded.decode()}{'=' * (-len(padded) % 4 or 4)}.{signature}",
        "a line end": f"{header}.{payload}.\n{signature}",
        "stray bits": f"{header}.{payload}.{signature[:-1]}{'B' if signature[-1] != 'B' else 'C'}",
        "JSON serialization": json.dumps(
            {"protected": header, "payload": payload, "signature": signature}
        ),
        "crit": ci.signed(claims, {"crit": ["exp"], "exp": 1}),
        "crit of b64": ci.signed(claims, {"crit": ["b64"], "b64": False}),
        "zip": ci.signed(claims, {"zip": "DEF"}),
        "an access token": ci.signed(claims, {"typ": "at+jwt"}),
        "a logout token": ci.signed(claims, {"typ": "logout+jwt"}),
        "a claim twice": ci.raw(text[:-1] + b', "sub": "evil"}'),
        "a deeper claim twice": ci.raw(text[:-1] + b', "x": {"a": 1, "a": 2}}'),
        "NaN": ci.raw(text[:-1] + b', "x": NaN}'),
        "too deep": ci.raw(text[:-1] + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        "a list of claims": ci.raw(b"[" + text + b"]"),
        "no JSON": ci.raw(b"claims"),
        "another encoding": ci.raw(text.decode().encode("utf-16")),
        "a header twice": ci.raw(
            text, b'{"alg":"none","alg":"RS256","typ":"JWT","kid":"%s"}' % ci.kid.encode()
        ),
        "infinity": ci.raw(text[:-1] + b', "x": 1e999}'),
        "half a character": ci.raw(text[:-1] + b', "x": ["\\ud800"]}'),
        "half a character for a name": ci.raw(text[:-1] + b', "\\udc00": 1}'),
        "half a character in sub": ci.raw(text.replace(b'"sub":"', b'"sub":"\\ud800')),
        "half a character in jti": ci.raw(text.replace(b'"jti":"', b'"jti":"\\ud800')),
        "half a character in kid": ci.raw(text, b'{"alg":"RS256","kid":"key-1\\ud800"}'),
        "NUL in sub": ci.signed({**claims, "sub": "a\0b"}),
        "too many digits": ci.raw(text[:-1] + b', "x": ' + b"9" * 5_000 + b"}"),
        "a token in a token": ci.raw(good.encode(), b'{"alg":"RS256","kid":"key-1","cty":"JWT"}'),
        "a list for alg": ci.raw(text, b'{"alg":["RS256"],"kid":"key-1"}'),
        "a number for kid": ci.raw(text, b'{"alg":"RS256","kid":1}'),
        "a list for typ": ci.raw(text, b'{"alg":"RS256","kid":"key-1","typ":["JWT"]}'),
        "nothing for b64": ci.raw(text, b'{"alg":"RS256","kid":"key-1","b64":null}'),
        "b64 without crit": ci.raw(text, b'{"alg":"RS256","kid":"key-1","b64":true}'),
        "detached": f"{header}..{signature}",
        "a byte order mark": ci.raw(b"\xef\xbb\xbf" + text),
        "nothing": "..",
        "an encrypted token": f"{header}.{payload}.{signature}.{payload}.{signature}",
    }


def test_no_forgery_passes(target: Target) -> None:
    passed = {
        name: response.status_code
        for name, token in forgeries(target.ci, target.token()).items()
        if (response := target.shop.present(token)).status_code != 400
        or response.json()["error"] != "invalid_grant"
    }
    assert passed == {}
    assert target.shop.present(target.token()).status_code == 200
    assert not any("evil" in path for path in target.ci.asked)


def test_nothing_of_a_forgery_is_told(target: Target) -> None:
    for token in forgeries(target.ci, target.token()).values():
        assert token[:60] not in target.shop.present(token).text or len(token) < 10


def test_a_token_of_another_issuer_does_not_pass_for_this(target: Target, admin: Client) -> None:
    with platform() as other:
        body = {"name": unique("other"), "issuer": other.issuer, "audience": AUDIENCE}
        ok(admin.post("/issuers", json={**body, "allow_private": True}), 201)
        # The same kid, its own key, the first one's name.
        mixed = other.token(iss=target.ci.issuer, **target.identity)
        assert target.shop.present(mixed).status_code == 400
        own = other.token(**target.identity)
        assert "no rule" in target.shop.present(own).json()["error_description"]


def test_only_what_was_pinned_logs_in(target: Target) -> None:
    """Whoever registers the name again, or has a claim that only looks alike, is somebody else."""
    assert target.shop.present(target.token()).status_code == 200
    for name in PRESETS[target.preset].fields["required_claims"]:
        right = matching.value(target.identity, name)
        assert isinstance(right, str)
        wrong: tuple[Any, ...] = (
            *(f"{right}0", right[:-1], f"{right}\u200b", f" {right}", right.swapcase() + "é"),
            *(right.replace("e", "е").replace("2", "２"), "*", "", None, True, 0, 1.5),
            *([right], {right: right}, {"value": right}, [[right]]),
        )
        for value in wrong:
            if value != right:
                found = changed(target.identity, matching.path(name), value)
                token = target.ci.signed({**target.ci.claims(), **found})
                assert target.shop.present(token).json()["error"] == "invalid_grant", (name, value)


def changed(claims: dict[str, Any], steps: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The claims with another value in one of them."""
    if len(steps) > 1:
        value = changed(claims[steps[0]], steps[1:], value)
    return {**claims, steps[0]: value}


def test_a_huge_token_costs_nothing(target: Target) -> None:
    for size in (LONGEST, 100_000, 1_000_000):
        assert target.shop.present(target.token(filler="x" * size)).status_code in (400, 413)


# --- Issuers that misbehave -----------------------------------------------------------------------


def redirect(handler: BaseHTTPRequestHandler) -> None:
    send(handler, b"", status=302, headers={"Location": "http://127.0.0.1:1/keys"})


def responds(body: bytes, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, body, status=status)


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(2_000):
        handler.wfile.write(b" " * 1024)


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.2)


def fresh(server: LiveServer, admin: Client, ci: Platform) -> Target:
    return Target(server, admin, ci, "github")


#: What anybody is told; why is for admins.
AWAY = "The keys of the token's issuer are not available."
OCT = {"kty": "oct", "kid": "key-1", "k": base64url(b"secret"), "alg": "HS256"}


@pytest.mark.parametrize(
    ("path", "told", "does"),
    [
        (KEYS, "status 302", redirect),
        (KEYS, "status 500", responds(b"oops", 500)),
        (KEYS, "not JSON", responds(b"<html>keys</html>")),
        (KEYS, "not JSON", responds(b"[" * 200_000)),
        (KEYS, "not a JWK set", responds(b"[]")),
        (KEYS, "no key", responds(b'{"keys": []}')),
        (KEYS, "no key", responds(json.dumps({"keys": [OCT]}).encode())),
        (KEYS, "more than", endless),
        (KEYS, "longer than", dripping),
        (KEYS, "keys", responds(json.dumps({"keys": [{}] * 1_000}).encode())),
        (METADATA, "another issuer", responds(b'{"issuer": "https://evil.example"}')),
        (METADATA, "status 302", redirect),
        (METADATA, "status 404", responds(b"", 404)),
    ],
    ids=[
        *("redirect", "error", "html", "deep", "list", "empty", "symmetric", "endless"),
        *("dripping", "many", "metadata-of-another", "metadata-redirect", "no-metadata"),
    ],
)
def test_an_issuer_that_misbehaves_logs_nobody_in(
    server: LiveServer,
    admin: Client,
    path: str,
    told: str,
    does: Callable[[BaseHTTPRequestHandler], None],
) -> None:
    with platform() as ci:
        ci.answers[path] = does
        target = fresh(server, admin, ci)
        answered = target.shop.present(target.token())
        assert answered.status_code == 503, answered.text
        assert answered.json()["error"] == "temporarily_unavailable"
        assert answered.json()["error_description"] == AWAY
        assert told in target.shop.report(target.token())["error_description"]
        assert "Retry-After" in answered.headers
        # Nobody makes Keyosk ask again and again.
        asked = len(ci.asked)
        for _ in range(10):
            assert target.shop.present(target.token()).status_code == 503
        assert len(ci.asked) <= asked + 2


def test_metadata_cannot_lead_to_another_kind_of_address(server: LiveServer, admin: Client) -> None:
    for url in ("http://example.com/keys", "file:///etc/passwd", "https://u:p@example.com/k"):
        with platform() as ci:
            body = json.dumps({"issuer": ci.issuer, "jwks_uri": url}).encode()
            ci.answers[METADATA] = responds(body)
            target = fresh(server, admin, ci)
            assert target.shop.present(target.token()).status_code == 503
            assert "the URL" in target.shop.report(target.token())["error_description"]


def test_private_addresses_need_leave(server: LiveServer, admin: Client) -> None:
    with platform() as ci:
        target = fresh(server, admin, ci)
        ok(target.shop.change(allow_private=False))
        assert target.shop.present(target.token()).json()["error_description"] == AWAY
        assert "private" in target.shop.report(target.token())["error_description"]
        assert ci.asked == []


@table(
    ("address", "private", "allowed"),
    [
        ("192.0.43.7", False, True),
        ("2606:4700::1111", False, True),
        ("127.0.0.1", False, False),
        ("127.0.0.1", True, True),
        ("10.1.2.3", False, False),
        ("10.1.2.3", True, True),
        ("192.168.1.1", False, False),
        ("100.64.0.1", False, False),
        ("100.64.0.1", True, True),
        ("172.31.0.1", False, False),
        ("172.31.0.1", True, True),
        ("198.18.0.1", True, False),
        ("240.0.0.1", True, False),
        ("::1", True, True),
        ("100::1", True, False),
        ("2001:db8::1", True, False),
        ("169.254.169.254", False, False),
        ("169.254.169.254", True, False),
        ("fd00:ec2::254", False, False),
        ("fe80::1", True, False),
        ("::1", False, False),
        ("::ffff:127.0.0.1", False, False),
        ("::ffff:169.254.169.254", True, False),
        ("2002:7f00:1::", True, False),
        ("2002:a9fe:a9fe::1", True, False),
        ("2001:0:a9fe:a9fe::1", True, False),
        ("64:ff9b::a9fe:a9fe", True, False),
        ("64:ff9b::7f00:1", False, False),
        ("64:ff9b::a01:203", False, False),
        ("64:ff9b::c000:2b07", False, True),
        ("64:ff9b:1::7f00:1", True, False),
        ("64:ff9b:1::7f00:1", False, False),
        ("64:ff9b::a01:203", True, True),
        ("::7f00:1", True, False),
        ("::ffff:0:7f00:1", True, False),
        ("fec0::1", True, False),
        ("fd00::1", False, False),
        ("fd00::1", True, True),
        ("168.63.129.16", False, False),
        ("168.63.129.16", True, False),
        ("::ffff:168.63.129.16", False, False),
        ("64:ff9b::a83f:8110", False, False),
        ("100.100.100.200", True, False),
        ("192.0.0.192", True, False),
        ("fd00:ec2::254", True, False),
        ("fd20:ce::254", True, False),
        ("0.0.0.0", True, False),  # noqa: S104  # nobody binds
        ("224.0.0.1", True, False),
    ],
)
def test_addresses(
    monkeypatch: pytest.MonkeyPatch, address: str, private: bool, allowed: bool
) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    resolved = [(family, socket.SOCK_STREAM, 6, "", (address, 443))]
    connected: list[str] = []

    def connect(_: Any, host: str, *__: Any, **___: Any) -> Any:
        connected.append(host)
        raise OSError("no")

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolved)
    monkeypatch.setattr("httpcore2.SyncBackend.connect_tcp", connect)
    with pytest.raises(FetchFailed):
        fetching.fetch_json("https://ci.example/keys", allow_private=private)
    assert bool(connected) is allowed


def test_a_name_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked is what is connected to: no second look-up can give another address."""
    looked: list[str] = []
    real = socket.getaddrinfo

    def look(host: str, *rest: Any, **options: Any) -> Any:
        looked.append(host)
        return real("127.0.0.1" if host == "localhost" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look)
    with platform() as ci:
        port, _, path = ci.issuer.rpartition(":")[2].partition("/")
        document, seconds = fetching.fetch_json(
            f"http://localhost:{port}/{path}{KEYS}", allow_private=True
        )
    assert (document["keys"], seconds) == (ci.keys, 600)
    assert looked.count("localhost") == 1


def test_a_slow_issuer_costs_others_nothing(server: LiveServer, admin: Client) -> None:
    held = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        held.wait(60)
        send(handler, b"{}")

    with platform() as ci:
        ci.answers[METADATA] = hang
        target = fresh(server, admin, ci)
        token = target.token()
        responses: list[requests.Response] = []
        threads = [
            threading.Thread(target=lambda: responses.append(target.shop.present(token)))
            for _ in range(40)
        ]
        for each in threads:
            each.start()
        # Password logins and reads are answered meanwhile, by however few threads there are.
        for _ in range(5):
            assert server.client().get("/health/ready").status_code == 200
            assert admin.get("/services").status_code == 200
        held.set()
        for each in threads:
            each.join()
        assert {each.status_code for each in responses} == {503}
        told = [each.json()["error_description"] for each in responses]
        assert told.count("Other requests are waiting for the keys of an issuer.") >= 20
        assert ci.asked.count(METADATA) == 1


def test_the_last_good_keys_are_used_while_an_issuer_is_away(
    server: LiveServer, admin: Client
) -> None:
    with platform() as ci:
        target = fresh(server, admin, ci)
        assert target.shop.present(target.token()).status_code == 200
    assert target.shop.present(target.token()).status_code == 200


def test_a_weak_key_does_not_count(server: LiveServer, admin: Client) -> None:
    with platform() as ci:
        ci.key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  # it must fail
        ci.keys = [ci.jwk()]
        target = fresh(server, admin, ci)
        token = ci.raw(json.dumps(ci.claims(**target.identity)).encode())
        assert target.shop.present(token).status_code == 400


def test_a_key_that_costs_too_much_does_not_count(server: LiveServer, admin: Client) -> None:
    # Eighteen primes of 512 bits: one of two long primes takes minutes to find.
    primes = [
        prime
        for _ in range(9)
        for key in [rsa.generate_private_key(65537, 1024).private_numbers()]  # noqa: S505
        for prime in (key.p, key.q)
    ]
    modulus = math.prod(primes)
    with platform() as ci:
        size = (modulus.bit_length() + 7) // 8
        ci.keys = [ci.jwk(n=base64url(modulus.to_bytes(size, "big")), e="AQAB")]
        target = fresh(server, admin, ci)
        content = target.token().rpartition(".")[0]
        # RFC 8017 section 9.2
        prefix = bytes.fromhex("3031300d060960864801650304020105000420")
        hashed = prefix + hashlib.sha256(content.encode()).digest()
        padded = b"\0\1" + b"\xff" * (size - len(hashed) - 3) + b"\0" + hashed
        # Modulo each prime, and then together, RFC 8017 section 5.1.2.
        signed = sum(
            pow(int.from_bytes(padded, "big"), pow(65537, -1, prime - 1), prime)
            * (modulus // prime)
            * pow(modulus // prime, -1, prime)
            for prime in primes
        )
        token = f"{content}.{base64url((signed % modulus).to_bytes(size, 'big'))}"
        assert jwt.decode(token, jwt.PyJWK(ci.keys[0]), audience=AUDIENCE)  # it is right
        assert target.shop.refusal(token) == "The token is not valid."


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512", "EdDSA", "PS256", "RS512"])
def test_each_algorithm_works(server: LiveServer, admin: Client, algorithm: str) -> None:
    with platform(algorithm=algorithm) as ci:
        target = fresh(server, admin, ci)
        ok(target.shop.change(algorithms=[algorithm]))
        assert target.shop.present(target.token()).status_code == 200
        ok(target.shop.change(algorithms=["RS256"]))
        assert target.shop.present(target.token()).status_code == 400


def test_a_key_for_encryption_does_not_verify(server: LiveServer, admin: Client) -> None:
    for members in ({"use": "enc"}, {"key_ops": ["encrypt"]}, {"alg": "RS512"}, {"kty": "EC"}):
        with platform() as ci:
            ci.keys = [ci.jwk(**members)]
            target = fresh(server, admin, ci)
            assert target.shop.present(target.token()).status_code in (400, 503), members


def test_without_a_kid_one_key_is_meant_or_none(server: LiveServer, admin: Client) -> None:
    with platform() as ci:
        target = fresh(server, admin, ci)
        bare = jwt.encode(ci.claims(**target.identity), ci.key, algorithm="RS256")
        assert target.shop.present(bare).status_code == 200
    with platform() as ci:
        ci.keys = [ci.jwk(), {**ci.jwk(), "kid": "key-2"}]
        target = fresh(server, admin, ci)
        bare = jwt.encode(ci.claims(**target.identity), ci.key, algorithm="RS256")
        assert target.shop.present(bare).status_code == 400


# --- Claims ---------------------------------------------------------------------------------------

_VALUES = st.one_of(st.text(max_size=5), st.integers(-2, 2), st.booleans(), st.none())


def rule_of(claims: dict[str, Any]) -> WorkloadRule:
    return WorkloadRule(
        id="",
        issuer_id="",
        name="",
        description="",
        claims={name: (value,) for name, value in claims.items()},
        account="",
        account_id="",
        scopes=None,
        once=False,
        enabled=True,
        expires_at=None,
        last_used_at=None,
        created_at=0,
        updated_at=0,
        version=1,
    )


@given(wanted=_VALUES.filter(lambda value: value is not None), found=_VALUES)
def test_only_the_same_value_of_the_same_type_fits(wanted: Any, found: Any) -> None:
    missed = matching.misses(rule_of({"c": wanted}), {"c": found}, ())
    assert (missed == []) is (type(wanted) is type(found) and wanted == found)


@given(prefix=st.text(max_size=5), rest=st.text(max_size=5), other=st.text(max_size=8))
def test_a_star_stands_for_any_rest(prefix: str, rest: str, other: str) -> None:
    rule = rule_of({"c": f"{prefix}*"})
    assert matching.misses(rule, {"c": prefix + rest}, ["c"]) == []
    assert (matching.misses(rule, {"c": other}, ["c"]) == []) is other.startswith(prefix)
    assert (matching.misses(rule, {"c": prefix + rest}, []) == []) is (rest == "*")


@given(steps=st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4), value=_VALUES)
def test_a_json_pointer_finds_each_claim(steps: list[str], value: Any) -> None:
    claims: Any = value
    for step in reversed(steps):
        claims = {step: claims}
    escaped = (step.replace("~", "~0").replace("/", "~1") for step in steps)
    assert matching.value(claims, "/" + "/".join(escaped)) == value
