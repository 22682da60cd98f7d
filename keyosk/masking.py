"""Masking of secrets in texts that must not contain them: a log line, an audit row, an error.

It finds only secrets with a recognisable form: API keys, refresh tokens, JWTs. A password looks
like any word.
"""

import re
from typing import Final
from urllib.parse import unquote

#: More of an API key than the prefix that lists show, a refresh token, a JWT or its beginning.
_SECRET: Final = re.compile(
    r"(?i:(?P<prefix>kys[kr]_))[^\s/?&=#\"'<>,;\\]{8,}|eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*"
)
#: The most times that a part of a path is percent-decoded.
_ROUNDS: Final = 5


def mask(text: str) -> str:
    """Return the text with its secrets masked."""
    # Most texts have no secret, and these checks cost a tenth of the search.
    folded = text.casefold()
    if "kysk_" not in folded and "kysr_" not in folded and "eyJ" not in text:
        return text
    return _SECRET.sub(lambda match: f"{match['prefix'] or 'eyJ'}***", text)


def mask_path(path: str) -> str:
    """Return the path with its secrets masked, however often they were percent-encoded."""
    if "%" not in path:
        return mask(path)
    return "/".join(map(_mask_part, path.split("/")))


def _mask_part(part: str) -> str:
    decoded = part
    for _ in range(_ROUNDS):
        inner = unquote(decoded)
        if inner == decoded:
            return mask(part) if mask(decoded) == decoded else mask(decoded)
        decoded = inner
    return "***"  # nobody encodes that often without something to hide
