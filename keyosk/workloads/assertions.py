"""Parses and verifies tokens of other issuers (RFC 7519, RFC 7523 section 3, RFC 8725).

PyJWT's algorithms verify the signature. Everything else is checked here, strictly: one text per
token, asymmetric algorithms that the issuer is known to use, a key that fits the algorithm, and
claims of the right type.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import jwt
from jwt.algorithms import get_default_algorithms

from keyosk import clocks, strict_json
from keyosk.errors import InvalidGrant
from keyosk.keys import strict_jws
from keyosk.keys.jws import Remembered
from keyosk.model import FOREIGN_ALGORITHMS, TrustedIssuer

#: Characters. Tokens of Kubernetes with many audiences and of Azure with many groups reach 4 KiB.
LONGEST: Final = 16_384
_DEEPEST: Final = 16
_LATEST: Final = 2**53
_MOST_KEYS: Final = 50
_PARSED_KEYS: Final = 100  # that a process keeps
#: Seconds by which a platform's clock may be ahead of ours.
_SKEW: Final = 30
#: The minimum of RFC 7518 section 3.3; the maximum limits the work, which anyone can cause.
_SHORTEST_RSA_BITS: Final = 2048
_LONGEST_RSA_BITS: Final = 8192
#: The ``typ`` values of tokens that prove an identity, which access tokens are not (RFC 9068
#: section 2.1, RFC 8725 section 3.11).
_TYPES: Final = ("", "jwt", "jose")
#: The ``use`` of keys that verify tokens; the second in a SPIFFE bundle (JWT-SVID section 6).
_USES: Final = ("sig", "jwt-svid")
#: By algorithm: the type and curve of its keys.
_KEYS: Final[Mapping[str, tuple[str, str | None]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", None)),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
_ALGORITHMS: Final = {
    name: each for name, each in get_default_algorithms().items() if name in FOREIGN_ALGORITHMS
}
_remembered: Final = Remembered(4_096)


@dataclass(frozen=True, slots=True)
class Assertion:
    """A parsed token, which is not verified yet."""

    text: str = field(repr=False)
    header: Mapping[str, Any]
    claims: Mapping[str, Any]
    signature: bytes = field(repr=False)

    @property
    def kid(self) -> str | None:
        """The id of the key that signed it, as its header says."""
        kid = self.header.get("kid")
        return kid if isinstance(kid, str) else None

    @property
    def issuer(self) -> str:
        """Its ``iss``."""
        return str(self.claims["iss"])

    @property
    def audiences(self) -> tuple[str, ...]:
        """Its ``aud``, which may be one or several."""
        audience = self.claims["aud"]
        return (audience,) if isinstance(audience, str) else tuple(audience)

    @property
    def subject(self) -> str:
        """Its ``sub``."""
        return str(self.claims["sub"])

    @property
    def expires_at(self) -> int:
        """Its ``exp``, in whole seconds."""
        return int(self.claims["exp"])

    @property
    def id(self) -> str | None:
        """Its ``jti``, if it has one."""
        jti = self.claims.get("jti")
        return jti if isinstance(jti, str) and jti else None


def read(text: str) -> Assertion:
    """Return a token with claims of the right types. Raises ``InvalidGrant``."""
    try:
        first, payload, signature = strict_jws.parts(text, longest=LONGEST)
        header, claims = _object(first), _object(payload)
    except (ValueError, RecursionError):
        raise InvalidGrant("This is not a JWT in compact form.") from None
    if not _is_header(header) or not _are_claims(claims):
        raise InvalidGrant(
            "The token lacks one of iss, sub, aud and exp, or has it or another claim in a form "
            "that is not accepted."
        )
    return Assertion(text, header, claims, signature)


def is_signed(assertion: Assertion, keys: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether one of these keys, which may have signed a token, did."""
    return any(_is_signed(assertion, key) for key in keys)


def check_times(assertion: Assertion, issuer: TrustedIssuer, *, now: float) -> None:
    """Check the times of a token. Raises ``InvalidGrant``."""
    claims = assertion.claims
    issued = claims.get("iat", claims.get("nbf", now))
    if assertion.expires_at <= now:
        raise InvalidGrant("The token has expired.")
    if any(
        clocks.is_ahead(int(claims.get(name, 0)), now, planned=_SKEW) for name in ("iat", "nbf")
    ):
        raise InvalidGrant("The token is not valid yet.")
    if assertion.expires_at - issued > issuer.max_lifetime:
        raise InvalidGrant(
            f"The token lives longer than the {issuer.max_lifetime} seconds that are accepted."
        )


