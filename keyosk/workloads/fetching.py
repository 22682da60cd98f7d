"""Fetches a document of an issuer by HTTP, from a URL that an admin gave.

SECURITY: the URL decides which hosts this machine calls. So the name is resolved once and the
address is checked; redirects are not followed; https is required except on loopback; the total size
and time are limited.

httpcore2 is the client, because its network backend opens the connections
(https://httpx2.pydantic.dev/httpcore2/network-backends/).
"""

import json
import re
import socket
import ssl
import time
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore2

from keyosk.workloads.documents import TIMEOUT, FetchFailed, check_url

#: The most bytes and pieces of a document, because the parser has costs for each piece.
_LARGEST: Final = 512 * 1024
_MOST_PIECES: Final = 4_096
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=\"?(-?\d+)", re.IGNORECASE)
_NOT_KEPT: Final = re.compile(r"(?:^|[\s,])no-(?:store|cache)", re.IGNORECASE)
#: The minimum and maximum of the seconds for which a key set is fresh.
_FRESH: Final = (300, 86_400)
_FRESH_BY_DEFAULT: Final = 3_600
#: Metadata services of clouds, in addition to link-local addresses: Azure, Alibaba, Oracle,
#: AWS and Google by IPv6.
_METADATA: Final = frozenset(
    map(
        ip_address,
        ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    )
)
#: All addresses that are assigned to hosts on the Internet (RFC 4291 section 2.4).
_PUBLIC_IPV6: Final = ip_network("2000::/3")
#: Loopback, and what organizations give out themselves (RFC 1918, RFC 4193, RFC 6598).
_PRIVATE: Final = tuple(
    map(
        ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "::1/128",
            "fc00::/7",
        ),
    )
)
#: Addresses that a translator maps to IPv4 (RFC 6052 section 2.1).
_NAT64: Final = ip_network("64:ff9b::/96")


def fetch_json(url: str, *, allow_private: bool) -> tuple[Any, int]:
    """Fetch a JSON document.

    Args:
        url: Its URL, which ``check_url`` accepts.
        allow_private: Whether the host may have a private or loopback address.

    Returns:
        Its content, and for how many seconds it is fresh.

    Raises:
        FetchFailed: It could not be fetched.
    """
    try:
        check_url(url)
    except ValueError as error:
        raise FetchFailed(f"the URL {error}") from None
    backend = _Backend(allow_private=allow_private, deadline=time.monotonic() + TIMEOUT)
    address = urlsplit(url)
    # Without TLS there are no authorities to load, which takes longer than all else here.
    context = ssl.create_default_context() if address.scheme == "https" else None
    headers = [("Host", address.netloc), ("Accept", "application/json")]
    try:
        with (
            httpcore2.ConnectionPool(ssl_context=context, network_backend=backend) as pool,
            pool.stream("GET", url, headers=headers) as response,
        ):
            if response.status != 200:
                raise FetchFailed(f"the response has the status {response.status}, not 200")
            body = _read(response)
            fresh = _freshness(response.headers)
    except httpcore2.TimeoutException:
        raise FetchFailed(f"it took longer than {TIMEOUT:.0f} seconds") from None
    except httpcore2.ProtocolError:  # its text quotes the response
        raise FetchFailed("the response is not HTTP") from None
    except (httpcore2.NetworkError, OSError) as error:
        raise FetchFailed(f"the connection failed: {_reason(error)}") from None
    try:
        return json.loads(body), fresh
    except (ValueError, RecursionError):
        raise FetchFailed("the response is not JSON") from None


def _read(response: httpcore2.Response) -> bytes:
    """Return the body of a response. ``_Stream`` limits its size and its time."""
    body = bytearray()
    for number, chunk in enumerate(response.iter_stream()):
        body += chunk
        if number > _MOST_PIECES:
            raise FetchFailed("the response has too many pieces")
    return bytes(body)


class _Backend(httpcore2.NetworkBackend):
    """Connects only to allowed addresses, with one deadline for everything."""

    def __init__(self, *, allow_private: bool, deadline: float) -> None:
        self._allow_private = allow_private
        self._deadline = deadline
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(  # noqa: PLR0917  # as httpcore2 calls it
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        """Resolve the name once and connect to its address; TLS still verifies the name."""
        del timeout
        failure = httpcore2.ConnectError("the name has no address")
        for address in _resolve(host, port):
            if not _is_allowed(address, allow_private=self._allow_private):
                raise httpcore2.ConnectError(
                    "the host has a private or reserved address (see allow_private)"
                )
            try:
                stream = self._sockets.connect_tcp(
                    str(address),
                    port,
                    timeout=_seconds_left(self._deadline),
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except httpcore2.ConnectError as error:
                failure = error
            else:
                return _Stream(stream, self._deadline)
        raise failure


class _Stream(httpcore2.NetworkStream):
    """A connection with one deadline, regardless of how much data arrive."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline
        self._read = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del timeout
        data = self._stream.read(max_bytes, timeout=_seconds_left(self._deadline))
        self._read += len(data)
        if self._read > _LARGEST:
            raise httpcore2.ReadError(f"the response has more than {_LARGEST} bytes")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        del timeout
        self._stream.write(buffer, timeout=_seconds_left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        del timeout
        stream = self._stream.start_tls(
            ssl_context, server_hostname=server_hostname, timeout=_seconds_left(self._deadline)
        )
        return _Stream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _seconds_left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise httpcore2.ReadTimeout
    return seconds


def _resolve(host: str, port: int) -> list[IPv4Address | IPv6Address]:
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise httpcore2.ConnectError("the name of the host cannot be resolved") from None
    return [ip_address(str(address[0]).partition("%")[0]) for *_, address in addresses]


def _is_allowed(address: IPv4Address | IPv6Address, *, allow_private: bool) -> bool:
    """Return whether documents may be fetched from an address.

    Never from link-local and similar addresses, where clouds have metadata services.
    """
    if isinstance(address, IPv6Address):
        if address.sixtofour or address.teredo:
            return False  # an embedded IPv4 address
        if address in _NAT64:
            address = IPv4Address(int(address) & 0xFFFF_FFFF)
        else:
            address = address.ipv4_mapped or address
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    if address in _METADATA:
        return False
    # SECURITY: by a list, as what else is not global differs between releases of Python, and may be
    # a translator's way to any IPv4 address (RFC 8215).
    if any(address in network for network in _PRIVATE):
        return allow_private
    return address.is_global and (isinstance(address, IPv4Address) or address in _PUBLIC_IPV6)


def _freshness(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return for how many seconds a response is fresh (RFC 9111 section 4.2.1), within bounds."""
    control = b",".join(value for name, value in headers if name.lower() == b"cache-control")
    text = control.decode("latin-1")
    match = _MAX_AGE.search(text)
    seconds = int(match[1][:9]) if match else _FRESH_BY_DEFAULT  # enough digits for a year
    if _NOT_KEPT.search(text):
        seconds = 0
    return min(max(seconds - _age(headers), _FRESH[0]), _FRESH[1])


def _age(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return for how many seconds a cache had the response before (RFC 9111 section 5.1)."""
    header = next((value for name, value in headers if name.lower() == b"age"), b"")
    return int(header[:9]) if header.isdigit() else 0


def _reason(error: Exception) -> str:
    """Return the first line of a connection error."""
    return (str(error).partition("\n")[0] or type(error).__name__)[:200]
