"""The Authorization header of HTTP Basic (RFC 7617), in every encoding that real clients use.

Clients disagree about the content of the header. curl and most HTTP libraries send the pair
unchanged, in UTF-8; some send ISO-8859-1; OAuth libraries form-encode both halves first (RFC 6749
section 2.3.1 and appendix B). The header does not say which, so this module returns all pairs that
it can mean; authentication tries them in order and counts each password that it tries.
"""

import binascii
import re
from urllib.parse import unquote_to_bytes

from keyosk import errors

MAX_HEADER_LENGTH = 16 * 1024
"""The length of the longest header that is read, in characters.

The longest username (255 code points) with the longest password (1,024) fits as it is, and also
form-encoded if all of it lies in the Basic Multilingual Plane: 1,279 x 9 bytes x 4/3 = 15,348.
Only a form-encoded password of some 1,000 emoji does not. The HTTP server must let as much through.
"""

# RFC 7617 section 2: no control characters in either half. It means those of ASCII; those of
# Latin-1 are added because nobody types them and they show that a pair was decoded wrongly.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def candidates(header: str) -> tuple[tuple[str, str], ...]:
    """Return the distinct (username, secret) pairs that a header can mean, in the order to try.

    ``header`` is the value of ``Authorization`` as WSGI gives it, decoded as ISO-8859-1. The order
    is: as sent in UTF-8, form-decoded in UTF-8, as sent in ISO-8859-1, form-decoded in ISO-8859-1.
    The halves are split at the first colon, before form-decoding, and both are form-decoded or
    none. Line ends at the end of the secret are dropped, as those of the file it was read from.
    Pairs are left out if they do not decode or contain a control character. Form-decoding is
    left out for text that no form encoder writes (not ASCII, or a ``%`` without two hexadecimal
    digits).
    There are therefore one to three pairs, and exactly one where the header is ASCII without
    ``%`` and ``+``, as for every API key. How many there are depends on the header alone.

    The scheme's name is read without regard to case and one or more spaces follow it. The base64
    is that of RFC 4648 section 4 in its canonical form (sections 3.2, 3.3 and 3.5): padded, with
    nothing before, between or after it. Either half may be empty.

    Raises:
        errors.BadCredentials: if there is no pair. No other exception, whatever the header.
    """
    raw = _decoded(header)
    if raw is None:
        raise errors.BadCredentials
    username, colon, secret = raw.partition(b":")
    if not colon:
        raise errors.BadCredentials

    if not raw.isascii():
        pairs = [_pair(username, secret, "utf-8"), _pair(username, secret, "iso-8859-1")]
    elif b"%" not in raw and b"+" not in raw:
        pairs = [_pair(username, secret, "ascii")]
    else:
        pairs = [_pair(username, secret, "ascii")]
        if not _BROKEN_ESCAPE.search(raw):
            username, secret = _form_decoded(username), _form_decoded(secret)
            pairs += [_pair(username, secret, "utf-8"), _pair(username, secret, "iso-8859-1")]

    distinct = tuple(dict.fromkeys(pair for pair in pairs if pair is not None))
    if not distinct:
        raise errors.BadCredentials
    return distinct


# SECURITY: these return None instead of raising, and nothing is raised inside their handlers: a
# UnicodeDecodeError holds the secret and would become the __context__.


def _decoded(header: str) -> bytes | None:
    if len(header) > MAX_HEADER_LENGTH or header[:6].lower() != "basic ":
        return None
    token = header[6:].lstrip(" ")
    try:
        raw = binascii.a2b_base64(token)
    except ValueError:
        return None
    # Encoding it again finds everything that is not canonical base64. The strict mode of a2b_base64
    # accepts surplus padding, and differs between versions of Python.
    return raw if binascii.b2a_base64(raw, newline=False).decode("ascii") == token else None


def _form_decoded(half: bytes) -> bytes:
    return unquote_to_bytes(half.replace(b"+", b" "))


def _pair(username: bytes, secret: bytes, encoding: str) -> tuple[str, str] | None:
    try:
        pair = username.decode(encoding), secret.rstrip(b"\r\n").decode(encoding)
    except UnicodeDecodeError:
        return None
    if _CONTROL.search(pair[0]) or _CONTROL.search(pair[1]):
        return None
    return pair
