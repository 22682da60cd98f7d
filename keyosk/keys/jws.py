"""JSON Web Signatures in compact form (RFC 7515), made with PyJWT's algorithms.

``jwt.encode`` does the same and builds its header, its encoder and its checks anew for every token,
which costs more than the signature.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import jwt
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.utils import base64url_encode

from keyosk.errors import BadToken
from keyosk.keys import material, strict_jws
from keyosk.keys.hsm import HsmKey
from keyosk.keys.key_set import Signer
from keyosk.keys.signing_keys import SigningKeys

#: Characters: servers cut headers at 8 KiB, and a token is not alone in there.
LONGEST: Final = 6_144

#: As long as every other (RFC 7638, SHA-256).
_A_KID: Final = "x" * 43
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class _MlDsa(Algorithm):
    """ML-DSA (RFC 9964): the key object knows its parameters, the signature is taken as it is."""

    def prepare_key(self, key: Any) -> Any:
        return key

    def sign(self, msg: bytes, key: Any) -> bytes:
        return bytes(key.sign(msg))

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        return material.is_signed(key, sig, msg)

    # PyJWT's interface has these two as well; ``material`` reads and writes JWKs here.
    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        raise NotImplementedError

    @staticmethod
    def from_jwk(jwk: Any) -> Any:
        raise NotImplementedError


#: By their JOSE names; each has ``sign(content, key)``.
ALGORITHMS: Final[Mapping[str, Any]] = {
    **get_default_algorithms(),
    **{name: _MlDsa() for name in material.OWN_SET_ALGORITHMS},
}
for _name in material.OWN_SET_ALGORITHMS:
    jwt.register_algorithm(_name, ALGORITHMS[_name])


def signed(
    signer: Signer, claims: Mapping[str, Any], typ: str, *, for_registry_2: bool = False
) -> str:
    """A compact JWS (RFC 7515 section 3.1) over ``claims``.

    ``for_registry_2``: with the ``kid`` that a container registry of version 2 knows the key by.
    """
    kid = material.libtrust_id(signer.public) if for_registry_2 else signer.kid
    content = _content(signer, claims, typ, kid=kid)
    return (content + b"." + base64url_encode(_signature(signer, content))).decode("ascii")


@dataclass(frozen=True, slots=True)
class Verified:
    """What a JWS says whose signature and claims were verified."""

    kid: str
    typ: str
    claims: dict[str, Any]


def read(
    keys: SigningKeys, text: str, *, typ: Sequence[str], published: bool = True, **checks: Any
) -> Verified:
    """Verify a JWS that one of our keys signed, of one of the types ``typ``.

    Args:
        keys: Those that may have signed it.
        text: The JWS in compact form.
        typ: The values of its ``typ`` that are accepted, in any case.
        published: Accept a key only while it is in the set; else any that there ever was.
        **checks: Of the claims, as ``jwt.decode`` takes them.

    Raises:
        BadToken: It tells of a token of ours if it has expired or is for another audience.
    """
    try:
        header = strict_jws.header_of(text, longest=LONGEST)
        verifier = keys.verifier(header["kid"], published=published)
        # SECURITY: a revocation document or another kind of JWT is no access token.
        if verifier is None or header["typ"].lower() not in map(str.lower, typ):
            raise BadToken("The token is not valid.")
        claims: dict[str, Any] = jwt.decode(
            text, cast(Any, verifier.key), algorithms=[verifier.algorithm], **checks
        )
    # SECURITY: these two are found only after the signature was: it is a token of ours, and who
    # holds it may be told what its claims say anyhow. Of any other nothing is said.
    except jwt.ExpiredSignatureError:
        raise BadToken("The token has expired.") from None
    except jwt.InvalidAudienceError:
        raise BadToken(_foreign(checks.get("audience"))) from None
    except (jwt.PyJWTError, LookupError, TypeError, ValueError, RecursionError):
        raise BadToken("The token is not valid.") from None
    return Verified(header["kid"], header["typ"], claims)


def _foreign(audience: str | None) -> str:
    """What to say of a token for another audience, in the characters of RFC 6750 section 3."""
    if audience is None or '"' in audience or "\\" in audience:
        return "The token is for another audience."
    return f"The token is for another audience. Ask for one with audience={audience}."


def length(signer: Signer, claims: Mapping[str, Any], typ: str) -> int:
    """How many characters ``signed`` would have; nothing is signed but nothing."""
    if isinstance(signer.key, HsmKey):  # it was made here, so its length is known
        return expected_length(signer.algorithm, claims, typ)
    signature = _signature(signer, b"")
    return len(_content(signer, claims, typ, kid=signer.kid)) + 1 + len(base64url_encode(signature))


def expected_length(algorithm: str, claims: Mapping[str, Any], typ: str) -> int:
    """As ``length``, with a key that is not made yet."""
    payload = base64url_encode(_encode(claims).encode())
    signature = base64url_encode(bytes(material.SIGNATURE_BYTES[algorithm]))
    return len(_header(algorithm, _A_KID, typ)) + len(payload) + 1 + len(signature)


def _signature(signer: Signer, content: bytes) -> bytes:
    if isinstance(signer.key, HsmKey):
        return signer.key.sign(content)
    signature: bytes = ALGORITHMS[signer.algorithm].sign(content, signer.key)
    return signature


def _content(signer: Signer, claims: Mapping[str, Any], typ: str, *, kid: str) -> bytes:
    payload = base64url_encode(_encode(claims).encode())
    return _header(signer.algorithm, kid, typ) + payload


@lru_cache(maxsize=64)
def _header(algorithm: str, kid: str, typ: str) -> bytes:
    header = {"alg": algorithm, "kid": kid, "typ": typ}
    return base64url_encode(_encode(header).encode()) + b"."
