"""Forged tokens, by the classes of RFC 8725: refused wherever a token is taken."""

import base64
import hashlib
import hmac
import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import get_default_algorithms

from keyosk import config
from keyosk.errors import BadToken
from keyosk.installation import Installation
from keyosk.keys import material
from keyosk.web.routes import ROUTES
from live import Client, LiveServer
from people import claims_of, make_key, make_person, make_service, ok

pytestmark = pytest.mark.attack

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
NONE = ("none", "None", "NONE", "nOnE", "none ", " none", "", "null", "no\u017fne", "\u0000none")
HOUR = 3600
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
SIGN = get_default_algorithms()


def b64(data: bytes | str) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def part(value: Any) -> str:
    return b64(json.dumps(value, separators=(",", ":")))


class Forge:
    """A real token of a running Keyosk, the very key that it signs with, and another key."""

    def __init__(self, server: LiveServer, admin: Client, trap: int) -> None:
        self.server = server
        self.trap = f"http://127.0.0.1:{trap}/keys"
        self.first, self.second = make_service(admin), make_service(admin)
        backend = make_person(admin)
        exchanges = [{"service": self.second, "scopes": [f"{self.second}:read"]}]
        body = {"account": backend.username, "exchanges": exchanges}
        ok(admin.patch(f"/services/{self.first}", json=body))
        owner = make_person(admin, "keyosk:admin", f"{self.first}:read")
        self.refresh = self._refresh_token(admin, owner)
        # Its password is hashed once: all others who ask come by key.
        self.backend = server.client(backend.username, make_key(admin, backend)[1])
        self.owner = server.client(owner.username, make_key(admin, owner)[1])
        self.genuine = owner.login().post("/auth/token", data={"audience": "keyosk"}).json()
        self.claims = claims_of(self.genuine["access_token"])
        # For all that takes tokens at once: as Keyosk would sign it.
        self.claims["aud"] = ["keyosk", self.first]
        self.claims["scope"] += f" {self.first}:read"
        self.installation = Installation(config.load(server.environment))
        self.signer = self.installation.signing_keys.signer(None)
        assert isinstance(self.signer.key, ec.EllipticCurvePrivateKey)
        self.key = self.signer.key
        self.foreign = material.generate("ES256")
        self.public = material.public_jwk(self.key, "ES256")
        self.stranger = material.public_jwk(self.foreign, "ES256")
        self.header = {"alg": "ES256", "kid": self.signer.kid, "typ": "at+jwt"}

    def _refresh_token(self, admin: Client, owner: Any) -> str:
        ok(admin.patch(f"/services/{self.first}", json={"refresh_allowed": True}))
        form = {"audience": self.first, "scope": f"{self.first}:read offline_access"}
        text: str = ok(owner.login().post("/auth/token", data=form))["refresh_token"]
        return text

    def head(self, **changes: Any) -> dict[str, Any]:
        return self._but(self.header, changes)

    def body(self, **changes: Any) -> dict[str, Any]:
        return self._but(self.claims, changes)

    @staticmethod
    def _but(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
        changed = {**base, **changes}
        return {name: value for name, value in changed.items() if value is not ...}

    def sign(self, head: str, body: str, key: Any = None, algorithm: str = "ES256") -> str:
        """A JWS over two parts as they are, by the right key unless told otherwise."""
        content = f"{head}.{body}"
        signature = SIGN[algorithm].sign(content.encode(), key or self.signer.key)
        return f"{content}.{b64(signature)}"

    def right(self, head: Any = None, body: Any = None) -> str:
        return self.sign(part(head or self.header), part(body or self.claims))


def forgeries(forge: Forge) -> dict[str, str]:
    """Every forgery, by what it tries."""
    by_name: dict[str, str] = {}
    good = forge.right()
    head, body, signature = good.split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    r, s = raw[:32], raw[32:]

    # 2.1, 3.1: the algorithm
    for word in NONE:
        by_name[f"none {word!r}"] = f"{part(forge.head(alg=word))}.{body}."
        by_name[f"none with a signature {word!r}"] = (
            f"{part(forge.head(alg=word))}.{body}.{signature}"
        )
    for value in (None, ["ES256"], {"ES256": 1}, 1, True, ...):
        by_name[f"alg {value!r}"] = forge.right(forge.head(alg=value))
    public_key = forge.key.public_key()
    pem = material.public_pem(forge.public).encode()
    secrets = {
        "pem": pem,
        "pem stripped": pem.strip(),
        "pem crlf": pem.replace(b"\n", b"\r\n"),
        "der": public_key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        "point": public_key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        ),
        "jwk": json.dumps(forge.public).encode(),
        "jwk compact": json.dumps(forge.public, separators=(",", ":")).encode(),
        "jwks": json.dumps({"keys": [forge.public]}, indent=1).encode() + b"\n",
        "x": forge.public["x"].encode(),
        "kid": forge.signer.kid.encode(),
        "empty": b"",
        "zero": b"\0" * 32,
    }
    for algorithm, digest in HASHES.items():
        for name, secret in secrets.items():
            content = f"{part(forge.head(alg=algorithm))}.{body}"
            mac = hmac.digest(secret, content.encode(), digest)
            by_name[f"{algorithm} with the {name}"] = f"{content}.{b64(mac)}"
    content = f"{part(forge.head(alg='ES384'))}.{body}"
    der = forge.key.sign(content.encode(), ec.ECDSA(hashes.SHA384()))
    by_name["ES384 by the right key"] = f"{content}.{b64(der)}"
    by_name["es256 in small letters"] = forge.right(forge.head(alg="es256"))
    for algorithm in ("RS256", "PS256", "EdDSA"):
        key = material.generate(algorithm)
        other = forge.head(alg=algorithm)
        by_name[f"{algorithm} by another key"] = forge.sign(part(other), body, key, algorithm)
        named = forge.head(alg=algorithm, kid=material.public_jwk(key, algorithm)["kid"])
        by_name[f"{algorithm} by its own kid"] = forge.sign(part(named), body, key, algorithm)

    # 2.2, 3.2: the signature
    number = int.from_bytes(s)
    weak: dict[str, bytes] = {
        "none": b"",
        "zeros": bytes(64),
        "r 0": bytes(32) + s,
        "s 0": r + bytes(32),
        "r s n": ORDER.to_bytes(32) * 2,
        "s negative": r + ((-number) % 2**256).to_bytes(32),
        "s plus n": r + ((number + ORDER) % 2**256).to_bytes(32),
        "half": r,
        "longer": raw + b"\0",
        "leading zero": b"\0" + raw,
        "padded halves": b"\0" + r + b"\0" + s,
        "der": SIGN_DER(forge, f"{head}.{body}"),
        "ones": (1).to_bytes(32) * 2,
    }
    for name, forged in weak.items():
        by_name[f"signature {name}"] = f"{head}.{body}.{b64(forged)}"
    by_name["claims changed"] = f"{head}.{part(forge.body(sub='admin'))}.{signature}"
    by_name["header changed"] = f"{part(forge.head(typ='AT+JWT'))}.{body}.{signature}"

    # 3.10, 3.5: keys that the token brings or tells of, and the kid
    brought = {
        "jwk": forge.stranger,
        "jku": forge.trap,
        "x5u": forge.trap,
        "x5c": [b64(b"certificate")],
        "x5t": b64(bytes(20)),
        "x5t#S256": b64(bytes(32)),
        "jwks": {"keys": [forge.stranger]},
        "iss": forge.trap,
        "url": forge.trap,
    }
    for name, own in brought.items():
        for kid in (forge.signer.kid, forge.stranger["kid"], ...):
            by = part(forge.head(kid=kid, **{name: own}))
            by_name[f"{name} {str(kid)[:9]}"] = forge.sign(by, body, forge.foreign)
        by_name[f"{name} by the right key"] = forge.right(forge.head(**{name: own}))
    kids: tuple[Any, ...] = (
        *("../../../../dev/null", "/dev/null", "x' OR '1'='1", "'; DROP TABLE account; --", ""),
        *("| sleep 9", forge.trap, "\u0000", forge.signer.kid.lower(), f" {forge.signer.kid}"),
        *(f"{forge.signer.kid}\u0000", f"{forge.signer.kid}.pem", "0", forge.stranger["kid"]),
        *(None, 0, -1, 1.5, True, [], [forge.signer.kid], {}, {"kid": forge.signer.kid}, ...),
    )
    for kid in kids:
        by_name[f"kid {kid!r}"[:60]] = forge.right(forge.head(kid=kid))
        by_name[f"kid {kid!r}"[:60] + " foreign"] = forge.sign(
            part(forge.head(kid=kid)), body, forge.foreign
        )
    by_name["another key under our kid"] = forge.sign(head, body, forge.foreign)

    # RFC 7515 section 4.1.11, RFC 7797
    for crit in (["x"], ["exp"], ["b64"], [], "x", None, ["alg"]):
        by_name[f"crit {crit!r}"] = forge.right(forge.head(crit=crit, x=1, b64=True))
    by_name["crit alone"] = forge.right(forge.head(crit=["exp"]))
    detached = json.dumps(forge.claims)
    unencoded = forge.head(b64=False, crit=["b64"])
    by_name["b64 false"] = forge.right(unencoded)
    by_name["b64 false, in the clear"] = forge.sign(part(unencoded), detached)
    by_name["b64 false without crit"] = forge.right(forge.head(b64=False))
    by_name["zip"] = forge.right(forge.head(zip="DEF"))
    by_name["cty"] = forge.right(forge.head(cty="JWT"))

    # 2.8, 3.11: other kinds
    for typ in (
        *("revocations+jwt", "checkpoint+jwt", "JWT", "jwt", "logout+jwt", "at+jwt ", "", "at"),
        *("application/at+jwt", "dpop+jwt", "refresh+jwt", "audit-checkpoint+jwt"),
        *(None, 1, ["at+jwt"], {"at+jwt": 1}, ...),
    ):
        by_name[f"typ {typ!r}"] = forge.right(forge.head(typ=typ))
    by_name["refresh token"] = forge.refresh
    by_name["nested"] = forge.sign(head, b64(json.dumps(good)))
    by_name["nested with cty"] = forge.sign(part(forge.head(cty="JWT")), b64(good))
    jwe = part({"alg": "dir", "enc": "A256GCM", "kid": forge.signer.kid})
    by_name["JWE"] = f"{jwe}..{b64(bytes(12))}.{body}.{b64(bytes(16))}"
    by_name["JSON serialization"] = json.dumps(
        {"payload": body, "signatures": [{"protected": head, "signature": signature}]}
    )

    # Written in another way
    doubled = json.dumps(forge.header)
    for name, text in (("alg", "none"), ("kid", forge.stranger["kid"]), ("typ", "x")):
        later = f'{doubled[:-1]},"{name}":"{text}"}}'
        by_name[f"{name} twice, bad last"] = forge.sign(b64(later), body)
        by_name[f"{name} twice, good last"] = forge.sign(
            b64(f'{{"{name}":"{text}",{doubled[1:]}'), body
        )
    by_name["same member twice"] = forge.sign(b64(f'{doubled[:-1]},"alg":"ES256"}}'), body)
    by_name["escaped member twice"] = forge.sign(b64(f'{doubled[:-1]},"\\u0061lg":"none"}}'), body)
    for name, text in {
        "array": "[]", "text": '"x"', "number": "1", "null": "null", "nothing": "",
        "deep": "[" * 2000, "no json": "{", "pairs": '[["alg","ES256"]]',
    }.items():  # fmt: skip
        by_name[f"header {name}"] = forge.sign(b64(text), body)
        by_name[f"claims {name}"] = forge.sign(head, b64(text))
    by_name["header utf-16"] = forge.sign(b64(doubled.encode("utf-16")), body)
    by_name["header latin-1"] = forge.sign(
        b64(b'{"alg":"ES256","kid":"\xe9","typ":"at+jwt"}'), body
    )
    by_name["padding"] = f"{good}=" if len(signature) % 4 == 3 else f"{good}=="
    by_name["padding in the middle"] = forge.sign(head + "=", body)
    for letter in ("=", "!", "+", "/", "%3D", "\u00a0", ","):
        by_name[f"{letter!r} after"] = f"{good}{letter}"
        by_name[f"{letter!r} within"] = f"{head}.{body[:5]}{letter}{body[5:]}.{signature}"
    by_name["space within"] = f"{head}.{body}. {signature}"
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    stray = letters[letters.index(signature[-1]) ^ 1]
    by_name["stray bits"] = f"{good[:-1]}{stray}"
    by_name["other alphabet"] = good.replace("-", "+").replace("_", "/") + "+"
    for dots in (f"{good}.", f".{good}", f"{good}.{signature}", f"{head}.{body}", head, ".", ".."):
        by_name[f"dots {dots[:3]}{dots.count('.')}{len(dots)}"] = dots
    by_name["long header"] = forge.right(forge.head(kid="k" * 5000))
    by_name["long claims"] = forge.right(body=forge.body(x="x" * 5000))

    # 3.8, 3.9, 3.10: the claims
    now = int(time.time())
    claims: list[dict[str, Any]] = [
        *claim("iss", (
            "", "x", f"{forge.server.url}/", forge.server.url.upper(), [forge.server.url],
            None, 1, forge.trap, ...)),
        *claim("aud", (
            "", "x", [], ["x"], None, 1, "Keyosk", {"keyosk": 1}, [["keyosk"]], [1], ...)),
        *claim("exp", (
            now - 1, 0, -1, "tomorrow", None, [], {}, "9" * 400, float("nan"), ...)),
        *claim("iat", (now + HOUR, "x", None, [], {}, ...)),
        *claim("nbf", (now + HOUR, "x", [], {})),
        *claim("sub", (None, 1, [], {}, "", "admin", "' OR 1=1 --", "\0", ...)),
        *claim("jti", (None, 1, [], ...)),
        *claim("amr", (None, [], ["x"], "pwd", [["pwd"]], [None], {}, ...)),
        *claim("scope", (None, 1, [], ["keyosk:admin"], {}, ...)),
        *claim("auth_time", (None, "x", [], {}, ...)),
        *claim("act", (1, "x", [])),
        *({**each, "amr": ["api_key"]}
          for each in claim("key_id", (None, 1, [], {}, "x", "\0", ...))),
    ]  # fmt: skip
    for change in claims:
        by_name[f"claims {change!r}"[:80]] = forge.right(body=forge.body(**change))
    return by_name


