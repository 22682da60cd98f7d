"""The single accepted form of a signed token (RFC 7515 section 3.1), whatever libraries accept."""

import base64
import json
import re
from typing import Final

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*){2}")
#: What stands in the header of whatever is signed here.
_MEMBERS: Final = ["alg", "kid", "typ"]


def parts(text: str, *, longest: int) -> list[bytes]:
    """Return what a compact JWS is made of: header, payload and signature. Raises ``ValueError``.

    ``longest``: in characters. SECURITY: PyJWT lets padding and stray bits of base64 pass; RFC 7515
    section 2 knows one form.
    """
    if len(text) > longest or not _COMPACT.fullmatch(text):
        raise ValueError
    found = [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in text.split(".")]
    again = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in found]
    if b".".join(again) != text.encode():
        raise ValueError
    return found


class _Members(list[tuple[str, object]]):
    """The members of a JSON object, as often as they stand; an array is none."""


def header_of(part: bytes) -> dict[str, str]:
    """A header that has the members which Keyosk writes. Raises ``ValueError``.

    SECURITY: the others (``crit``, ``b64``, ``jwk``, ``jku``, ``x5u``, ``x5c``, ``zip``) have no
    meaning here, and none is left for a library to give one. PyJWT takes the last of two members of
    one name, and any encoding of text that Python knows.
    """
    members = json.loads(part.decode(), object_pairs_hook=_Members)
    if type(members) is not _Members or sorted(name for name, _ in members) != _MEMBERS:
        raise ValueError
    header = {name: value for name, value in members if isinstance(value, str)}
    if len(header) != len(members):
        raise ValueError
    return header
