"""A strict parser of compact JWS (RFC 7515 section 3.1); libraries accept more."""

import json
import re
from binascii import a2b_base64, b2a_base64
from typing import Final

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*){2}")
#: The members of the header of a JWS that is signed here.
_MEMBERS: Final = ["alg", "kid", "typ"]
# The module base64 needs nine calls for the same.
_FROM_URL: Final = str.maketrans("-_", "+/")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")


def parts(text: str, *, longest: int) -> list[bytes]:
    """Return the header, payload and signature of a compact JWS. Raises ``ValueError``.

    ``longest``: in characters. SECURITY: PyJWT accepts padding and stray bits in base64; RFC 7515
    section 2 does not.
    """
    if len(text) > longest or not _COMPACT.fullmatch(text):
        raise ValueError
    decoded = [
        a2b_base64(part + "=" * (-len(part) % 4)) for part in text.translate(_FROM_URL).split(".")
    ]
    again = [b2a_base64(part, newline=False).rstrip(b"=") for part in decoded]
    if b".".join(again).translate(_TO_URL) != text.encode():
        raise ValueError
    return decoded


class _Members(list[tuple[str, object]]):
    """The members of a JSON object with duplicates, as pairs; distinguishes it from an array."""


_decode: Final = json.JSONDecoder(object_pairs_hook=_Members).decode


def header_of(part: bytes) -> dict[str, str]:
    """Return a header with exactly the members that Keyosk writes. Raises ``ValueError``.

    SECURITY: others (``crit``, ``b64``, ``jwk``, ``jku``, ``x5u``, ``x5c``, ``zip``) have no
    meaning here, so none may reach a library that gives it one. PyJWT takes the last of two members
    of one name, and any encoding of text that Python knows.
    """
    members = _decode(part.decode())
    if type(members) is not _Members or sorted([name for name, _ in members]) != _MEMBERS:
        raise ValueError
    header = {name: value for name, value in members if isinstance(value, str)}
    if len(header) != len(members):
        raise ValueError
    return header
