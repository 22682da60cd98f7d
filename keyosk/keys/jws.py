"""JSON Web Signatures in compact form (RFC 7515), made and verified with PyJWT's algorithms.

``jwt.encode`` does the same, but builds its header, encoder and checks again for every token, which
costs more than the signature. ``jwt.decode`` checks each character of a token, which costs as much
as the signature and which ``strict_jws`` has done already.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import jwt
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.utils import base64url_encode

from keyosk.errors import BadToken
from keyosk.keys import material, strict_jws
from keyosk.keys.hsm import HsmKey
from keyosk.keys.key_set import Signer, Verifier
from keyosk.keys.signing_keys import SigningKeys
from keyosk.model import OWN_SET_ALGORITHMS

#: Characters: servers limit headers to 8 KiB, and a token is not their only content.
LONGEST: Final = 6_144

#: The number of valid signatures that are remembered: 0.4 MiB.
_MOST_REMEMBERED: Final = 2_048
#: Stands for a real ``kid``, which has the same length (RFC 7638, SHA-256).
_A_KID: Final = "x" * 43
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class _MlDsa(Algorithm):
    """ML-DSA (RFC 9964). The key object knows its parameters; the signature is used unchanged."""

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
    **{name: _MlDsa() for name in OWN_SET_ALGORITHMS},
}
for _name in OWN_SET_ALGORITHMS:
    jwt.register_algorithm(_name, ALGORITHMS[_name])


def signed(
    signer: Signer, claims: Mapping[str, Any], typ: str, *, for_registry_2: bool = False
) -> str:
    """Sign ``claims`` as a compact JWS (RFC 7515 section 3.1).

    ``for_registry_2``: with the ``kid`` that version 2 of the container registry uses for the key.
    """
    kid = material.libtrust_id(signer.public) if for_registry_2 else signer.kid
    content = _content(signer, claims, typ, kid=kid)
    return (content + b"." + base64url_encode(_signature(signer, content))).decode("ascii")


@dataclass(frozen=True, slots=True)
class Verified:
    """The header and claims of a JWS whose signature was verified."""

    kid: str
    typ: str
    claims: dict[str, Any]


class Remembered:
    """A cache of valid signatures, as digests of token and key.

    A caller shows the same token until it expires, and verifying the signature takes longer than
    all other checks. SECURITY: only valid signatures are kept, under a digest of all bytes of the
    token and of the key. Whether the key is still accepted, and the claims, are checked each time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._digests: dict[bytes, None] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._digests

    def add(self, digest: bytes) -> None:
        """Add a digest; the oldest one is dropped if the cache is full."""
        with self._lock:
            self._digests[digest] = None
            if len(self._digests) > self._most:
                del self._digests[next(iter(self._digests))]


_remembered: Final = Remembered(_MOST_REMEMBERED)


def read(keys: SigningKeys, text: str, *, typ: Sequence[str], published: bool = True) -> Verified:
    """Verify a JWS that one of our keys signed, of one of the types ``typ``.

    The caller checks the claims, including their times.

    Args:
        keys: The keys that may have signed it.
        text: The JWS in compact form.
        typ: The values of its ``typ`` that are accepted, in any case.
        published: Accept only published keys; otherwise all keys that ever existed.

    Raises:
        BadToken: It is not such a JWS.
    """
    try:
        first, payload, signature = strict_jws.parts(text, longest=LONGEST)
        header = strict_jws.header_of(first)
        verifier = keys.verifier(header["kid"], published=published)
        # SECURITY: a revocation document or another kind of JWT is not an access token. The key,
        # not the header, determines the algorithm (RFC 8725 section 3.1).
        if (
            verifier is None
            or header["typ"].lower() not in map(str.lower, typ)
            or header["alg"] != verifier.algorithm
            or not _is_signed_by(verifier, keys.kid_of(header["kid"]), text, signature=signature)
        ):
            raise BadToken("The token is not valid.")
        claims = json.loads(payload)
    except (LookupError, TypeError, ValueError, RecursionError):
        raise BadToken("The token is not valid.") from None
    if not isinstance(claims, dict):
        raise BadToken("The token is not valid.")
    return Verified(header["kid"], header["typ"], claims)


def _is_signed_by(verifier: Verifier, kid: str, text: str, *, signature: bytes) -> bool:
    """Return ``is_signed`` through the cache. ``kid``: the digest of the public key (RFC 7638)."""
    digest = sha256(f"{verifier.algorithm} {kid} {text}".encode()).digest()
    if digest in _remembered:
        return True
    is_right = is_signed(text, signature, verifier)
    if is_right:
        _remembered.add(digest)
    return is_right


def is_signed(text: str, signature: bytes, verifier: Verifier) -> bool:
    """Return whether this key signed a compact JWS, whose last part is ``signature``."""
    signed_part = text.rpartition(".")[0].encode()
    return bool(ALGORITHMS[verifier.algorithm].verify(signed_part, verifier.key, signature))


def length(signer: Signer, claims: Mapping[str, Any], typ: str) -> int:
    """Return the length that ``signed`` would return, without signing."""
    # A signature of RSA is as long as the modulus (RFC 8017 section 8), both in base64url here.
    modulus = signer.public.get("n")
    signature = _signature_length(signer.algorithm) if modulus is None else len(modulus)
    return len(_content(signer, claims, typ, kid=signer.kid)) + 1 + signature


def expected_length(algorithm: str, claims: Mapping[str, Any], typ: str) -> int:
    """Return the same as ``length``, for a key that does not exist yet."""
    payload = base64url_encode(_encode(claims).encode())
    return len(_header(algorithm, _A_KID, typ)) + len(payload) + 1 + _signature_length(algorithm)


def _signature_length(algorithm: str) -> int:
    return len(base64url_encode(bytes(material.SIGNATURE_BYTES[algorithm])))


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
