"""The public keys of an issuer (RFC 7517)."""

from collections.abc import Mapping
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

#: Those that Keyosk signs with and PyJWT verifies. SECURITY: asymmetric only. With a symmetric one
#: a public key would be the secret (RFC 8725 section 2.1).
ALGORITHMS: Final = frozenset({"ES256", "RS256", "PS256", "EdDSA"})
_MOST: Final = 100  # keys
_SHORTEST_RSA: Final = 2048  # bits, RFC 7518 section 3.3


def read(document: object) -> dict[str, jwt.PyJWK]:
    """Return the keys of a JWK set by ``kid``.

    A key that cannot be used is left out (RFC 7517 section 5): one for encryption, or one with an
    unknown type or algorithm. Raises ``ValueError`` if it is not a JWK set.
    """
    keys = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(keys, list) or len(keys) > _MOST:
        raise ValueError("not a JWK set")
    parsed = (_key(each) for each in keys if isinstance(each, Mapping))
    return {str(key.key_id): key for key in parsed if key is not None}


def _key(jwk: Mapping[str, Any]) -> jwt.PyJWK | None:
    # The key says which algorithm it is for, never the token (RFC 8725 section 3.1).
    if jwk.get("alg") not in ALGORITHMS or jwk.get("use", "sig") != "sig":
        return None
    if not isinstance(jwk.get("kid"), str) or not jwk["kid"]:
        return None
    try:
        # SECURITY: the public half only, whatever else the document has.
        key = jwt.PyJWK({name: value for name, value in jwk.items() if name != "d"})
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < _SHORTEST_RSA:
        return None
    return key
