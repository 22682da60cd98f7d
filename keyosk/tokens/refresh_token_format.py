"""The format of refresh tokens: ``kysr_`` and 64 bytes in base64url; no secret is stored.

16 bytes are the session's id, 32 are secret, 16 prove that Keyosk made it. The secret of the
successor is derived from it, so that a repeated request gets the same one.
"""

import base64
import binascii
import hashlib
import hmac
import os
import uuid
from dataclasses import dataclass, field
from typing import Final

from keyosk.keys.material import Safe

PREFIX: Final = "kysr_"
_LENGTH: Final = len(PREFIX) + 86
_SESSION_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_MAC_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A well-formed refresh token that Keyosk made."""

    text: str = field(repr=False)
    session_id: str
    secret: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        """The SHA-256 (32 bytes) of the token, as it is stored."""
        return hashlib.sha256(self.text.encode()).digest()


def first(safe: Safe, session_id: str) -> RefreshToken:
    """Create the first refresh token of a session, at random."""
    return _made(safe, session_id, os.urandom(_SECRET_BYTES))


def successors(safe: Safe, token: RefreshToken) -> list[RefreshToken]:
    """Return the possible successors of a token: one per secret key, the current one first."""
    return [
        _made(safe, token.session_id, secret, key=key)
        for key, secret in enumerate(safe.refresh_macs(b"successor" + token.text.encode()))
    ]


def read(safe: Safe, text: str) -> RefreshToken | None:
    """Parse a refresh token; ``None`` if Keyosk did not make it."""
    if len(text) != _LENGTH or not text.startswith(PREFIX) or not text.isascii():
        return None
    try:
        raw = base64.urlsafe_b64decode(text[len(PREFIX) :] + "==")
    except (binascii.Error, ValueError):
        return None
    session, secret, mac = raw[:_SESSION_BYTES], raw[_SESSION_BYTES:-_MAC_BYTES], raw[-_MAC_BYTES:]
    token = RefreshToken(text, str(uuid.UUID(bytes=session)), secret)
    for known in safe.refresh_macs(b"token" + session + secret):
        # SECURITY: the text is compared, too, because base64 has several spellings of the same
        # bytes.
        if hmac.compare_digest(known[:_MAC_BYTES], mac) and _text(raw) == text:
            return token
    return None


def _made(safe: Safe, session_id: str, secret: bytes, *, key: int = 0) -> RefreshToken:
    """Create a refresh token; ``key``: the index of the secret key for its MAC."""
    session = uuid.UUID(session_id).bytes
    mac = safe.refresh_macs(b"token" + session + secret)[key][:_MAC_BYTES]
    return RefreshToken(_text(session + secret + mac), session_id, secret)


def _text(raw: bytes) -> str:
    return PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
