"""The checks of one token against known keys: no network, no state.

RFC 9068 section 4, RFC 8725, RFC 7515 section 5.2.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import jwt

from keyosk_client.errors import ApiKeySent, InvalidToken, NoToken
from keyosk_client.token import Token

#: Characters. Servers cut headers at 8 KiB.
LONGEST: Final = 8_000
_API_KEY: Final = "kysk_"
# SECURITY: PyJWT also accepts padding, so that one token would have several texts (RFC 7515
# section 2 knows one).
_COMPACT: Final = re.compile(r"([\w-]+)\.[\w-]+\.[\w-]+", re.ASCII)
_reader: Final = jwt.PyJWT({"require": ["iss", "sub", "aud", "exp", "iat"]})


class Header(NamedTuple):
    """The three members of a token's header that count (RFC 7515 section 4.1)."""

    kid: str
    alg: str
    typ: str


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a service accepts.

    Attributes:
        issuer: The one issuer, compared letter by letter.
        audiences: The names of this service.
        types: The values of ``typ``, in lower case.
        leeway: Seconds by which clocks may differ.
    """

    issuer: str
    audiences: Sequence[str]
    types: Sequence[str]
    leeway: float

    def header(self, text: str) -> Header:
        """Return the header of a token. Raises ``InvalidToken``; nothing is verified yet."""
        if len(text) > LONGEST:
            raise InvalidToken("The token is too long.")
        parts = _COMPACT.fullmatch(text)
        if parts is None:
            raise InvalidToken("The token is malformed.")
        header = _header(parts[1])
        if header is None:
            raise InvalidToken("The header of the token is not valid.")
        if header.typ.lower() not in self.types:
            raise InvalidToken("The token is of another type.")
        return header

    def check(self, text: str, key: jwt.PyJWK) -> Token:
        """Verify the signature and the claims of a token. Raises ``InvalidToken``."""
        # The algorithm of the key; PyJWT compares the header's with it.
        try:
            claims = _reader.decode(
                text,
                key,
                algorithms=[key.algorithm_name],
                issuer=self.issuer,
                audience=self.audiences,
                leeway=self.leeway,
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise InvalidToken(f"The token is not valid: {self._reason(error)}.") from None
        return _token(text, claims)

    def _reason(self, error: Exception) -> str:
        """Return what is wrong, for the log of a service. SECURITY: nothing of the token itself."""
        match error:
            case jwt.ExpiredSignatureError():
                return "it has expired"
            case jwt.ImmatureSignatureError():
                return "its time has not come; compare this machine's clock with Keyosk's"
            case jwt.InvalidAudienceError():
                return f"its audience is not {' or '.join(self.audiences)}"
            case jwt.InvalidIssuerError():
                return f"its issuer is not {self.issuer}"
            case jwt.InvalidSignatureError():
                return "its signature is wrong"
            case _:
                return type(error).__name__


def bearer(authorization: str | None) -> str:
    """Return the token of an ``Authorization`` header (RFC 6750 section 2.1).

    Raises ``NoToken`` if there is none, or one of another scheme, and ``ApiKeySent``.
    """
    scheme, _, text = (authorization or "").partition(" ")
    text = text.strip(" ")
    if scheme.lower() != "bearer" or not text:
        raise NoToken("The request has no Bearer token.")
    if text.startswith(_API_KEY):
        raise ApiKeySent("The request has an API key in the place of a token.")
    return text


def _token(text: str, claims: dict[str, Any]) -> Token:
    scope = claims.get("scope", "")
    # SECURITY: PyJWT takes texts of digits for times, and truth for one.
    if type(claims["exp"]) is not int or type(claims["iat"]) is not int:
        raise InvalidToken("exp and iat must be whole numbers.")
    if not isinstance(scope, str) or not claims["sub"]:
        raise InvalidToken("sub and scope must be texts.")
    return Token(
        subject=claims["sub"],
        scopes=frozenset(scope.split(" ")) - {""},
        claims=MappingProxyType(claims),
        text=text,
    )


@lru_cache(maxsize=64)  # the tokens that one key signs have the same
def _header(part: str) -> Header | None:
    try:
        members = json.loads(jwt.utils.base64url_decode(part), object_pairs_hook=list)
        header = dict(members)
        # SECURITY: crit means "do not accept this unless you know these extensions" (RFC 7515
        # section 4.1.11), and none is known here; b64 changes what is signed (RFC 7797).
        is_plain = len(header) == len(members) and not {"crit", "b64"} & header.keys()
        parsed = Header(header["kid"], header["alg"], header["typ"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return parsed if is_plain and all(isinstance(member, str) for member in parsed) else None
