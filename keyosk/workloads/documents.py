"""Checks the URLs of issuers' documents, apart from the client that fetches them (``fetching``).

Importing that client takes a twentieth of a start, and most installations trust no issuer.
"""

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

#: The most seconds for a document, from resolving the name to the last byte.
TIMEOUT: Final = 5.0


class FetchFailed(Exception):
    """The document could not be fetched; the message tells why, and quotes nothing of it."""


def check_url(url: str) -> None:
    """Raise ``ValueError`` unless a document may be fetched from this URL."""
    parts = urlsplit(url)
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("must be printable ASCII without spaces")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("must have no user, password or fragment")
    if not parts.hostname or parts.port == 0:  # .port raises ValueError where it is not a number
        raise ValueError("must be a URL with a host")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ValueError("must be an https URL; http is accepted for a loopback address only")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
