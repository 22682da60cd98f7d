"""Deliberately bad tokens, to try with them whether a service checks what it must.

They are signed with a key that is made for the purpose, that no database and no published key set
ever has, and that is forgotten at once: no token of a kit opens anything but a service that was
given the kit's own key set.
"""

import base64
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from keyosk import keyring
from keyosk.ids import new_id
from keyosk.model import Service
from keyosk.permissions import TYPE
from keyosk.signing import Signer
from keyosk.tokens import sign_with_header

#: The one token that a service must accept, and the one that is bad only for who is told so.
GOOD: Final = "good"
REVOKED: Final = "revoked"
_LIFETIME: Final = 3_600  # longer than any clock is wrong
_CLIENT: Final = "keyosk-verify-service"
_OTHER_TYPE: Final = "revocations+jwt"  # which Keyosk signs with the same keys
_EXTENSION: Final = "urn:keyosk:no-such-extension"


@dataclass(frozen=True, slots=True)
class Probe:
    """One token of a kit; ``about`` says what is wrong with it, ``good`` that nothing is."""

    name: str
    about: str
    text: str = field(repr=False)

    @property
    def good(self) -> bool:
        """Whether a service must accept it."""
        return self.name == GOOD


@dataclass(frozen=True, slots=True)
class Kit:
    """Tokens for one service, and what it would have to fetch to check them.

    ``key_set``: the JWK set (RFC 7517) of the good token. ``foreign_key_set``: that of an attacker,
    to which ``jku`` points. ``revocations``: as ``/auth/revocations`` has them.
    """

    issuer: str
    probes: tuple[Probe, ...]
    key_set: Mapping[str, Any]
    foreign_key_set: Mapping[str, Any]
    revocations: Mapping[str, Any]


def make(service: Service, *, issuer: str, algorithm: str, jku: str, now: int) -> Kit:
    """A kit for a service.

    ``algorithm``: what its tokens are signed with unless it says otherwise; ``jku``: the address at
    which an attacker would offer keys.
    """
    forge = _Forge(service, issuer, service.terms.signing_algorithm or algorithm, jku, now)
    probes = tuple(Probe(name, about, text) for name, about, text in forge.tokens())
    return Kit(
        issuer=issuer,
        probes=probes,
        key_set={"keys": [forge.public]},
        foreign_key_set={"keys": [forge.foreign_public]},
        revocations={
            "sequence": 1,
            "since": 0,
            "entries": [{"jti": forge.revoked_id, "expires": now + _LIFETIME}],
        },
    )


class _Forge:
    def __init__(self, service: Service, issuer: str, algorithm: str, jku: str, now: int) -> None:
        self._signer, self.public = _new_key(algorithm)
        self._foreign, self.foreign_public = _new_key(algorithm)
        self._jku = jku
        self._now = now
        self.revoked_id = new_id()
        self._header = {
            "alg": algorithm,
            "kid": self._signer.kid,
            "typ": service.terms.typ or TYPE,
        }
        self._claims = {
            "iss": issuer,
            "sub": new_id(),
            "aud": service.terms.audience,
            "client_id": _CLIENT,
            "preferred_username": _CLIENT,
            "scope": " ".join(scope.name for scope in service.scopes),
            "iat": now,
            "exp": now + _LIFETIME,
            "auth_time": now,
            "amr": ["pwd"],
        }

    def tokens(self) -> Iterator[tuple[str, str, str]]:
        """Each with its name and what is wrong with it; what only some services can know, last."""
        now = self._now
        good = self._token()
        yield GOOD, "nothing is wrong with it", good
        yield (
            "expired",
            "it expired an hour ago",
            self._token(iat=now - 2 * _LIFETIME, exp=now - _LIFETIME),
        )
        yield (
            "future",
            "its iat and nbf are an hour ahead",
            self._token(iat=now + _LIFETIME, nbf=now + _LIFETIME, exp=now + 2 * _LIFETIME),
        )
        yield "missing_exp", "it has no exp", self._token(exp=None)
        yield (
            "wrong_audience",
            "it is for another service",
            self._token(aud=f"not-{self._claims['aud']}"),
        )
        yield "wrong_issuer", "another one issued it", self._token(iss="https://issuer.invalid")
        yield "wrong_typ", "it is a document of another type", self._token({"typ": _OTHER_TYPE})
        yield (
            "unknown_crit",
            "its crit names an extension that nobody knows",
            self._token({"crit": [_EXTENSION], _EXTENSION: True}),
        )
        yield "alg_none", "it says alg none and has no signature", self._unsigned("none")
        yield "hs256_public_key", "it is an HMAC with the public key as the secret", self._hmac()
        yield (
            "unknown_kid",
            "its kid is in no key set",
            self._token({"kid": self._foreign.kid}, signer=self._foreign),
        )
        yield (
            "foreign_key",
            "another key signed it, under a kid of the set",
            self._token(signer=self._foreign),
        )
        yield (
            "embedded_jwk",
            "it brings its own key in jwk",
            self._token(
                {"kid": self._foreign.kid, "jwk": self.foreign_public}, signer=self._foreign
            ),
        )
        yield (
            "jku",
            "it says where its key is in jku",
            self._token({"kid": self._foreign.kid, "jku": self._jku}, signer=self._foreign),
        )
        head, _, signature = good.split(".")
        payload = _encoded({**self._claims, "sub": new_id(), "jti": new_id()})
        yield "tampered_payload", "its claims were changed", f"{head}.{payload}.{signature}"
        middle = len(good) - len(signature) // 2
        other = "B" if good[middle] == "A" else "A"
        changed = f"{good[:middle]}{other}{good[middle + 1 :]}"
        yield "tampered_signature", "its signature was changed", changed
        yield REVOKED, "it was revoked", self._token(jti=self.revoked_id)

    def _token(
        self,
        header: Mapping[str, Any] | None = None,
        *,
        signer: Signer | None = None,
        **claims: Any,
    ) -> str:
        """A token with these parts of the header and these claims changed; ``None`` takes away."""
        changed = {**self._claims, "jti": new_id(), **claims}
        return sign_with_header(
            signer or self._signer,
            {name: value for name, value in changed.items() if value is not None},
            {**self._header, **(header or {})},
        )

    def _unsigned(self, algorithm: str) -> str:
        header = _encoded({**self._header, "alg": algorithm})
        return f"{header}.{_encoded({**self._claims, 'jti': new_id()})}."

    def _hmac(self) -> str:
        content = self._unsigned("HS256").removesuffix(".")
        secret = keyring.public_pem(self.public).encode()
        return f"{content}.{_base64url(hmac.digest(secret, content.encode(), 'sha256'))}"


def _new_key(algorithm: str) -> tuple[Signer, dict[str, str]]:
    key = keyring.generate(algorithm)
    public = keyring.public_jwk(key, algorithm)
    return Signer(public["kid"], algorithm, key), public


def _encoded(part: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(part, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
