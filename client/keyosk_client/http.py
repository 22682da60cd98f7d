"""HTTP clients for requests to Keyosk, and what those of callers have in common."""

import ssl
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import httpx

from keyosk_client.version import __version__

#: Seconds for each step of a request.
_TIMEOUT: Final = 5.0

#: What stands in for the network, by issuer; only ``testing`` sets one.
transports: dict[str, httpx.MockTransport] = {}

# httpx2 goes on where httpx ended, and each takes only its own classes. Once httpx2.alias_httpx()
# was called, both names mean the same.
_libraries: Final[list[Any]] = [httpx]
with suppress(ImportError):
    import httpx2

    if httpx2.Auth is not _libraries[0].Auth:
        _libraries.append(httpx2)

if TYPE_CHECKING:
    Auth = httpx.Auth
else:
    #: What the clients of httpx and of httpx2 take as ``auth``.
    Auth = type("Auth", tuple(library.Auth for library in _libraries), {})

#: The bodies of requests that can be sent again.
REPEATABLE: Final = tuple(library.ByteStream for library in _libraries)


def client(issuer: str, *, tls: ssl.SSLContext | None, owner: object) -> httpx.Client:
    """Return a client for threads, which is closed with its owner or the process at the latest."""
    http_client = httpx.Client(**_options(issuer, tls))
    weakref.finalize(owner, http_client.close)
    return http_client


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
