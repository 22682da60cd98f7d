"""Addresses and networks, in which IPv4 is IPv4 however it is written.

A dual-stack socket, and what reads from one, writes 192.0.2.1 as ``::ffff:192.0.2.1`` (RFC 4291
section 2.5.5.2): one such address is in no IPv4 network to Python, and the other way round.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_MAPPED: Final = 96  # bits before the IPv4 address


def address(text: str) -> Address:
    """Return the address that a text has. Raises ``ValueError``."""
    found = ip_address(text)
    return getattr(found, "ipv4_mapped", None) or found


def network(text: str) -> Network:
    """Return the network that a text has. Raises ``ValueError``."""
    found = ip_network(text)
    mapped = getattr(found.network_address, "ipv4_mapped", None)
    if mapped is None or found.prefixlen < _MAPPED:
        return found
    return IPv4Network((mapped, found.prefixlen - _MAPPED))
