"""An issuer in memory, whose keys tests can use to forge tokens."""

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keyosk_client import http, token_source, verifier

ISSUER = "https://login.example"
AUDIENCE = "todo"
KID = "k" * 43


def generate(algorithm: str) -> Any:
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 2048)


def public_jwk(private: Any, algorithm: str, kid: str = KID) -> dict[str, Any]:
    text = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key())
    return {**json.loads(text), "kid": kid, "alg": algorithm, "use": "sig"}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value: object) -> str:
    return b64(json.dumps(value).encode())


class Issuer:
    """Documents that a test may change, and the requests for them."""

    def __init__(self, algorithm: str = "ES256") -> None:
        self.algorithm = algorithm
        self.key = generate(algorithm)
        self.keys = [public_jwk(self.key, algorithm)]
        self.entries: list[dict[str, Any]] = []
        self.sequence = 1
        self.cache_control = "public, max-age=300"
        self.metadata: dict[str, Any] = {
            "issuer": ISSUER,
            "jwks_uri": f"{ISSUER}/.well-known/jwks.json",
            "revocations_endpoint": f"{ISSUER}/auth/revocations",
        }
        self.date: str | None = None  # of a response with revocations
        self.away: set[str] = set()  # what cannot be reached, by the end of its path
        self.token_responses: list[httpx.Response] = []
        self.requests: list[httpx.Request] = []

    def count(self, path: str) -> int:
        return Counter(request.url.path for request in self.requests)[path]

    @property
    def key_fetches(self) -> int:
        return self.count("/.well-known/jwks.json")

    @property
    def polls(self) -> int:
        return self.count("/auth/revocations")

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": "00000000-0000-7000-8000-000000000001",
            "aud": AUDIENCE,
            "client_id": "alice",
            "preferred_username": "alice",
            "scope": "todo:read todo:write",
            "iat": now,
            "exp": now + 900,
            "jti": "00000000-0000-7000-8000-000000000002",
            "key_id": "00000000-0000-7000-8000-000000000003",
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def header(self, **changes: Any) -> dict[str, Any]:
        header = {"alg": self.algorithm, "kid": KID, "typ": "at+jwt", **changes}
        return {name: value for name, value in header.items() if value is not None}

    def token(self, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
        return self.signed(part(header or self.header()), part(self.claims(**changes)))

    def signed(self, header: str, payload: str) -> str:
        content = f"{header}.{payload}"
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        return f"{content}.{b64(algorithm.sign(content.encode(), self.key))}"

    def respond(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path
        if any(path.endswith(each) for each in self.away):
            raise httpx.ConnectError("away", request=request)
        if path == "/.well-known/openid-configuration":
            return httpx.Response(200, json=self.metadata)
        if path == "/.well-known/jwks.json":
            headers = {"Cache-Control": self.cache_control}
            return httpx.Response(200, json={"keys": self.keys}, headers=headers)
        if path == "/auth/revocations":
            since = int(request.url.params["since"])
            tag = f'"{self.sequence}-{since}"'
            headers = {"ETag": tag} | ({} if self.date is None else {"Date": self.date})
            if request.headers.get("If-None-Match") == tag:
                return httpx.Response(304, headers=headers)
            entries = [] if since == self.sequence else self.entries
            document = {
                "sequence": self.sequence,
                "since": since if since == self.sequence else 0,
                "entries": entries,
            }
            return httpx.Response(200, json=document, headers=headers)
        if path == "/auth/token":
            return self.token_responses.pop(0)
        return httpx.Response(404)


@contextmanager
def issuer(algorithm: str = "ES256") -> Iterator[Issuer]:
    fake = Issuer(algorithm)
    http.transports[ISSUER] = httpx.MockTransport(fake.respond)
    try:
        yield fake
    finally:
        del http.transports[ISSUER]
        verifier.reset(ISSUER)
        token_source.reset(ISSUER)
