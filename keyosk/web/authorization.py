"""The ``Authorization`` header (RFC 9110 section 11.6.2), taken apart once for each request."""

from flask import g, request

from keyosk.credentials import api_key_format, presented
from keyosk.credentials.presented import Credentials
from keyosk.errors import BadCredentials
from keyosk.web import basic


def credentials() -> Credentials:
    """Return the credentials of the request, which are not verified yet."""
    known: Credentials | None = g.get("credentials")
    if known is None:
        known = g.credentials = _read(request.headers.get("Authorization"))
    return known


def _read(header: str | None) -> Credentials:
    if header is None:
        return Credentials()
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
