"""A platform that signs tokens for its workloads: a real HTTP server with metadata and keys."""

import base64
import json
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

AUDIENCE = "https://keyosk.example.com"
KEYS = "/keys"
METADATA = "/.well-known/openid-configuration"


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def generate(algorithm: str, *, bits: int = 2048) -> Any:
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    if algorithm in curves:
        return ec.generate_private_key(curves[algorithm])
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def jwk_of(key: Any, algorithm: str) -> dict[str, Any]:
    jwk: dict[str, Any] = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
    return jwk


#: By algorithm, the keys of platforms that have ended: an RSA key costs more than all else here.
_SPARE_KEYS: defaultdict[str, list[Any]] = defaultdict(list)


class Platform:
    """One issuer with its keys.

    ``answers``: by path, what it answers instead of what it should. ``certificate``: that of an
    HTTPS server, and its key.
    """

    def __init__(
        self, *, algorithm: str = "RS256", certificate: tuple[Path, Path] | None = None
    ) -> None:
        self.algorithm, self._certificate = algorithm, certificate
        spare = _SPARE_KEYS[algorithm]
        self.key, self.kid = spare.pop() if spare else generate(algorithm), "key-1"
        self._first = (algorithm, self.key)
        self.keys: list[dict[str, Any]] = [self.jwk()]
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.cache_control = "max-age=600"
        self.issuer = "urn:a platform that was not started"

    def jwk(self, **members: Any) -> dict[str, Any]:
        own = {"kid": self.kid, "use": "sig", "alg": self.algorithm}
        return {**jwk_of(self.key, self.algorithm), **own, **members}

    def rotate(self, kid: str) -> None:
        """Sign with a new key, and publish no other."""
        self.key, self.kid = generate(self.algorithm), kid
        self.keys = [self.jwk()]

    def claims(self, **claims: Any) -> dict[str, Any]:
        """The claims of a job's token, ``None`` leaves one out."""
        now = int(time.time())
        usual = {
            "iss": self.issuer,
            "sub": "repo:acme/shop:ref:refs/heads/main",
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 300,
            "jti": str(uuid4()),
            "repository": "acme/shop",
            "repository_id": "842913401",
            "ref": "refs/heads/main",
        }
        return {name: value for name, value in {**usual, **claims}.items() if value is not None}

    def token(self, headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token that the platform signed."""
        return self.signed(self.claims(**claims), headers)

    def signed(self, claims: Mapping[str, Any], headers: Mapping[str, Any] | None = None) -> str:
        return jwt.encode(
            dict(claims),
            self.key,
            algorithm=self.algorithm,
            headers={"kid": self.kid, **(headers or {})},
        )

    def raw(self, payload: bytes, header: bytes | None = None) -> str:
        """A token of this very text, rightly signed."""
        usual = json.dumps({"alg": self.algorithm, "typ": "JWT", "kid": self.kid}).encode()
        content = f"{base64url(header or usual)}.{base64url(payload)}"
        signer = get_default_algorithms()[self.algorithm]
        return f"{content}.{base64url(signer.sign(content.encode(), self.key))}"

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        # With a path of its own: a port may be that of another test before.
        self._path = f"/{uuid4()}"
        scheme = "http"
        if self._certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.issuer = f"{scheme}://127.0.0.1:{self._server.server_port}{self._path}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        algorithm, key = self._first
        _SPARE_KEYS[algorithm].append(key)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        platform = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.removeprefix(platform._path)
                platform.asked.append(path)
                if path in platform.answers:
                    platform.answers[path](self)
                elif path == METADATA:
                    body = {"issuer": platform.issuer, "jwks_uri": platform.issuer + KEYS}
                    send(self, json.dumps(body).encode())
                elif path == KEYS:
                    headers = {"Cache-Control": platform.cache_control}
                    send(self, json.dumps({"keys": platform.keys}).encode(), headers=headers)
                else:
                    send(self, b"", status=404)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def send(
    handler: BaseHTTPRequestHandler,
    body: bytes,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def platform(**options: Any) -> Iterator[Platform]:
    """A platform that runs."""
    fake = Platform(**options)
    fake.start()
    try:
        yield fake
    finally:
        fake.stop()