def candidates(
    assertion: Assertion, issuer: TrustedIssuer, keys: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the keys that may have signed a token. Raises ``InvalidGrant``.

    SECURITY: ``kid`` chooses only among the issuer's own keys. Other members of the header about
    keys (``jwk``, ``jku``, ``x5c``, ``x5u``) are ignored.
    """
    algorithm = assertion.header["alg"]
    if algorithm not in issuer.algorithms or algorithm not in _ALGORITHMS:
        raise InvalidGrant("The token is signed with an algorithm that is not accepted.")
    fitting = [key for key in keys if _is_for(key, algorithm)]
    if assertion.kid is not None:
        return [key for key in fitting if key.get("kid") == assertion.kid]
    return fitting if len(fitting) == 1 else []


def parse_keys(document: Any) -> list[Mapping[str, Any]]:
    """Return the keys of a JWK set (RFC 7517 section 5) that can verify tokens.

    Keys of other kinds are left out, as section 5 requires. Raises ``ValueError`` if it is not a
    set, or nothing in it can verify tokens.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("this is not a JWK set")
    if len(listed) > _MOST_KEYS:
        raise ValueError(f"the set has more than {_MOST_KEYS} keys")
    usable: list[Mapping[str, Any]] = [
        key
        for key in listed
        if isinstance(key, dict) and any(_is_for(key, algorithm) for algorithm in _KEYS)
    ]
    if not usable:
        raise ValueError("no key of the set can verify tokens")
    return usable


def _is_for(key: Mapping[str, Any], algorithm: str) -> bool:
    """Return whether a JWK is a public key for an algorithm (RFC 7517 section 4)."""
    kty, curve = _KEYS[algorithm]
    uses = key.get("key_ops", ["verify"])
    return (
        key.get("kty") == kty
        and (curve is None or key.get("crv") == curve)
        and key.get("use", "sig") in _USES
        and key.get("alg", algorithm) == algorithm
        and isinstance(uses, list)
        and "verify" in uses
        and not is_private(key)
    )


def is_private(key: Mapping[str, Any]) -> bool:
    """Return whether a JWK has private or symmetric members (RFC 7518 section 6)."""
    return bool({"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & key.keys())


def _is_signed(assertion: Assertion, key: Mapping[str, Any]) -> bool:
    """Return whether this key signed a token; cached, because proxies show a token repeatedly."""
    jwk = json.dumps(key, sort_keys=True)
    digest = sha256(f"{jwk} {assertion.text}".encode()).digest()
    if digest in _remembered:
        return True
    is_right = _verifies(assertion, jwk)
    if is_right:
        _remembered.add(digest)
    return is_right


def _verifies(assertion: Assertion, jwk: str) -> bool:
    algorithm = assertion.header["alg"]
    public = _public_key(jwk, algorithm)
    if public is None:
        return False
    content = assertion.text.rpartition(".")[0].encode()
    return bool(_ALGORITHMS[algorithm].verify(content, public, assertion.signature))


@lru_cache(_PARSED_KEYS)
def _public_key(jwk: str, algorithm: str) -> Any:
    """Return the public key in the JSON of a JWK; ``None`` if it cannot be used.

    Kept, as the verification itself takes half as long as to make one.
    """
    try:
        public = jwt.PyJWK(json.loads(jwk), algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if _KEYS[algorithm][0] == "RSA" and not (
        _SHORTEST_RSA_BITS <= public.key_size <= _LONGEST_RSA_BITS
    ):
        return None
    return public


def _object(part: bytes) -> dict[str, Any]:
    """Return a JSON object without duplicate members. Raises ``ValueError``."""
    document = strict_json.parse(part.decode())
    if type(document) is not dict or _depth(document) > _DEEPEST:
        raise ValueError
    # SECURITY: lone surrogates, NaN and the infinities are not I-JSON (RFC 7493 section 2):
    # a database, an audit row or a log could not store them.
    json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    return document


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(_depth, value), default=0)
    return 0


def _is_header(header: Mapping[str, Any]) -> bool:
    typ = header.get("typ", "")
    return (
        isinstance(header.get("alg"), str)
        and isinstance(typ, str)
        and typ.lower() in _TYPES
        and isinstance(header.get("kid", ""), str)
        # Critical extensions (RFC 7515 section 4.1.11) are not supported.
        and not {"crit", "b64", "zip"} & header.keys()
    )


def _are_claims(claims: Mapping[str, Any]) -> bool:
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    return (
        all(_is_text(claims.get(name)) for name in ("iss", "sub"))
        and isinstance(audiences, list)
        and bool(audiences)
        and all(map(_is_text, audiences))
        and _is_moment(claims.get("exp"))
        and all(name not in claims or _is_moment(claims[name]) for name in ("iat", "nbf"))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _is_moment(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < _LATEST
