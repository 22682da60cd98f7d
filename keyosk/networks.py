"""Addresses and networks; IPv4-mapped IPv6 addresses count as IPv4.

A dual-stack socket reports 192.0.2.1 as ``::ffff:192.0.2.1`` (RFC 4291 section 2.5.5.2). To Python,
such an address is in no IPv4 network.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAPPED: Final = 96  # bits before the IPv4 address


def address(text: str) -> Address:
    """Parse an address. Raises ``ValueError``."""
    parsed = ip_address(text)
    return getattr(parsed, "ipv4_mapped", None) or parsed


def network(text: str) -> Network:
    """Parse a network. Raises ``ValueError``."""
    parsed = ip_network(text)
    mapped = getattr(parsed.network_address, "ipv4_mapped", None)
    if mapped is None or parsed.prefixlen < _MAPPED:
        return parsed
    return IPv4Network((mapped, parsed.prefixlen - _MAPPED))
