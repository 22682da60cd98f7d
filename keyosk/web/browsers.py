"""Browsers: which scripts may read an answer, and whose requests may use what a browser remembers.

A browser sends a remembered Basic login with whatever any page makes it ask for; it never adds a
Bearer token by itself. After the Fetch standard (CORS protocol) and W3C Fetch Metadata.
"""

from collections.abc import Collection
from typing import Final

from flask import Response, request

from keyosk.errors import Forbidden
from keyosk.web import authorization

_ORIGIN: Final = "Access-Control-Allow-Origin"
_ASKED: Final = "Access-Control-Request-Method"
_OWN: Final = ("same-origin", "none")
_SENT: Final = "Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key"
_SHOWN: Final = (
    "ETag, Effective-At-Latest, Idempotency-Replayed, Link, Location, Retry-After, "
    "WWW-Authenticate, X-Request-Id, X-Total-Count"
)
_PREFLIGHT_AGE: Final = "600"  # seconds


def check_login() -> None:
    """Refuse a Basic login in a request that another site, or a sibling, made a browser send.

    SECURITY: it may be one that the browser remembers. Navigations are no exception, as a link can
    mint a token. Only a browser sends ``Sec-Fetch-Site``, and no script can write it; what it says
    beyond the two harmless values is refused, known or not. Raises ``Forbidden``.
    """
    if request.headers.get("Sec-Fetch-Site", "none") not in _OWN:
        raise Forbidden("A request from another site cannot log in by HTTP Basic: use a token.")


def share(response: Response, origins: Collection[str], *, is_public: bool) -> None:
    """Let scripts of the listed origins read an answer that no remembered login was needed for.

    ``is_public``: the answer is for anyone. Never with credentials: there is no
    ``Access-Control-Allow-Credentials`` anywhere.
    """
    response.vary.add("Origin")  # for caches, also where the answer allows nobody
    origin = request.headers.get("Origin", "")
    if origin not in origins:
        return
    if request.method == "OPTIONS" and _ASKED in request.headers and "Allow" in response.headers:
        response.headers["Access-Control-Allow-Methods"] = response.headers["Allow"]
        response.headers["Access-Control-Allow-Headers"] = _SENT
        response.headers["Access-Control-Max-Age"] = _PREFLIGHT_AGE
    elif not is_public and authorization.credentials().scheme != "bearer":
        return
    response.headers[_ORIGIN] = origin
    response.headers["Access-Control-Expose-Headers"] = _SHOWN
