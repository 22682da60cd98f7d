"""A stand-in for Keyosk in the tests of a service: no server, no network.

::

    def test_todos(client):
        with FakeKeyosk("https://login.example", audience="todo") as keyosk:
            token = keyosk.token(scopes=["todo:read"])
            assert client.get("/todos", headers=keyosk.header(token)).status_code == 200

Inside the block every verifier and token source of this issuer talks to it. Its keys are made anew
each time, so nothing else accepts its tokens. pytest users get a fixture: put
``pytest_plugins = ["keyosk_client.pytest_plugin"]`` into ``conftest.py``.
"""

import json
import sys
import time
import uuid
from collections.abc import Iterable
from typing import Any, Final

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from keyosk_client import http, token_source, verifier

_ALGORITHM: Final = "ES256"
_LIFETIME: Final = 900
#: One of these is loaded wherever tests run.
_TEST_RUNNERS: Final = ("pytest", "unittest", "nose2", "ward")


class FakeKeyosk:
    """An issuer inside this process."""

    def __init__(self, issuer: str, audience: str, *, outside_tests: bool = False) -> None:
        """Stand in for an issuer, once entered.

        ``outside_tests``: allow it where no test runner is loaded. Raises ``RuntimeError`` there,
        because whoever may make tokens may do anything.
        """
        if not outside_tests and not any(name in sys.modules for name in _TEST_RUNNERS):
            raise RuntimeError("FakeKeyosk is for tests only: no test runner is loaded.")
        self.issuer = issuer
        self.audience = audience
        self.available = True
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._kid = uuid.uuid4().hex
        self._revoked: list[dict[str, Any]] = []

    def __enter__(self) -> "FakeKeyosk":
        http.transports[self.issuer] = httpx.MockTransport(self._respond)
        self._begin_anew()
        return self

    def __exit__(self, *_: object) -> None:
        del http.transports[self.issuer]
        self._begin_anew()

    def token(
        self,
        *,
        scopes: Iterable[str] = (),
        subject: str = "00000000-0000-7000-8000-000000000001",
        username: str = "alice",
        lifetime: int = _LIFETIME,
        **claims: Any,
    ) -> str:
        """Return a signed token; other ``claims`` are added or replace those it has."""
        now = int(time.time())
        every = {
            "iss": self.issuer,
            "sub": subject,
            "aud": self.audience,
            "client_id": username,
            "preferred_username": username,
            "scope": " ".join(scopes),
            "iat": now,
            "exp": now + lifetime,
            "auth_time": now,
            "amr": ["api_key"],
            "jti": str(uuid.uuid4()),
            **claims,
        }
        header = {"kid": self._kid, "typ": "at+jwt"}
        return jwt.encode(every, self._key, _ALGORITHM, headers=header)

    @staticmethod
    def header(token: str) -> dict[str, str]:
        """Return the ``Authorization`` header for a token."""
        return {"Authorization": f"Bearer {token}"}

    def revoke(self, token: str) -> None:
        """Revoke a token; verifiers that follow revocations know it at once."""
        claims = jwt.decode(token, options={"verify_signature": False})
        self._revoked.append({"jti": claims["jti"], "expires": claims["exp"]})
        verifier.reset(self.issuer)

    def _begin_anew(self) -> None:
        verifier.reset(self.issuer)
        token_source.reset(self.issuer)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        if not self.available:
            raise httpx.ConnectError("FakeKeyosk is not available", request=request)
        path = request.url.path
        if path.endswith("/.well-known/openid-configuration"):
            body: dict[str, Any] = {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/.well-known/jwks.json",
                "revocations_endpoint": f"{self.issuer}/auth/revocations",
                "token_endpoint": f"{self.issuer}/auth/token",
            }
        elif path.endswith("/.well-known/jwks.json"):
            public = json.loads(ECAlgorithm.to_jwk(self._key.public_key()))
            body = {"keys": [{**public, "kid": self._kid, "alg": _ALGORITHM, "use": "sig"}]}
        elif path.endswith("/auth/revocations"):
            body = {"sequence": len(self._revoked), "since": 0, "entries": self._revoked}
        elif path.endswith("/auth/token"):
            form = dict(httpx.QueryParams(request.content.decode()))
            scope = form.get("scope", "")
            token = self.token(scopes=scope.split(), aud=form.get("audience", self.audience))
            body = {"access_token": token, "token_type": "Bearer", "expires_in": _LIFETIME}
        else:
            return httpx.Response(404, json={"code": "not_found"})
        return httpx.Response(200, json=body)
