"""Addresses that Keyosk listens on, and the URLs of the web."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

_HOST_NAME: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z][A-Za-z0-9-]*")
UNIX_SCHEME: Final = "unix:"


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name or an IP address without brackets) and a TCP port, 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket, by its path."""

    path: str

    def __str__(self) -> str:
        return f"{UNIX_SCHEME}{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it: always."""
        return True


def address_of(host: str, port: int, *, is_bracketed: bool) -> Address | None:
    """Return an address, or ``None`` if host or port are invalid.

    ``is_bracketed``: the host stood in brackets, as an IPv6 address does.
    """
    try:
        good = ip_address(host).version == (6 if is_bracketed else 4)
    except ValueError:
        good = not is_bracketed and _HOST_NAME.fullmatch(host) is not None
    return Address(host, port) if good and 1 <= port <= 65535 else None


def origin_of(url: SplitResult) -> str:
    """Return the origin of a web URL, as browsers send it (RFC 6454 section 6.2)."""
    host = url.hostname or ""
    name = f"[{host}]" if ":" in host else host
    usual = {"http": 80, "https": 443}[url.scheme]
    return f"{url.scheme}://{name}" + (f":{url.port}" if url.port not in (None, usual) else "")


def web_url(text: str) -> SplitResult | None:
    """Return an http or https URL of host, port and path only, or ``None``."""
    # SECURITY: before parsing, because urlsplit silently drops line breaks and white space.
    if not re.fullmatch(r"[!-~]+", text) or any(sign in text for sign in "?#\\"):
        return None
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return None
    # The port in canonical form, without leading zeros.
    place = url.netloc.removesuffix(f":{port}")
    host = place.removeprefix("[").removesuffix("]")
    is_bracketed = place == f"[{host}]"
    if "%" in host or not (is_bracketed or place == host):
        return None
    is_http = url.scheme in ("http", "https") and text.startswith(f"{url.scheme}://")
    return (
        url
        if is_http and address_of(host, 443 if port is None else port, is_bracketed=is_bracketed)
        else None
    )
