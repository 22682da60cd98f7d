"""The cookies of sessions, and protection against cross-site request forgery.

There are three checks, each of which would be enough: the cookie is
``SameSite=Strict``, the browser's own headers must name this site, and each form carries a token
that only pages of the session have.
"""

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from flask import Request, Response

from keyosk.config.addresses import origin_of
from keyosk.errors import Forbidden

#: The field of a form with the token.
TOKEN: Final = "csrf_token"  # noqa: S105 - the name of a field
_READING: Final = ("GET", "HEAD", "OPTIONS")
_FOREIGN: Final = "The form came from another site or from an earlier session: load the page again."


@dataclass(frozen=True, slots=True)
class Cookies:
    """The cookies of one request, which depend on the security of its connection.

    ``prefix`` is ``__Host-`` if the issuer is HTTPS, which requires ``Secure`` and excludes cookies
    from other hosts. Browsers never send such a cookie over plain HTTP (RFC 6265bis section 4.1.3),
    so on loopback there is no prefix; there the name contains the port, because all ports share
    their cookies.
    """

    prefix: str
    is_secure: bool

    @property
    def session(self) -> str:
        """The name of the cookie of a session."""
        return f"{self.prefix}session"

    @property
    def login(self) -> str:
        """The name of the cookie that must match the token of a login form."""
        return f"{self.prefix}login"

    @property
    def pending(self) -> str:
        """The name of the cookie of a pending login."""
        return f"{self.prefix}pending"

    def put(self, response: Response, name: str, value: str) -> None:
        """Set a cookie that is deleted when the browser is closed."""
        response.set_cookie(
            name, value, path="/", secure=self.is_secure, httponly=True, samesite="Strict"
        )

    def drop(self, response: Response, name: str) -> None:
        """Delete a cookie."""
        response.delete_cookie(
            name, path="/", secure=self.is_secure, httponly=True, samesite="Strict"
        )


def cookies_of(request: Request, issuer: str) -> Cookies | None:
    """Return the cookies of a request; ``None`` for plain HTTP other than loopback."""
    if urlsplit(issuer).scheme == "https":
        return Cookies("__Host-keyosk-", is_secure=True)
    # SECURITY: by the host that the browser used, because other names may resolve to here.
    host, port = _host(request)
    return Cookies(f"keyosk-{port}-", is_secure=False) if _is_loopback(host) else None


def check_origin(request: Request, issuer: str) -> None:
    """Refuse cross-site requests. Raises ``Forbidden``.

    The browser sets ``Sec-Fetch-Site`` and ``Origin``; no script can write them.
    """
    if request.method in _READING:
        return
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None and site != "same-origin":
        raise Forbidden(_FOREIGN)
    origin = request.headers.get("Origin")
    if origin is None:
        return
    own = {origin_of(urlsplit(issuer)), f"{request.scheme}://{request.headers.get('Host', '')}"}
    if origin not in own:
        raise Forbidden(_FOREIGN)


def form_token(secret: str) -> str:
    """Return the token of the forms of a session, by the secret of its cookie."""
    return hmac.new(secret.encode(), b"keyosk console form", sha256).hexdigest()


def check_token(request: Request, expected: str) -> None:
    """Refuse a form without the token. Raises ``Forbidden``."""
    token = request.form.get(TOKEN, "")
    if not hmac.compare_digest(token.encode("utf-8", "replace"), expected.encode()):
        raise Forbidden(_FOREIGN)


def new_secret() -> str:
    """Return a secret for a login form."""
    return secrets.token_urlsafe(32)


def _host(request: Request) -> tuple[str, str]:
    try:
        parts = urlsplit(f"//{request.headers.get('Host', '')}")
        return (parts.hostname or ""), str(parts.port or 80)
    except ValueError:
        return "", ""


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
