"""Where a request comes from, as far as that can be believed."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

Network = IPv4Network | IPv6Network


def address_of(environ: Mapping[str, Any], trusted: Sequence[Network]) -> str | None:
    """The address of the client of a request, ``environ`` as WSGI has it (PEP 3333).

    SECURITY: ``X-Forwarded-For`` counts only as far as trusted proxies wrote it. It is read from
    the right, where each proxy appends whom it heard, and the first that is not a trusted proxy is
    the client; what stands left of it, the client may have made up.
    """
    address: str | None = environ.get("REMOTE_ADDR")
    if not trusted or "HTTP_X_FORWARDED_FOR" not in environ:
        return address
    hops = [hop.strip() for hop in environ["HTTP_X_FORWARDED_FOR"].split(",")]
    while address is not None and hops and _is_trusted(address, trusted):
        hop = hops.pop()
        if not _is_address(hop):
            break
        address = hop
    return address


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    if not _is_address(address):
        return False
    source = ip_address(address)
    source = getattr(source, "ipv4_mapped", None) or source
    return any(source in network for network in trusted)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
