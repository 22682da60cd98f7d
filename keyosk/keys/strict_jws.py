"""The single accepted form of a signed token (RFC 7515 section 3.1), whatever libraries accept."""

import json
import re
from binascii import a2b_base64, b2a_base64
from typing import Final

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*){2}")
#: What stands in the header of whatever is signed here.
_MEMBERS: Final = ["alg", "kid", "typ"]
# What the module base64 does by nine calls for each part.
_FROM_URL: Final = str.maketrans("-_", "+/")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")


def parts(text: str, *, longest: int) -> list[bytes]:
    """Return what a compact JWS is made of: header, payload and signature. Raises ``ValueError``.

    ``longest``: in characters. SECURITY: PyJWT lets padding and stray bits of base64 pass; RFC 7515
    section 2 knows one form.
    """
    if len(text) > longest or not _COMPACT.fullmatch(text):
        raise ValueError
    found = [
        a2b_base64(part + "=" * (-len(part) % 4)) for part in text.translate(_FROM_URL).split(".")
    ]
    again = [b2a_base64(part, newline=False).rstrip(b"=") for part in found]
    if b".".join(again).translate(_TO_URL) != text.encode():
        raise ValueError
    return found


class _Members(list[tuple[str, object]]):
    """The members of a JSON object, as often as they stand; an array is none."""


_decode: Final = json.JSONDecoder(object_pairs_hook=_Members).decode


def header_of(part: bytes) -> dict[str, str]:
    """A header that has the members which Keyosk writes. Raises ``ValueError``.

    SECURITY: the others (``crit``, ``b64``, ``jwk``, ``jku``, ``x5u``, ``x5c``, ``zip``) have no
    meaning here, and none is left for a library to give one. PyJWT takes the last of two members of
    one name, and any encoding of text that Python knows.
    """
    members = _decode(part.decode())
    if type(members) is not _Members or sorted([name for name, _ in members]) != _MEMBERS:
        raise ValueError
    header = {name: value for name, value in members if isinstance(value, str)}
    if len(header) != len(members):
        raise ValueError
    return header
