"""Signed documents: JWTs that are signed by the signing keys, but are not access tokens.

They are public or stored for years, and most verifiers check ``aud`` but not ``typ``. So each kind
has its own type and an audience that no service has, and contains no claim that identifies an
account or gives it rights.
"""

from collections.abc import Mapping
from typing import Any, Final

from keyosk.keys import jws
from keyosk.keys.signing_keys import SigningKeys
from keyosk.model import DOCUMENT_PATHS, TOKEN_CLAIMS, TOKEN_TYPES

_ALLOWED: Final = {"exp", "nbf", "iat", "jti"}
#: Claims that would make a verifier take a document for an access token.
_ABOUT_A_LOGIN: Final = TOKEN_CLAIMS - _ALLOWED


class Documents:
    """Signs and verifies documents."""

    def __init__(self, keys: SigningKeys, *, issuer: str, backdate: int = 0) -> None:
        """Set ``backdate``: the seconds by which ``iat`` is dated back, as in tokens."""
        self._keys = keys
        self._issuer = issuer
        self._backdate = backdate

    def sign(self, claims: Mapping[str, Any], *, typ: str, path: str) -> str:
        """Sign ``claims`` as a JWS by the active key, with the issuer and the audience added.

        ``typ``: the type of this kind of document. ``path``: one of ``DOCUMENT_PATHS``.
        """
        # SECURITY: a token key signs it, so no verifier may accept it as a token.
        like_a_token = claims.keys() & _ABOUT_A_LOGIN or typ.lower() in map(str.lower, TOKEN_TYPES)
        if like_a_token or path not in DOCUMENT_PATHS:
            raise ValueError("a signed document must not look like an access token")
        document = {"iss": self._issuer, "aud": self._issuer + path, **claims}
        if "iat" in document:
            document["iat"] -= self._backdate
        return jws.signed(self._keys.signer(None), document, typ)

    def verify(self, text: str, *, typ: str) -> dict[str, Any]:
        """Return the claims of a document, signed by any key that we ever had.

        Raises ``BadToken``.
        """
        # A document stays valid if the clock or the issuer has changed since. Those from before 0.2
        # have no audience.
        return jws.read(self._keys, text, typ=(typ,), published=False).claims
