"""The ``Authorization`` header (RFC 9110 section 11.6.2), parsed once for each request."""

import binascii
from typing import Final

from keyosk.credentials import api_key_format, presented
from keyosk.credentials.presented import Credentials
from keyosk.errors import BadCredentials
from keyosk.web import basic
from keyosk.web.current import current_g, current_request

_NONE: Final = Credentials()
_KEY_IN_BASIC: Final = f":{api_key_format.PREFIX}".encode()


def credentials() -> Credentials:
    """Return the credentials of the request, not yet verified."""
    context = current_g()
    parsed: Credentials | None = context.get("credentials")
    if parsed is None:
        parsed = context.credentials = _read(current_request().headers.get("Authorization"))
    return parsed


def needs_no_hash(header: str) -> bool:
    """Return whether an ``Authorization`` header seems to have no password, by a quick look."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "basic":
        return True
    try:
        return _KEY_IN_BASIC in binascii.a2b_base64(rest)
    except ValueError:
        return False


def _read(header: str | None) -> Credentials:
    if header is None:
        return _NONE
    header = header.strip()
    scheme, _, rest = header.partition(" ")
    scheme = scheme.lower()
    if scheme == "bearer":
        text = rest.strip()
        if not api_key_format.looks_like(text):
            return Credentials(scheme, text)
        return Credentials(scheme, candidates=presented.candidates([("", text)]))
    try:
        pairs = basic.candidates(header)
    except BadCredentials:
        return Credentials(scheme)
    return Credentials(scheme, candidates=presented.candidates(pairs))
