"""HTTP clients for requests to Keyosk."""

import ssl
import weakref
from typing import Any, Final

import httpx

from keyosk_client.version import __version__

#: Seconds for each step of a request.
_TIMEOUT: Final = 5.0

#: What stands in for the network, by issuer; only ``testing`` sets one.
transports: dict[str, httpx.MockTransport] = {}


def client(issuer: str, *, tls: ssl.SSLContext | None, owner: object) -> httpx.Client:
    """Return a client for threads, which is closed with its owner or the process at the latest."""
    made = httpx.Client(**_options(issuer, tls))
    weakref.finalize(owner, made.close)
    return made


def async_client(issuer: str, *, tls: ssl.SSLContext | None) -> httpx.AsyncClient:
    """Return a client for an event loop."""
    return httpx.AsyncClient(**_options(issuer, tls))


def _options(issuer: str, tls: ssl.SSLContext | None) -> dict[str, Any]:
    return {
        "headers": {"User-Agent": f"keyosk-client/{__version__}"},
        "timeout": _TIMEOUT,
        "transport": transports.get(issuer),
        "verify": True if tls is None else tls,
    }
