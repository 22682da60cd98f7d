"""Signed documents: JWTs by the key of the tokens that are no access tokens.

They are public or kept for years, and most verifiers look at ``aud`` and never at ``typ``. So each
kind has a type of its own, an audience that no service has, and nothing in it that says who
somebody is or what they may do.
"""

from collections.abc import Mapping
from typing import Any, Final

from keyosk.keys import jws
from keyosk.keys.signing_keys import SigningKeys
from keyosk.model import DOCUMENT_PATHS, TOKEN_CLAIMS, TOKEN_TYPES

_ALLOWED: Final = {"exp", "nbf", "iat", "jti"}
#: The claims by which a verifier would take a document for somebody's login.
_ABOUT_A_LOGIN: Final = TOKEN_CLAIMS - _ALLOWED


class Documents:
    """Signs documents and verifies them."""

    def __init__(self, keys: SigningKeys, *, issuer: str, backdate: int = 0) -> None:
        """``backdate``: seconds by which ``iat`` is dated back, as in tokens."""
        self._keys = keys
        self._issuer = issuer
        self._backdate = backdate

    def sign(self, claims: Mapping[str, Any], *, typ: str, path: str) -> str:
        """A JWS over ``claims`` by the active key, with the issuer and the audience added.

        ``typ``: the type of this kind of document. ``path``: one of ``DOCUMENT_PATHS``.
        """
        # SECURITY: it is signed by the key of the tokens, and must not pass for one anywhere.
        like_a_token = claims.keys() & _ABOUT_A_LOGIN or typ.lower() in map(str.lower, TOKEN_TYPES)
        if like_a_token or path not in DOCUMENT_PATHS:
            raise ValueError("a signed document must not look like an access token")
        whole = {"iss": self._issuer, "aud": self._issuer + path, **claims}
        if "iat" in whole:
            whole["iat"] -= self._backdate
        return jws.signed(self._keys.signer(None), whole, typ)

    def verify(self, text: str, *, typ: str) -> dict[str, Any]:
        """What ``sign`` was given, signed by any key that we ever had. Raises ``BadToken``."""
        # A record stays one, whatever has become of the clock and the issuer since. Those from
        # before 0.2 have no audience.
        return jws.read(self._keys, text, typ=(typ,), published=False).claims