def claim(name: str, values: Iterable[Any]) -> list[dict[str, Any]]:
    """Changes of one claim to each of these values."""
    return [{name: value} for value in values]


def SIGN_DER(forge: Forge, content: str) -> bytes:  # noqa: N802  # beside SIGN
    signature: bytes = forge.key.sign(content.encode(), ec.ECDSA(hashes.SHA256()))
    return signature


@pytest.fixture(scope="module")
def trap() -> Iterator[socket.socket]:
    """A socket that nobody should ever connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture(scope="module")
def forge(server: LiveServer, admin: Client, trap: socket.socket) -> Iterator[Forge]:
    prepared = Forge(server, admin, trap.getsockname()[1])
    yield prepared
    prepared.installation.database.close()


def statuses(forge: Forge, text: str) -> dict[str, int]:
    """What each place that takes tokens makes of one; 200 where it is taken."""
    bearer = {"Authorization": f"Bearer {text}".encode()}
    anybody = forge.server.client()
    exchange = {
        "grant_type": EXCHANGE,
        "subject_token_type": ACCESS_TOKEN,
        "subject_token": text,
        "audience": forge.second,
    }
    seen = forge.owner.post("/auth/introspect", data={"token": text})
    return {
        "api": anybody.get("/accounts", headers=bearer).status_code,
        "forward": anybody.get("/auth/forward?service=keyosk", headers=bearer).status_code,
        "service": anybody.get(f"/auth/forward/{forge.first}", headers=bearer).status_code,
        "exchange": forge.backend.post("/auth/token", data=exchange).status_code,
        "introspect": 200 if seen.status_code == 200 and seen.json()["active"] else 401,
    }


def test_the_forge_can_make_tokens_that_pass(forge: Forge) -> None:
    assert set(statuses(forge, forge.right()).values()) == {200}
    assert set(statuses(forge, forge.right(forge.head(typ="AT+JWT"))).values()) == {200}


#: A service may have chosen this type: only Keyosk's own API refuses it.
PLAIN = ("typ 'JWT'", "typ 'jwt'")


@pytest.mark.slow
def test_no_forgery_passes_or_makes_keyosk_call_anybody(forge: Forge, trap: socket.socket) -> None:
    passed = {}
    texts = {name: text for name, text in forgeries(forge).items() if name != "refresh token"}
    assert len(texts) > 250
    for name, text in texts.items():
        if any(letter in text for letter in "\r\n\0"):
            continue
        taken = statuses(forge, text)
        assert max(taken.values()) < 500, (name, taken)
        if name in PLAIN:
            assert (taken["api"], taken["forward"]) == (401, 401)
        elif 200 in taken.values():
            passed[name] = taken
    # A list of audiences that has the right one is for it, whatever is beside.
    assert passed == {}
    with pytest.raises(BlockingIOError):
        trap.accept()


def test_a_refresh_token_is_no_bearer_token(forge: Forge) -> None:
    taken = statuses(forge, forge.refresh)
    assert taken.pop("introspect") == 200  # its owner asks, and it is one
    assert 200 not in taken.values()


@pytest.mark.slow
def test_no_protected_address_takes_a_forgery(forge: Forge) -> None:
    every = forgeries(forge)
    classes = (
        *("none 'none'", "HS256 with the pem", "another key under our kid", "crit alone"),
        *("jwk by the right key", "typ 'revocations+jwt'", "alg twice, good last", "nested"),
        *("signature zeros", "refresh token", "stray bits"),
    )
    asked = 0
    for route in ROUTES:
        path = route.path.replace("<", "").replace(">", "")
        for method, access in route.access.items():
            if access.anyone:
                continue
            for name in classes:
                headers = {"Authorization": f"Bearer {every[name]}"}
                response = forge.server.client().request(method, path, headers=headers)
                assert response.status_code == 401, (method, path, name)
                assert response.json()["code"] == "invalid_token"
                asked += 1
    assert asked > 300


def test_what_has_a_token_is_no_login(forge: Forge) -> None:
    headers = {"Authorization": f"Bearer {forge.right()}"}
    for path in ("/auth/token", "/auth/introspect", "/auth/revoke"):
        assert forge.server.client().post(path, headers=headers).status_code == 401


def test_the_twin_of_an_ecdsa_signature_is_the_same_token(
    server: LiveServer, forge: Forge, admin: Client
) -> None:
    """JWA allows s and n - s (RFC 7518 section 3.4); a revocation has to hit both."""
    person = make_person(admin)
    _, secret = make_key(admin, person)
    login = server.client(person.username, secret)
    text = ok(login.post("/auth/token", data={"audience": "keyosk"}))["access_token"]
    head, body, signature = text.split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    turned = raw[:32] + (ORDER - int.from_bytes(raw[32:])).to_bytes(32)
    twin = f"{head}.{body}.{b64(turned)}"
    assert twin != text

    def status(each: str) -> int:
        return Client(server.url, token=each).get("/accounts/me").status_code

    assert (status(text), status(twin)) == (200, 200)
    assert login.post("/auth/revoke", data={"token": twin}).status_code == 200
    assert (status(text), status(twin)) == (401, 401)


def test_no_check_of_a_token_opens_a_connection(forge: Forge) -> None:
    watched: list[str] = []
    on = False

    def watch(event: str, arguments: Any) -> None:
        if on and event in ("socket.connect", "socket.getaddrinfo", "urllib.Request", "open"):
            watched.append(f"{event} {arguments}")

    every = forgeries(forge)
    verify: Callable[..., Any] = forge.installation.tokens.verify
    verify(forge.right(), audience="keyosk")
    sys.addaudithook(watch)  # it cannot be taken away again: it listens for this test only
    try:
        forge.installation.signing_keys.refresh()
        verify(forge.right(), audience="keyosk")
        on = True
        for name, text in every.items():
            try:
                verify(text, audience="keyosk")
            except BadToken:
                continue
            # What is wrong with these, only the look at the account tells.
            assert name.startswith(("claims {'sub'", "claims {'key_id'", "claims {'jti'")), name
    finally:
        on = False
    assert watched == []
