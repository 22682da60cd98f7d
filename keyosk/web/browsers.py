"""Browsers: which scripts may read a response, and which requests may use a remembered login.

A browser sends a remembered Basic login with every request that any page makes; it never adds a
Bearer token by itself. Follows the Fetch standard (CORS protocol) and W3C Fetch Metadata.
"""

from collections.abc import Collection
from typing import Final

from flask import Response

from keyosk.errors import Forbidden
from keyosk.web import authorization
from keyosk.web.current import current_request

_ORIGIN: Final = "Access-Control-Allow-Origin"
_ASKED: Final = "Access-Control-Request-Method"
_OWN: Final = ("same-origin", "none")
_SENT: Final = "Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key"
_SHOWN: Final = (
    "ETag, Effective-At-Latest, Idempotency-Replayed, Link, Location, Retry-After, "
    "WWW-Authenticate, X-Request-Id, X-Total-Count, X-Total-Count-Capped"
)
_PREFLIGHT_AGE: Final = "600"  # seconds


def check_login() -> None:
    """Refuse a Basic login in a request that a page of another site, or sibling host, caused.

    SECURITY: the browser may have remembered the login. Navigations are no exception, because a
    link can mint a token. Only a browser sends ``Sec-Fetch-Site``, and no script can write it; any
    value except the two harmless ones is refused, known or not. Raises ``Forbidden``.
    """
    if current_request().environ.get("HTTP_SEC_FETCH_SITE", "none") not in _OWN:
        raise Forbidden("A request from another site cannot log in by HTTP Basic: use a token.")


def share(response: Response, origins: Collection[str], *, is_public: bool) -> None:
    """Let scripts of the listed origins read a response that needed no remembered login.

    ``is_public``: the response is for anyone. Never with credentials:
    ``Access-Control-Allow-Credentials`` is sent nowhere.
    """
    request = current_request()
    response.vary.add("Origin")  # for caches, even if the response allows no origin
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
