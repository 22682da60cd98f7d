"""One-time codes: those of authenticator apps (RFC 6238), and recovery codes."""

import hashlib
import hmac
import re
import secrets
from typing import Final

from pyotp import TOTP, random_base32

#: Seconds for which an app shows a code (RFC 6238 section 5.2). Six digits and SHA-1, because every
#: app supports them.
STEP: Final = 30
#: How many steps the clock of a phone may be ahead or behind.
OFF: Final = 1
_APP_CODE: Final = re.compile(r"[0-9]{6}", re.ASCII)
#: The number of recovery codes of an account.
RECOVERY_CODES: Final = 10
#: 24 of 32 characters are 120 bits: NIST SP 800-63B-4 section 3.1.2.2 asks for 112, else for a
#: slow hash.
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"
_LENGTH: Final = 24


def new_secret() -> str:
    """Return a secret for an app, in base32: 160 bits, as RFC 4226 section 4 wants."""
    return random_base32()


def uri(secret: str, *, username: str, issuer: str) -> str:
    """Return the ``otpauth`` URI that an app reads from a QR code."""
    # Apps split the label at the colon, and some refuse a code with two, as an IPv6 address brings.
    return TOTP(secret).provisioning_uri(name=username, issuer_name=issuer.replace(":", "-"))


def step_at(now: float) -> int:
    """Return the time step of a moment."""
    return int(now) // STEP


def matching_step(secret: str, code: str, now: float) -> int | None:
    """Return the accepted time step whose code this is; ``None`` if there is none."""
    code = compact(code)
    if not _APP_CODE.fullmatch(code):
        return None
    app, current = TOTP(secret), step_at(now)
    matching = None
    # SECURITY: all are compared, in constant time.
    for step in range(max(0, current - OFF), current + OFF + 1):
        if hmac.compare_digest(app.generate_otp(step).encode(), code.encode()):
            matching = step
    return matching


def new_recovery_codes() -> list[str]:
    """Return new recovery codes, as they are shown to people."""
    return [_new_recovery_code() for _ in range(RECOVERY_CODES)]


def digest(code: str, factor_id: str) -> bytes:
    """Return the hash of a recovery code, as typed with any spaces, dashes and case."""
    return hashlib.sha256(f"{factor_id}/{compact(code)}".encode("utf-8", "replace")).digest()


def compact(code: str) -> str:
    """Return a code in lower case, without spaces and dashes."""
    return re.sub(r"[\s-]", "", code).lower()


def _new_recovery_code() -> str:
    code = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    return "-".join(code[at : at + 4] for at in range(0, _LENGTH, 4))
